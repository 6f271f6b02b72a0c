//! Traffic inside the lab, in JSON lines.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Parser, Subcommand};
use tests::probe::{
    churn,
    flow::{self, FlowProtocol, FlowSpec},
    hold, link, mesh, serve, tell, workload_api,
};

#[derive(Parser)]
struct Arguments {
    /// Name of the process, as `/proc/PID/comm` shows it.
    #[arg(long)]
    name: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Echo servers.
    Serve {
        #[arg(long, value_delimiter = ',')]
        tcp: Vec<u16>,
        #[arg(long, value_delimiter = ',')]
        udp: Vec<u16>,
        #[arg(long, value_delimiter = ',')]
        sctp: Vec<u16>,
        /// Report accepted and closed connections.
        #[arg(long)]
        report: bool,
        /// Let others listen at the same ports of TCP.
        #[arg(long)]
        shared: bool,
    },
    /// Tries the flows that standard input lists, in JSON.
    Flows,
    /// Plays rounds of flows, each told on a line of standard input, in JSON.
    Mesh,
    /// Keeps connections open.
    Hold {
        #[arg(long)]
        to: SocketAddr,
        #[arg(long, default_value_t = 1)]
        connections: usize,
        /// Milliseconds between echoes; without it the connections are idle.
        #[arg(long)]
        every: Option<u64>,
        #[arg(long, default_value_t = 5000)]
        timeout: u64,
    },
    /// Opens flow after flow.
    Churn {
        #[arg(long)]
        to: SocketAddr,
        #[arg(long)]
        udp: bool,
        #[arg(long, default_value_t = 4)]
        threads: usize,
        #[arg(long, default_value_t = 1000)]
        timeout: u64,
        /// Milliseconds between the flows of a thread.
        #[arg(long, default_value_t = 0)]
        pause: u64,
    },
    /// Follows the SPIFFE Workload API at a socket, as any workload would.
    Svid {
        #[arg(long)]
        socket: PathBuf,
        /// Where the latest SVID is written, in DER.
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// Connects to a socket, leaves the connection to a child and ends.
    Bequeath {
        #[arg(long)]
        socket: PathBuf,
    },
    /// Sends the frames on standard input, in hex.
    Send {
        #[arg(long)]
        link: String,
    },
    /// Sends one frame many times.
    Flood {
        #[arg(long)]
        link: String,
        #[arg(long)]
        frame: String,
        #[arg(long, value_delimiter = ',')]
        vary: Vec<usize>,
        #[arg(long)]
        count: u64,
        #[arg(long)]
        rate: u64,
    },
    /// Counts frames that contain the mark.
    Sniff {
        #[arg(long)]
        link: String,
        #[arg(long)]
        mark: String,
        #[arg(long)]
        incoming: bool,
        #[arg(long)]
        quiet: bool,
    },
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if let Some(name) = arguments.name {
        // The kernel keeps 15 bytes; threads made later inherit it.
        std::fs::write("/proc/self/comm", name)?;
    }
    match arguments.command {
        Command::Serve {
            tcp,
            udp,
            sctp,
            report,
            shared,
        } => serve::serve(&tcp, &udp, &sctp, report, shared),
        Command::Flows => {
            let flows: Vec<FlowSpec> = serde_json::from_reader(std::io::stdin())?;
            tell(&flow::try_all(&flows));
            Ok(())
        }
        Command::Mesh => mesh::run(),
        Command::Hold {
            to,
            connections,
            every,
            timeout,
        } => hold::hold(
            to,
            connections,
            every.map(Duration::from_millis),
            Duration::from_millis(timeout),
        ),
        Command::Churn {
            to,
            udp,
            threads,
            timeout,
            pause,
        } => churn::churn(
            to,
            if udp {
                FlowProtocol::Udp
            } else {
                FlowProtocol::Tcp
            },
            threads,
            Duration::from_millis(timeout),
            Duration::from_millis(pause),
        ),
        Command::Svid { socket, out } => workload_api::follow(&socket, out.as_deref()),
        Command::Bequeath { socket } => workload_api::bequeath(&socket),
        Command::Send { link } => link::send(&link),
        Command::Flood {
            link,
            frame,
            vary,
            count,
            rate,
        } => link::flood(&link, &frame, &vary, count, rate),
        Command::Sniff {
            link,
            mark,
            incoming,
            quiet,
        } => link::sniff(&link, &mark, incoming, quiet),
    }
}
