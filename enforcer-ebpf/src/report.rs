//! Counting and reporting of decisions.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::helpers::{
    bpf_get_current_comm, generated::bpf_get_current_pid_tgid,
    generated::bpf_get_current_uid_gid,
};
use enforcer_common::{
    Action, Decision, Direction,
    config::{Config, config_flag},
    denied_entry::{DeniedEntry, DeniedKey},
    event::{Event, Hook, event_flag},
    flow_key::FlowKey,
    verdict::decision_flag,
};

use crate::{
    family::Family,
    table::{config::seconds, counters, denied},
};

/// What is known when a decision falls.
pub struct Facts {
    pub now: u64,
    pub cgroup: u64,
    pub decision: Decision,
    pub endpoint: u32,
    pub peer: u32,
    pub ifindex: u32,
    pub length: u32,
    /// The port that policy was asked about.
    pub port: u16,
    /// A [`Hook`].
    pub hook: u8,
    pub tcp_flags: u8,
    /// The way of the flow: a [`Direction`].
    pub direction: u8,
    /// Bits of [`event_flag`].
    pub flags: u8,
    /// Whether an allowed flow is new, and so worth a report where the node asks for them.
    pub opens: bool,
}

/// Counts a decision and reports it: a denied or audited flow when it is first seen, an
/// allowed one if the node or the rule asks for it.
#[inline(never)]
pub fn report<F: Family>(config: &Config, flow: &FlowKey<F::Addr>, facts: &Facts) -> u32 {
    let direction = Direction::from_byte(facts.direction);
    counters::count(facts.decision, direction, facts.length);
    let mut flags = facts.flags;
    if facts.decision.action == Action::Allow as u8 {
        let wanted = config.flags & config_flag::REPORT_ALLOWED != 0
            || facts.decision.flags & decision_flag::LOG != 0;
        if !wanted || !facts.opens || !denied::take_token(seconds(facts.now), config.report_limit)
        {
            return 0;
        }
    } else {
        let key = DeniedKey {
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
        };
        if let Some(entry) = denied::counted(&key) {
            // SAFETY: a live map value; words are aligned and changed atomically.
            unsafe {
                atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(
                    &raw mut (*entry).packets,
                    1,
                );
                atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(
                    &raw mut (*entry).bytes,
                    u64::from(facts.length),
                );
                (*entry).last = facts.now;
            }
            if flags & event_flag::BROKEN == 0 {
                return 0;
            }
            // That an open flow broke is always told: its sockets are to be closed.
            flags |= event_flag::COUNTED;
        } else {
            if !denied::take_token(seconds(facts.now), config.report_limit) {
                return 0;
            }
            let entry = DeniedEntry {
                packets: 1,
                bytes: u64::from(facts.length),
                first: facts.now,
                last: facts.now,
                peer: facts.peer,
                ifindex: facts.ifindex,
                cgroup: facts.cgroup,
            };
            if denied::begin(&key, &entry) {
                flags |= event_flag::COUNTED;
            }
        }
    }
    send::<F>(config, flow, facts, flags);
    0
}

#[inline(never)]
fn send<F: Family>(config: &Config, flow: &FlowKey<F::Addr>, facts: &Facts, flags: u8) -> u32 {
    let mut event = Event {
        time: facts.now,
        cgroup: facts.cgroup,
        local: F::mapped(&flow.local),
        remote: F::mapped(&flow.remote),
        endpoint: facts.endpoint,
        peer: facts.peer,
        rule: facts.decision.rule,
        generation: config.generation,
        ifindex: facts.ifindex,
        pid: 0,
        uid: 0,
        length: facts.length,
        local_port: flow.local_port,
        remote_port: flow.remote_port,
        protocol: flow.protocol,
        tcp_flags: facts.tcp_flags,
        direction: facts.direction,
        action: facts.decision.action,
        reason: facts.decision.reason,
        hook: facts.hook,
        flags,
        family: F::VERSION,
        program: [0; 16],
        pad: 0,
    };
    if facts.port != 0 && flow.protocol != 6 && flow.local_port == flow.remote_port {
        // ICMP: the identifier stands in the key; the record wants type and code.
        event.remote_port = facts.port;
    }
    if facts.hook == Hook::Connect as u8 || facts.hook == Hook::Sendmsg as u8 {
        // SAFETY: the helpers have no preconditions; at these hooks the current task is the
        // caller.
        unsafe {
            event.pid = (bpf_get_current_pid_tgid() >> 32) as u32;
            event.uid = bpf_get_current_uid_gid() as u32;
        }
        if let Ok(program) = bpf_get_current_comm() {
            event.program = program;
        }
    }
    denied::send(&event);
    0
}
