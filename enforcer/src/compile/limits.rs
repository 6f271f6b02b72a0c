//! What the kernel's maps hold, and the refusal of what does not fit.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv6Net};
use thiserror::Error;

use super::{image::Image, paged::Paged, tables::Shared};

/// Capacities of the maps, in entries. Addresses and prefixes count by address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The policy table.
    pub policies: usize,
    /// The port table.
    pub ports: usize,
    /// The tables of single addresses.
    pub addresses: usize,
    /// The table of ports of shared addresses.
    pub services: usize,
    /// The tables of prefixes and of blocked prefixes.
    pub prefixes: usize,
    /// The array of rule counters; number 0 is not given to a rule.
    pub rules: usize,
    /// How many moments ahead an endpoint's sets may change by themselves. What comes later
    /// waits until one of them has passed.
    pub moments: usize,
}

impl Limits {
    /// No limits, and no moments ahead, for compilations that never reach a kernel (`explain`,
    /// tests).
    pub const NONE: Self = Self {
        policies: usize::MAX,
        ports: usize::MAX,
        addresses: usize::MAX,
        services: usize::MAX,
        prefixes: usize::MAX,
        rules: usize::MAX,
        moments: 0,
    };
}

/// Why there is no image.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CompileError {
    /// A map is too small.
    #[error(
        "the policy needs {needed} {what} (those that it replaces stay until the swap and are \
         counted too), but there is room for {limit}: raise --max-{setting}, or make the policy \
         smaller"
    )]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// Entries needed while old and new stand side by side.
        needed: usize,
        /// Entries that there are.
        limit: usize,
        /// The capacity to raise: the flag without its `--max-`.
        setting: &'static str,
    },
    /// Numbers are never reused, and this space of them is used up.
    #[error("all numbers for {what} have been used: detach and start afresh")]
    NumbersExhausted {
        /// Which space.
        what: &'static str,
    },
}

/// Refuses an image that does not fit beside the one in force.
pub(super) fn check(
    image: &Image,
    in_force: Option<&Image>,
    limits: &Limits,
) -> Result<(), CompileError> {
    let empty = Image::default();
    let old = in_force.unwrap_or(&empty);
    let fits = |what, setting, needed, limit| {
        if needed > limit {
            Err(CompileError::TooLarge {
                what,
                needed,
                limit,
                setting,
            })
        } else {
            Ok(())
        }
    };
    fits(
        "policy entries",
        "policies",
        together(&old.policies, &image.policies),
        limits.policies,
    )?;
    fits(
        "port entries",
        "ports",
        together(&old.ports, &image.ports),
        limits.ports,
    )?;
    let rules = image.rules.last().map_or(0, |(n, _)| *n as usize);
    fits("rule numbers", "rules", rules + 1, limits.rules)?;
    if !old.services.is(&image.services) {
        let added = image.services.missing_in(&old.services).count();
        let needed = old.services.len() + added;
        fits(
            "ports of shared addresses",
            "services",
            needed,
            limits.services,
        )?;
    }
    if old.addresses.is(&image.addresses)
        && old.prefixes.is(&image.prefixes)
        && old.host_addresses == image.host_addresses
        && old.blocked == image.blocked
    {
        // They are there.
        return Ok(());
    }
    for (ipv4, what) in [(true, "IPv4 addresses"), (false, "IPv6 addresses")] {
        let of_family = |address: &IpAddr| address.is_ipv4() == ipv4;
        let host = |image: &Image| image.host_addresses.keys().filter(|a| of_family(a)).count();
        // Who is one of the host's addresses is not in the other table.
        let single = image.addresses.missing_in(&old.addresses);
        let single = single.map(|(net, _)| net.addr()).filter(of_family);
        let single = single.filter(|a| !old.host_addresses.contains_key(a));
        let own = image.host_addresses.keys().filter(|a| of_family(a));
        let own = own.filter(|a| {
            let known = old.addresses.contains_key(&IpNet::from(**a));
            !known && !old.host_addresses.contains_key(a)
        });
        let kept = of_family_in(&old.addresses, ipv4) + host(old);
        let needed = kept + single.count() + own.count();
        fits(what, "addresses", needed, limits.addresses)?;
    }
    for (ipv4, what, blocked_what) in [
        (true, "IPv4 prefixes", "blocked IPv4 prefixes"),
        (false, "IPv6 prefixes", "blocked IPv6 prefixes"),
    ] {
        let of_family = |prefix: &&IpNet| prefix.addr().is_ipv4() == ipv4;
        let added = image.prefixes.missing_in(&old.prefixes);
        let added = added.filter(|(prefix, _)| of_family(prefix)).count();
        let kept = of_family_in(&old.prefixes, ipv4);
        fits(what, "prefixes", kept + added, limits.prefixes)?;
        let added = image.blocked.keys().filter(of_family);
        let added = added.filter(|p| !old.blocked.contains_key(*p)).count();
        let kept = old.blocked.keys().filter(of_family).count();
        fits(blocked_what, "prefixes", kept + added, limits.prefixes)?;
    }
    Ok(())
}

/// How many of a table's prefixes are of a family. Those of IPv4 come first.
fn of_family_in(table: &Paged<IpNet, u32>, ipv4: bool) -> usize {
    let first = IpNet::from(Ipv6Net::default());
    let ipv4_ones = table.len_below(&first);
    if ipv4 {
        ipv4_ones
    } else {
        table.len() - ipv4_ones
    }
}

/// Entries of both side by side. What has one number has one content.
fn together<E>(old: &Shared<E>, new: &Shared<E>) -> usize {
    let added = new.parts_missing_in(old);
    old.len() + added.map(|(_, entries)| entries.len()).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use enforcer_common::{
        Action, Decision, Reason,
        policy_key::{PolicyEntry, PolicyKey},
    };

    use super::*;

    fn image(sets: std::ops::Range<u32>, addresses: &[&str]) -> Image {
        let entry = PolicyEntry {
            decision: Decision::new(Action::Deny, Reason::Isolation, 1),
            table: 0,
            lengths: 0,
            rule: 0,
        };
        let net = |text: &&str| text.parse().expect("a prefix");
        Image {
            policies: sets
                .map(|set| (PolicyKey { set, peer: 0 }, entry))
                .collect(),
            addresses: addresses.iter().map(net).map(|net| (net, 256)).collect(),
            ..Image::default()
        }
    }

    #[test]
    fn old_and_new_must_fit_together_and_what_they_share_counts_once() {
        let limits = Limits {
            policies: 5,
            ..Limits::NONE
        };
        let old = image(0..3, &[]);
        assert_eq!(check(&image(1..5, &[]), Some(&old), &limits), Ok(()));
        let error = check(&image(3..6, &[]), Some(&old), &limits).unwrap_err();
        let CompileError::TooLarge {
            needed,
            limit,
            setting,
            ..
        } = error
        else {
            panic!("{error}")
        };
        assert_eq!((needed, limit, setting), (6, 5, "policies"));
        assert_eq!(check(&image(3..6, &[]), None, &limits), Ok(()));
    }

    #[test]
    fn addresses_count_by_family() {
        let limits = Limits {
            addresses: 2,
            ..Limits::NONE
        };
        let old = image(0..0, &["10.0.0.1/32", "fd00::1/128"]);
        let new = image(0..0, &["10.0.0.2/32", "fd00::1/128", "fd00::2/128"]);
        assert_eq!(check(&new, Some(&old), &limits), Ok(()));
        let more = image(0..0, &["10.0.0.2/32", "10.0.0.3/32"]);
        let error = check(&more, Some(&old), &limits).unwrap_err();
        assert!(error.to_string().contains("3 IPv4 addresses"), "{error}");
    }
}
