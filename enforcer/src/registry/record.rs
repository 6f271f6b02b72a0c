//! What a node says of itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use prost::Message;

use super::wire;
use crate::{
    compile::{fingerprint::fingerprint, image::IdentitySubject},
    policy::model::{Assurance, Labels, NamedPort},
};

/// Version of the meaning of records.
pub const RECORD_VERSION: u32 = 1;
/// Bounds of what is read: a record beyond them is refused. etcd takes 1.5 MiB at a time.
pub const LARGEST_RECORD: usize = 1 << 20;
const MOST_WORKLOADS: usize = 4_096;
const MOST_ADDRESSES: usize = 1_024;
const MOST_LABELS: usize = 256;
const MOST_PORTS: usize = 1_024;
/// A SPIFFE ID has at most so many bytes; nothing else has more.
const LONGEST_TEXT: usize = 2_048;

/// A record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRecord {
    /// Name of the node.
    pub node: String,
    /// Rises with every record of the node.
    pub sequence: u64,
    /// When it was made: milliseconds of the Unix epoch, by the node's clock.
    pub issued: u64,
    /// Until when it may be believed, in the same way.
    pub expires: u64,
    /// The node's own addresses.
    pub addresses: Vec<IpAddr>,
    /// Labels of its host endpoint.
    pub labels: Labels,
    /// Whether it cuts what policy denies, so that others may rely on it.
    pub enforces: bool,
    /// Its endpoints.
    pub workloads: Vec<PublishedWorkload>,
}

/// A workload on that node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PublishedWorkload {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Labels.
    pub labels: Labels,
    /// SPIFFE ID.
    pub spiffe_id: Option<String>,
    /// Service account.
    pub service_account: Option<String>,
    /// systemd unit, as its document names it.
    pub unit: Option<String>,
    /// Ports by name.
    pub ports: BTreeSet<NamedPort>,
    /// How that node knows it.
    pub assurance: Assurance,
    /// Addresses that are its alone. None: it shares those of its host.
    pub addresses: Vec<IpAddr>,
    /// Ports at which it listens on addresses that it shares with its host.
    pub listens: Vec<Listen>,
}

/// A port at which a workload listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Listen {
    /// IP protocol number.
    pub protocol: u8,
    /// Port.
    pub port: u16,
    /// Which of the node's addresses; none: all.
    pub addresses: Vec<IpAddr>,
}

/// What makes bytes no record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Not the encoding.
    #[error("it cannot be read as one ({0})")]
    Encoding(String),
    /// Of another version.
    #[error("it is of version {0}, which this enforcer does not know")]
    Version(u32),
    /// Too much of something.
    #[error("it has more {0} than a record may have")]
    TooMany(&'static str),
    /// A text that is none.
    #[error("its {0} is empty, too long, or has characters that do not belong there")]
    Text(&'static str),
    /// An address that no host or workload has alone.
    #[error("it claims {0}, which is no address of one host")]
    Address(String),
    /// A protocol or port beyond its range.
    #[error("it has {0}, which is no {1}")]
    Number(u32, &'static str),
    /// Labels and fingerprint do not fit.
    #[error("the fingerprint of {0} is not that of its labels")]
    Fingerprint(String),
}

impl PublishedWorkload {
    /// Whether it has no address of its own: it sends from those of its host.
    pub fn shares_host(&self) -> bool {
        self.addresses.is_empty()
    }

    /// What policy sees of it.
    pub fn subject(&self) -> IdentitySubject {
        IdentitySubject::Workload {
            namespace: self.namespace.clone(),
            labels: self.labels.clone(),
            spiffe_id: self.spiffe_id.clone(),
            service_account: self.service_account.clone(),
            unit: self.unit.clone(),
            ports: self.ports.clone(),
        }
    }
}

impl NodeRecord {
    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        let workload = |w: &PublishedWorkload| wire::Workload {
            namespace: w.namespace.clone(),
            name: w.name.clone(),
            labels: BTreeMap::clone(&w.labels),
            spiffe_id: w.spiffe_id.clone(),
            service_account: w.service_account.clone(),
            unit: w.unit.clone(),
            ports: (w.ports.iter())
                .map(|port| wire::NamedPort {
                    name: port.name.clone(),
                    protocol: port.protocol.into(),
                    port: port.port.into(),
                })
                .collect(),
            fingerprint: fingerprint(&w.subject()),
            assurance: w.assurance as u32,
            addresses: bytes_of(&w.addresses),
            listens: (w.listens.iter())
                .map(|listen| wire::Listen {
                    protocol: listen.protocol.into(),
                    port: listen.port.into(),
                    addresses: bytes_of(&listen.addresses),
                })
                .collect(),
        };
        let record = wire::Record {
            version: RECORD_VERSION,
            node: self.node.clone(),
            sequence: self.sequence,
            issued: self.issued,
            expires: self.expires,
            addresses: bytes_of(&self.addresses),
            labels: BTreeMap::clone(&self.labels),
            workloads: self.workloads.iter().map(workload).collect(),
            enforces: self.enforces,
        };
        record.encode_to_vec()
    }

    /// From bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let wire::Record {
            version,
            node,
            sequence,
            issued,
            expires,
            addresses,
            labels,
            workloads,
            enforces,
        } = wire::Record::decode(bytes).map_err(|e| Malformed::Encoding(e.to_string()))?;
        if version != RECORD_VERSION {
            return Err(Malformed::Version(version));
        }
        if workloads.len() > MOST_WORKLOADS {
            return Err(Malformed::TooMany("workloads"));
        }
        Ok(Self {
            node: text(node, "node name")?,
            sequence,
            issued,
            expires,
            addresses: addresses_of(addresses)?,
            labels: labels_of(labels)?,
            enforces,
            workloads: workloads
                .into_iter()
                .map(PublishedWorkload::try_from)
                .collect::<Result<_, _>>()?,
        })
    }
}

impl TryFrom<wire::Workload> for PublishedWorkload {
    type Error = Malformed;

    fn try_from(workload: wire::Workload) -> Result<Self, Malformed> {
        let wire::Workload {
            namespace,
            name,
            labels,
            spiffe_id,
            service_account,
            unit,
            ports,
            fingerprint: claimed,
            assurance,
            addresses,
            listens,
        } = workload;
        if ports.len() > MOST_PORTS || listens.len() > MOST_PORTS {
            return Err(Malformed::TooMany("ports"));
        }
        let some = |value: Option<String>, what| value.map(|value| text(value, what)).transpose();
        let workload = Self {
            namespace: text(namespace, "namespace")?,
            name: text(name, "workload name")?,
            labels: labels_of(labels)?,
            spiffe_id: some(spiffe_id, "SPIFFE ID")?,
            service_account: some(service_account, "service account")?,
            unit: some(unit, "unit")?,
            ports: (ports.into_iter())
                .map(|port| {
                    Ok(NamedPort {
                        name: text(port.name, "port name")?,
                        protocol: number(port.protocol, "protocol")?,
                        port: number(port.port, "port")?,
                    })
                })
                .collect::<Result<_, _>>()?,
            assurance: match assurance {
                0 => Assurance::Address,
                1 => Assurance::Orchestrator,
                2 => Assurance::Kernel,
                3 => Assurance::Attested,
                other => return Err(Malformed::Number(other, "assurance")),
            },
            addresses: addresses_of(addresses)?,
            listens: (listens.into_iter())
                .map(|listen| {
                    Ok(Listen {
                        protocol: number(listen.protocol, "protocol")?,
                        port: number(listen.port, "port")?,
                        addresses: addresses_of(listen.addresses)?,
                    })
                })
                .collect::<Result<_, _>>()?,
        };
        if fingerprint(&workload.subject()) != claimed {
            let name = format!("{}/{}", workload.namespace, workload.name);
            return Err(Malformed::Fingerprint(name));
        }
        Ok(workload)
    }
}

fn number<N: TryFrom<u32>>(value: u32, what: &'static str) -> Result<N, Malformed> {
    N::try_from(value).map_err(|_| Malformed::Number(value, what))
}

/// Texts end up on terminals and in records: nothing in them may control one.
fn text(text: String, what: &'static str) -> Result<String, Malformed> {
    if text.is_empty() || text.len() > LONGEST_TEXT || text.chars().any(char::is_control) {
        return Err(Malformed::Text(what));
    }
    Ok(text)
}

fn labels_of(labels: BTreeMap<String, String>) -> Result<Labels, Malformed> {
    if labels.len() > MOST_LABELS {
        return Err(Malformed::TooMany("labels"));
    }
    for (key, value) in &labels {
        // A label may have an empty value.
        let value_is_good = value.len() <= LONGEST_TEXT && !value.chars().any(char::is_control);
        if key.is_empty() || key.len() > LONGEST_TEXT || key.chars().any(char::is_control) {
            return Err(Malformed::Text("label"));
        }
        if !value_is_good {
            return Err(Malformed::Text("value of a label"));
        }
    }
    Ok(labels.into())
}

fn bytes_of(addresses: &[IpAddr]) -> Vec<Vec<u8>> {
    let bytes = |address: &IpAddr| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    addresses.iter().map(bytes).collect()
}

fn addresses_of(addresses: Vec<Vec<u8>>) -> Result<Vec<IpAddr>, Malformed> {
    if addresses.len() > MOST_ADDRESSES {
        return Err(Malformed::TooMany("addresses"));
    }
    let parse = |bytes: Vec<u8>| {
        let address = match bytes.len() {
            4 => <[u8; 4]>::try_from(bytes.as_slice()).ok().map(IpAddr::from),
            16 => <[u8; 16]>::try_from(bytes.as_slice())
                .ok()
                .map(IpAddr::from),
            _ => None,
        };
        match address {
            Some(address) if is_of_one_host(address) => Ok(address),
            Some(address) => Err(Malformed::Address(address.to_string())),
            None => Err(Malformed::Address(format!("{} bytes", bytes.len()))),
        }
    };
    addresses.into_iter().map(parse).collect()
}

/// Whether an address can tell one host of a fleet from the others.
pub fn is_of_one_host(address: IpAddr) -> bool {
    let special = address.is_unspecified() || address.is_loopback() || address.is_multicast();
    let local = match address {
        IpAddr::V4(address) => address.is_link_local() || address == Ipv4Addr::BROADCAST,
        IpAddr::V6(address) => is_link_local(address) || address.to_ipv4_mapped().is_some(),
    };
    !special && !local
}

/// fe80::/10 (RFC 4291, 2.5.6).
fn is_link_local(address: Ipv6Addr) -> bool {
    address.segments()[0] & 0xffc0 == 0xfe80
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn workload(name: &str, address: &str) -> PublishedWorkload {
        PublishedWorkload {
            namespace: "shop".to_owned(),
            name: name.to_owned(),
            labels: Labels::from([("app".to_owned(), name.to_owned())]),
            spiffe_id: None,
            service_account: None,
            unit: None,
            ports: BTreeSet::new(),
            assurance: Assurance::Kernel,
            addresses: vec![address.parse().unwrap()],
            listens: Vec::new(),
        }
    }

    pub fn record(node: &str, sequence: u64) -> NodeRecord {
        let now = crate::reconcile::reconciler::unix_milliseconds();
        NodeRecord {
            node: node.to_owned(),
            sequence,
            issued: now,
            expires: now + 60_000,
            addresses: vec!["10.0.0.1".parse().unwrap()],
            labels: Labels::new(),
            enforces: true,
            workloads: vec![workload("web", "10.0.1.1")],
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let mut record = record("a", 7);
        let web = &mut record.workloads[0];
        web.spiffe_id = Some("spiffe://example.org/web".to_owned());
        web.labels.insert("empty".to_owned(), String::new());
        web.ports.insert(NamedPort {
            name: "http".to_owned(),
            protocol: 6,
            port: 80,
        });
        web.listens.push(Listen {
            protocol: 17,
            port: 53,
            addresses: vec!["fd00::1".parse().unwrap()],
        });
        assert_eq!(NodeRecord::decode(&record.encode()), Ok(record));
    }

    #[test]
    fn nonsense_is_refused_and_named() {
        let refused = |change: &dyn Fn(&mut NodeRecord)| {
            let mut record = record("a", 7);
            change(&mut record);
            NodeRecord::decode(&record.encode()).unwrap_err()
        };
        for address in [
            "0.0.0.0",
            "127.0.0.1",
            "224.0.0.1",
            "169.254.1.1",
            "fe80::1",
            "::1",
        ] {
            let claim = |r: &mut NodeRecord| r.addresses.push(address.parse().unwrap());
            assert!(
                matches!(refused(&claim), Malformed::Address(_)),
                "{address}"
            );
        }
        let bell = |r: &mut NodeRecord| r.workloads[0].name.push('\u{7}');
        assert_eq!(refused(&bell), Malformed::Text("workload name"));
        let many = |r: &mut NodeRecord| {
            r.workloads = vec![r.workloads[0].clone(); MOST_WORKLOADS + 1];
        };
        assert_eq!(refused(&many), Malformed::TooMany("workloads"));
        assert!(matches!(
            NodeRecord::decode(&[0xff; 9]),
            Err(Malformed::Encoding(_))
        ));
        // A fingerprint of other labels.
        let bytes = record("a", 7).encode();
        let mut wire = wire::Record::decode(bytes.as_slice()).unwrap();
        wire.workloads[0].labels.insert("app".into(), "db".into());
        assert_eq!(
            NodeRecord::decode(&wire.encode_to_vec()),
            Err(Malformed::Fingerprint("shop/web".to_owned()))
        );
        wire.version = 9;
        assert_eq!(
            NodeRecord::decode(&wire.encode_to_vec()),
            Err(Malformed::Version(9))
        );
    }
}
