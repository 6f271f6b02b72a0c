//! What a list of rules says of a peer: an entry, and its port table.

use enforcer_common::{
    Decision,
    policy_key::{OWN_RULE, PolicyEntry, PortKey},
};
use sha2::{Digest, Sha256};

use super::{SetBuilder, shortened};
use crate::compile::{
    limits::CompileError,
    ranges,
    rules::Rulebook,
    tables::in_order,
    tiers::{Cause, Ground, Matching, Outcome},
};

impl SetBuilder<'_> {
    /// What these (ascending) rules say of a peer, by protocol and port.
    pub(super) fn entry(
        &mut self,
        book: &Rulebook<'_>,
        rules: &[u32],
        ground: &Ground,
    ) -> Result<PolicyEntry, CompileError> {
        self.work.entries += 1;
        let (default, differing) = Self::outcomes(book, rules, ground);
        let default = self.decision(book, default)?;
        let decided = differing
            .into_iter()
            .map(|(protocol, first, last, outcome)| {
                Ok((protocol, first, last, self.decision(book, outcome)?))
            });
        let differing = decided.collect::<Result<Vec<_>, CompileError>>()?;
        self.table(&differing, default)
    }

    /// The outcome that holds where nothing else is said, and by protocol the ranges of ports
    /// (both ends inclusive, ascending) with another one.
    pub(in crate::compile) fn outcomes(
        book: &Rulebook<'_>,
        rules: &[u32],
        ground: &Ground,
    ) -> (Outcome, Vec<(u8, u16, u16, Outcome)>) {
        let mut everywhere = Matching::default();
        let mut protocols = Vec::new();
        for number in rules {
            let rule = book.says(*number);
            if rule.all_ports {
                everywhere.add(*number, rule.weight);
            } else {
                protocols.extend(rule.ranges.iter().map(|(protocol, ..)| *protocol));
            }
        }
        let default = named(book, everywhere.decide(ground));
        protocols.sort_unstable();
        protocols.dedup();
        let mut differing = Vec::new();
        for protocol in protocols {
            for (first, last, outcome) in Self::by_port(book, rules, protocol, &everywhere, ground)
            {
                if outcome != default {
                    differing.push((protocol, first, last, outcome));
                }
            }
        }
        (default, differing)
    }

    /// Disjoint ranges that cover every port of a protocol, ascending, each with its outcome.
    fn by_port(
        book: &Rulebook<'_>,
        rules: &[u32],
        protocol: u8,
        everywhere: &Matching,
        ground: &Ground,
    ) -> Vec<(u16, u16, Outcome)> {
        // (port, whether the rule begins there, rule)
        let mut edges: Vec<(u32, bool, u32)> = Vec::new();
        for number in rules {
            let rule = book.says(*number);
            if rule.all_ports {
                continue;
            }
            for (_, first, last) in rule.ranges.iter().filter(|(p, ..)| *p == protocol) {
                edges.push((u32::from(*first), true, *number));
                edges.push((u32::from(*last) + 1, false, *number));
            }
        }
        edges.sort_unstable();
        let mut matching = everywhere.clone();
        let mut ranges: Vec<(u16, u16, Outcome)> = Vec::new();
        let mut edges = edges.into_iter().peekable();
        let mut start = 0_u32;
        while start < 1 << 16 {
            while let Some((_, begins, number)) = edges.next_if(|(port, ..)| *port == start) {
                let rule = book.says(number);
                if begins {
                    matching.add(number, rule.weight);
                } else {
                    matching.remove(number, rule.weight);
                }
            }
            let end = edges.peek().map_or(1 << 16, |(port, ..)| *port);
            let outcome = named(book, matching.decide(ground));
            let last = u16::try_from(end - 1).unwrap_or(u16::MAX);
            match ranges.last_mut() {
                Some(previous) if previous.2 == outcome => previous.1 = last,
                _ => {
                    let first = u16::try_from(start).unwrap_or(u16::MAX);
                    ranges.push((first, last, outcome));
                }
            }
            start = end;
        }
        ranges
    }

    /// Writes a port table and the entry that points to it.
    pub(in crate::compile) fn table(
        &mut self,
        differing: &[(u8, u16, u16, Decision)],
        decision: Decision,
    ) -> Result<PolicyEntry, CompileError> {
        let mut lengths = 0;
        // The rule of the first port: what it decides, the table has by that name.
        let mut rule = 0;
        let mut content = Vec::new();
        let mut digest = Sha256::new();
        for (protocol, first, last, decision) in differing {
            let mut decision = *decision;
            if rule == 0 {
                rule = decision.rule;
            }
            // What nothing restricts has no rule.
            if rule != 0 && decision.rule == rule {
                decision.rule = OWN_RULE;
            }
            for (length, port) in ranges::prefixes(*first, *last) {
                let key = PortKey::covering(0, *protocol, port, length);
                lengths |= 1 << length;
                digest.update(bytemuck::bytes_of(&key));
                digest.update(bytemuck::bytes_of(&decision));
                content.push((key, decision));
            }
        }
        let table = if content.is_empty() {
            0
        } else {
            let table = self.numbers.table(&shortened(digest))?;
            self.contents.table(table, || {
                let content = content.into_iter();
                let content = content.map(|(key, decision)| (PortKey { table, ..key }, decision));
                in_order(content.collect())
            });
            table
        };
        Ok(PolicyEntry {
            decision,
            table,
            lengths,
            rule,
        })
    }
}

/// An outcome by the first number of its rule, so that equal outcomes are equal.
fn named(book: &Rulebook<'_>, (action, cause): Outcome) -> Outcome {
    match cause {
        Cause::Rule(rule) => (action, Cause::Rule(book.head(rule))),
        other => (action, other),
    }
}
