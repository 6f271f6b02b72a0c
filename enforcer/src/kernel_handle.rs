//! One datapath for several users: the loop that changes it, and those who read it.

use std::{
    error::Error,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use enforcer_common::{
    Direction,
    denied_entry::{DeniedEntry, DeniedKey},
    flow_key::space,
};
use tracing::debug;

use crate::{
    api::{
        routes::{KernelStatus, KernelView},
        status::{
            AttachmentStatus, EndpointStatus, FeatureStatus, LossStatus, MapStatus, PlaceKind,
        },
    },
    cause::chain,
    compile::{image::RuleInfo, paged::Paged},
    datapath::{Datapath, DatapathError, EventReader, FlowTableStats, Refusals, desired::Desired},
    inventory::sockets::Socket,
    metrics::{KernelReading, KernelSource, MapUse},
    observe::context::NameBook,
    reconcile::{
        kernel::{Applied, Kernel},
        sweep::Openers,
    },
};

/// A datapath that can be shared. Every method may wait for a change that is under way.
#[derive(Clone, Debug)]
pub struct KernelHandle {
    datapath: Arc<Mutex<Datapath>>,
    names: Arc<NameBook>,
    /// Rules of the image in force; `None` before the first.
    rules: Option<Paged<u32, Arc<RuleInfo>>>,
}

impl KernelHandle {
    /// Shares a datapath.
    pub fn new(datapath: Datapath, names: Arc<NameBook>) -> Self {
        Self {
            datapath: Arc::new(Mutex::new(datapath)),
            names,
            rules: None,
        }
    }

    /// The event reader, once.
    pub fn take_events(&self) -> Option<EventReader> {
        self.lock().take_events()
    }

    /// The refused packets that are to be answered, once.
    pub fn take_refusals(&self) -> Option<Refusals> {
        self.lock().take_refusals()
    }

    /// What was denied since the last call.
    pub fn drain_denied(&self) -> Result<Vec<(DeniedKey, DeniedEntry)>, DatapathError> {
        self.lock().drain_denied()
    }

    /// Removes flows that are past their time.
    pub fn expire_flows(&self) -> Result<FlowTableStats, DatapathError> {
        self.lock().expire_flows()
    }

    fn lock(&self) -> MutexGuard<'_, Datapath> {
        // A panic while it was held ends the daemon; until then reading is as good as before.
        self.datapath.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kernel for KernelHandle {
    fn apply(&mut self, desired: &Desired) -> Result<Applied, Box<dyn Error + Send + Sync>> {
        let rules = &desired.image.rules;
        let applied = {
            let mut datapath = self.lock();
            // A number that is given anew counts anew. At the first change the counts of the
            // former run go on.
            if let Some(known) = &self.rules {
                for (number, _) in rules.missing_in(known) {
                    datapath.reset_rule_counter(*number)?;
                }
            }
            datapath.apply(desired)?
        };
        self.rules = Some(rules.clone());
        Ok(Applied {
            generation: applied.generation,
            changed: applied.changed,
        })
    }
}

impl Openers for KernelHandle {
    fn opener(&self, endpoint: &EndpointStatus, socket: &Socket) -> Option<Direction> {
        let place = match endpoint.kind {
            PlaceKind::Cgroup => (endpoint.id, space::CGROUP),
            PlaceKind::Interface => (u32::try_from(endpoint.place_number).ok()?, space::INTERFACE),
            PlaceKind::Uplink => (0, space::HOST),
        };
        let opener = self.lock().opener(place, socket.local, socket.remote);
        opener.unwrap_or_else(|error| {
            debug!(error = chain(&error), "cannot look into the flow table");
            None
        })
    }
}

impl KernelSource for KernelHandle {
    fn read(&self) -> Result<KernelReading, Box<dyn Error + Send + Sync>> {
        let names = self.names.load();
        let numbers = names.context().image.rules.keys().copied();
        let datapath = self.lock();
        Ok(KernelReading {
            verdicts: datapath.verdict_counters()?,
            rules: datapath.rule_counters(numbers)?,
            losses: datapath.losses()?,
            maps: datapath
                .pressure()
                .into_iter()
                .map(|map| MapUse {
                    name: map.name.to_owned(),
                    entries: map.entries,
                    capacity: map.capacity,
                    bytes: map.bytes,
                })
                .collect(),
        })
    }
}

impl KernelView for KernelHandle {
    fn read(&self) -> Result<KernelStatus, String> {
        let datapath = self.lock();
        let losses = datapath.losses().map_err(|e| chain(&e))?;
        Ok(KernelStatus {
            maps: datapath
                .pressure()
                .into_iter()
                .map(|map| MapStatus {
                    name: map.name.to_owned(),
                    entries: map.entries,
                    capacity: map.capacity,
                    bytes: map.bytes,
                })
                .collect(),
            losses: losses
                .into_iter()
                .map(|(cause, count)| LossStatus {
                    cause: cause.name().to_owned(),
                    count,
                })
                .collect(),
            features: datapath
                .features()
                .iter()
                .map(|feature| FeatureStatus {
                    name: feature.name.to_owned(),
                    found: feature.found,
                    note: feature.note.clone(),
                })
                .collect(),
            attachments: datapath
                .attachments()
                .into_iter()
                .map(|attachment| AttachmentStatus {
                    hook: attachment.program.to_owned(),
                    target: attachment.target,
                    way: attachment.way.to_owned(),
                })
                .collect(),
        })
    }
}
