//! Clients that keep TCP connections open and say when one dies.

use std::{
    io::{self, BufRead, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::{errno_name, tell};

/// What a holder says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum HoldEvent {
    /// All connections are open and have echoed once.
    Connected {
        /// Ports of this side.
        local_ports: Vec<u16>,
    },
    /// A connection died.
    Died {
        /// Port of this side.
        local_port: u16,
        /// Name of the error; `closed` after an end in good order from the other side.
        error: String,
        /// Echoes until then.
        beats: u64,
    },
    /// Answer to `stop`.
    Summary {
        /// Connections still open.
        alive: u64,
        /// Echoes on all connections.
        beats: u64,
        /// Longest time that one echo took, in milliseconds.
        longest: u64,
    },
    /// The connections could not be opened.
    Failed {
        /// Name of the error.
        error: String,
    },
}

struct Totals {
    alive: AtomicU64,
    beats: AtomicU64,
    longest: AtomicU64,
    stop: AtomicBool,
}

/// Holds `connections` open. With `interval` each sends and awaits an echo that often; without,
/// each only waits for the other side, as an idle connection does. The word `stop`, or the end,
/// of standard input ends it.
pub fn hold(
    to: SocketAddr,
    connections: usize,
    interval: Option<Duration>,
    timeout: Duration,
) -> anyhow::Result<()> {
    let opened: io::Result<Vec<TcpStream>> = (0..connections)
        .map(|_| {
            let mut stream = TcpStream::connect_timeout(&to, timeout)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(timeout))?;
            echo(&mut stream)?;
            Ok(stream)
        })
        .collect();
    let streams = match opened {
        Ok(streams) => streams,
        Err(error) => {
            tell(&HoldEvent::Failed {
                error: errno_name(&error),
            });
            return Ok(());
        }
    };
    let local_ports = streams
        .iter()
        .map(|s| s.local_addr().map(|address| address.port()))
        .collect::<io::Result<_>>()?;
    let totals = Arc::new(Totals {
        alive: AtomicU64::new(streams.len() as u64),
        beats: AtomicU64::new(streams.len() as u64),
        longest: AtomicU64::new(0),
        stop: AtomicBool::new(false),
    });
    let gate = Arc::new(Mutex::new(()));
    let order = gate.lock().expect("nobody else has it yet");
    let threads: Vec<_> = streams
        .into_iter()
        .map(|stream| {
            let (totals, gate) = (totals.clone(), gate.clone());
            thread::spawn(move || {
                // `Connected` is the first line, whatever dies meanwhile.
                drop(gate.lock());
                watch(stream, interval, &totals);
            })
        })
        .collect();
    tell(&HoldEvent::Connected { local_ports });
    drop(order);
    for line in io::stdin().lock().lines() {
        if line? == "stop" {
            break;
        }
    }
    totals.stop.store(true, Ordering::Relaxed);
    for thread in threads {
        let _ = thread.join();
    }
    tell(&HoldEvent::Summary {
        alive: totals.alive.load(Ordering::Relaxed),
        beats: totals.beats.load(Ordering::Relaxed),
        longest: totals.longest.load(Ordering::Relaxed),
    });
    Ok(())
}

fn watch(mut stream: TcpStream, interval: Option<Duration>, totals: &Totals) {
    let local_port = stream.local_addr().map_or(0, |address| address.port());
    let mut beats = 1;
    let ended = match interval {
        Some(interval) => beat(&mut stream, interval, totals, &mut beats),
        None => wait_for_end(&mut stream, totals),
    };
    if let Err(error) = ended {
        totals.alive.fetch_sub(1, Ordering::Relaxed);
        tell(&HoldEvent::Died {
            local_port,
            error: if error.kind() == ErrorKind::UnexpectedEof {
                "closed".to_owned()
            } else {
                errno_name(&error)
            },
            beats,
        });
    }
}

fn beat(
    stream: &mut TcpStream,
    interval: Duration,
    totals: &Totals,
    beats: &mut u64,
) -> io::Result<()> {
    // TCP itself decides whether the connection is dead: no time limit of our own.
    stream.set_read_timeout(None)?;
    while !totals.stop.load(Ordering::Relaxed) {
        let start = Instant::now();
        echo(stream)?;
        *beats += 1;
        totals.beats.fetch_add(1, Ordering::Relaxed);
        let took = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
        totals.longest.fetch_max(took, Ordering::Relaxed);
        thread::sleep(interval);
    }
    Ok(())
}

fn wait_for_end(stream: &mut TcpStream, totals: &Totals) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_millis(20)))?;
    while !totals.stop.load(Ordering::Relaxed) {
        match stream.read(&mut [0]) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            Err(e)
                if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
                // The kernel gives the same number when TCP itself has given up.
                && e.raw_os_error() != Some(libc::ETIMEDOUT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn echo(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(b"beat")?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer)
}
