//! The daemon's own process, under the names that every Prometheus client uses.

use std::{fmt, fs};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, NoLabelSet},
};

use crate::metrics::kernel::{counter, gauge};

/// Reads `/proc/self`.
#[derive(Debug)]
pub(super) struct ProcessCollector;

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        if let Some(usage) = Usage::read() {
            counter(
                &mut encoder,
                "process_cpu_seconds",
                "User and system time of this process",
            )?
            .encode_counter::<NoLabelSet, _, u64>(&usage.cpu_seconds, None)?;
            gauge(
                &mut encoder,
                "process_resident_memory_bytes",
                "Memory of this process that is in RAM",
            )?
            .encode_gauge(&usage.resident_bytes)?;
            gauge(&mut encoder, "process_threads", "Threads of this process")?
                .encode_gauge(&usage.threads)?;
        }
        if let Ok(open) = fs::read_dir("/proc/self/fd") {
            gauge(
                &mut encoder,
                "process_open_fds",
                "Open files of this process",
            )?
            .encode_gauge(&open.count())?;
        }
        Ok(())
    }
}

#[derive(Debug)]
struct Usage {
    cpu_seconds: f64,
    resident_bytes: u64,
    threads: u64,
}

impl Usage {
    fn read() -> Option<Self> {
        use nix::unistd::{SysconfVar, sysconf};
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        // proc(5): the second field may hold anything; `fields` begins with the third.
        let (_, fields) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        let ticks = sysconf(SysconfVar::CLK_TCK).ok().flatten()?;
        let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten()?;
        #[expect(
            clippy::cast_precision_loss,
            reason = "exact for the first nine million years"
        )]
        let cpu_seconds = (number(14)? + number(15)?) as f64 / ticks as f64;
        Some(Self {
            cpu_seconds,
            threads: number(20)?,
            resident_bytes: number(24)?.checked_mul(page.try_into().ok()?)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_something() {
        let usage = Usage::read().unwrap();
        assert!(usage.resident_bytes > 100_000, "{usage:?}");
        assert!((1..10_000).contains(&usage.threads), "{usage:?}");
        assert!((0.0..100_000.0).contains(&usage.cpu_seconds), "{usage:?}");
    }
}
