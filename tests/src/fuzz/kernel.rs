//! What the kernel says. It does not lie, but it may be newer than this daemon, and another
//! daemon's maps may be pinned where ours should be.

use std::sync::Arc;

use bytemuck::Zeroable;
use enforcer::{
    inventory::{
        sockets::{Protocol, listening_ports, sockets_in},
        units,
    },
    observe::{
        clock::Clock,
        context::{NameBook, NameContext},
        decode,
        enrich::Enricher,
        process::Processes,
    },
};
use enforcer_common::{
    denied_entry::{DeniedEntry, DeniedKey},
    event::Event,
};

use super::scene::SCENE;

/// A key of the table of denied flows, and its entry.
const DENIED: usize = size_of::<DeniedKey>() + size_of::<DeniedEntry>();

/// Records of the ring buffer one after the other, with the rest as entries of the table of
/// denied flows: told as flow records, or refused.
pub fn events(data: &[u8]) {
    let context = NameContext {
        image: Arc::new(SCENE.1.clone()),
        ..NameContext::default()
    };
    let clock = Clock::fixed(time::OffsetDateTime::UNIX_EPOCH);
    let book = NameBook::new(context);
    let mut enricher = Enricher::with(Arc::new(book), Processes::at("/nonexistent"), clock);
    for record in data.chunks(size_of::<Event>()) {
        let Ok(event) = decode::event(record) else {
            continue;
        };
        let told = enricher.event(&event).expect("decoded once, decoded again");
        let line = serde_json::to_string(&told).expect("a record has a JSON form");
        let read: enforcer::observe::record::FlowRecord =
            serde_json::from_str(&line).expect("a record is read back");
        assert_eq!(read, told);
    }
    enricher.begin_snapshot(0);
    for pair in data.chunks_exact(DENIED) {
        let (key, entry) = pair.split_at(size_of::<DeniedKey>());
        let (mut own_key, mut own_entry) = (DeniedKey::zeroed(), DeniedEntry::zeroed());
        bytemuck::bytes_of_mut(&mut own_key).copy_from_slice(key);
        bytemuck::bytes_of_mut(&mut own_entry).copy_from_slice(entry);
        if let Ok(Some(told)) = enricher.count(&own_key, &own_entry) {
            serde_json::to_string(&told).expect("a record has a JSON form");
        }
    }
}

/// Datagrams of sock_diag.
pub fn sockets(data: &[u8]) {
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let sockets = sockets_in(protocol, data);
        // Every message has a header and a socket of fixed size.
        assert!(sockets.len() <= data.len() / 88);
        let ports = listening_ports(&sockets);
        for socket in &sockets {
            ports.opened_by_peer(socket);
        }
    }
}

/// Names of directories of the cgroup tree, which whoever owns a delegated part of it chooses.
pub fn units(data: &[u8]) {
    let path = &*String::from_utf8_lossy(data);
    let unit = units::unit_of_cgroup(path);
    if let Some(address) = units::address_of_cgroup(path) {
        let unit = unit.expect("a cgroup with an address is a unit's");
        assert!(address.ends_with(unit), "{address} {unit}");
        // A unit below a delegated one is never taken for one of the host's own.
        let above = path.rsplit_once('/').map_or("", |(above, _)| above);
        let mut above = above.split('/').filter_map(units::unit_of_directory);
        let is_below = above.any(|parent| !units::is_slice(parent));
        assert_eq!(is_below, address.len() > unit.len(), "{path}");
    }
}
