//! Telling the service manager how the daemon is (sd_notify(3)).

use std::{
    env, io,
    os::unix::net::UnixDatagram,
    os::{linux::net::SocketAddrExt, unix::ffi::OsStrExt, unix::net::SocketAddr},
    time::Duration,
};

use nix::time::{ClockId, clock_gettime};
use tracing::warn;

/// The service manager, if there is one.
#[derive(Debug, Default)]
pub struct ServiceManager {
    socket: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl ServiceManager {
    /// As the environment says: `$NOTIFY_SOCKET`, `$WATCHDOG_USEC`, `$WATCHDOG_PID`.
    pub fn from_environment() -> io::Result<Self> {
        let Some(path) = env::var_os("NOTIFY_SOCKET") else {
            return Ok(Self::default());
        };
        let address = match path.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(&path)?,
        };
        let number = |name| env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
        // Without $WATCHDOG_PID the watchdog is meant for us, too (sd_watchdog_enabled(3)).
        let ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        Ok(Self {
            socket: Some((UnixDatagram::unbound()?, address)),
            watchdog: number("WATCHDOG_USEC")
                .filter(|_| ours)
                .map(Duration::from_micros),
        })
    }

    /// How often a sign of life is due: twice as often as the service manager demands.
    pub fn watchdog_interval(&self) -> Option<Duration> {
        self.watchdog.map(|limit| limit / 2)
    }

    /// [`ServiceManager::ready`] may take this long from now, if the service manager would not
    /// wait for it longer anyway.
    pub fn starting(&self, at_most: Duration) {
        self.send(&format!("EXTEND_TIMEOUT_USEC={}", at_most.as_micros()));
    }

    /// The first policy is in force.
    pub fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={}", one_line(status)));
    }

    /// A reload begins; it ends with [`ServiceManager::ready`].
    pub fn reloading(&self) {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |t| {
            i128::from(t.tv_sec()) * 1_000_000 + i128::from(t.tv_nsec()) / 1_000
        });
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={now}"));
    }

    /// A sentence for `systemctl status`.
    pub fn status(&self, status: &str) {
        self.send(&format!("STATUS={}", one_line(status)));
    }

    /// A sign of life.
    pub fn alive(&self) {
        self.send("WATCHDOG=1");
    }

    /// The daemon is about to end.
    pub fn stopping(&self, reason: &str) {
        self.send(&format!("STOPPING=1\nSTATUS={}", one_line(reason)));
    }

    fn send(&self, message: &str) {
        if let Some((socket, address)) = &self.socket
            && let Err(error) = socket.send_to_addr(message.as_bytes(), address)
        {
            warn!(%error, "cannot tell the service manager `{}`", one_line(message));
        }
    }
}

fn one_line(text: &str) -> String {
    text.replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manager() -> (UnixDatagram, ServiceManager) {
        let name = format!(
            "enforcer-notify-test-{}-{:?}",
            std::process::id(),
            std::thread::current().id()
        );
        let address = SocketAddr::from_abstract_name(name).unwrap();
        let receiver = UnixDatagram::bind_addr(&address).unwrap();
        let manager = ServiceManager {
            socket: Some((UnixDatagram::unbound().unwrap(), address)),
            watchdog: Some(Duration::from_secs(10)),
        };
        (receiver, manager)
    }

    fn received(receiver: &UnixDatagram) -> String {
        let mut buffer = [0; 256];
        let length = receiver.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    #[test]
    fn messages_are_as_systemd_reads_them() {
        let (receiver, manager) = manager();
        manager.starting(Duration::from_secs(90));
        assert_eq!(received(&receiver), "EXTEND_TIMEOUT_USEC=90000000");
        manager.ready("policy\nin force");
        assert_eq!(received(&receiver), "READY=1\nSTATUS=policy in force");
        manager.reloading();
        let reloading = received(&receiver);
        let time = reloading
            .strip_prefix("RELOADING=1\nMONOTONIC_USEC=")
            .unwrap();
        assert!(time.parse::<u64>().unwrap() > 0);
        manager.alive();
        assert_eq!(received(&receiver), "WATCHDOG=1");
        assert_eq!(manager.watchdog_interval(), Some(Duration::from_secs(5)));
    }

    #[test]
    fn without_a_service_manager_nothing_happens() {
        ServiceManager::default().ready("x");
    }
}
