//! Exact counters, per CPU.

use aya_ebpf::{btf_maps::PerCpuArray, macros::btf_map};
use enforcer_common::{
    Action, Decision, Direction, Loss,
    counter::{Counter, VERDICT_SLOTS, verdict_slot},
};

use crate::narrate;

#[btf_map]
static RULES: PerCpuArray<Counter, 1024> = PerCpuArray::new();

#[btf_map]
static VERDICTS: PerCpuArray<Counter, { VERDICT_SLOTS as usize }> = PerCpuArray::new();

#[btf_map]
static LOSSES: PerCpuArray<u64, { Loss::COUNT as usize }> = PerCpuArray::new();

#[inline(always)]
fn add(counter: *mut Counter, bytes: u32) {
    // SAFETY: a pointer into this CPU's slot, alive for the program's run; programs at one
    // hook do not preempt each other on a CPU.
    unsafe {
        (*counter).packets += 1;
        (*counter).bytes += u64::from(bytes);
    }
}

/// Counts a decision by its rule and by its reason.
#[inline(always)]
pub fn count(decision: Decision, direction: Direction, bytes: u32) {
    if decision.rule != 0
        && let Some(counter) = RULES.get_ptr_mut(decision.rule)
    {
        add(counter, bytes);
    }
    let slot = verdict_slot(
        decision.reason,
        Action::from_byte(decision.action),
        direction,
    );
    if let Some(counter) = VERDICTS.get_ptr_mut(slot) {
        add(counter, bytes);
    }
}

/// Counts something that was not kept or not reported.
#[inline(always)]
pub fn lose(loss: Loss) {
    narrate::loss(loss as u32);
    if let Some(count) = LOSSES.get_ptr_mut(loss as u32) {
        // SAFETY: as in `add`.
        unsafe { *count += 1 }
    }
}
