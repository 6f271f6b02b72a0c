//! The kernel's side: load, attach, pin, adopt, apply, read. The only room that imports aya.

mod apply;
mod attach;
pub mod clock;
mod contents;
pub mod desired;
pub mod detach;
mod error;
mod events;
mod features;
mod hooks;
mod object;
mod pin;
#[cfg(feature = "ebpf-log")]
mod program_log;
mod quiet;
mod read;
mod refusals;
mod settings;
mod stage;
mod succession;
mod sys;
mod table;
#[cfg(test)]
mod tests;
mod transient;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use enforcer_common::{
    Action, Direction, Loss, Reason,
    abi::map,
    config::Config,
    counter::Counter,
    denied_entry::{DeniedEntry, DeniedKey},
    identity,
};

use self::{
    apply::Plan, attach::Programs, contents::Contents, desired::Desired, hooks::AttachKey,
    object::Tables, pin::Pins, quiet::Quiet, read::Drained, stage::Stage, transient::Transients,
};
pub use self::{
    attach::Attachment,
    error::{ApplyError, DatapathError},
    events::EventReader,
    features::Feature,
    read::{FlowTableStats, MapPressure},
    refusals::Refusals,
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
    quiet: Quiet,
    /// What the maps hold.
    contents: Contents,
    /// The maps may hold something else: they are to be read again.
    astray: bool,
    transients: Transients,
    config: Config,
    events: Option<EventReader>,
    refusals: Option<Refusals>,
    drained: Drained,
    attached: BTreeMap<AttachKey, Vec<Attachment>>,
    flows: FlowTableStats,
    features: Vec<Feature>,
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
        let opened = Self::load(settings, pins, &maps, had_maps, had_links);
        if opened.is_err() && !had_maps {
            // Nothing uses them; the maps of the layout in force stay.
            let _ = std::fs::remove_dir_all(&maps);
        }
        opened
    }

    fn load(
        settings: &DatapathSettings,
        pins: Pins,
        maps: &Path,
        had_maps: bool,
        had_links: bool,
    ) -> Result<(Self, Adopted), DatapathError> {
        let mut ebpf = object::load(maps, &settings.capacities)?;
        let tables = Tables::take(&mut ebpf)?;
        let ring = object::ring(&mut ebpf, map::EVENTS)?;
        let refusals = Refusals::new(object::ring(&mut ebpf, map::REFUSALS)?, maps)?;
        #[cfg(feature = "ebpf-log")]
        program_log::follow(&mut ebpf);
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
        let transients = Transients::after(&contents);
        let datapath = Self {
            settings: settings.clone(),
            pins,
            programs,
            drained: Drained::open(&maps.join("TOLD"), settings.capacities.denied)?,
            tables,
            quiet: Quiet::new()?,
            contents,
            astray: false,
            events: Some(EventReader::new(ring, transients.clone())),
            refusals: Some(refusals),
            transients,
            config,
            attached: BTreeMap::new(),
            flows: FlowTableStats::default(),
            features: features::probe(),
        };
        Ok((datapath, adopted))
    }

    /// Makes the kernel hold what is desired, all or nothing: on an error the last state is in
    /// force. See the module `apply` for the order. What cannot be cleaned up afterwards is
    /// logged, and the next call tries again.
    pub fn apply(&mut self, desired: &Desired) -> Result<Applied, ApplyError> {
        let start = Instant::now();
        if self.astray {
            self.contents = Contents::read(&self.tables)?;
        }
        let mut new = Contents::desired(desired, &self.contents, clock::seconds());
        let host = contents::with_sets(desired, identity::HOST);
        let plan = Plan::between(&self.contents, &mut new, &host, self.transients.next());
        plan.check_room(&self.contents, &self.settings.capacities)?;
        let block_at_tc = self.settings.xdp == XdpMode::Off;
        let sockets_at_tc = self.settings.cgroup_root.is_none();
        let mut config = new.config(desired, self.config.generation, block_at_tc, sockets_at_tc);
        let first = self.config.generation == 0 || self.attached.is_empty();
        if plan.is_empty() && config == self.config && !first && !self.astray {
            return Ok(Applied {
                generation: config.generation,
                changed: false,
                took: start.elapsed(),
            });
        }
        self.transients.add(&plan.transients);

        // Until the end is reached.
        self.astray = true;
        config.generation = self.put_in_force(&plan, desired, &new, config)?;
        self.config = config;
        self.contents = new;
        match self.clean_up(&plan, desired, first) {
            Ok(()) => self.astray = false,
            Err(error) => tracing::warn!(
                error = crate::cause::chain(&error),
                "something of the former policy stays behind for now"
            ),
        }
        Ok(Applied {
            generation: config.generation,
            changed: true,
            took: start.elapsed(),
        })
    }

    /// Everything up to the raised generation, which is returned.
    fn put_in_force(
        &mut self,
        plan: &Plan,
        desired: &Desired,
        new: &Contents,
        config: Config,
    ) -> Result<u32, ApplyError> {
        let mut done = Vec::new();
        let outcome = self.try_in_force(plan, desired, new, config, &mut done);
        // On new maps nothing ran before. Hooks that are there already need what was written,
        // the others are still behind the former maps.
        if outcome.is_err() && self.config.generation != 0 {
            self.undo(&done);
        }
        outcome
    }

    fn try_in_force<'p>(
        &mut self,
        plan: &'p Plan,
        desired: &Desired,
        new: &Contents,
        config: Config,
        done: &mut Vec<&'p Stage>,
    ) -> Result<u32, ApplyError> {
        // The tries may be asked once the generation of new maps is not 0, which no program may
        // find, and their entries are about to be written.
        let mut widened = if self.config.generation == 0 {
            Config {
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
        for stage in [&plan.beside, &plan.between, &plan.enrol] {
            self.take(stage, done)?;
        }
        self.tables.config.set(&0, &widened)?;
        self.attach(desired, new)?;
        self.take(&plan.flip, done)?;
        if !(plan.flip.is_empty() && plan.settle.is_empty() && plan.clean.is_empty()) {
            self.wait()?;
        }
        self.take(&plan.settle, done)?;
        let generation = widened.next_generation();
        let config = Config {
            generation,
            ..config
        };
        self.tables.config.set(&0, &config)?;
        Ok(generation)
    }

    fn take<'p>(&self, stage: &'p Stage, done: &mut Vec<&'p Stage>) -> Result<(), TableError> {
        #[cfg(test)]
        tests::before_stage(done.len())?;
        done.push(stage);
        stage.write(&self.tables)
    }

    /// Undoes stages in reverse order, with the same care for programs that run.
    fn undo(&self, done: &[&Stage]) {
        for stage in done.iter().rev() {
            let undone = stage.undo(&self.tables).map_err(DatapathError::from);
            if let Err(error) = undone.and_then(|()| self.wait()) {
                // The maps are read again before the next change, which removes it.
                tracing::error!(
                    error = crate::cause::chain(&error),
                    "something of a refused change stays behind for now"
                );
            }
        }
        if let Err(error) = self.tables.config.set(&0, &self.config) {
            tracing::error!(
                error = crate::cause::chain(&error),
                "the configuration of a refused change stays behind for now"
            );
        }
    }

    /// Removes what is not in force any more.
    fn clean_up(
        &mut self,
        plan: &Plan,
        desired: &Desired,
        first: bool,
    ) -> Result<(), DatapathError> {
        #[cfg(test)]
        tests::before_stage(5)?;
        plan.gone.write(&self.tables)?;
        #[cfg(test)]
        tests::before_stage(6)?;
        if !(plan.settle.is_empty() && plan.gone.is_empty() || plan.clean.is_empty()) {
            self.wait()?;
        }
        plan.clean.write(&self.tables)?;
        self.detach_leaving(desired)?;
        if first {
            self.pins.remove_other_maps(&self.settings.layout())?;
        }
        Ok(())
    }

    fn wait(&self) -> Result<(), DatapathError> {
        #[cfg(test)]
        if tests::WITHOUT_BRIDGE.get() {
            return Ok(());
        }
        self.quiet.wait().map_err(|source| DatapathError::File {
            action: "wait for the kernel programs through",
            path: "the map of maps".into(),
            source,
        })
    }

    /// The generation in force; 0 before the first.
    pub fn generation(&self) -> u32 {
        self.config.generation
    }

    /// The event reader, once.
    pub fn take_events(&mut self) -> Option<EventReader> {
        self.events.take()
    }

    /// The refused packets that are to be answered, once.
    pub fn take_refusals(&mut self) -> Option<Refusals> {
        self.refusals.take()
    }

    /// Denied and audited flows with what was counted since the last call.
    pub fn drain_denied(&mut self) -> Result<Vec<(DeniedKey, DeniedEntry)>, DatapathError> {
        let mut drained = self.drained.drain(&self.tables)?;
        for (_, entry) in &mut drained {
            entry.peer = self.transients.settled(entry.peer);
        }
        Ok(drained)
    }

    /// Removes flows that are past their time. To be called every few seconds.
    pub fn expire_flows(&mut self) -> Result<FlowTableStats, DatapathError> {
        self.flows = read::expire(&self.tables)?;
        Ok(self.flows)
    }

    /// Which side opened a TCP connection, by its entry in the flow table; `None` where it has
    /// none. `place`: the scope and space of the endpoint, as in
    /// [`FlowKey`](enforcer_common::flow_key::FlowKey).
    pub fn opener(
        &self,
        place: (u32, u8),
        local: SocketAddr,
        remote: SocketAddr,
    ) -> Result<Option<Direction>, DatapathError> {
        Ok(read::opener(&self.tables, place, local, remote)?)
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
            map::ADDRESSES4 => contents.peers.addresses4.len() as u64,
            map::ADDRESSES6 => contents.peers.addresses6.len() as u64,
            map::SERVICES => contents.peers.services.len() as u64,
            map::PREFIXES4 => contents.peers.prefixes4.len() as u64,
            map::PREFIXES6 => contents.peers.prefixes6.len() as u64,
            map::POLICIES => contents.policies().len() as u64,
            map::PORTS => contents.ports().len() as u64,
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
                    map::EVENTS | map::REFUSALS | map::TOKENS | map::RULES | map::FRAGMENTS
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
}
