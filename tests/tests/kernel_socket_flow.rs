//! A socket's flow is remembered with the socket. All the same every packet is judged by the policy
//! in force, whatever else the socket hears is judged for itself, and a connection's end is seen.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use enforcer::policy::model::Moment;
use enforcer_common::{Protocol, conntrack::State};
use tests::lab::{
    Scene, patient,
    shop::{Party, UDP_PORT},
};

/// Only `api` may talk to `web`, a cgroup.
fn policy(rule: &str) -> String {
    format!(
        "\
apiVersion: enforcer.dev/v1alpha1
kind: SegmentPolicy
metadata: {{name: web, namespace: shop}}
spec:
  selector: {{matchLabels: {{app: web}}}}
  ingress:
    - {{name: other, from: [{{labels: {{app: db}}}}], ports: [1/tcp]}}
{rule}"
    )
}

const API: &str = "    - {from: [{labels: {app: api}}], ports: [8080/tcp, 9999/udp]}\n";

/// Datagrams to somebody who sends them back.
struct Talk {
    socket: UdpSocket,
}

impl Talk {
    fn to(from: &Party, to: SocketAddr) -> Result<Self> {
        let socket = from.place.enter(|| -> Result<UdpSocket> {
            let socket = UdpSocket::bind((from.ip(to.is_ipv6()), 0))?;
            socket.connect(to)?;
            Ok(socket)
        })??;
        socket.set_read_timeout(Some(patient(Duration::from_millis(20))))?;
        Ok(Self { socket })
    }

    /// Sends one, and says whether it came back.
    fn once(&self) -> Result<bool> {
        self.socket.send(b"?")?;
        Ok(self.socket.recv(&mut [0]).is_ok())
    }

    /// Sends so many, and says how many came back.
    fn times(&self, number: usize) -> Result<usize> {
        let mut answered = 0;
        for _ in 0..number {
            answered += usize::from(self.once()?);
        }
        Ok(answered)
    }
}

/// Where `web` sends datagrams back, by both families.
fn echoes(scene: &Scene) -> [SocketAddr; 2] {
    [false, true].map(|v6| (scene.shop.web.ip(v6), UDP_PORT).into())
}

#[test]
fn what_else_comes_to_the_socket_is_judged() -> Result<()> {
    let scene = Scene::new(&policy(API))?;
    let (api, intruder) = (&scene.shop.api, &scene.shop.intruder);
    let _front = scene.enforce(&scene.shop.front)?;
    for to in echoes(&scene) {
        let (allowed, denied) = (Talk::to(api, to)?, Talk::to(intruder, to)?);
        // For seconds: before and after the socket has a flow, and while that is looked at anew.
        let end = Instant::now() + Duration::from_secs(3);
        let (mut answered, mut sent) = (0, 0);
        while Instant::now() < end {
            answered += allowed.times(20)?;
            sent += 20;
            assert!(!denied.once()?, "{to}");
        }
        assert!(answered * 10 > sent * 9, "{to}: {answered} of {sent}");
    }
    Ok(())
}

#[test]
fn a_new_denial_reaches_the_next_packet() -> Result<()> {
    let scene = Scene::new(&policy(API))?;
    let front = scene.enforce(&scene.shop.front)?;
    for to in echoes(&scene) {
        let talk = Talk::to(&scene.shop.api, to)?;
        // Not at the turn of a second, in which the flow table is asked anyway.
        for _ in 0..4 {
            scene.tree.write("policy.yaml", &policy(API))?;
            front.apply()?;
            assert!(talk.times(300)? > 250, "{to}");
            scene.tree.write("policy.yaml", &policy(""))?;
            front.apply()?;
            assert_eq!(talk.times(3)?, 0, "{to}");
        }
    }
    Ok(())
}

#[test]
fn a_moment_reaches_the_next_packet() -> Result<()> {
    let scene = Scene::new("")?;
    // Time enough for the daemon's start and some datagrams.
    let ahead = i64::try_from(patient(Duration::from_secs(12)).as_secs())?;
    let moment = Moment(Moment::now().0 + ahead);
    let rule = format!(
        "{}, validUntil: {moment}}}\n",
        API.trim_end().trim_end_matches('}')
    );
    scene.tree.write("policy.yaml", &policy(&rule))?;
    let mut front = scene.enforce(&scene.shop.front)?;
    front.kill()?;
    let [four, six] = echoes(&scene);
    let api = &scene.shop.api;
    let talks = [Talk::to(api, four)?, Talk::to(api, six)?];
    let end = u128::from(moment.0.unsigned_abs()) * 1000;
    let mut last = [0; 2];
    loop {
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)?
            .as_millis();
        if now > end + 1500 {
            break;
        }
        for (talk, last) in talks.iter().zip(&mut last) {
            if talk.once()? {
                *last = now;
            }
        }
    }
    for last in last {
        let early = i128::try_from(end)? - i128::try_from(last)?;
        // Begun before the moment, and not long before it. A tick is four milliseconds.
        assert!((-20..500).contains(&early), "{early} ms before the moment");
    }
    Ok(())
}

#[test]
fn the_end_of_a_connection_is_seen() -> Result<()> {
    let scene = Scene::new(&policy(API))?;
    let api = &scene.shop.api;
    let front = scene.enforce(&scene.shop.front)?;
    let mut connections = Vec::new();
    for v6 in [false, true] {
        let to: SocketAddr = (scene.shop.web.ip(v6), 8080).into();
        for _ in 0..8 {
            let stream = api.place.enter(|| TcpStream::connect(to))??;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            connections.push(stream);
        }
    }
    // Long enough that each socket has its storage and its flow.
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        for stream in &mut connections {
            stream.write_all(b"?")?;
            stream.read_exact(&mut [0])?;
        }
    }
    let flows = || -> Result<u64> {
        let of = |map| front.metric("enforcer_map_entries", &[&format!("map=\"{map}\"")]);
        Ok(of("FLOWS4")? + of("FLOWS6")?)
    };
    // Entries are counted every five seconds.
    front.wait_until(
        "the connections are not in the flow table",
        Duration::from_secs(10),
        || Ok(flows()? >= 16),
    )?;
    drop(connections);
    let closed = Duration::from_secs(u64::from(State::Closed.timeout(Protocol::TCP)));
    front
        .wait_until(
            "ended connections are kept",
            closed + Duration::from_secs(12),
            || Ok(flows()? == 0),
        )
        .context("an open one is kept for a day")
}
