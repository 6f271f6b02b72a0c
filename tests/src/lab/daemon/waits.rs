//! What a test waits for at a daemon. Each wait ends with an error that shows what there is instead.

use std::{
    fmt::Debug,
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use enforcer::{
    api::status::EndpointStatus, identity::attest::journal::SecurityEvent,
    observe::record::FlowRecord,
};
use serde::de::DeserializeOwned;

use super::{Daemon, listing, patient};

/// Less than the time after which a daemon lists everything again in any case: what comes within
/// it, came by an event.
const BY_EVENT: Duration = Duration::from_secs(10);

impl Daemon {
    /// Waits until it holds.
    pub fn wait_until(
        &self,
        what: &str,
        within: Duration,
        mut holds: impl FnMut() -> Result<bool>,
    ) -> Result<()> {
        let deadline = Instant::now() + patient(within);
        while !holds()? {
            anyhow::ensure!(Instant::now() < deadline, "{what}\n{}", self.log());
            thread::sleep(Duration::from_millis(30));
        }
        Ok(())
    }

    /// Waits until what `enforcer` says with these arguments is as wanted.
    pub fn wait_for<T: DeserializeOwned + Debug>(
        &self,
        what: &str,
        within: Duration,
        arguments: &[&str],
        wanted: impl Fn(&T) -> bool,
    ) -> Result<T> {
        let deadline = Instant::now() + patient(within);
        loop {
            let said: T = self.ask_json(arguments)?;
            if wanted(&said) {
                return Ok(said);
            }
            anyhow::ensure!(
                Instant::now() < deadline,
                "{what}: {said:#?}\n{}",
                self.log()
            );
            thread::sleep(Duration::from_millis(30));
        }
    }

    /// The endpoint of a workload, by its name.
    pub fn endpoint(&self, name: &str) -> Result<Option<EndpointStatus>> {
        let endpoints: Vec<EndpointStatus> = self.ask_json(&["endpoints"])?;
        Ok(endpoints.into_iter().find(|e| e.name == name))
    }

    /// How sure it is that the endpoint is that workload.
    pub fn assurance(&self, name: &str) -> Result<&'static str> {
        let endpoint = self.endpoint(name)?;
        let endpoint = endpoint.with_context(|| format!("{name} has no endpoint"))?;
        Ok(endpoint.assurance.name())
    }

    /// Waits until a workload has an endpoint or has none any more. Who starts a workload under a
    /// running daemon waits for it: until then its cgroup or interface is nobody's.
    pub fn wait_for_endpoint(&self, name: &str, present: bool) -> Result<()> {
        let not = if present { "" } else { "not " };
        let what = format!("endpoint {name} should {not}be there");
        self.wait_until(&what, BY_EVENT, || {
            Ok(self.endpoint(name)?.is_some() == present)
        })
    }

    /// Waits until a workload has an endpoint of this assurance.
    pub fn wait_for_assurance(&self, name: &str, wanted: &str) -> Result<()> {
        let what = format!("{name} should be known as {wanted}");
        self.wait_until(&what, BY_EVENT, || {
            let endpoint = self.endpoint(name)?;
            Ok(endpoint.is_some_and(|e| e.assurance.name() == wanted))
        })
    }

    /// Waits until a commit is in force.
    pub fn wait_for_commit(&self, id: &str) -> Result<()> {
        let output = self.ask(&["wait", "--commit", id, "--timeout", "30s"])?;
        anyhow::ensure!(
            output.status.success(),
            "{}{}",
            String::from_utf8_lossy(&output.stderr),
            self.log()
        );
        Ok(())
    }

    /// Waits until the daemon has a record that `wanted` accepts.
    pub fn wait_for_record(
        &self,
        within: Duration,
        wanted: impl Fn(&FlowRecord) -> bool,
    ) -> Result<FlowRecord> {
        let deadline = Instant::now() + patient(within);
        loop {
            let records = self.records()?;
            if let Some(record) = records.iter().rfind(|record| wanted(record)) {
                return Ok(record.clone());
            }
            if Instant::now() > deadline {
                anyhow::bail!(
                    "no such record within {within:?}; {} has:\n{}",
                    self.options.name,
                    listing(&records)
                );
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until the records that `wanted` accepts stand for exactly `packets` packets.
    pub fn wait_for_count(
        &self,
        within: Duration,
        packets: u64,
        wanted: impl Fn(&FlowRecord) -> bool,
    ) -> Result<()> {
        let deadline = Instant::now() + patient(within);
        loop {
            let records = self.records()?;
            let counted: u64 = records
                .iter()
                .filter(|record| wanted(record))
                .map(|record| record.packets)
                .sum();
            if counted == packets {
                return Ok(());
            }
            anyhow::ensure!(
                counted < packets && Instant::now() < deadline,
                "{counted} packets are counted where {packets} were sent\n{}\n{}",
                listing(&records),
                self.log_tail()
            );
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits for a security event in that file, among flow records; all until then.
    pub fn wait_for_event(
        &self,
        what: &str,
        wanted: impl Fn(&SecurityEvent) -> bool,
    ) -> Result<Vec<SecurityEvent>> {
        let deadline = Instant::now() + patient(Duration::from_secs(20));
        loop {
            let text = fs::read_to_string(self.flow_log()).unwrap_or_default();
            let mut events = Vec::new();
            // The last line may be half written.
            for line in text.split_inclusive('\n').filter(|l| l.ends_with('\n')) {
                let value: serde_json::Value = serde_json::from_str(line)?;
                if value.get("kind").is_some() {
                    events.push(serde_json::from_value(value)?);
                } else {
                    serde_json::from_value::<FlowRecord>(value)?;
                }
            }
            if events.iter().any(&wanted) {
                return Ok(events);
            }
            anyhow::ensure!(Instant::now() < deadline, "{what}: not in {text}");
            thread::sleep(Duration::from_millis(50));
        }
    }
}
