//! The floors: a program that does nothing, and the least that any stateful filter must do:
//! parse the packet, find its flow in one look-up, see that it was judged under this policy; a flow
//! that is not there is entered.
//!
//! Written in BPF instructions (RFC 9669), so that no compiler's mood is measured.

use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::Result;
use bytemuck::bytes_of;
use enforcer_common::{conntrack::FlowEntry, flow_key::FlowKey};

use super::{
    bpf::{self, Kind, Program},
    packet::{Packet, Version},
};

/// As many flows as the product's table has by default.
const FLOWS: u32 = 131_072;
/// UDP, as a protocol number.
const UDP: i32 = 17;
/// The generation that the reference accepts.
const GENERATION: i32 = 1;

/// A program that lets everything pass at once.
pub fn empty(kind: Kind) -> Result<Program> {
    Program::load(kind, &[mov_immediate(0, passes(kind)), EXIT])
}

/// A program for a cgroup that denies UDP over IPv4 to one port and lets everything else pass.
pub fn denying(port: u16) -> Result<Program> {
    let kind = Kind::CgroupSkb;
    let (data, data_end) = data_fields(kind);
    let mut code = vec![
        load(WORD, 2, 1, data),
        load(WORD, 3, 1, data_end),
        mov(4, 2),
        add_immediate(4, 28),
        jump(GREATER, 4, 3, TO_END),
        load(BYTE, 5, 2, 9),
        jump_immediate(NOT_EQUAL, 5, UDP, TO_END),
        load(HALF, 5, 2, 22),
        jump_immediate(NOT_EQUAL, 5, port.to_be().into(), TO_END),
        mov_immediate(0, 0),
        EXIT,
    ];
    end(&mut code, kind);
    Program::load(kind, &code)
}

/// The least, with its flow table.
#[derive(Debug)]
pub struct Reference {
    /// The program.
    pub program: Program,
    version: Version,
    flows: OwnedFd,
}

impl Reference {
    /// Loads the program for one version of IP.
    pub fn load(kind: Kind, version: Version) -> Result<Self> {
        let flows = bpf::lru_hash(version.key_length(), size_of::<FlowEntry>(), FLOWS)?;
        let program = Program::load(kind, &instructions(kind, version, &flows))?;
        Ok(Self {
            program,
            version,
            flows,
        })
    }

    /// Enters the flow of a packet.
    pub fn enter(&self, packet: &Packet) -> Result<()> {
        let entry = FlowEntry {
            generation: GENERATION.cast_unsigned(),
            ..bytemuck::Zeroable::zeroed()
        };
        bpf::update(&self.flows, &self.key(packet), bytes_of(&entry))
    }

    fn key(&self, packet: &Packet) -> Vec<u8> {
        match self.version {
            Version::V4 => {
                bytes_of(&key_of(packet, packet.destination4(), packet.source4())).into()
            }
            Version::V6 => {
                bytes_of(&key_of(packet, packet.destination6(), packet.source6())).into()
            }
        }
    }
}

fn key_of<A>(packet: &Packet, local: A, remote: A) -> FlowKey<A> {
    FlowKey {
        scope: 0,
        local,
        remote,
        local_port: packet.destination_port,
        remote_port: packet.source_port,
        protocol: packet.protocol,
        space: 0,
        pad: 0,
    }
}

const fn passes(kind: Kind) -> i32 {
    match kind {
        Kind::Tc => 0,
        Kind::Xdp => 2,
        Kind::CgroupSkb => 1,
    }
}

/// Offsets of `data` and `data_end` in the context (`linux/bpf.h`).
const fn data_fields(kind: Kind) -> (i16, i16) {
    match kind {
        Kind::Xdp => (0, 4),
        Kind::Tc | Kind::CgroupSkb => (76, 80),
    }
}

fn instructions(kind: Kind, version: Version, flows: &OwnedFd) -> Vec<u64> {
    // A cgroup's packets start with the network header.
    let network: i16 = if kind == Kind::CgroupSkb { 0 } else { 14 };
    let (header, protocol, source, destination, words): (i16, i16, i16, i16, i16) = match version {
        Version::V4 => (20, 9, 12, 16, 1),
        Version::V6 => (40, 6, 8, 24, 4),
    };
    let ether_type: i32 = match version {
        // As a little-endian machine reads them.
        Version::V4 => 0x0008,
        Version::V6 => 0xdd86,
    };
    let transport = network + header;
    let key = -i16::try_from(version.key_length()).expect("44 at most");
    let (data, data_end) = data_fields(kind);

    let mut code = vec![
        load(WORD, 2, 1, data),
        load(WORD, 3, 1, data_end),
        mov(4, 2),
        add_immediate(4, i32::from(transport) + 4),
        jump(GREATER, 4, 3, TO_END),
    ];
    if network > 0 {
        code.push(load(HALF, 5, 2, 12));
        code.push(jump_immediate(NOT_EQUAL, 5, ether_type, TO_END));
    }
    code.push(store_immediate(WORD, 10, key, 0));
    for (from, to) in [(destination, 4), (source, 4 + 4 * words)] {
        for word in 0..words {
            code.push(load(WORD, 5, 2, network + from + 4 * word));
            code.push(store(WORD, 10, key + to + 4 * word, 5));
        }
    }
    let ports = key + 4 + 8 * words;
    for (from, to) in [(2, ports), (0, ports + 2)] {
        code.push(load(HALF, 5, 2, transport + from));
        code.push(to_big_endian_16(5));
        code.push(store(HALF, 10, to, 5));
    }
    code.push(load(BYTE, 5, 2, network + protocol));
    code.push(store(BYTE, 10, ports + 4, 5));
    code.push(store_immediate(BYTE, 10, ports + 5, 0));
    code.push(store_immediate(HALF, 10, ports + 6, 0));
    code.extend(load_map(1, flows.as_raw_fd()));
    code.push(mov(2, 10));
    code.push(add_immediate(2, i32::from(key)));
    code.push(call(MAP_LOOKUP));
    let insert = insertion(key, flows);
    code.push(jump_immediate(
        NOT_EQUAL,
        0,
        0,
        i16::try_from(insert.len()).expect("a few"),
    ));
    code.extend(insert);
    code.push(load(WORD, 1, 0, 0));
    code.push(jump_immediate(NOT_EQUAL, 1, GENERATION, TO_END));
    end(&mut code, kind);
    code
}

/// The end, where everything passes, and the jumps to it.
fn end(code: &mut Vec<u64>, kind: Kind) {
    let end = code.len();
    code.push(mov_immediate(0, passes(kind)));
    code.push(EXIT);
    for (position, instruction) in code.iter_mut().enumerate() {
        if is_jump(*instruction) && offset_of(*instruction) == TO_END {
            let distance = i16::try_from(end - position - 1).expect("a short program");
            *instruction &= !(0xffff << 16);
            *instruction |= u64::from(distance.cast_unsigned()) << 16;
        }
    }
}

/// Enters the flow whose key is on the stack, and goes to the end.
fn insertion(key: i16, flows: &OwnedFd) -> Vec<u64> {
    let size = i16::try_from(size_of::<FlowEntry>()).expect("24");
    let value = key - size;
    let mut code = vec![store_immediate(WORD, 10, value, GENERATION)];
    for offset in (4..size).step_by(4) {
        code.push(store_immediate(WORD, 10, value + offset, 0));
    }
    code.extend(load_map(1, flows.as_raw_fd()));
    code.push(mov(2, 10));
    code.push(add_immediate(2, i32::from(key)));
    code.push(mov(3, 10));
    code.push(add_immediate(3, i32::from(value)));
    code.push(mov_immediate(4, 0));
    code.push(call(MAP_UPDATE));
    code.push(encode(0x05, 0, 0, TO_END, 0));
    code
}

// Encoding: opcode 8 bits, destination 4, source 4, offset 16, immediate 32, low bits first.
const WORD: u8 = 0x00;
const HALF: u8 = 0x08;
const BYTE: u8 = 0x10;
const GREATER: u8 = 0x20;
const NOT_EQUAL: u8 = 0x50;
/// `bpf_map_lookup_elem`.
const MAP_LOOKUP: i32 = 1;
/// `bpf_map_update_elem`.
const MAP_UPDATE: i32 = 2;
/// Stands for the distance to the end until that is known.
const TO_END: i16 = i16::MAX;
const EXIT: u64 = 0x95;

const fn encode(opcode: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> u64 {
    opcode as u64
        | (destination as u64) << 8
        | (source as u64) << 12
        | (offset.cast_unsigned() as u64) << 16
        | (immediate.cast_unsigned() as u64) << 32
}

const fn load(size: u8, to: u8, from: u8, offset: i16) -> u64 {
    encode(0x61 | size, to, from, offset, 0)
}

const fn store(size: u8, to: u8, offset: i16, from: u8) -> u64 {
    encode(0x63 | size, to, from, offset, 0)
}

const fn store_immediate(size: u8, to: u8, offset: i16, value: i32) -> u64 {
    encode(0x62 | size, to, 0, offset, value)
}

const fn mov(to: u8, from: u8) -> u64 {
    encode(0xbf, to, from, 0, 0)
}

const fn mov_immediate(to: u8, value: i32) -> u64 {
    encode(0xb7, to, 0, 0, value)
}

const fn add_immediate(to: u8, value: i32) -> u64 {
    encode(0x07, to, 0, 0, value)
}

const fn to_big_endian_16(register: u8) -> u64 {
    encode(0xdc, register, 0, 0, 16)
}

const fn jump(condition: u8, left: u8, right: u8, offset: i16) -> u64 {
    encode(0x0d | condition, left, right, offset, 0)
}

const fn jump_immediate(condition: u8, left: u8, right: i32, offset: i16) -> u64 {
    encode(0x05 | condition, left, 0, offset, right)
}

const fn call(helper: i32) -> u64 {
    encode(0x85, 0, 0, 0, helper)
}

/// Whether an instruction is one of the jumps above.
const fn is_jump(instruction: u64) -> bool {
    instruction & 0x07 == 0x05 && instruction & 0xff != 0x85 && instruction & 0xff != 0x95
}

/// The offset field.
fn offset_of(instruction: u64) -> i16 {
    let [_, _, low, high, ..] = instruction.to_le_bytes();
    i16::from_le_bytes([low, high])
}

/// The two halves of a 64-bit load of a map's address (`BPF_PSEUDO_MAP_FD` in the source field).
const fn load_map(to: u8, descriptor: i32) -> [u64; 2] {
    [encode(0x18, to, 1, 0, descriptor), 0]
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    fn packet(version: Version) -> Packet {
        let (source, destination) = match version {
            Version::V4 => (Ipv4Addr::LOCALHOST.into(), Ipv4Addr::BROADCAST.into()),
            Version::V6 => (Ipv6Addr::LOCALHOST.into(), Ipv6Addr::UNSPECIFIED.into()),
        };
        Packet {
            source,
            destination,
            source_port: 40_000,
            destination_port: 80,
            protocol: super::super::packet::TCP,
            opens: true,
        }
    }

    #[test]
    fn the_kernel_takes_the_programs_and_a_flow_is_found_where_it_was_entered() -> Result<()> {
        for kind in [Kind::Tc, Kind::Xdp, Kind::CgroupSkb] {
            for version in [Version::V4, Version::V6] {
                let reference = Reference::load(kind, version)?;
                let packet = packet(version);
                let ran = reference.program.run(&packet.frame(), 0, 1)?;
                assert_eq!(ran.value, u32::try_from(passes(kind))?);
                // The packet entered its own flow under the key that we would have written.
                assert!(
                    bpf::contains(&reference.flows, &reference.key(&packet))?,
                    "{kind:?} {version:?}"
                );
                assert!(!bpf::contains(
                    &reference.flows,
                    &reference.key(&packet.answer())
                )?);
            }
        }
        Ok(())
    }
}
