//! Random policies and flows for property tests.
//!
//! Every alphabet is small (two namespaces, two label keys of two values, a handful of
//! addresses, prefixes and ports), so that rules overlap, contradict each other and touch at
//! their edges far more often than in real life.
//!
//! - [`scenario`] gives a [`Scenario`]: policy, node mode, host addresses, and flows to judge.
//! - [`edit`] gives an [`Edit`] that makes another scenario of one.
//! - [`policy`] gives a [`ResolvedPolicy`] alone; [`flow_seed`] a flow for any policy.

mod count;
mod edit;
mod flow;
mod peer;
mod policy;

pub use self::{
    edit::{Edit, edit},
    flow::{FlowSeed, flow_seed},
    policy::{address, mode, moment, policy},
};

use std::net::IpAddr;

use enforcer::policy::model::{Mode, Moment, ResolvedPolicy};
use proptest::{collection::vec, prelude::*};

use crate::model::{RawFlow, World};

/// Everything that a verdict depends on, and flows to ask about.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The tree.
    pub policy: ResolvedPolicy,
    /// The node's mode in effect.
    pub mode: Mode,
    /// When the flows begin.
    pub now: Moment,
    /// Addresses of the host itself.
    pub host_addresses: Vec<IpAddr>,
    /// Flows at endpoints of `policy`.
    pub flows: Vec<RawFlow>,
}

impl Scenario {
    /// For the reference model.
    pub fn world(&self) -> World<'_> {
        World {
            policy: &self.policy,
            mode: self.mode,
            now: self.now,
            host_addresses: &self.host_addresses,
        }
    }
}

/// Random scenarios with `flows` flows each.
pub fn scenario(flows: usize) -> impl Strategy<Value = Scenario> {
    (
        policy(),
        mode(),
        moment(),
        vec(address(), 0..3),
        vec(flow_seed(), flows..=flows),
    )
        .prop_map(|(policy, mode, now, host_addresses, seeds)| {
            count::one();
            Scenario {
                flows: seeds.iter().map(|seed| seed.flow(&policy)).collect(),
                policy,
                mode,
                now,
                host_addresses,
            }
        })
}

/// How many cases a property test tries: the environment variable `ENFORCER_CASES`, else
/// `default`.
pub fn cases(default: u32) -> u32 {
    match std::env::var("ENFORCER_CASES") {
        Ok(text) => text.parse().expect("ENFORCER_CASES is a number"),
        Err(_) => default,
    }
}
