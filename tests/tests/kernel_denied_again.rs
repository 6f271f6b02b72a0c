//! A flow that was denied before is denied by what was found out then: for as long as nothing
//! changes, for nobody else, and counted to the last packet.

use std::{
    net::IpAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use enforcer::{compile::Numbers, datapath::clock::WallClock, policy::model::Moment};
use enforcer_common::{
    Action,
    Direction::{Egress, Ingress},
    Protocol,
    conntrack::tcp_flag::{ACK, SYN},
};
use tests::{
    lab::patient,
    packet::{ip, tcp, udp},
    test_run::{Bed, Hook, Loaded, endpoint, image_of},
};

/// The link of the workload that may do nothing, or anything: see [`put`].
const CLOSED: usize = 0;
/// The link of one that may do anything.
const OPEN: usize = 1;

const POLICY: &str = "
apiVersion: enforcer.dev/v1alpha1
kind: Workload
metadata: {name: closed, namespace: bed, labels: {app: closed}}
spec: {interface: w0}
---
apiVersion: enforcer.dev/v1alpha1
kind: Workload
metadata: {name: open, namespace: bed, labels: {app: open}}
spec: {interface: w1}
---
apiVersion: enforcer.dev/v1alpha1
kind: SegmentPolicy
metadata: {name: nothing, namespace: bed}
spec:
  selector: {matchLabels: {app: WHO}}
  egress: []
  ingress: []
---
apiVersion: enforcer.dev/v1alpha1
kind: Node
metadata: {name: bed}
spec: {mode: enforce}
";

/// That the closed one may be called, and call, from a moment on.
const LATER: &str = "
---
apiVersion: enforcer.dev/v1alpha1
kind: SegmentPolicy
metadata: {name: later, namespace: bed}
spec:
  selector: {matchLabels: {app: closed}}
  validFrom: MOMENT
  egress: [{name: ask, to: [{entity: any}], ports: [53/udp]}]
  ingress: [{name: call, from: [{entity: any}], ports: [80/tcp]}]
";

/// Puts in force that workloads labelled `who` may do nothing.
fn put(loaded: &mut Loaded<'_>, links: &[u32], numbers: &mut Numbers, who: &str) -> Result<()> {
    put_tree(loaded, links, numbers, &POLICY.replace("WHO", who))
}

/// Puts a tree in force.
fn put_tree(
    loaded: &mut Loaded<'_>,
    links: &[u32],
    numbers: &mut Numbers,
    text: &str,
) -> Result<()> {
    let image = image_of(text, numbers)?;
    let endpoints = vec![
        endpoint(&image, links, CLOSED, "closed")?,
        endpoint(&image, links, OPEN, "open")?,
    ];
    loaded.apply(image, endpoints, Vec::new(), WallClock::now())?;
    loaded.set_adopting(false)
}

/// Packets denied so far, by reason and by rule, and by flow since the last call.
fn denied(loaded: &mut Loaded<'_>) -> Result<[u64; 3]> {
    let by_reason = loaded.datapath.verdict_counters()?.into_iter();
    let by_reason = by_reason.filter(|(_, action, ..)| *action == Action::Deny);
    let by_rule = loaded.datapath.rule_counters(1..100)?.into_iter();
    let by_flow = loaded.datapath.drain_denied()?.into_iter();
    Ok([
        by_reason.map(|(.., counter)| counter.packets).sum(),
        by_rule.map(|(_, counter)| counter.packets).sum(),
        by_flow.map(|(_, entry)| entry.packets).sum(),
    ])
}

struct Side {
    workload: IpAddr,
    peer: IpAddr,
    other: IpAddr,
}

impl Side {
    fn new(v6: bool) -> Self {
        let address = |v4: [u8; 4], v6: u16| match v4 {
            _ if v6 > 0 => IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, v6]),
            v4 => IpAddr::from(v4),
        };
        let v6 = u16::from(v6);
        Self {
            workload: address([10, 9, 0, 1], v6),
            peer: address([10, 9, 0, 2], 2 * v6),
            other: address([10, 9, 0, 3], 3 * v6),
        }
    }

    fn arriving(&self, from: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
        ip(from, self.workload, protocol, 64, payload)
    }

    fn leaving(&self, protocol: u8, payload: &[u8]) -> Vec<u8> {
        ip(self.workload, self.peer, protocol, 64, payload)
    }
}

#[test]
fn what_was_denied_is_denied_again_until_something_changes() -> Result<()> {
    let bed = Bed::new()?;
    let links = bed.links.clone();
    bed.enter(|loaded| {
        let mut numbers = Numbers::default();
        for v6 in [false, true] {
            of_one_version(loaded, &links, &mut numbers, &Side::new(v6))?;
        }
        Ok(())
    })?
}

fn of_one_version(
    loaded: &mut Loaded<'_>,
    links: &[u32],
    numbers: &mut Numbers,
    side: &Side,
) -> Result<()> {
    put(loaded, links, numbers, "closed")?;
    let [reasons, rules, _] = denied(loaded)?;
    let mut drops = 0;
    let mut expect =
        |loaded: &mut Loaded<'_>, hook, link, frame: &[u8], passes: bool, why: &str| {
            let passed = loaded.passes(hook, link, frame)?;
            drops += u64::from(!passed);
            ensure!(passed == passes, "{why}: passes: {passed}");
            anyhow::Ok(())
        };
    let (inward, outward) = (Hook::Workload(Ingress), Hook::Workload(Egress));
    let (peer, other) = (side.peer, side.other);
    let call = side.arriving(peer, Protocol::TCP, &tcp(40_000, 80, SYN));
    let again = side.arriving(peer, Protocol::TCP, &tcp(40_001, 80, SYN));
    let later = side.arriving(peer, Protocol::TCP, &tcp(40_002, 80, ACK));
    let stranger = side.arriving(other, Protocol::TCP, &tcp(40_000, 80, SYN));
    let datagram = side.leaving(Protocol::UDP, &udp(40_000, 53, b"what"));
    let next = side.leaving(Protocol::UDP, &udp(40_001, 53, b"what"));
    let lease = side.leaving(Protocol::UDP, &udp(40_000, 67, b"any"));
    for frame in [&call, &again, &later] {
        expect(loaded, inward, CLOSED, frame, false, "isolated")?;
    }
    for frame in [&datagram, &next, &lease] {
        expect(loaded, outward, CLOSED, frame, false, "isolated")?;
    }
    // Not for the next workload, whatever addresses it uses.
    expect(loaded, inward, OPEN, &call, true, "the next workload")?;
    expect(loaded, outward, OPEN, &datagram, true, "the next workload")?;

    // Of this the programs are not told: what they have found out still holds, and only that.
    loaded.unrestrict(CLOSED, false)?;
    for frame in [&call, &again] {
        expect(loaded, inward, CLOSED, frame, false, "found out before")?;
    }
    for frame in [&datagram, &next] {
        expect(loaded, outward, CLOSED, frame, false, "found out before")?;
    }
    expect(loaded, inward, CLOSED, &stranger, true, "another peer")?;
    expect(loaded, inward, CLOSED, &later, true, "opens nothing")?;
    expect(loaded, outward, CLOSED, &lease, true, "may be a lease")?;

    // To the daemon's next change everything is new.
    put(loaded, links, numbers, "open")?;
    let more = side.arriving(peer, Protocol::TCP, &tcp(40_003, 80, SYN));
    expect(loaded, inward, CLOSED, &more, true, "changed")?;
    expect(loaded, outward, CLOSED, &datagram, true, "changed")?;
    let more = side.arriving(peer, Protocol::TCP, &tcp(40_004, 80, SYN));
    for _ in 0..3 {
        expect(loaded, inward, OPEN, &more, false, "changed")?;
    }
    let [by_reason, by_rule, by_flow] = denied(loaded)?;
    assert_eq!([by_reason - reasons, by_rule - rules, by_flow], [drops; 3]);
    Ok(())
}

#[test]
fn what_was_denied_before_a_moment_is_judged_anew_after_it() -> Result<()> {
    let bed = Bed::new()?;
    let links = bed.links.clone();
    bed.enter(|loaded| {
        let mut numbers = Numbers::default();
        // As long as it takes to look around before the moment has come.
        let mut ahead = 3;
        while !around_a_moment(loaded, &links, &mut numbers, ahead)? {
            ahead *= 2;
            ensure!(ahead < 200, "the machine is too slow");
        }
        Ok(())
    })?
}

/// Lets a moment pass so many seconds from now. `false`: it came too early.
fn around_a_moment(
    loaded: &mut Loaded<'_>,
    links: &[u32],
    numbers: &mut Numbers,
    ahead: i64,
) -> Result<bool> {
    let moment = Moment(Moment::now().0 + ahead);
    let later = LATER.replace("MOMENT", &moment.to_string());
    let text = POLICY.replace("WHO", "closed") + &later;
    put_tree(loaded, links, numbers, &text)?;
    let (inward, outward) = (Hook::Workload(Ingress), Hook::Workload(Egress));
    let mut frames = Vec::new();
    for v6 in [false, true] {
        let side = Side::new(v6);
        let call = |port| side.arriving(side.peer, Protocol::TCP, &tcp(40_000, port, SYN));
        let datagram = |port| side.leaving(Protocol::UDP, &udp(40_000, port, b"what"));
        frames.extend([(inward, call(80), true), (inward, call(81), false)]);
        frames.extend([
            (outward, datagram(53), true),
            (outward, datagram(54), false),
        ]);
    }
    let mut all_denied = true;
    for (hook, frame, _) in &frames {
        all_denied &= !loaded.passes(*hook, CLOSED, frame)?;
    }
    // What was found out holds: see above.
    loaded.unrestrict(CLOSED, false)?;
    for (hook, frame, _) in frames.iter().chain(&frames) {
        all_denied &= !loaded.passes(*hook, CLOSED, frame)?;
    }
    if Moment::now() >= moment {
        return Ok(false);
    }
    ensure!(all_denied, "something passes before the moment");
    let deadline = Instant::now() + Duration::from_secs(ahead.unsigned_abs()) + patient(GRACE);
    while Moment::now() <= moment {
        ensure!(Instant::now() < deadline, "the clock stands still");
        thread::sleep(Duration::from_millis(50));
    }
    for (index, (hook, frame, passes)) in frames.iter().chain(&frames).enumerate() {
        let passed = loaded.passes(*hook, CLOSED, frame)?;
        ensure!(
            passed == *passes,
            "frame {index} after the moment passes: {passed}"
        );
    }
    // Also what is denied after the moment is denied by what was found out then.
    loaded.unrestrict(CLOSED, true)?;
    for (index, (hook, frame, passes)) in frames.iter().enumerate() {
        let passed = loaded.passes(*hook, CLOSED, frame)?;
        ensure!(
            passed == *passes,
            "frame {index} once more passes: {passed}"
        );
    }
    Ok(true)
}

/// What the clock may need more than it should.
const GRACE: Duration = Duration::from_secs(5);
