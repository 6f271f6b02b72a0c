//! Kind `PolicyTest`: flows, and what is to become of them. The daemon reads it, for the errors
//! that are in it, and then leaves it alone; `enforcer test` asks.

use std::{fmt, net::IpAddr};

use enforcer_common::{Protocol, flow_key::icmp_port};

use super::{
    diagnostic::{Code, Position},
    document::{Node, Value},
    model::{Labels, Moment, Origin},
    port::decimal,
    reader::{Fields, Reader, quoted},
    workload::DEFAULT_NAMESPACE,
};
use crate::protocol_name;

/// Type of an echo request (RFC 792, RFC 4443): what `icmp` alone asks about.
const ECHO: u8 = 8;
const ECHO_V6: u8 = 128;

/// Longest name of a flow, in characters.
const NAME_CHARS: usize = 200;

/// A test of policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyTest {
    /// Where parties and policies are looked for that name no namespace.
    pub namespace: Option<String>,
    /// Unique in its namespace.
    pub name: String,
    /// The document.
    pub origin: Origin,
    /// When it is asked; `None`: now.
    pub at: Option<Moment>,
    /// What is asked. Never empty.
    pub flows: Vec<TestFlow>,
}

/// Flows that are to have one verdict: everybody of `from` to everybody of `to`, on every port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestFlow {
    /// As written, or `flows[0]` and so on.
    pub name: String,
    /// The item.
    pub origin: Origin,
    /// Who opens the flow. Never empty.
    pub from: Vec<TestParty>,
    /// Who is addressed. Never empty.
    pub to: Vec<TestParty>,
    /// Never empty.
    pub ports: Vec<TestPort>,
    /// The verdict.
    pub expect: Expectation,
    /// The policy that is to decide at one of the sides that make the verdict.
    pub policy: Option<PolicyName>,
    /// Its rule, `isolation`, or `default`.
    pub rule: Option<String>,
}

/// One side of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TestParty {
    /// This host.
    Host,
    /// Nobody known.
    World,
    /// Whoever has the address.
    Address(IpAddr),
    /// A workload.
    Workload {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// Every workload with these labels; there must be one.
    Labelled {
        /// `None`: of every namespace.
        namespace: Option<String>,
        /// All of them must be there.
        labels: Labels,
    },
}

/// Protocol and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TestPort {
    /// IP protocol number.
    pub protocol: u8,
    /// Destination port, or [`icmp_port`], or 0.
    pub port: u16,
}

/// A policy, as a test names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyName {
    /// `None`: that of the test, or a policy of every namespace.
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
}

impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{namespace}/{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// The verdict that is expected on a node that enforces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expectation {
    /// Both sides let it through.
    Allow,
    /// A side drops it.
    Deny,
    /// A policy in audit mode would drop it, and none that is enforced does.
    Audit,
}

const EXPECTATIONS: [(&str, Expectation); 3] = [
    ("allow", Expectation::Allow),
    ("deny", Expectation::Deny),
    ("audit", Expectation::Audit),
];

impl Reader<'_> {
    /// A whole document. Also where the test's name is written.
    pub(super) fn policy_test(&mut self, document: &Fields<'_>) -> Option<(PolicyTest, Position)> {
        let metadata = self.metadata(document, true);
        let help = "write `spec:` with `flows`";
        let spec = self.required(document, "spec", "a PolicyTest", help)?;
        let spec = self.fields(spec, "`spec` of a PolicyTest", &["at", "flows"])?;
        let at = match spec.find("at") {
            Some(node) => self.test_moment(node).map(Some),
            None => Some(None),
        };
        let help =
            "write `flows:` with items like `{from: web, to: api, ports: [80/tcp], expect: allow}`";
        let flows = self.required(&spec, "flows", "`spec`", help)?;
        let empty = "write a flow, or remove the document";
        let items = self.list(flows, "`flows`", Some(empty))?;
        let namespace = metadata.as_ref().and_then(|m| m.namespace.clone());
        let mut flows = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            flows.extend(self.test_flow(item, index, namespace.as_deref()));
        }
        let metadata = metadata?;
        let test = PolicyTest {
            namespace,
            name: metadata.name,
            origin: self.origin(document.at),
            at: at?,
            flows,
        };
        (test.flows.len() == items.len()).then_some((test, metadata.at))
    }

    fn test_flow(&mut self, node: &Node, index: usize, own: Option<&str>) -> Option<TestFlow> {
        let what = "a flow";
        let known = &["name", "from", "to", "ports", "expect", "policy", "rule"];
        let fields = self.fields(node, what, known)?;
        let name = match fields.find("name") {
            Some(node) => self.flow_name(node),
            None => Some(format!("flows[{index}]")),
        };
        let help = "write NAMESPACE/NAME of a workload, `{labels: {app: web}}`, `host`, `world` or \
                    an address, or a list of them";
        let from = self.required(&fields, "from", what, help);
        let from = from.and_then(|node| self.parties(node, "from", own));
        let to = self.required(&fields, "to", what, help);
        let to = to.and_then(|node| self.parties(node, "to", own));
        let help = "write `ports: [443/tcp]`, or `8/icmp` and so on";
        let ports = self.required(&fields, "ports", what, help);
        let ports = ports.and_then(|node| self.test_ports(node));
        let help = "write `expect: allow`, `expect: deny` or `expect: audit`";
        let expect = self.required(&fields, "expect", what, help);
        let expect = expect.and_then(|node| self.choice(node, "`expect`", &EXPECTATIONS));
        let policy = match fields.find("policy") {
            Some(node) => self.policy_name(node).map(Some),
            None => Some(None),
        };
        let rule = match fields.find("rule") {
            Some(node) => self.text(node, "`rule`").map(|text| Some(text.to_owned())),
            None => Some(None),
        };
        Some(TestFlow {
            name: name?,
            origin: self.origin(node.at),
            from: from?,
            to: to?,
            ports: ports?,
            expect: expect?,
            policy: policy?,
            rule: rule?,
        })
    }

    fn test_moment(&mut self, node: &Node) -> Option<Moment> {
        let text = self.text(node, "`at`")?;
        match text.parse() {
            Ok(moment) => Some(moment),
            Err(error) => {
                let message = format!("{} is no moment: {error}", quoted(text));
                let help = "write a date and time, as in `2027-01-31T18:00:00Z`";
                self.error(Code::UnknownValue, node.at, message, help);
                None
            }
        }
    }

    fn flow_name(&mut self, node: &Node) -> Option<String> {
        let text = self.text(node, "`name`")?;
        let printable = !text.trim().is_empty() && !text.chars().any(char::is_control);
        if printable && text.chars().count() <= NAME_CHARS {
            return Some(text.to_owned());
        }
        let message = format!("{} cannot be the name of a flow", quoted(text));
        let help = "write one line of at most 200 characters that says what is tested";
        self.error(Code::BadName, node.at, message, help);
        None
    }

    fn parties(&mut self, node: &Node, field: &str, own: Option<&str>) -> Option<Vec<TestParty>> {
        let Value::List(_) = node.value else {
            return self.party(node, own).map(|party| vec![party]);
        };
        let items = self.list(node, &format!("`{field}`"), Some("write who is meant"))?;
        let mut parties = Vec::with_capacity(items.len());
        for item in items {
            parties.extend(self.party(item, own));
        }
        (parties.len() == items.len()).then_some(parties)
    }

    fn party(&mut self, node: &Node, own: Option<&str>) -> Option<TestParty> {
        if let Value::Map(_) = node.value {
            let what = "a party";
            let fields = self.fields(node, what, &["labels", "namespace"])?;
            let help = "write `labels: {app: web}`";
            let labels = self.required(&fields, "labels", what, help);
            let labels = labels.and_then(|node| self.labels(node));
            let namespace = match fields.find("namespace") {
                None => own.map(str::to_owned),
                Some(node) if self.text(node, "`namespace`")? == "*" => None,
                Some(node) => Some(self.namespace(node)?),
            };
            let labels = labels?;
            return Some(TestParty::Labelled { namespace, labels });
        }
        let text = self.text(node, "a party")?;
        if let Ok(address) = text.parse() {
            return Some(TestParty::Address(address));
        }
        let workload = |namespace: &str, name: &str| TestParty::Workload {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        };
        let own = own.unwrap_or(DEFAULT_NAMESPACE);
        let word = |text: &str| !text.is_empty() && !text.contains(['/', ' ', ':', '*']);
        let party = match (text, text.split_once('/')) {
            ("host", _) => Some(TestParty::Host),
            ("world", _) => Some(TestParty::World),
            (_, Some((namespace, name)))
                if word(namespace) && word(name) && text.parse::<ipnet::IpNet>().is_err() =>
            {
                Some(workload(namespace, name))
            }
            (name, None) if word(name) => Some(workload(own, name)),
            _ => None,
        };
        if party.is_none() {
            let message = format!("{} is no party", quoted(text));
            let help = "write NAMESPACE/NAME of a workload, `host`, `world` or one address";
            self.error(Code::BadPeer, node.at, message, help);
        }
        party
    }

    fn test_ports(&mut self, node: &Node) -> Option<Vec<TestPort>> {
        let items = self.list(
            node,
            "`ports`",
            Some("write what is asked, as in `443/tcp`"),
        )?;
        let mut ports = Vec::with_capacity(items.len());
        for item in items {
            ports.extend(self.test_port(item));
        }
        (ports.len() == items.len()).then_some(ports)
    }

    fn test_port(&mut self, node: &Node) -> Option<TestPort> {
        let text = self.text(node, "a port of a test")?;
        let (port, protocol) = match text.split_once('/') {
            Some((port, protocol)) => (Some(port), protocol),
            None => (None, text),
        };
        let protocol = self.protocol_word(node, protocol)?;
        let found = match (protocol, port) {
            (Protocol::ICMP, None) => Some(icmp_port(ECHO, 0)),
            (Protocol::ICMPV6, None) => Some(icmp_port(ECHO_V6, 0)),
            (Protocol::ICMP | Protocol::ICMPV6, Some(text)) => {
                let read = protocol_name::icmp_type(text);
                read.map(|(kind, code)| icmp_port(kind, code.unwrap_or(0)))
            }
            (protocol, Some(text)) if Protocol::has_ports(protocol) => {
                let number = decimal(text).and_then(|number| u16::try_from(number).ok());
                number.filter(|port| *port > 0)
            }
            (protocol, None) if !Protocol::has_ports(protocol) => Some(0),
            _ => None,
        };
        if found.is_none() {
            let message = format!("{} is not one port", quoted(text));
            let help =
                "write for example `443/tcp`, `53/udp`, `icmp`, `3.4/icmp`, `128/icmpv6` or `gre`";
            self.error(Code::BadPort, node.at, message, help);
        }
        found.map(|port| TestPort { protocol, port })
    }

    fn policy_name(&mut self, node: &Node) -> Option<PolicyName> {
        let text = self.text(node, "`policy`")?;
        Some(match text.split_once('/') {
            Some((namespace, name)) => PolicyName {
                namespace: Some(namespace.to_owned()),
                name: name.to_owned(),
            },
            None => PolicyName {
                namespace: None,
                name: text.to_owned(),
            },
        })
    }
}
