//! The version of everything in this crate that is bytes, and the names of the maps.

/// Raised by every change to the layout or the meaning of a map, key, value or event.
///
/// The daemon pins it with the maps (as part of the directory's name). A daemon that finds
/// maps of another version builds its own beside them and moves the hooks over, one atomic
/// link update each.
pub const ABI_VERSION: u32 = 6;

/// Names of the maps, at most 15 bytes (`BPF_OBJ_NAME_LEN` less the terminator).
pub mod map {
    /// One [`crate::config::Config`].
    pub const CONFIG: &str = "CONFIG";
    /// Interface index → [`crate::endpoint_entry::EndpointEntry`].
    pub const INTERFACES: &str = "INTERFACES";
    /// Cgroup id → [`crate::endpoint_entry::EndpointEntry`].
    pub const CGROUPS: &str = "CGROUPS";
    /// IPv4 address → [`crate::address_entry::AddressEntry`].
    pub const ADDRESSES4: &str = "ADDRESSES4";
    /// IPv6 address → [`crate::address_entry::AddressEntry`].
    pub const ADDRESSES6: &str = "ADDRESSES6";
    /// IPv4 prefix → [`crate::address_entry::AddressEntry`], longest match.
    pub const PREFIXES4: &str = "PREFIXES4";
    /// IPv6 prefix → [`crate::address_entry::AddressEntry`], longest match.
    pub const PREFIXES6: &str = "PREFIXES6";
    /// [`crate::service_key::ServiceKey`] → number of an identity.
    pub const SERVICES: &str = "SERVICES";
    /// [`crate::policy_key::PolicyKey`] → [`crate::policy_key::PolicyEntry`].
    pub const POLICIES: &str = "POLICIES";
    /// [`crate::policy_key::PortKey`] → [`crate::verdict::Decision`].
    pub const PORTS: &str = "PORTS";
    /// IPv4 flows: [`crate::flow_key::FlowKey`] → [`crate::conntrack::FlowEntry`].
    pub const FLOWS4: &str = "FLOWS4";
    /// IPv6 flows: [`crate::flow_key::FlowKey`] → [`crate::conntrack::FlowEntry`].
    pub const FLOWS6: &str = "FLOWS6";
    /// Second until which the flow tables count as full.
    pub const FULL: &str = "FULL";
    /// Ports of fragmented datagrams: [`crate::flow_key::FragmentKey`] → ports.
    pub const FRAGMENTS: &str = "FRAGMENTS";
    /// Socket storage: [`crate::socket_entry::SocketEntry`].
    pub const SOCKETS: &str = "SOCKETS";
    /// Blocked IPv4 source prefixes, for XDP.
    pub const BLOCKED4: &str = "BLOCKED4";
    /// Blocked IPv6 source prefixes, for XDP.
    pub const BLOCKED6: &str = "BLOCKED6";
    /// [`crate::denied_entry::DeniedKey`] → [`crate::denied_entry::DeniedEntry`].
    pub const DENIED: &str = "DENIED";
    /// By which rule a flow was denied last, by a hash of the flow. Only a hint.
    pub const HINTS: &str = "HINTS";
    /// Tokens that bound first reports, one bucket a CPU.
    pub const TOKENS: &str = "TOKENS";
    /// What the clock said in the current tick.
    pub const CLOCK: &str = "CLOCK";
    /// Ring buffer of [`crate::event::Event`].
    pub const EVENTS: &str = "EVENTS";
    /// Ring buffer of [`crate::refused_packet::RefusedPacket`].
    pub const REFUSALS: &str = "REFUSALS";
    /// Rule number → [`crate::counter::Counter`], per CPU.
    pub const RULES: &str = "RULES";
    /// [`crate::counter::verdict_slot`] → [`crate::counter::Counter`], per CPU.
    pub const VERDICTS: &str = "VERDICTS";
    /// [`crate::reason::Loss`] → count, per CPU.
    pub const LOSSES: &str = "LOSSES";
}
