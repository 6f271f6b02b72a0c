//! Which hooks there are to be, by what is desired: attaches what is missing, detaches what is
//! left over.

use std::collections::BTreeSet;

use enforcer_common::policy_key::ALLOW_ALL;

use super::{
    Datapath,
    attach::{self, UPLINK, WORKLOAD},
    contents::Contents,
    desired::{Desired, EndpointPlace},
    error::DatapathError,
    settings::XdpMode,
};

/// What a set of attachments belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum AttachKey {
    Cgroups,
    Workload(u32),
    Uplink(u32),
    Blocker(u32),
}

impl Datapath {
    /// Attaches whatever is not attached yet. At the first call that moves every pinned hook
    /// to this daemon's programs.
    pub(super) fn attach(
        &mut self,
        desired: &Desired,
        new: &Contents,
    ) -> Result<(), DatapathError> {
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
            let restricted = entry.is_some_and(|entry| {
                let mut sets = entry.all_sets().into_iter();
                sets.any(|sets| sets != [ALLOW_ALL; 2])
            });
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
    pub(super) fn detach_leaving(&mut self, desired: &Desired) -> Result<(), DatapathError> {
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
        self.attached.retain(|key, _| match key {
            AttachKey::Cgroups => true,
            AttachKey::Workload(ifindex)
            | AttachKey::Uplink(ifindex)
            | AttachKey::Blocker(ifindex) => keep.contains(ifindex),
        });
        Ok(())
    }
}

/// The name of an interface, while it is there.
pub(super) fn interface_name(ifindex: u32) -> Option<String> {
    nix::net::if_::if_indextoname(ifindex)
        .ok()
        .and_then(|name| name.into_string().ok())
        // What nix says of an index that nobody has.
        .filter(|name| !name.is_empty())
}
