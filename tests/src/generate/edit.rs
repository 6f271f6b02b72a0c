//! Random small changes to a scenario: what happens to a real tree from one commit to the next.

use std::{net::IpAddr, sync::Arc};

use enforcer::policy::model::{Labels, Mode, Moment};
use ipnet::IpNet;
use proptest::{prelude::*, sample::Index};

use super::{
    Scenario,
    policy::{address, labels, mode, moment, namespace},
};

/// A change of one thing.
#[derive(Clone, Debug)]
pub enum Edit {
    /// Nothing: the same tree again.
    Nothing,
    /// Gives a workload other labels.
    Relabel(Index, Labels),
    /// Gives a workload one other address.
    Move(Index, IpAddr),
    /// Takes a policy away.
    RemovePolicy(Index),
    /// Empties the rules of a policy in both directions.
    EmptyPolicy(Index),
    /// Moves a rule of a policy to the end.
    RotateRules(Index),
    /// Changes the mode of the node.
    Mode(Mode),
    /// Lets time go by, or turns it back.
    Time(Moment),
    /// Gives a namespace other labels.
    RelabelNamespace(String, Labels),
    /// Gives the host other addresses.
    HostAddress(IpAddr),
}

impl Edit {
    /// The scenario after the change. Where there is nothing to change, the same.
    pub fn apply(&self, scenario: &Scenario) -> Scenario {
        let mut after = scenario.clone();
        let workloads = Arc::make_mut(&mut after.policy.workloads);
        let policies = &mut after.policy.policies;
        match self {
            Self::Relabel(index, labels) if !workloads.is_empty() => {
                let index = index.index(workloads.len());
                Arc::make_mut(&mut workloads[index]).labels = labels.clone();
            }
            Self::Move(index, address) if !workloads.is_empty() => {
                let index = index.index(workloads.len());
                Arc::make_mut(&mut workloads[index]).addresses = vec![IpNet::from(*address)];
            }
            Self::RemovePolicy(index) if !policies.is_empty() => {
                policies.remove(index.index(policies.len()));
            }
            Self::EmptyPolicy(index) if !policies.is_empty() => {
                let index = index.index(policies.len());
                let policy = Arc::make_mut(&mut policies[index]);
                for rules in policy.rules.iter_mut().flatten() {
                    rules.clear();
                }
            }
            Self::RotateRules(index) if !policies.is_empty() => {
                let index = index.index(policies.len());
                let policy = Arc::make_mut(&mut policies[index]);
                for rules in policy.rules.iter_mut().flatten() {
                    if !rules.is_empty() {
                        rules.rotate_left(1);
                    }
                }
            }
            Self::Mode(mode) => after.mode = *mode,
            Self::Time(now) => after.now = *now,
            Self::RelabelNamespace(name, labels) => {
                after.policy.namespaces.insert(name.clone(), labels.clone());
            }
            Self::HostAddress(address) => after.host_addresses = vec![*address],
            // Nothing, or nothing to change.
            _ => {}
        }
        after
    }
}

/// A random change.
pub fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        1 => Just(Edit::Nothing),
        4 => (any::<Index>(), labels()).prop_map(|(i, labels)| Edit::Relabel(i, labels)),
        2 => (any::<Index>(), address()).prop_map(|(i, address)| Edit::Move(i, address)),
        2 => any::<Index>().prop_map(Edit::RemovePolicy),
        1 => any::<Index>().prop_map(Edit::EmptyPolicy),
        1 => any::<Index>().prop_map(Edit::RotateRules),
        1 => mode().prop_map(Edit::Mode),
        2 => moment().prop_map(Edit::Time),
        1 => (namespace(), labels()).prop_map(|(n, labels)| Edit::RelabelNamespace(n, labels)),
        1 => address().prop_map(Edit::HostAddress),
    ]
}
