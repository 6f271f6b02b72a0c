//! Tables of who may talk to whom, written out.

use std::net::IpAddr;

use super::{
    Expect, FlowProtocol,
    cluster::{NAMES, PORTS},
    shop::Party,
};

/// What is expected of every flow: one row for each source, one column for each destination, in
/// the order of [`NAMES`]: `.` open, `X` denied, `#` not tried. Blanks are for the eye.
#[derive(Clone, Debug, Default)]
pub struct TruthTables(Vec<(String, Vec<Vec<char>>)>);

/// A flow, and what is expected of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Source, counted as [`NAMES`] is.
    pub from: usize,
    /// Destination.
    pub to: usize,
    /// Protocol.
    pub protocol: FlowProtocol,
    /// Destination port.
    pub port: u16,
    /// Family of addresses.
    pub v6: bool,
    /// What is expected.
    pub expect: Expect,
}

impl Expected {
    /// The address that it goes to.
    pub fn address(&self, parties: &[Party]) -> IpAddr {
        parties[self.to].ip(self.v6)
    }
}

impl std::fmt::Display for Expected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (from, to) = (NAMES[self.from], NAMES[self.to]);
        let protocol = self.protocol.record_name(self.v6);
        let family = if self.v6 { "v6" } else { "v4" };
        write!(f, "{from} -> {to} {protocol} {} {family}", self.port)
    }
}

impl TruthTables {
    /// What holds for all flows where nothing else is said.
    pub fn all(table: &str) -> Self {
        Self(vec![(String::new(), cells(table))])
    }

    /// What holds for some flows: words of `tcp`, `udp`, `sctp`, `80`, `81`, `v4` and `v6`.
    /// What is said last counts.
    #[must_use]
    pub fn but(mut self, which: &str, table: &str) -> Self {
        self.0.push((which.to_owned(), cells(table)));
        self
    }

    /// All flows that are to be tried: everybody to everybody, by three protocols, on both
    /// ports, over both families.
    pub fn flows(&self) -> Vec<Expected> {
        let mut flows = Vec::new();
        for protocol in [FlowProtocol::Tcp, FlowProtocol::Udp, FlowProtocol::Sctp] {
            for port in PORTS {
                for v6 in [false, true] {
                    let table = self.table(protocol, port, v6);
                    for (from, row) in table.iter().enumerate() {
                        for (to, cell) in row.iter().enumerate() {
                            let expect = match cell {
                                '.' => Expect::Open,
                                'X' => Expect::Denied,
                                _ => continue,
                            };
                            flows.push(Expected {
                                from,
                                to,
                                protocol,
                                port,
                                v6,
                                expect,
                            });
                        }
                    }
                }
            }
        }
        flows
    }

    fn table(&self, protocol: FlowProtocol, port: u16, v6: bool) -> &[Vec<char>] {
        let (protocol, port) = (protocol.record_name(v6), port.to_string());
        let family = if v6 { "v6" } else { "v4" };
        let is_about = |which: &str| {
            let mut words = which.split_whitespace();
            words.all(|word| word == protocol || word == port || word == family)
        };
        let found = self.0.iter().rev().find(|(which, _)| is_about(which));
        found.map_or(&[], |(_, cells)| cells)
    }
}

fn cells(table: &str) -> Vec<Vec<char>> {
    let rows = table.lines().map(str::trim).filter(|row| !row.is_empty());
    let rows: Vec<Vec<char>> = rows
        .map(|row| row.chars().filter(|c| !c.is_whitespace()).collect())
        .collect();
    let whole = rows.len() == NAMES.len() && rows.iter().all(|row| row.len() == NAMES.len());
    assert!(whole, "a truth table has 11 rows of 11:\n{table}");
    let diagonal = (0..NAMES.len()).all(|i| rows[i][i] == '#');
    assert!(diagonal, "nobody is tried to itself:\n{table}");
    let known = rows.iter().flatten().all(|cell| ".X#".contains(*cell));
    assert!(known, "a cell is `.`, `X` or `#`:\n{table}");
    rows
}
