//! Real sockets, listed and destroyed, in this thread's namespace and in others.

use std::{
    fs,
    io::{ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::{fd::OwnedFd, unix::fs::MetadataExt},
    time::Duration,
};

use anyhow::{Context, Result};
use enforcer::inventory::{
    socket_owner::owner_of_socket,
    sockets::{Destroyed, Protocol, Socket, SocketTable, State, listening_ports},
};
use tests::lab::{
    Lab, Namespace, Place,
    namespace::{End, cable},
};

/// For a read that must end by an error: the error of a time-out is another one.
const PATIENCE: Duration = Duration::from_secs(10);

fn table(namespace: &Namespace) -> Result<SocketTable> {
    Ok(SocketTable::of_namespace(OwnedFd::from(
        namespace.file().try_clone()?,
    ))?)
}

/// The one connection with these ends.
fn find(sockets: &[Socket], local: SocketAddr, remote: SocketAddr) -> Result<&Socket> {
    let mut found = sockets
        .iter()
        .filter(|s| (s.local, s.remote) == (local, remote));
    let socket = found
        .next()
        .with_context(|| format!("no socket {local} to {remote} in {sockets:#?}"))?;
    assert_eq!(found.next(), None, "each socket is listed once");
    Ok(socket)
}

/// A connection inside a namespace: client, server.
fn connection(namespace: &Namespace, listen: &str, to: IpAddr) -> Result<(TcpStream, TcpStream)> {
    namespace.enter(|| -> Result<_> {
        let listener = TcpListener::bind(listen)?;
        let client = TcpStream::connect((to, listener.local_addr()?.port()))?;
        let (server, _) = listener.accept()?;
        for stream in [&client, &server] {
            stream.set_read_timeout(Some(PATIENCE))?;
        }
        Ok((client, server))
    })?
}

#[test]
fn a_destroyed_connection_dies_at_both_ends_and_no_other_does() -> Result<()> {
    let lab = Lab::new()?;
    let namespace = lab.namespace("a")?;
    let mut sockets = table(&namespace)?;
    for (listen, to) in [
        ("127.0.0.1:0", "127.0.0.1"),
        ("[::1]:0", "::1"),
        // An IPv4 connection on an IPv6 listener.
        ("[::]:0", "127.0.0.1"),
    ] {
        let to: IpAddr = to.parse()?;
        let (mut client, mut server) = connection(&namespace, listen, to)?;
        let (mut spared, mut spared_server) = connection(&namespace, listen, to)?;
        let (local, remote) = (client.local_addr()?, client.peer_addr()?);

        // It works, and is listed with both its ends.
        let mut byte = [0];
        client.write_all(b"x")?;
        server.read_exact(&mut byte)?;
        let listed = sockets.list(Protocol::Tcp)?;
        let target = find(&listed, local, remote)?;
        assert_eq!(target.state, State::Established);
        assert_eq!(target.uid, 0);
        assert_ne!(target.inode, 0);
        find(&listed, remote, local)?;

        assert_eq!(sockets.destroy(target)?, Destroyed::Now);
        let own = client.read(&mut byte).map_err(|e| e.kind());
        assert_eq!(own, Err(ErrorKind::ConnectionAborted), "{listen}");
        let peer = server.read(&mut byte).map_err(|e| e.kind());
        assert_eq!(peer, Err(ErrorKind::ConnectionReset), "{listen}");
        assert_eq!(sockets.destroy(target)?, Destroyed::Before);
        let after = sockets.list(Protocol::Tcp)?;
        assert!(find(&after, local, remote).is_err());

        spared.write_all(b"y")?;
        spared_server.read_exact(&mut byte)?;
    }
    Ok(())
}

#[test]
fn the_accepting_side_can_be_destroyed_too() -> Result<()> {
    let lab = Lab::new()?;
    let namespace = lab.namespace("a")?;
    let mut sockets = table(&namespace)?;
    let (mut client, mut server) = connection(&namespace, "[::]:0", "127.0.0.1".parse()?)?;
    let listed = sockets.list(Protocol::Tcp)?;
    let target = find(&listed, client.peer_addr()?, client.local_addr()?)?;
    assert_eq!(sockets.destroy(target)?, Destroyed::Now);
    let own = server.read(&mut [0]).map_err(|e| e.kind());
    assert_eq!(own, Err(ErrorKind::ConnectionAborted));
    let peer = client.read(&mut [0]).map_err(|e| e.kind());
    assert_eq!(peer, Err(ErrorKind::ConnectionReset));
    Ok(())
}

#[test]
fn a_connected_udp_socket_is_listed_and_destroyed() -> Result<()> {
    let lab = Lab::new()?;
    let namespace = lab.namespace("a")?;
    let mut sockets = table(&namespace)?;
    let (server, client) = namespace.enter(|| -> Result<_> {
        let server = UdpSocket::bind("127.0.0.1:0")?;
        let client = UdpSocket::bind("127.0.0.1:0")?;
        client.connect(server.local_addr()?)?;
        client.set_read_timeout(Some(PATIENCE))?;
        Ok((server, client))
    })??;
    let (local, remote) = (client.local_addr()?, server.local_addr()?);
    let listed = sockets.list(Protocol::Udp)?;
    assert!(listening_ports(&listed).contains(Protocol::Udp, remote));
    let target = find(&listed, local, remote)?;
    assert_eq!(target.state, State::Established);
    assert!(!listening_ports(&listed).opened_by_peer(target));
    assert_eq!(sockets.destroy(target)?, Destroyed::Now);
    let own = client.recv(&mut [0]).map_err(|e| e.kind());
    assert_eq!(own, Err(ErrorKind::ConnectionAborted));
    Ok(())
}

#[test]
fn a_socket_names_its_cgroup_its_process_and_who_opened_it() -> Result<()> {
    let lab = Lab::new()?;
    let (host, other) = (lab.namespace("host")?, lab.namespace("other")?);
    let end = |namespace, last| End {
        namespace,
        link: "eth0",
        v4: [10, 9, 0, last].into(),
        v6: [0xfd09, 0, 0, 0, 0, 0, 0, u16::from(last)].into(),
    };
    cable(&end(&host, 1), &end(&other, 2))?;
    let server_place = Place::new("server", &host, lab.cgroup("server")?)?;
    let client_place = Place::new("client", &other, lab.cgroup("client/nested")?)?;
    let server = server_place.serve(&[9000], &[])?;
    for to in ["10.9.0.1:9000", "[fd09::1]:9000"] {
        let to: SocketAddr = to.parse()?;
        let mut held = client_place.hold(to, 1, None)?;
        let from = SocketAddr::new(
            if to.is_ipv4() {
                "10.9.0.2".parse()?
            } else {
                "fd09::2".parse()?
            },
            held.local_ports()[0],
        );

        let mut there = table(&other)?;
        let listed = there.list(Protocol::Tcp)?;
        let client = find(&listed, from, to)?.clone();
        let cgroup = fs::metadata(client_place.cgroup())?.ino();
        assert_eq!(client.cgroup, Some(cgroup));
        assert!(!listening_ports(&listed).opened_by_peer(&client));
        let owner = owner_of_socket(client.inode).context("the holder has it open")?;
        assert_eq!(owner.pid, held.pid());

        let listed = table(&host)?.list(Protocol::Tcp)?;
        let accepted = find(&listed, to, from)?;
        let cgroup = fs::metadata(server_place.cgroup())?.ino();
        assert_eq!(accepted.cgroup, Some(cgroup));
        assert!(listening_ports(&listed).opened_by_peer(accepted));
        let owner = owner_of_socket(accepted.inode).context("the server has it open")?;
        assert_eq!(owner.pid, server.pid());

        held.ensure_alive()?;
        assert_eq!(there.destroy(&client)?, Destroyed::Now);
        let death = held.wait_for_death(PATIENCE)?;
        assert_eq!(death.error, "ECONNABORTED");
    }
    Ok(())
}

#[test]
fn thousands_of_sockets_are_listed_whole() -> Result<()> {
    const CONNECTIONS: usize = 2000;
    let lab = Lab::new()?;
    let namespace = lab.namespace("a")?;
    let mut sockets = table(&namespace)?;
    let open = namespace.enter(|| -> Result<_> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let to = listener.local_addr()?;
        let mut open = Vec::new();
        for _ in 0..CONNECTIONS {
            let client = TcpStream::connect(to)?;
            open.push((client, listener.accept()?.0));
        }
        Ok(open)
    })??;
    let listed = sockets.list(Protocol::Tcp)?;
    let established = listed.iter().filter(|s| s.state == State::Established);
    assert_eq!(established.count(), 2 * CONNECTIONS);
    drop(open);
    Ok(())
}
