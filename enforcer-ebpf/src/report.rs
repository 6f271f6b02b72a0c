//! Counting and reporting of decisions.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::helpers::generated::{
    bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_current_uid_gid,
};
use enforcer_common::{
    Action, Decision, Direction, Protocol,
    config::{Config, config_flag},
    denied_entry::{DeniedEntry, DeniedKey},
    event::event_flag,
    flow_key::FlowKey,
    verdict::decision_flag,
};

use crate::{
    family::{Family, V4, V6},
    pipeline::Place,
    table::{
        config::config,
        counters,
        denied::{self, Begun},
    },
};

/// What is known when a decision falls. Without holes, as [`crate::parse::Packet`].
#[repr(C)]
pub struct Facts {
    pub decision: Decision,
    pub endpoint: u32,
    pub peer: u32,
    pub length: u32,
    /// The port that policy was asked about.
    pub port: u16,
    pub tcp_flags: u8,
    /// The way of the flow: a [`Direction`].
    pub direction: u8,
    /// Bits of [`event_flag`].
    pub flags: u8,
    /// Whether an allowed flow is new, and so worth a report where the node asks for them.
    pub opens: u8,
    /// Whether there is anything to count or report.
    pub tell: u8,
    /// 0: a denial holds for this packet only. Otherwise it holds for every packet that opens
    /// the flow (see [`crate::again`]), in the generation of so many moments passed less 1.
    pub holds: u8,
}

const _: () = assert!(size_of::<Facts>() == 28);

/// An address family whose decisions can be reported.
pub trait Report: Family {
    /// Counts a decision and reports it. `at_call`: at a socket hook.
    fn report(place: &Place, flow: &FlowKey<Self::Addr>, facts: &Facts, at_call: bool);
}

macro_rules! global {
    ($family:ident, $at_packet:ident, $at_call:ident) => {
        global!(@one $family, $at_packet, false);
        global!(@one $family, $at_call, true);

        impl Report for $family {
            #[inline(always)]
            fn report(place: &Place, flow: &FlowKey<Self::Addr>, facts: &Facts, at_call: bool) {
                if at_call {
                    $at_call(place, flow, facts);
                } else {
                    $at_packet(place, flow, facts);
                }
            }
        }
    };
    (@one $family:ident, $name:ident, $at_call:literal) => {
        /// A global function (see [`crate::table::policy`]).
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $name(
            place: *const Place,
            flow: *const FlowKey<<$family as Family>::Addr>,
            facts: *const Facts,
        ) -> u32 {
            // SAFETY: the caller's own; the verifier wants the question to be asked.
            match unsafe { (config(), place.as_ref(), flow.as_ref(), facts.as_ref()) } {
                (Some(config), Some(place), Some(flow), Some(facts)) => {
                    tell::<$family, $at_call>(config, place, flow, facts)
                }
                _ => 0,
            }
        }
    };
}

global!(V4, report_packet4, report_call4);
global!(V6, report_packet6, report_call6);

/// Counts a decision and reports it: a denied or audited flow when it is first seen, an
/// allowed one if the node or the rule asks for it. `AT_CALL`: at a socket hook, where the
/// current task is the caller.
#[inline(always)]
fn tell<F: Family, const AT_CALL: bool>(
    config: &Config,
    place: &Place,
    flow: &FlowKey<F::Addr>,
    facts: &Facts,
) -> u32 {
    let direction = Direction::from_byte(facts.direction);
    counters::count(facts.decision, direction, facts.length);
    let mut flags = facts.flags;
    if facts.decision.action == Action::Allow as u8 {
        let wanted = config.flags & config_flag::REPORT_ALLOWED != 0
            || facts.decision.flags & decision_flag::LOG != 0;
        if !wanted || facts.opens == 0 || !denied::take_token(place.seconds(), config.report_limit)
        {
            return 0;
        }
    } else {
        let key = key_of::<F>(flow, facts);
        if let Some(entry) = denied::counted(&key) {
            add(entry, place, facts.length);
            if flags & event_flag::BROKEN == 0 {
                return 0;
            }
            // That an open flow broke is always told: its sockets are to be closed.
            flags |= event_flag::COUNTED;
        } else {
            if !denied::take_token(place.seconds(), config.report_limit) {
                return 0;
            }
            let entry = DeniedEntry {
                packets: 1,
                bytes: u64::from(facts.length),
                first: place.now,
                last: place.now,
                peer: facts.peer,
                ifindex: place.ifindex,
                cgroup: place.cgroup,
                generation: 0,
                pad: 0,
            };
            match denied::begin(&key, &entry) {
                Begun::First => flags |= event_flag::COUNTED,
                Begun::Again => {
                    if let Some(entry) = denied::counted(&key) {
                        add(entry, place, facts.length);
                    }
                    return 0;
                }
                Begun::Full => {}
            }
        }
    }
    send::<F, AT_CALL>(config, place, flow, facts, flags);
    0
}

/// What a denial is gathered by.
#[inline(always)]
pub fn key_of<F: Family>(flow: &FlowKey<F::Addr>, facts: &Facts) -> DeniedKey {
    DeniedKey {
        local: F::mapped(&flow.local),
        remote: F::mapped(&flow.remote),
        endpoint: facts.endpoint,
        rule: facts.decision.rule,
        port: facts.port,
        protocol: flow.protocol,
        direction: facts.direction,
        reason: facts.decision.reason,
        action: facts.decision.action,
        pad: [0; 2],
    }
}

/// One packet more of a flow that is being counted.
#[inline(always)]
pub fn add(entry: *mut DeniedEntry, place: &Place, length: u32) {
    // SAFETY: a live map value; words are aligned and changed atomically.
    unsafe {
        atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(&raw mut (*entry).packets, 1);
        atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(
            &raw mut (*entry).bytes,
            u64::from(length),
        );
        (*entry).last = place.now;
    }
}

#[inline(never)]
fn send<F: Family, const AT_CALL: bool>(
    config: &Config,
    place: &Place,
    flow: &FlowKey<F::Addr>,
    facts: &Facts,
    flags: u8,
) -> u32 {
    denied::send(|event| {
        event.time = place.now;
        event.cgroup = place.cgroup;
        event.local = F::mapped(&flow.local);
        event.remote = F::mapped(&flow.remote);
        event.endpoint = facts.endpoint;
        event.peer = facts.peer;
        event.rule = facts.decision.rule;
        event.generation = config.generation;
        event.ifindex = place.ifindex;
        event.length = facts.length;
        event.local_port = flow.local_port;
        event.remote_port = flow.remote_port;
        event.protocol = flow.protocol;
        event.tcp_flags = facts.tcp_flags;
        event.direction = facts.direction;
        event.action = facts.decision.action;
        event.reason = facts.decision.reason;
        event.hook = place.hook;
        event.flags = flags;
        event.family = if flow.protocol == 0 { 0 } else { F::VERSION };
        if matches!(flow.protocol, Protocol::ICMP | Protocol::ICMPV6) {
            // The key holds the identifier; the record wants type and code.
            event.local_port = 0;
            event.remote_port = facts.port;
        }
        if AT_CALL {
            // SAFETY: the helpers have no preconditions; at these hooks the current task is
            // the caller.
            unsafe {
                event.pid = (bpf_get_current_pid_tgid() >> 32) as u32;
                event.uid = bpf_get_current_uid_gid() as u32;
            }
            // SAFETY: the buffer is as long as said, and in the ring's record.
            unsafe {
                bpf_get_current_comm(event.program.as_mut_ptr().cast(), 16);
            }
        }
    });
    0
}
