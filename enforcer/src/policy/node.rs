//! Kind `Node`.

use enforcer_common::{Direction, config::FAILSAFE_PORTS};
use ipnet::IpNet;

use super::{
    diagnostic::{Code, Position},
    document::{Node, Value},
    model::{Blocked, Denied, Failsafe, Fallback, NodeSettings},
    reader::{Fields, Reader},
    segment_policy::MODES,
};

const FALLBACKS: [(&str, Fallback); 2] = [("allow", Fallback::Allow), ("deny", Fallback::Deny)];

const DENIED: [(&str, Denied); 2] = [("drop", Denied::Drop), ("reject", Denied::Reject)];

const DIRECTIONS: [(&str, Direction); 2] = [
    ("egress", Direction::Egress),
    ("ingress", Direction::Ingress),
];

impl Reader<'_> {
    /// A whole document. Also where the node's name is written.
    pub(super) fn node(&mut self, document: &Fields<'_>) -> Option<(NodeSettings, Position)> {
        let metadata = self.metadata(document, false);
        let help = "write `spec: {}` for the defaults";
        let node = self.required(document, "spec", "a Node", help)?;
        let known = &[
            "mode",
            "default",
            "failsafe",
            "flowTableFull",
            "unknownWorkload",
            "blockedSources",
            "denied",
        ];
        let spec = self.fields(node, "`spec` of a Node", known)?;
        let mode = match spec.find("mode") {
            Some(node) => self.choice(node, "`mode`", &MODES).map(Some),
            None => Some(None),
        };
        let default = match spec.find("default") {
            Some(node) => self.defaults(node),
            None => Some([Fallback::default(); 2]),
        };
        let failsafe = match spec.find("failsafe") {
            Some(node) => self.failsafe(node).map(Some),
            None => Some(None),
        };
        let flow_table_full = self.fallback(&spec, "flowTableFull");
        let unknown_workload = self.fallback(&spec, "unknownWorkload");
        let blocked = match spec.find("blockedSources") {
            Some(node) => self.blocked(node),
            None => Some(Vec::new()),
        };
        let denied = match spec.find("denied") {
            Some(node) => self.choice(node, "`denied`", &DENIED),
            None => Some(Denied::default()),
        };
        let metadata = metadata?;
        let settings = NodeSettings {
            name: metadata.name,
            origin: Some(self.origin(document.at)),
            labels: metadata.labels,
            mode: mode?,
            default: default?,
            flow_table_full: flow_table_full?,
            unknown_workload: unknown_workload?,
            failsafe: failsafe?,
            blocked: blocked?,
            denied: denied?,
        };
        Some((settings, metadata.at))
    }

    fn fallback(&mut self, fields: &Fields<'_>, name: &str) -> Option<Fallback> {
        match fields.find(name) {
            Some(node) => self.choice(node, &format!("`{name}`"), &FALLBACKS),
            None => Some(Fallback::default()),
        }
    }

    fn defaults(&mut self, node: &Node) -> Option<[Fallback; 2]> {
        let fields = self.fields(node, "`default`", &["ingress", "egress"])?;
        let egress = self.fallback(&fields, "egress");
        let ingress = self.fallback(&fields, "ingress");
        Some([egress?, ingress?])
    }

    fn failsafe(&mut self, node: &Node) -> Option<Vec<Failsafe>> {
        let items = self.list(node, "`failsafe`", None)?;
        if items.len() > FAILSAFE_PORTS {
            self.error(
                Code::TooManyFailsafe,
                items[FAILSAFE_PORTS].at,
                format!("{} failsafe ports", items.len()),
                format!("at most {FAILSAFE_PORTS} are possible: keep what you need to get in"),
            );
        }
        let mut ports = Vec::with_capacity(items.len());
        for item in items {
            ports.extend(self.failsafe_port(item));
        }
        (ports.len() == items.len() && items.len() <= FAILSAFE_PORTS).then_some(ports)
    }

    fn failsafe_port(&mut self, node: &Node) -> Option<Failsafe> {
        let what = "a failsafe port";
        let fields = self.fields(node, what, &["direction", "protocol", "port"])?;
        let help = "write `{direction: ingress, protocol: TCP, port: 22}`";
        let direction = self
            .required(&fields, "direction", what, help)
            .and_then(|node| self.choice(node, "`direction`", &DIRECTIONS));
        let protocol = self
            .required(&fields, "protocol", what, help)
            .and_then(|node| self.port_protocol(node));
        let port = self
            .required(&fields, "port", what, help)
            .and_then(|node| self.port_number(node));
        Some(Failsafe {
            direction: direction?,
            protocol: protocol?,
            port: port?,
        })
    }

    fn blocked(&mut self, node: &Node) -> Option<Vec<Blocked>> {
        let items = self.list(node, "`blockedSources`", None)?;
        let mut blocked = Vec::with_capacity(items.len());
        for item in items {
            blocked.extend(self.blocked_source(item));
        }
        (blocked.len() == items.len()).then_some(blocked)
    }

    fn blocked_source(&mut self, item: &Node) -> Option<Blocked> {
        let node = if matches!(item.value, Value::Map(_)) {
            let what = "a blocked source";
            let fields = self.fields(item, what, &["cidr"])?;
            self.required(&fields, "cidr", what, "write `cidr: 192.0.2.0/24`")?
        } else {
            item
        };
        let prefix: IpNet = self.cidr(node)?;
        if prefix.prefix_len() == 0 {
            self.error(
                Code::LockOut,
                node.at,
                format!("`{prefix}` blocks every source, you included"),
                "write the networks that are to be blocked; to deny by default write \
                 `default: {ingress: deny}`",
            );
            return None;
        }
        Some(Blocked {
            prefix,
            origin: self.origin(item.at),
        })
    }
}
