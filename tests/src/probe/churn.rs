//! Load: many short flows, one after the other on each thread, and how they ended.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{
    errno_name,
    flow::{FlowProtocol, unspecified},
    tell,
};

/// What churn says: `Ready` at the start, `Summary` after `stop`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum ChurnEvent {
    /// The first flow of every thread has ended.
    Ready,
    /// How the flows ended.
    Summary {
        /// Flows that were answered.
        open: u64,
        /// Flows that were not, by name of the error.
        failed: BTreeMap<String, u64>,
    },
}

/// Opens flows to `to` on `threads` threads until `stop`, or the end, of standard input.
pub fn churn(
    to: SocketAddr,
    protocol: FlowProtocol,
    threads: usize,
    timeout: Duration,
    pause: Duration,
) -> anyhow::Result<()> {
    anyhow::ensure!(protocol != FlowProtocol::Icmp, "churn knows TCP and UDP");
    let stop = AtomicBool::new(false);
    let (mut open, mut failed) = (0, BTreeMap::new());
    thread::scope(|scope| {
        let (ready, all_ready) = std::sync::mpsc::channel();
        let running: Vec<_> = (0..threads)
            .map(|_| {
                let (stop, ready) = (&stop, ready.clone());
                scope.spawn(move || {
                    let (mut open, mut failed) = (0_u64, BTreeMap::<String, u64>::new());
                    while !stop.load(Ordering::Relaxed) {
                        match once(to, protocol, timeout) {
                            Ok(()) => open += 1,
                            Err(error) => *failed.entry(errno_name(&error)).or_default() += 1,
                        }
                        let _ = ready.send(());
                        thread::sleep(pause);
                    }
                    (open, failed)
                })
            })
            .collect();
        for _ in 0..threads {
            let _ = all_ready.recv();
        }
        tell(&ChurnEvent::Ready);
        let mut line = String::new();
        while line.trim() != "stop" {
            line.clear();
            if io::stdin().read_line(&mut line).is_ok_and(|n| n == 0) {
                break;
            }
        }
        stop.store(true, Ordering::Relaxed);
        for thread in running {
            let (o, f) = thread.join().expect("no part of churn panics");
            open += o;
            for (error, count) in f {
                *failed.entry(error).or_default() += count;
            }
        }
    });
    tell(&ChurnEvent::Summary { open, failed });
    Ok(())
}

fn once(to: SocketAddr, protocol: FlowProtocol, timeout: Duration) -> io::Result<()> {
    let mut answer = [0; 5];
    if protocol == FlowProtocol::Udp {
        let socket = UdpSocket::bind(unspecified(to.ip()))?;
        socket.set_read_timeout(Some(timeout))?;
        socket.send_to(b"probe", to)?;
        socket.recv_from(&mut answer)?;
        return Ok(());
    }
    let mut stream = TcpStream::connect_timeout(&to, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.write_all(b"probe")?;
    stream.read_exact(&mut answer)
}
