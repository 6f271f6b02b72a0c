//! The identities of this host as others see them.

use std::collections::{BTreeMap, BTreeSet};

use enforcer_common::identity;
use ipnet::IpNet;

use super::{Ground, senders::Senders};
use crate::compile::image::IdentitySubject;

/// Everybody of this host who may send to others.
#[derive(Debug, Default)]
pub(super) struct Parties {
    all: BTreeMap<u32, Party>,
    pub senders: Senders,
}

/// An identity of this host.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Party {
    /// As it may be seen elsewhere: the address tells prefixes of policy, and a host may have
    /// several. In the order of these.
    pub seen: Vec<u32>,
    /// As it is seen on this host.
    pub here: u32,
}

impl Parties {
    /// By number.
    pub fn all(&self) -> &BTreeMap<u32, Party> {
        &self.all
    }

    /// Looks how an identity is seen now, if it is one of this host. Returns whether that is
    /// another way than before.
    pub fn look(&mut self, number: u32, ground: &Ground<'_>) -> bool {
        let now = self.party(number, ground);
        if now.as_ref() == self.all.get(&number) {
            return false;
        }
        // Held before the former is released, so that what stays does not turn.
        let senders = |party: &Party| party.seen.iter().copied().chain([party.here]).collect();
        for sender in now.as_ref().map_or_else(Vec::new, senders) {
            self.senders.hold(sender);
        }
        let before = match now {
            Some(now) => self.all.insert(number, now),
            None => self.all.remove(&number),
        };
        for sender in before.as_ref().map_or_else(Vec::new, senders) {
            self.senders.release(sender);
        }
        true
    }

    fn party(&mut self, number: u32, ground: &Ground<'_>) -> Option<Party> {
        let Ground {
            inputs,
            known,
            index,
        } = ground;
        if number != identity::HOST && !known.is_local(number) {
            return None;
        }
        let here = known.identities.get(&number)?;
        let subject = if number == identity::HOST {
            IdentitySubject::remote_host(inputs.policy.node.labels.clone())
        } else {
            here.subject.clone().without_ports()
        };
        let host = inputs.host_addresses.iter();
        let host = host.filter(|address| !address.is_loopback());
        let host = host.map(|address| IpNet::from(*address));
        let addresses = host.chain(known.addresses_of(number));
        let mut around: BTreeSet<BTreeSet<IpNet>> = addresses
            .map(|prefix| known.prefixes_around(prefix))
            .collect();
        if around.is_empty() {
            around.insert(BTreeSet::new());
        }
        let seen = around.into_iter().map(|prefixes| {
            let identity = known.identity_at(subject.clone(), prefixes);
            self.senders.number(identity, index)
        });
        Some(Party {
            seen: seen.collect(),
            here: self.senders.number((**here).clone(), index),
        })
    }
}
