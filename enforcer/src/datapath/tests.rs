//! The datapath on the real kernel, in a network namespace of each test's own: no packet meets
//! half a policy, whatever happens on the way from one to the next. Needs root and a bpffs.

use std::{
    cell::Cell,
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    os::fd::{AsFd, OwnedFd},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::PathBuf,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread,
};

use aya::programs::{ProgramFd, SchedClassifier};
use enforcer_common::{
    Decision, identity,
    policy_key::{PolicyEntry, PolicyKey},
};
use nix::{
    sched::{CloneFlags, unshare},
    sys::socket::{setsockopt, sockopt::RcvBufForce},
};

use super::{
    desired::{DesiredEndpoint, EndpointPlace, NodeConfig},
    *,
};
use crate::{
    compile::{
        bridge::TRANSIENT,
        image::{Image, Sets},
    },
    policy::model::Moment,
};

thread_local! {
    /// Shows what the bridge is for.
    pub(super) static WITHOUT_BRIDGE: Cell<bool> = const { Cell::new(false) };
    /// The stage before which the daemon dies.
    static DIES_BEFORE: Cell<Option<usize>> = const { Cell::new(None) };
    /// The stage that the kernel refuses.
    static FAILS_BEFORE: Cell<Option<usize>> = const { Cell::new(None) };
}

/// What a panic carries that stands for the death of the daemon.
struct Death;

/// Called by the datapath before every stage.
pub(super) fn before_stage(stage: usize) -> Result<(), TableError> {
    if DIES_BEFORE.get() == Some(stage) {
        resume_unwind(Box::new(Death));
    }
    if FAILS_BEFORE.get() == Some(stage) {
        return Err(TableError::refused());
    }
    Ok(())
}

/// Pins that go with the test.
struct Pins(PathBuf);

impl Pins {
    fn new(name: &str) -> Self {
        Self(format!("/sys/fs/bpf/enforcer-bridge-{name}-{}", std::process::id()).into())
    }

    fn open(&self, change: impl FnOnce(&mut Capacities)) -> (Datapath, Adopted) {
        let mut capacities = Capacities {
            flows: 1024,
            ..Capacities::default()
        };
        change(&mut capacities);
        Datapath::open(&DatapathSettings {
            pin_dir: self.0.clone(),
            cgroup_root: None,
            capacities,
            xdp: XdpMode::Off,
            numbering: 1,
        })
        .expect("root and a bpffs")
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs `test` in a network namespace that has nothing but a loopback interface.
fn alone(test: impl FnOnce() + Send) {
    thread::scope(|scope| {
        let outcome = scope
            .spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET).expect("root");
                test();
            })
            .join();
        if let Err(panic) = outcome {
            resume_unwind(panic);
        }
    });
}

const LOOPBACK: u32 = 1;
const REFUSED: [u8; 4] = [10, 7, 0, 1];
const ALLOWED: [u8; 4] = [10, 7, 0, 2];
const WORKLOAD: [u8; 4] = [10, 7, 0, 9];

/// One of two policies about the same two peers. Each knows them by identities of its own,
/// refuses the one by its identity and allows the other by its own. An identity that a policy
/// does not know is allowed by the egress set and refused by the ingress set; so whoever asks
/// an old set about a new identity gets one of the two wrong.
fn policy(version: u32) -> Desired {
    policy_at(version, LOOPBACK, "lo")
}

/// [`policy`] for a workload behind another link.
fn policy_at(version: u32, ifindex: u32, link: &str) -> Desired {
    let entry = |action| PolicyEntry {
        decision: Decision::new(action, Reason::Rule, 1),
        table: 0,
        lengths: 0,
        rule: 0,
    };
    let (refused, allowed) = (300 + version, 400 + version);
    let (egress, ingress) = (10 + version, 20 + version);
    let mut image = Image::default();
    let mut policies = Vec::new();
    for (set, peer, action) in [
        (egress, identity::ANY, Action::Allow),
        (egress, refused, Action::Deny),
        (ingress, identity::ANY, Action::Deny),
        (ingress, allowed, Action::Allow),
    ] {
        policies.push((PolicyKey { set, peer }, entry(action)));
    }
    // As many more as make a change take its time.
    for peer in 0..500 {
        let key = PolicyKey {
            set: egress,
            peer: 1_000 + 500 * version + peer,
        };
        policies.push((key, entry(Action::Deny)));
    }
    image.policies = policies.into_iter().collect();
    for (address, number) in [(REFUSED, refused), (ALLOWED, allowed)] {
        image.addresses.insert(IpAddr::from(address).into(), number);
    }
    let numbers = [egress, ingress];
    image.sets.insert(
        500,
        Sets {
            numbers,
            later: Vec::new(),
        },
    );
    Desired {
        image: Arc::new(image),
        endpoints: vec![DesiredEndpoint {
            id: 2,
            identity: 500,
            place: EndpointPlace::Interface {
                ifindex,
                name: link.to_owned(),
            },
            audit: false,
            strict_source: false,
            addresses: Vec::new(),
        }],
        uplinks: Vec::new(),
        node: NodeConfig {
            audit: false,
            report_allowed: false,
            full_denies: false,
            unknown_denies: false,
            failsafe: Vec::new(),
            reject: false,
            report_limit: 100,
            reject_limit: 100,
            local_addresses: Vec::new(),
        },
        clock: clock::WallClock::default(),
    }
}

/// A UDP datagram in an Ethernet frame.
fn datagram(from: [u8; 4], to: [u8; 4], port: u16) -> Vec<u8> {
    let mut frame = vec![0; 12];
    frame.extend([0x08, 0x00]);
    frame.extend([0x45, 0, 0, 36, 0, 0, 0x40, 0, 64, 17, 0, 0]);
    frame.extend(from);
    frame.extend(to);
    frame.extend(port.to_be_bytes());
    frame.extend([0, 53, 0, 16, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
    frame
}

/// The programs at the workload's link.
#[derive(Debug)]
struct Hooks {
    egress: OwnedFd,
    ingress: OwnedFd,
}

const DROPPED: u32 = 2;

impl Hooks {
    fn of(datapath: &mut Datapath) -> Self {
        let mut descriptor = |name| {
            let program = datapath.object().program_mut(name).expect("it is loaded");
            let program: &mut SchedClassifier = program.try_into().expect("a TC program");
            let descriptor: &ProgramFd = program.fd().expect("it is loaded");
            descriptor
                .as_fd()
                .try_clone_to_owned()
                .expect("descriptors")
        };
        Self {
            egress: descriptor("workload_egress"),
            ingress: descriptor("workload_ingress"),
        }
    }

    /// How many of the four verdicts are not what both policies say. `port`: another one each
    /// time, so that every packet is judged.
    fn wrong(&self, port: u16) -> u64 {
        let mut wrong = 0;
        for (peer, allowed) in [(REFUSED, false), (ALLOWED, true)] {
            for (program, frame) in [
                (&self.egress, datagram(WORKLOAD, peer, port)),
                (&self.ingress, datagram(peer, WORKLOAD, port)),
            ] {
                let said = sys::test_run(program.as_fd(), &frame).expect("it can be run");
                wrong += u64::from((said != DROPPED) != allowed);
            }
        }
        wrong
    }
}

/// Runs `change` while another thread sends packets; returns how many were judged, and how many
/// of them wrongly.
fn under_traffic(hooks: &Hooks, change: impl FnOnce()) -> (u64, u64) {
    let (judged, wrong, stop) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut port = 1024;
            while !stop.load(Ordering::Relaxed) {
                wrong.fetch_add(hooks.wrong(port), Ordering::Relaxed);
                judged.fetch_add(4, Ordering::Relaxed);
                port = if port == u16::MAX { 1024 } else { port + 1 };
            }
        });
        let outcome = catch_unwind(AssertUnwindSafe(change));
        stop.store(true, Ordering::Relaxed);
        if let Err(panic) = outcome {
            resume_unwind(panic);
        }
    });
    (judged.into_inner(), wrong.into_inner())
}

fn back_and_forth(datapath: &mut Datapath, times: u32) {
    for turn in 0..times {
        datapath
            .apply(&policy(1 + turn % 2))
            .expect("there is room");
    }
}

#[test]
fn no_packet_meets_half_a_policy() {
    alone(|| {
        let pins = Pins::new("half");
        let (mut datapath, _) = pins.open(|_| ());
        datapath.apply(&policy(0)).expect("there is room");
        let hooks = Hooks::of(&mut datapath);
        let (judged, wrong) = under_traffic(&hooks, || back_and_forth(&mut datapath, 1_000));
        assert_eq!(wrong, 0, "of {judged} verdicts");
        assert!(judged > 10_000, "only {judged} verdicts");
        assert_eq!(leftovers(&datapath, &policy(2)), 0);

        // The test can fail: the same without the bridge.
        WITHOUT_BRIDGE.set(true);
        let (judged, wrong) = under_traffic(&hooks, || back_and_forth(&mut datapath, 1_000));
        assert!(
            wrong > 0,
            "none of {judged} verdicts shows that a bridge is needed"
        );
    });
}

/// Entries of the kernel that `desired` has not, or that it has and the kernel has not.
fn leftovers(datapath: &Datapath, desired: &Desired) -> usize {
    let held = Contents::read(&datapath.tables).expect("the maps can be read");
    let new = Contents::desired(desired, &held, clock::seconds());
    let keys = |contents: &Contents| -> BTreeSet<String> {
        let policies = contents.policies().iter().map(|entry| format!("{entry:?}"));
        let peers = &contents.peers.addresses4;
        let peers = peers.iter().map(|entry| format!("{entry:?}"));
        let endpoints = contents.interfaces.iter().map(|entry| format!("{entry:?}"));
        policies.chain(peers).chain(endpoints).collect()
    };
    keys(&held).symmetric_difference(&keys(&new)).count()
}

fn transients(datapath: &Datapath) -> usize {
    let peers = datapath.contents.peers.addresses4.values();
    let policies = datapath.contents.policies().iter().map(|(key, _)| key);
    let identities = peers
        .map(|entry| entry.identity)
        .chain(policies.map(|key| key.peer));
    identities.filter(|identity| *identity >= TRANSIENT).count()
}

#[test]
fn what_a_daemon_left_that_died_on_the_way_is_repaired() {
    alone(|| {
        for stage in 0..=6 {
            let pins = Pins::new(&format!("death-{stage}"));
            let (mut datapath, _) = pins.open(|_| ());
            datapath.apply(&policy(0)).expect("there is room");
            let generation = datapath.generation();
            let hooks = Hooks::of(&mut datapath);
            let (_, wrong) = under_traffic(&hooks, || {
                DIES_BEFORE.set(Some(stage));
                let died = catch_unwind(AssertUnwindSafe(|| datapath.apply(&policy(1))));
                DIES_BEFORE.set(None);
                assert!(died.is_err_and(|panic| panic.is::<Death>()), "at {stage}");
                drop(datapath);
                let (mut next, adopted) = pins.open(|_| ());
                assert_eq!(adopted, Adopted::Same);
                assert!(next.generation() >= generation);
                if (1..=5).contains(&stage) {
                    assert!(transients(&next) > 0, "nothing to repair at {stage}");
                }
                // Neither the policy before nor the one under way.
                let applied = next.apply(&policy(2)).expect("there is room");
                assert!(applied.changed && applied.generation > generation);
                assert_eq!(leftovers(&next, &policy(2)), 0, "at {stage}");
                assert!(!next.apply(&policy(2)).expect("nothing to do").changed);
            });
            assert_eq!(wrong, 0, "at {stage}");
        }
    });
}

#[test]
fn a_set_that_differs_in_a_few_peers_is_changed_where_it_is() {
    alone(|| {
        let pins = Pins::new("place");
        let (mut datapath, _) = pins.open(|_| ());
        datapath.apply(&policy(0)).expect("there is room");
        let sets = |datapath: &Datapath| datapath.contents.interfaces[&LOOPBACK].sets;
        assert_eq!(sets(&datapath), [10, 20]);
        let hooks = Hooks::of(&mut datapath);
        let (judged, wrong) = under_traffic(&hooks, || {
            for version in [1, 2, 0, 3] {
                let generation = datapath.generation();
                datapath.apply(&policy(version)).expect("there is room");
                // The egress set is another one altogether.
                assert_eq!(sets(&datapath), [10 + version, 20]);
                assert!(datapath.generation() > generation);
                assert_eq!(leftovers(&datapath, &policy(version)), 0);
                assert_eq!(transients(&datapath), 0);
            }
            // The next daemon finds it under a number that the image does not know it by.
            drop(datapath);
            let (mut next, adopted) = pins.open(|_| ());
            assert_eq!(adopted, Adopted::Same);
            next.apply(&policy(3)).expect("there is room");
            assert_eq!(sets(&next), [13, 20]);
            assert_eq!(leftovers(&next, &policy(3)), 0);
            assert!(!next.apply(&policy(3)).expect("nothing to do").changed);
            // What the image knows by that number is something else.
            drop(next);
            let (mut next, _) = pins.open(|_| ());
            next.apply(&policy(0)).expect("there is room");
            assert_eq!(leftovers(&next, &policy(0)), 0);
        });
        assert_eq!(wrong, 0, "of {judged} verdicts");
    });
}

#[test]
fn a_set_of_later_is_changed_where_it_is_like_one_of_now() {
    let ahead = [Moment(1 << 32), Moment(1 << 33)];
    let policy = |version| {
        let mut desired = policy(version);
        let image = Arc::make_mut(&mut desired.image);
        let mut sets = image.sets[&500].clone();
        let [egress, ingress] = sets.numbers;
        sets.later = vec![(ahead[0], [0, ingress]), (ahead[1], [egress, ingress])];
        image.sets.insert(500, sets);
        image.moments = ahead.to_vec();
        desired
    };
    alone(|| {
        let pins = Pins::new("later");
        let (mut datapath, _) = pins.open(|_| ());
        datapath.apply(&policy(0)).expect("there is room");
        let hooks = Hooks::of(&mut datapath);
        let (judged, wrong) = under_traffic(&hooks, || {
            for version in [1, 2, 0, 3] {
                datapath.apply(&policy(version)).expect("there is room");
                let entry = datapath.contents.interfaces[&LOOPBACK];
                let egress = 10 + version;
                assert_eq!(entry.all_sets()[..3], [[egress, 20], [0, 20], [egress, 20]]);
                assert_eq!(leftovers(&datapath, &policy(version)), 0);
                assert_eq!(transients(&datapath), 0);
            }
            drop(datapath);
            let (mut next, _) = pins.open(|_| ());
            next.apply(&policy(3)).expect("there is room");
            assert_eq!(leftovers(&next, &policy(3)), 0);
            assert!(!next.apply(&policy(3)).expect("nothing to do").changed);
        });
        assert_eq!(wrong, 0, "of {judged} verdicts");
    });
}

#[test]
fn what_was_changed_in_place_is_changed_back_when_the_change_fails() {
    alone(|| {
        let pins = Pins::new("back");
        let (mut datapath, _) = pins.open(|_| ());
        datapath.apply(&policy(0)).expect("there is room");
        let hooks = Hooks::of(&mut datapath);
        let before = datapath.generation();
        let (judged, wrong) = under_traffic(&hooks, || {
            for _ in 0..20 {
                FAILS_BEFORE.set(Some(4));
                let outcome = datapath.apply(&policy(1));
                FAILS_BEFORE.set(None);
                assert!(outcome.is_err());
                assert_eq!(leftovers(&datapath, &policy(0)), 0);
            }
        });
        assert_eq!(wrong, 0, "of {judged} verdicts");
        assert_eq!(datapath.generation(), before);
        datapath.apply(&policy(1)).expect("there is room");
        assert_eq!(leftovers(&datapath, &policy(1)), 0);
    });
}

/// Ends what runs until then, also when the test fails.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs `ip` in the thread's network namespace.
fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status();
    assert!(status.expect("ip is installed").success(), "ip {arguments}");
}

/// A workload in a namespace of its own, behind the link `va`, that counts datagrams by sender.
fn behind_a_link(
    stop: &AtomicBool,
    ready: &mpsc::Sender<i32>,
    cabled: &mpsc::Receiver<()>,
) -> [u64; 2] {
    unshare(CloneFlags::CLONE_NEWNET).expect("root");
    ready
        .send(nix::unistd::gettid().as_raw())
        .expect("the test waits");
    cabled.recv().expect("the test makes the link");
    ip("addr add 10.7.0.9/24 dev vb");
    ip("link set vb up");
    let socket = UdpSocket::bind((Ipv4Addr::from(WORKLOAD), 53)).expect("its address");
    // Seconds of them, so that none is lost while others have the processor.
    setsockopt(&socket, RcvBufForce, &(16 << 20)).expect("root");
    let patience = Some(Duration::from_millis(100));
    socket.set_read_timeout(patience).expect("a timeout");
    ready.send(0).expect("the test waits");
    let mut counts = [0; 2];
    loop {
        match socket.recv_from(&mut [0; 8]) {
            Ok((_, from)) => counts[usize::from(from.ip() == IpAddr::from(ALLOWED))] += 1,
            Err(_) if stop.load(Ordering::Relaxed) => return counts,
            Err(_) => {}
        }
    }
}

#[test]
fn another_layout_takes_over_without_a_gap() {
    alone(|| {
        let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
        let (ready, is_ready) = mpsc::channel();
        let (cable, cabled) = mpsc::channel();
        let pins = Pins::new("layout");
        thread::scope(|scope| {
            let stop = &stop;
            let _end = End(stop);
            let cable = cable;
            let workload = scope.spawn(move || behind_a_link(stop, &ready, &cabled));
            let thread = is_ready.recv().expect("it begins so");
            ip(&format!(
                "link add va type veth peer name vb netns {thread}"
            ));
            ip("addr add 10.7.0.1/24 dev va");
            ip("addr add 10.7.0.2/24 dev va");
            ip("link set va up");
            cable.send(()).expect("the workload waits");
            is_ready.recv().expect("its address is there");
            let ifindex = nix::net::if_::if_nametoindex("va").expect("it is there");
            let (mut datapath, adopted) = pins.open(|_| ());
            assert_eq!(adopted, Adopted::Fresh);
            datapath
                .apply(&policy_at(0, ifindex, "va"))
                .expect("there is room");

            let sender = scope.spawn(|| {
                let [refused, allowed] = [REFUSED, ALLOWED].map(|from| {
                    UdpSocket::bind((Ipv4Addr::from(from), 0)).expect("an address of ours")
                });
                let to = SocketAddr::from((WORKLOAD, 53));
                while !stop.load(Ordering::Relaxed) {
                    // The hook's refusal may come back as an error.
                    let _ = refused.send_to(b"no", to);
                    allowed.send_to(b"yes", to).expect("it is allowed");
                    sent.fetch_add(1, Ordering::Relaxed);
                    thread::sleep(Duration::from_micros(200));
                }
            });
            for round in 1..=5 {
                drop(datapath);
                let adopted;
                (datapath, adopted) = pins.open(|room| room.flows += 1024 * round);
                assert_eq!(adopted, Adopted::Replaced);
                let applied = datapath.apply(&policy_at(round, ifindex, "va"));
                assert!(applied.expect("there is room").changed);
                drop(datapath);
                let adopted;
                (datapath, adopted) = pins.open(|room| room.flows += 1024 * round);
                assert_eq!(adopted, Adopted::Same);
                let applied = datapath.apply(&policy_at(round, ifindex, "va"));
                assert!(applied.is_ok());
                assert_eq!(leftovers(&datapath, &policy_at(round, ifindex, "va")), 0);
            }
            stop.store(true, Ordering::Relaxed);
            sender.join().expect("nothing it sends is an error");
            let [refused, allowed] = workload.join().expect("it counts");
            assert_eq!((refused, allowed), (0, sent.load(Ordering::Relaxed)));
            assert!(allowed > 100, "only {allowed} datagrams");
        });
    });
}

#[test]
fn a_layout_that_cannot_be_made_leaves_what_is_in_force() {
    alone(|| {
        let pins = Pins::new("refused");
        let (mut datapath, _) = pins.open(|_| ());
        datapath.apply(&policy(0)).expect("there is room");
        let hooks = Hooks::of(&mut datapath);
        let settings = datapath.settings.clone();
        drop(datapath);
        let there = || {
            let entries = std::fs::read_dir(&pins.0).expect("it is there");
            let names = entries.map(|entry| entry.expect("it can be listed").file_name());
            names.collect::<BTreeSet<_>>()
        };
        let before = there();
        // No kernel makes a table of that size.
        let too_large = DatapathSettings {
            capacities: Capacities {
                flows: u32::MAX,
                ..settings.capacities
            },
            ..settings
        };
        assert!(matches!(
            Datapath::open(&too_large),
            Err(DatapathError::Load(_))
        ));
        assert_eq!(there(), before);
        assert_eq!(hooks.wrong(7), 0);
        assert_eq!(pins.open(|_| ()).1, Adopted::Same);
    });
}

#[test]
fn what_does_not_fit_beside_the_old_is_refused_whole() {
    alone(|| {
        let pins = Pins::new("room");
        // Each has 504 entries, and the way from one to the other a few more.
        let (mut datapath, _) = pins.open(|room| room.policies = 504 * 2);
        datapath.apply(&policy(0)).expect("there is room");
        let generation = datapath.generation();
        let error = datapath
            .apply(&policy(1))
            .expect_err("no room for the bridge");
        let ApplyError::TooMany {
            needed, setting, ..
        } = error
        else {
            panic!("{error}");
        };
        assert!(needed > 504 * 2);
        assert_eq!(setting, "--max-policies");
        assert_eq!(datapath.generation(), generation);
        assert_eq!(leftovers(&datapath, &policy(0)), 0);
        assert!(!datapath.apply(&policy(0)).expect("nothing to do").changed);
    });
}

#[test]
fn every_denied_packet_is_told_by_one_daemon() {
    alone(|| {
        let pins = Pins::new("told");
        let (mut datapath, _) = pins.open(|_| ());
        datapath.apply(&policy(0)).expect("there is room");
        let hooks = Hooks::of(&mut datapath);
        let told = |datapath: &mut Datapath| -> u64 {
            let drained = datapath.drain_denied().expect("the table can be read");
            drained.iter().map(|(_, entry)| entry.packets).sum()
        };
        // Two of four packets are denied.
        let judge = |times: u16| (0..times).for_each(|turn| assert_eq!(hooks.wrong(9 + turn), 0));
        judge(5);
        assert_eq!(told(&mut datapath), 10);
        judge(3);
        drop(datapath);
        judge(2);
        let (mut datapath, _) = pins.open(|_| ());
        assert_eq!(told(&mut datapath), 10);
        assert_eq!(told(&mut datapath), 0);
        drop(datapath);
        let (mut datapath, _) = pins.open(|_| ());
        assert_eq!(told(&mut datapath), 0);
    });
}
