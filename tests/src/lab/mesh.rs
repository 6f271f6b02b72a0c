//! Everybody to everybody at once, and the proof of what did not come through.
//!
//! A flow that should be open is tried until it is answered. One that should be denied sends one
//! packet, and nothing is concluded from silence: the kernel's own count of denied packets must
//! rise by exactly as many as there are such flows. Each of them that got no answer and whose
//! packet was not counted would leave the count short. So a slow machine makes a round slow, not
//! wrong, and no round waits for a time to be over.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;

use super::{
    Daemon, Expect, Process,
    cluster::Addresses,
    patient,
    shop::Party,
    truth::{Expected, TruthTables},
};
use crate::probe::mesh::{MeshEvent, MeshFlow, Round};

/// How often a round is played before what is wrong with it is believed.
const ATTEMPTS: u32 = 3;

/// How long wanted answers may take, in each attempt. A SYN is sent again after one second and
/// after three.
const PATIENCE: Duration = Duration::from_secs(4);

/// Where something was wrong, the next attempt looks this long for answers that should not come:
/// shorter than a second, when the kernel sends SYNs again.
const LINGER: Duration = Duration::from_millis(600);

/// How long the kernel's count may take to be as expected: packets can wait in a queue between
/// two namespaces while the processors are busy.
const COUNTED_WITHIN: Duration = Duration::from_secs(2);

/// A client at every party.
#[derive(Debug)]
pub struct Mesh {
    clients: Vec<Process>,
    parties: Vec<Party>,
}

impl Mesh {
    /// Starts the clients.
    pub fn start(parties: &[Party]) -> Result<Self> {
        let start = |party: &Party| -> Result<Process> {
            let mut client = party.place.probe(&["mesh"])?;
            match client.event(PATIENCE)? {
                MeshEvent::Ready => Ok(client),
                other @ MeshEvent::Played { .. } => anyhow::bail!("unexpected {other:?}"),
            }
        };
        Ok(Self {
            clients: parties.iter().map(start).collect::<Result<_>>()?,
            parties: parties.to_vec(),
        })
    }

    /// Tries all flows and says which are not as expected.
    pub fn wrong(&mut self, daemon: &Daemon, expected: &TruthTables) -> Result<Vec<String>> {
        let flows = expected.flows();
        let denied = flows.iter().filter(|f| f.expect == Expect::Denied).count() as u64;
        let mut wrong = Vec::new();
        for attempt in 0..ATTEMPTS {
            let linger = if attempt == 0 { Duration::ZERO } else { LINGER };
            let before = denials(daemon)?;
            wrong = self.play(&flows, linger)?;
            if !wrong.is_empty() {
                continue;
            }
            let counted = counted(daemon, before, denied)?;
            if counted == denied {
                return Ok(wrong);
            }
            wrong.push(format!(
                "{denied} flows that should be denied were not answered, but {counted} packets \
                 were denied"
            ));
        }
        Ok(wrong)
    }

    /// From now on this party, counted as the tables are, has these addresses.
    pub fn readdress(&mut self, party: usize, addresses: Addresses) {
        self.parties[party].addresses = addresses;
    }

    fn play(&mut self, flows: &[Expected], linger: Duration) -> Result<Vec<String>> {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let of = |from: usize| flows.iter().filter(move |flow| flow.from == from);
        for (from, client) in self.clients.iter_mut().enumerate() {
            let round = Round {
                flows: of(from)
                    .map(|flow| MeshFlow {
                        protocol: flow.protocol,
                        to: flow.address(&self.parties),
                        port: flow.port,
                        wanted: flow.expect == Expect::Open,
                    })
                    .collect(),
                patience: millis(patient(PATIENCE)),
                linger: millis(linger),
            };
            client.tell(&serde_json::to_string(&round)?)?;
        }
        let mut wrong = Vec::new();
        for (from, client) in self.clients.iter_mut().enumerate() {
            let outcomes = match client.event(PATIENCE * 4)? {
                MeshEvent::Played { outcomes } => outcomes,
                MeshEvent::Ready => anyhow::bail!("unexpected second start"),
            };
            for (flow, outcome) in of(from).zip(outcomes) {
                let expect = flow.expect;
                if !expect.accepts(outcome) {
                    wrong.push(format!("{flow}: expected {expect:?}, got {outcome:?}"));
                }
            }
        }
        Ok(wrong)
    }
}

/// Packets that policy has denied, and calls.
fn denials(daemon: &Daemon) -> Result<u64> {
    let mut denials = 0;
    for reason in ["rule", "isolation"] {
        let reason = format!("reason=\"{reason}\"");
        denials += daemon.metric("enforcer_verdicts_total", &["verdict=\"deny\"", &reason])?;
    }
    Ok(denials)
}

/// Waits until `wanted` more are denied than `before`. How many more there are.
fn counted(daemon: &Daemon, before: u64, wanted: u64) -> Result<u64> {
    let deadline = Instant::now() + patient(COUNTED_WITHIN);
    loop {
        let counted = denials(daemon)?.saturating_sub(before);
        if counted >= wanted || Instant::now() > deadline {
            return Ok(counted);
        }
        thread::sleep(Duration::from_millis(5));
    }
}
