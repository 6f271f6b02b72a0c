//! The bytes of records, as Protocol Buffers. Tags are never used again for something else.

use std::collections::BTreeMap;

use prost::Message;

/// What is stored under a node's name.
#[derive(Clone, PartialEq, Message)]
pub struct Signed {
    /// A [`Record`]. Signed as these bytes, so that nothing depends on how they were made.
    #[prost(bytes = "vec", tag = "1")]
    pub payload: Vec<u8>,
    /// The node's X.509-SVID in DER, the leaf first.
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub chain: Vec<Vec<u8>>,
    #[prost(bytes = "vec", tag = "3")]
    pub signature: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Record {
    #[prost(uint32, tag = "1")]
    pub version: u32,
    #[prost(string, tag = "2")]
    pub node: String,
    #[prost(uint64, tag = "3")]
    pub sequence: u64,
    #[prost(uint64, tag = "4")]
    pub issued: u64,
    #[prost(uint64, tag = "5")]
    pub expires: u64,
    /// 4 or 16 bytes each.
    #[prost(bytes = "vec", repeated, tag = "6")]
    pub addresses: Vec<Vec<u8>>,
    #[prost(btree_map = "string, string", tag = "7")]
    pub labels: BTreeMap<String, String>,
    #[prost(message, repeated, tag = "8")]
    pub workloads: Vec<Workload>,
    #[prost(bool, tag = "9")]
    pub enforces: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct Workload {
    #[prost(string, tag = "1")]
    pub namespace: String,
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(btree_map = "string, string", tag = "3")]
    pub labels: BTreeMap<String, String>,
    #[prost(string, optional, tag = "4")]
    pub spiffe_id: Option<String>,
    #[prost(string, optional, tag = "5")]
    pub service_account: Option<String>,
    #[prost(string, optional, tag = "6")]
    pub unit: Option<String>,
    #[prost(message, repeated, tag = "7")]
    pub ports: Vec<NamedPort>,
    #[prost(fixed64, tag = "8")]
    pub fingerprint: u64,
    /// Rank: 0 address, 1 orchestrator, 2 kernel, 3 attested.
    #[prost(uint32, tag = "9")]
    pub assurance: u32,
    #[prost(bytes = "vec", repeated, tag = "10")]
    pub addresses: Vec<Vec<u8>>,
    #[prost(message, repeated, tag = "11")]
    pub listens: Vec<Listen>,
}

#[derive(Clone, PartialEq, Message)]
pub struct NamedPort {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(uint32, tag = "2")]
    pub protocol: u32,
    #[prost(uint32, tag = "3")]
    pub port: u32,
}

#[derive(Clone, PartialEq, Message)]
pub struct Listen {
    #[prost(uint32, tag = "1")]
    pub protocol: u32,
    #[prost(uint32, tag = "2")]
    pub port: u32,
    /// Which of the node's addresses; none: all.
    #[prost(bytes = "vec", repeated, tag = "3")]
    pub addresses: Vec<Vec<u8>>,
}
