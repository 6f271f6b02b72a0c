//! The kernel programs. Entry points only: context in, action out.
//!
//! Data walks: hook → parse → pipeline → table; the verdict itself is
//! `enforcer_common::Judge::decide`, the same code that user space runs.
#![no_std]
#![no_main]
// The target's `AtomicU64` has no `fetch_add`, though the machine has the instruction.
#![feature(core_intrinsics)]
// See `parse::plain`.
#![feature(asm_experimental_arch)]
#![expect(internal_features, reason = "see above")]
#![expect(
    clippy::collapsible_if,
    reason = "a condition that looks a map up stands apart from what is asked of its entry"
)]

mod again;
mod clear;
mod family;
mod hook;
mod narrate;
mod parse;
mod peer;
mod pipeline;
mod report;
mod table;

use aya_ebpf::{
    macros::{cgroup_skb, cgroup_sock_addr, classifier, xdp},
    programs::{SkBuffContext, SockAddrContext, TcContext, XdpContext},
};
use enforcer_common::Direction::{Egress, Ingress};

use crate::family::{V4, V6};

/// At TC ingress of the host's side of a workload's link: what the workload sends.
#[classifier]
pub fn workload_egress(ctx: TcContext) -> i32 {
    hook::interface::workload(&ctx, Egress)
}

/// At TC egress of the host's side of a workload's link: what the workload receives.
#[classifier]
pub fn workload_ingress(ctx: TcContext) -> i32 {
    hook::interface::workload(&ctx, Ingress)
}

/// At TC ingress of an uplink: what the host receives.
#[classifier]
pub fn uplink_ingress(ctx: TcContext) -> i32 {
    hook::interface::uplink(&ctx, Ingress)
}

/// At TC egress of an uplink: what the host sends.
#[classifier]
pub fn uplink_egress(ctx: TcContext) -> i32 {
    hook::interface::uplink(&ctx, Egress)
}

/// On an uplink, before the kernel allocates anything: blocked sources.
#[xdp]
pub fn uplink_block(ctx: XdpContext) -> u32 {
    hook::block::uplink(&ctx)
}

/// A packet that a socket sends.
#[cgroup_skb]
pub fn cgroup_egress(ctx: SkBuffContext) -> i32 {
    hook::cgroup::packet(&ctx, Egress)
}

/// A packet that a socket is about to receive.
#[cgroup_skb]
pub fn cgroup_ingress(ctx: SkBuffContext) -> i32 {
    hook::cgroup::packet(&ctx, Ingress)
}

/// `connect(2)` over IPv4.
#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    hook::call::connect::<V4>(&ctx)
}

/// `connect(2)` over IPv6.
#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    hook::call::connect::<V6>(&ctx)
}

/// `sendmsg(2)` with an address, over IPv4.
#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    hook::call::sendmsg::<V4>(&ctx)
}

/// `sendmsg(2)` with an address, over IPv6.
#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    hook::call::sendmsg::<V6>(&ctx)
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // No path of a verified program leads here.
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
