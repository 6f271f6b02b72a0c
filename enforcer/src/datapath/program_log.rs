//! Lines of kernel programs that were built with aya-log (feature `ebpf-log`), as lines of the
//! daemon's own log. For debugging the programs: what finds no room in the ring is lost.

use std::{thread, time::Duration};

use aya::Ebpf;
use aya_log::EbpfLogger;

/// Between two looks at the ring.
const PAUSE: Duration = Duration::from_millis(50);

/// Follows the lines until the process ends, on a thread of its own. Each gets the target
/// `enforcer_ebpf` and its module.
pub(super) fn follow(ebpf: &mut Ebpf) {
    let mut logger = match EbpfLogger::init(ebpf) {
        Ok(logger) => logger,
        Err(error) => {
            tracing::warn!(%error, "the lines of the kernel programs cannot be read");
            return;
        }
    };
    let follower = thread::Builder::new().name("program-log".to_owned());
    let started = follower.spawn(move || {
        loop {
            logger.flush();
            thread::sleep(PAUSE);
        }
    });
    match started {
        Ok(_) => tracing::info!("the kernel programs write to this log"),
        Err(error) => tracing::warn!(%error, "the lines of the kernel programs are not read"),
    }
}
