//! What the host endpoint leaves to others at an uplink.

use core::mem::MaybeUninit;

use aya_ebpf::{
    bindings::{
        BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS,
        bpf_fib_lookup as FibParams,
    },
    helpers::generated::bpf_fib_lookup,
};
use enforcer_common::{
    Direction,
    config::{Config, config_flag},
    flow_key::{FlowKey, space},
};

use crate::{
    clear::zero,
    family::Family,
    parse::{Packet, frame::Skb, kind, quoted::Quoted},
    peer,
    pipeline::Place,
};

/// Whether a packet at an uplink is not for the host endpoint to judge here: it is only
/// forwarded, or it has a socket, whose own hooks judge it.
#[inline(never)]
pub fn is_for_others<F: Quoted>(
    skb: Skb,
    config: &Config,
    place: &Place,
    packet: &Packet<F>,
    flow: &FlowKey<F::Addr>,
) -> u32 {
    let at_sockets = config.flags & config_flag::SOCKETS_AT_TC == 0;
    if place.direction == Direction::Egress as u8 {
        // SAFETY: the context of the program.
        let (forwarded, socket) = unsafe {
            (
                (*skb.0).ingress_ifindex != 0,
                !(*skb.0).__bindgen_anon_2.sk.is_null(),
            )
        };
        return u32::from(forwarded || at_sockets && socket);
    }
    if at_sockets {
        if packet.kind == kind::ICMP_ERROR {
            if let Some(about) =
                F::quoted(&skb, packet.transport, space::HOST, 0, Direction::Ingress)
                && peer::has_receiver::<F>(skb, &about) == 1
            {
                return 1;
            }
        } else if peer::has_receiver::<F>(skb, flow) == 1 {
            return 1;
        }
    }
    is_forwarded::<F>(skb, place.ifindex, packet)
}

/// Whether a packet at an uplink is routed to elsewhere: 1 or 0.
#[inline(never)]
pub fn is_forwarded<F: Family>(skb: Skb, ifindex: u32, packet: &Packet<F>) -> u32 {
    let mut question = MaybeUninit::<FibParams>::uninit();
    // SAFETY: all bytes zero is a valid question, and it is whole words.
    let question = unsafe {
        zero(question.as_mut_ptr().cast(), size_of::<FibParams>() / 4);
        question.assume_init_mut()
    };
    question.family = F::AF;
    question.ifindex = ifindex;
    F::fib(question, &packet.source, &packet.destination);
    // SAFETY: the parameters are as large as said.
    let answer = unsafe {
        bpf_fib_lookup(
            skb.0.cast(),
            core::ptr::from_mut(question),
            size_of::<FibParams>() as i32,
            0,
        )
    };
    // What has a route to elsewhere is forwarded, with or without a known neighbour, or too
    // big for the next link; everything else is for this host, or for nobody.
    let forwarded = answer == i64::from(BPF_FIB_LKUP_RET_SUCCESS)
        || answer == i64::from(BPF_FIB_LKUP_RET_NO_NEIGH)
        || answer == i64::from(BPF_FIB_LKUP_RET_FRAG_NEEDED);
    u32::from(forwarded)
}
