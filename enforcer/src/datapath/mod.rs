//! The kernel's side: load, attach, pin, adopt, apply, read. The only room that imports aya.

mod apply;
mod attach;
pub mod clock;
mod contents;
pub mod desired;
mod error;
mod events;
mod features;
mod object;
mod pin;
mod read;
mod settings;
mod sys;
mod table;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::{Duration, Instant},
};

use enforcer_common::{
    Action, Direction, Loss, Reason,
    abi::map,
    counter::Counter,
    denied_entry::{DeniedEntry, DeniedKey},
    policy_key::ALLOW_ALL,
};

use self::{
    apply::Plan,
    attach::{Programs, UPLINK, WORKLOAD},
    contents::Contents,
    desired::{Desired, EndpointPlace},
    object::Tables,
    pin::Pins,
    read::Drained,
};
pub use self::{
    attach::Attachment,
    error::{ApplyError, DatapathError},
    events::EventReader,
    features::Feature,
    read::{FlowTableStats, MapPressure},
    settings::{Capacities, DatapathSettings, XdpMode},
    table::TableError,
};

/// The kernel programs and maps, in this daemon's hands. Dropping it changes nothing in the
/// kernel: the last policy stays in force.
#[derive(Debug)]
pub struct Datapath {
    settings: DatapathSettings,
    pins: Pins,
    programs: Programs,
    tables: Tables,
    contents: Contents,
    config: enforcer_common::config::Config,
    events: Option<EventReader>,
    drained: Drained,
    attached: BTreeMap<AttachKey, Vec<Attachment>>,
    flows: FlowTableStats,
    features: Vec<Feature>,
}

/// What a set of attachments belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum AttachKey {
    Cgroups,
    Workload(u32),
    Uplink(u32),
    Blocker(u32),
}

/// What was found at the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adopted {
    /// No pins: nothing was enforced.
    Fresh,
    /// Maps of the same layout: what they hold stays in force.
    Same,
    /// Maps of another layout or version: they are enforced until the first
    /// [`Datapath::apply`] moves the hooks over.
    Replaced,
}

/// What a change did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The generation now in force.
    pub generation: u32,
    /// Whether anything changed.
    pub changed: bool,
    /// Time spent on the kernel.
    pub took: Duration,
}

impl Datapath {
    /// Takes the pin directory and loads the programs onto the maps that are pinned there, or
    /// makes them. Nothing in force changes: what a former daemon attached goes on, on its
    /// maps, until the first [`Datapath::apply`] puts the new programs behind every hook, each
    /// in one step.
    pub fn open(settings: &DatapathSettings) -> Result<(Self, Adopted), DatapathError> {
        let pins = Pins::open(&settings.pin_dir)?;
        let had_links = !pins.links()?.is_empty();
        let (maps, had_maps) = pins.maps(&settings.layout())?;
        let mut ebpf = object::load(&maps, &settings.capacities)?;
        let tables = Tables::take(&mut ebpf)?;
        let ring = object::ring(&mut ebpf)?;
        let programs = Programs::load(ebpf)?;
        let contents = Contents::read(&tables)?;
        let config = tables
            .config
            .get(&0)?
            .unwrap_or_else(bytemuck::Zeroable::zeroed);
        let adopted = match (had_maps && config.generation > 0, had_links) {
            (true, _) => Adopted::Same,
            (false, true) => Adopted::Replaced,
            (false, false) => Adopted::Fresh,
        };
        let datapath = Self {
            settings: settings.clone(),
            pins,
            programs,
            tables,
            contents,
            config,
            events: Some(EventReader::new(ring)),
            drained: Drained::default(),
            attached: BTreeMap::new(),
            flows: FlowTableStats::default(),
            features: features::probe(),
        };
        Ok((datapath, adopted))
    }

    /// Makes the kernel hold what is desired, all or nothing: on an error the last state is in
    /// force.
    pub fn apply(&mut self, desired: &Desired) -> Result<Applied, ApplyError> {
        let start = Instant::now();
        self.check_room(desired)?;
        let new = Contents::desired(desired, &self.contents, clock::seconds());
        let plan = Plan::between(&self.contents, &new);
        let block_at_tc = self.settings.xdp == XdpMode::Off;
        let sockets_at_tc = self.settings.cgroup_root.is_none();
        let mut config = new.config(desired, self.config.generation, block_at_tc, sockets_at_tc);
        let first = self.config.generation == 0 || self.attached.is_empty();
        if plan.is_empty() && config == self.config && !first {
            return Ok(Applied {
                generation: config.generation,
                changed: false,
                took: start.elapsed(),
            });
        }

        plan.prepare(&self.tables)?;
        // The tries may be asked from now on: their new entries are complete.
        let mut widened = if self.config.generation == 0 {
            // New maps: no program runs on them yet, and none may find generation 0.
            enforcer_common::config::Config {
                generation: 1,
                ..config
            }
        } else {
            self.config
        };
        for family in 0..2 {
            widened.prefixes[family] = widened.prefixes[family].max(config.prefixes[family]);
            widened.blocked[family] = widened.blocked[family].max(config.blocked[family]);
        }
        if let Err(error) = self.tables.config.set(&0, &widened) {
            plan.withdraw(&self.tables);
            return Err(error.into());
        }
        if let Err(error) = plan.flip(&self.tables) {
            plan.withdraw(&self.tables);
            return Err(error.into());
        }
        if let Err(error) = self.attach(desired, &new) {
            plan.unflip(&self.tables);
            plan.withdraw(&self.tables);
            return Err(error.into());
        }
        // Generation 0 means "never".
        config.generation = widened.generation.wrapping_add(1).max(1);
        self.tables.config.set(&0, &config)?;
        self.config = config;

        self.detach_leaving(&plan, desired)?;
        plan.clean(&self.tables)?;
        self.contents = new;
        if first {
            self.pins.remove_other_maps(&self.settings.layout())?;
        }
        Ok(Applied {
            generation: config.generation,
            changed: true,
            took: start.elapsed(),
        })
    }

    fn check_room(&self, desired: &Desired) -> Result<(), ApplyError> {
        let interfaces = desired
            .endpoints
            .iter()
            .filter(|e| matches!(e.place, EndpointPlace::Interface { .. }))
            .count()
            + desired.uplinks.len();
        let cgroups = desired.endpoints.len() + desired.uplinks.len() - interfaces;
        let capacity = self.settings.capacities.endpoints as usize;
        for (what, needed) in [("interface endpoints", interfaces), ("cgroups", cgroups)] {
            if needed > capacity {
                return Err(ApplyError::TooMany {
                    what,
                    needed,
                    capacity,
                    setting: "--max-endpoints",
                });
            }
        }
        let local = desired.node.local_addresses.len();
        let capacity = self.settings.capacities.addresses as usize;
        for (what, needed) in [
            (
                "IPv4 addresses",
                desired
                    .image
                    .addresses
                    .keys()
                    .filter(|n| n.addr().is_ipv4())
                    .count()
                    + local,
            ),
            (
                "IPv6 addresses",
                desired
                    .image
                    .addresses
                    .keys()
                    .filter(|n| n.addr().is_ipv6())
                    .count()
                    + local,
            ),
        ] {
            if needed > capacity {
                return Err(ApplyError::TooMany {
                    what,
                    needed,
                    capacity,
                    setting: "--max-addresses",
                });
            }
        }
        Ok(())
    }

    /// Attaches whatever is not attached yet. At the first call that moves every pinned hook
    /// to this daemon's programs.
    fn attach(&mut self, desired: &Desired, new: &Contents) -> Result<(), DatapathError> {
        if !self.attached.contains_key(&AttachKey::Cgroups) {
            let root = self.settings.cgroup_root.as_deref();
            let attached = self.programs.attach_cgroups(&self.pins, root)?;
            self.attached.insert(AttachKey::Cgroups, attached);
        }
        for endpoint in &desired.endpoints {
            let EndpointPlace::Interface { ifindex, name } = &endpoint.place else {
                continue;
            };
            let key = AttachKey::Workload(*ifindex);
            if !self.attached.contains_key(&key) {
                let attached = self
                    .programs
                    .attach_interface(&self.pins, &WORKLOAD, *ifindex, name)?;
                self.attached.insert(key, attached);
            }
        }
        let blocks = !new.blocked4.is_empty() || !new.blocked6.is_empty();
        for uplink in &desired.uplinks {
            let entry = new.interfaces.get(&uplink.ifindex);
            let restricted = entry.is_some_and(|entry| entry.sets != [ALLOW_ALL; 2]);
            let xdp = match self.settings.xdp {
                XdpMode::Off => false,
                XdpMode::OnDemand => blocks,
                XdpMode::Always => true,
            };
            let key = AttachKey::Uplink(uplink.ifindex);
            if (restricted || blocks && !xdp) && !self.attached.contains_key(&key) {
                let attached = self.programs.attach_interface(
                    &self.pins,
                    &UPLINK,
                    uplink.ifindex,
                    &uplink.name,
                )?;
                self.attached.insert(key, attached);
            }
            let key = AttachKey::Blocker(uplink.ifindex);
            if xdp && !self.attached.contains_key(&key) {
                let attached =
                    self.programs
                        .attach_blocker(&self.pins, uplink.ifindex, &uplink.name)?;
                self.attached.insert(key, vec![attached]);
            }
        }
        Ok(())
    }

    /// Detaches from interfaces that are no endpoints any more, and what a former daemon left
    /// on others.
    fn detach_leaving(&mut self, plan: &Plan, desired: &Desired) -> Result<(), DatapathError> {
        let mut keep: BTreeSet<u32> = desired.uplinks.iter().map(|u| u.ifindex).collect();
        for endpoint in &desired.endpoints {
            if let EndpointPlace::Interface { ifindex, .. } = &endpoint.place {
                keep.insert(*ifindex);
            }
        }
        for hook in self.pins.links()? {
            let Some(ifindex) = attach::ifindex_of(&hook) else {
                continue;
            };
            if !keep.contains(&ifindex) {
                attach::remove_hook(&self.pins, &hook, interface_name(ifindex).as_deref())?;
            }
        }
        let blocks = self.config.blocked != [0; 2];
        for uplink in &desired.uplinks {
            let key = AttachKey::Blocker(uplink.ifindex);
            if self.settings.xdp == XdpMode::OnDemand && !blocks {
                self.attached.remove(&key);
                attach::detach_interface(
                    &self.pins,
                    &["uplink_block"],
                    uplink.ifindex,
                    Some(&uplink.name),
                )?;
            }
        }
        let leaving = plan.leaving_interfaces();
        self.attached.retain(|key, _| match key {
            AttachKey::Cgroups => true,
            AttachKey::Workload(ifindex)
            | AttachKey::Uplink(ifindex)
            | AttachKey::Blocker(ifindex) => keep.contains(ifindex) && !leaving.contains(ifindex),
        });
        Ok(())
    }

    /// The generation in force; 0 before the first.
    pub fn generation(&self) -> u32 {
        self.config.generation
    }

    /// The event reader, once.
    pub fn take_events(&mut self) -> Option<EventReader> {
        self.events.take()
    }

    /// Denied and audited flows with what was counted since the last call.
    pub fn drain_denied(&mut self) -> Result<Vec<(DeniedKey, DeniedEntry)>, DatapathError> {
        Ok(self.drained.drain(&self.tables)?)
    }

    /// Removes flows that are past their time. To be called every few seconds.
    pub fn expire_flows(&mut self) -> Result<FlowTableStats, DatapathError> {
        self.flows = read::expire(&self.tables)?;
        Ok(self.flows)
    }

    /// Counters of the given rules, those that are not zero.
    pub fn rule_counters(
        &self,
        numbers: impl Iterator<Item = u32>,
    ) -> Result<Vec<(u32, Counter)>, DatapathError> {
        Ok(read::rules(&self.tables, numbers)?)
    }

    /// Forgets the count of a rule whose number is given to another one.
    pub fn reset_rule_counter(&self, number: u32) -> Result<(), DatapathError> {
        Ok(self.tables.rules.reset(number)?)
    }

    /// Counters by reason, action and direction, those that are not zero.
    pub fn verdict_counters(
        &self,
    ) -> Result<Vec<(Reason, Action, Direction, Counter)>, DatapathError> {
        Ok(read::verdicts(&self.tables)?)
    }

    /// What was not kept or not reported, by cause.
    pub fn losses(&self) -> Result<Vec<(Loss, u64)>, DatapathError> {
        Ok(read::losses(&self.tables)?)
    }

    /// How full the maps are.
    pub fn pressure(&self) -> Vec<MapPressure> {
        let contents = &self.contents;
        let entries = |name: &str| match name {
            map::INTERFACES => contents.interfaces.len() as u64,
            map::CGROUPS => contents.cgroups.len() as u64,
            map::ADDRESSES4 => contents.addresses4.len() as u64,
            map::ADDRESSES6 => contents.addresses6.len() as u64,
            map::PREFIXES4 => contents.prefixes4.len() as u64,
            map::PREFIXES6 => contents.prefixes6.len() as u64,
            map::POLICIES => contents.policies.len() as u64,
            map::PORTS => contents.ports.len() as u64,
            map::FLOWS4 => self.flows.entries[0],
            map::FLOWS6 => self.flows.entries[1],
            map::BLOCKED4 => contents.blocked4.len() as u64,
            map::BLOCKED6 => contents.blocked6.len() as u64,
            map::DENIED => self.drained.len() as u64,
            _ => 0,
        };
        self.settings
            .capacities
            .by_map()
            .into_iter()
            .filter(|(name, _)| {
                !matches!(
                    *name,
                    map::EVENTS | map::TOKENS | map::RULES | map::FRAGMENTS
                )
            })
            .map(|(name, capacity)| MapPressure {
                name,
                entries: entries(name),
                capacity: u64::from(capacity),
                bytes: self.tables.memory(name),
            })
            .collect()
    }

    /// What this kernel offers.
    pub fn features(&self) -> &[Feature] {
        &self.features
    }

    /// What is attached where, and how.
    pub fn attachments(&self) -> Vec<Attachment> {
        self.attached.values().flatten().cloned().collect()
    }

    /// The loaded object: for tests and benchmarks that run a program on a packet of their own
    /// (`BPF_PROG_TEST_RUN`).
    pub fn object(&mut self) -> &mut aya::Ebpf {
        self.programs.object()
    }

    /// Removes everything from the kernel: hooks first, then maps. Refused while a daemon
    /// holds the pins.
    pub fn detach(pin_dir: &Path) -> Result<Detached, DatapathError> {
        let mut detached = Detached::default();
        if !pin_dir.exists() {
            return Ok(detached);
        }
        let pins = Pins::open(pin_dir)?;
        for hook in pins.links()? {
            let interface = attach::ifindex_of(&hook).and_then(interface_name);
            attach::remove_hook(&pins, &hook, interface.as_deref())?;
            detached.hooks += 1;
        }
        pins.remove()?;
        Ok(detached)
    }
}

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Detached {
    /// Hooks.
    pub hooks: usize,
}

fn interface_name(ifindex: u32) -> Option<String> {
    nix::net::if_::if_indextoname(ifindex)
        .ok()
        .and_then(|name| name.into_string().ok())
}
