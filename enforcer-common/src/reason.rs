//! Why a verdict fell, and why something was not reported. Numbers are never reused.

macro_rules! numbered {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $number:literal, $text:literal;)* }) => {
        $(#[$meta])*
        #[repr(u8)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$doc])* $variant = $number,)* }

        impl $name {
            /// Every value, by number.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];
            /// One more than the largest number, which stands last.
            pub const COUNT: u32 = { let all = Self::ALL; all[all.len() - 1] as u32 + 1 };

            /// The name used in records, metrics and filters.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// From the byte that maps and events carry.
            pub const fn from_byte(byte: u8) -> Option<Self> {
                match byte { $($number => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

numbered! {
    /// Why a verdict is what it is.
    Reason {
        /// No policy set applies and the node's default is to allow.
        Unrestricted = 0, "unrestricted";
        /// A rule of a policy names the flow.
        Rule = 1, "rule";
        /// No rule allows the flow and a policy isolates the workload.
        Isolation = 2, "isolation";
        /// No tier decides and the node's default applies.
        NodeDefault = 3, "node-default";
        /// The policy set of the endpoint is not in the kernel.
        NoPolicy = 4, "no-policy";
        /// The source address is not one of the workload's.
        SourceGuard = 5, "source-guard";
        /// The source is on the block list.
        Blocked = 6, "blocked";
        /// The frame ends before its headers do.
        Truncated = 7, "truncated";
        /// A header's length, version or offset contradicts itself.
        BadHeader = 8, "bad-header";
        /// A later fragment whose first fragment was not seen.
        FragmentUnknown = 9, "fragment-unknown";
        /// More IPv6 extension headers, or VLAN tags, than are looked at.
        ExtensionHeaders = 10, "extension-headers";
        /// A fragment that could overwrite the transport header (RFC 1858, RFC 8200).
        FragmentTiny = 11, "fragment-tiny";
        /// The flow table is full and the node was told to refuse new flows then.
        FlowTableFull = 12, "flow-table-full";
        /// A failsafe port of the host endpoint.
        Failsafe = 13, "failsafe";
        /// A reply, or an ICMP error about a flow that is allowed.
        Related = 14, "related";
        /// Neighbour discovery, address configuration: what every host needs.
        Infrastructure = 15, "infrastructure";
        /// The workload is known by place but not yet by policy, and the node refuses those.
        UnknownWorkload = 16, "unknown-workload";
    }
}

numbered! {
    /// Why an event or a state was not kept.
    Loss {
        /// The ring buffer was full: the daemon is away or behind.
        RingFull = 0, "ring-full";
        /// More first reports than the limit allows; counted by rule and reason all the same.
        ReportLimit = 1, "report-limit";
        /// The table of denied flows was full.
        DeniedTableFull = 2, "denied-table-full";
        /// The flow table was full; the flow is judged packet by packet.
        FlowTableFull = 3, "flow-table-full";
        /// Socket storage could not be had.
        SocketStorage = 4, "socket-storage";
        /// The ports of a first fragment could not be kept.
        FragmentTableFull = 5, "fragment-table-full";
        /// More refused packets than are answered in a second: dropped without an answer.
        RejectLimit = 6, "reject-limit";
        /// Refused packets are answered by the daemon, which is away or behind.
        RejectRingFull = 7, "reject-ring-full";
    }
}
