//! Kind `Pod` of `v1`: a workload.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use ipnet::IpNet;

use super::{
    object::{Located, Metadata, objects},
    port::PROTOCOLS,
};
use crate::policy::{
    diagnostic::Code,
    model::{Assurance, NamedPort, Place, Workload},
    name,
    reader::{Reader, quoted},
    workload::WorkloadDocument,
};
use enforcer_common::Protocol;

objects! {
    /// The object.
    Pod open "a Pod" {
        /// Name, namespace and labels.
        metadata: Metadata = "metadata",
        /// What is to run.
        spec: PodSpec = "spec",
        /// What runs.
        status: PodStatus = "status",
    }

    /// What is to run.
    PodSpec open "`spec` of a Pod" {
        /// It uses the network of its node.
        host_network: bool = "hostNetwork",
        /// `default` if it is missing.
        service_account_name: Located<String> = "serviceAccountName",
        /// Containers.
        containers: Vec<Container> = "containers",
        /// Containers that run before those, or beside them.
        init_containers: Vec<Container> = "initContainers",
    }

    /// A container.
    Container open "a container" {
        /// Its ports.
        ports: Vec<ContainerPort> = "ports",
        /// `Always`: an init container that keeps running.
        restart_policy: String = "restartPolicy",
    }

    /// A port of a container.
    ContainerPort open "a port" {
        /// The name by which policies may call it.
        name: Located<String> = "name",
        /// Port.
        container_port: Located<i32> = "containerPort",
        /// `TCP`, `UDP` or `SCTP`; `TCP` if it is missing.
        protocol: Located<String> = "protocol",
    }

    /// What runs.
    PodStatus open "`status` of a Pod" {
        /// `Pending`, `Running`, `Succeeded`, `Failed` or `Unknown`.
        phase: String = "phase",
        /// Its first address.
        pod_ip: Located<String> = "podIP",
        /// Its addresses, at most one of each family.
        pod_ips: Vec<PodIp> = "podIPs",
    }

    /// An address.
    PodIp open "an item of `podIPs`" {
        /// The address.
        ip: Located<String> = "ip",
    }
}

impl Pod {
    /// Whether it has a network of its own, and has not ended. One of the node's network is the
    /// node to every policy.
    fn is_workload(&self) -> bool {
        let spec = self.spec.as_ref();
        let status = self.status.as_ref();
        let phase = status.and_then(|status| status.phase.as_deref());
        spec.and_then(|spec| spec.host_network) != Some(true)
            && !matches!(phase, Some("Succeeded" | "Failed"))
    }
}

impl Reader<'_> {
    /// The workload that a pod is; the inner `None` if it is none. Its addresses are known as
    /// well as `assurance` says. The outer `None`: an error was reported.
    #[expect(
        clippy::option_option,
        reason = "absence is said by one, errors by the other"
    )]
    pub(super) fn pod(
        &mut self,
        object: &Pod,
        assurance: Assurance,
    ) -> Option<Option<WorkloadDocument>> {
        let named = self.name_and_labels(object.metadata.as_ref(), object.at, true);
        if !object.is_workload() {
            return named.map(|_| None);
        }
        let ports = self.container_ports(object.spec.as_ref());
        let account = self.account(object.spec.as_ref());
        let addresses = self.pod_addresses(object.status.as_ref());
        let (named, addresses) = (named?, addresses?);
        let place = addresses.first().map(|first| Place::Route(first.value));
        let place_at = addresses.first().map_or(object.at, |first| first.at);
        let workload = Arc::new(Workload {
            namespace: named.namespace.unwrap_or_default(),
            name: named.name,
            origin: self.origin(object.at),
            labels: named.labels,
            spiffe_id: None,
            service_account: Some(account?),
            ports: ports?,
            addresses: addresses.iter().map(|a| IpNet::from(a.value)).collect(),
            assurance,
            place,
            unit_elsewhere: None,
        });
        Some(Some(WorkloadDocument {
            workload,
            name_at: named.name_at,
            addresses_at: addresses.iter().map(|address| address.at).collect(),
            place_at,
        }))
    }

    fn account(&mut self, spec: Option<&PodSpec>) -> Option<String> {
        match spec.and_then(|spec| spec.service_account_name.as_ref()) {
            Some(account) if name::is_dns_subdomain(&account.value) => Some(account.value.clone()),
            // Templates write an empty one for none.
            Some(account) if !account.value.is_empty() => {
                let message = format!("{} cannot be a service account", quoted(&account.value));
                let help = "use a to z, 0 to 9, and `-` or `.` between them";
                self.error(Code::BadName, account.at, message, help);
                None
            }
            _ => Some("default".to_owned()),
        }
    }

    fn container_ports(&mut self, spec: Option<&PodSpec>) -> Option<BTreeSet<NamedPort>> {
        let Some(spec) = spec else {
            return Some(BTreeSet::new());
        };
        let stays = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
        let early = spec.init_containers.iter().flatten().filter(stays);
        let containers = spec.containers.iter().flatten().chain(early);
        let mut ports = BTreeSet::new();
        let mut good = true;
        for port in containers.flat_map(|container| container.ports.iter().flatten()) {
            let Some(name) = &port.name else { continue };
            let protocol = match &port.protocol {
                Some(protocol) => self.word(protocol, "`protocol`", &PROTOCOLS),
                None => Some(Protocol::TCP),
            };
            let message = "a port needs `containerPort`";
            let help = "write `containerPort: 8080`";
            let number = self.must(port.container_port.as_ref(), port.at, message, help);
            let number = number.and_then(|number| self.number(number.value, number.at));
            let name = self.service_name(&name.value, name.at);
            let (Some(name), Some(protocol), Some(port)) = (name, protocol, number) else {
                good = false;
                continue;
            };
            ports.insert(NamedPort {
                name,
                protocol,
                port,
            });
        }
        good.then_some(ports)
    }

    /// None before a pod has one.
    fn pod_addresses(&mut self, status: Option<&PodStatus>) -> Option<Vec<Located<IpAddr>>> {
        let Some(status) = status else {
            return Some(Vec::new());
        };
        let several = status.pod_ips.iter().flatten();
        let mut written: Vec<_> = several.filter_map(|item| item.ip.as_ref()).collect();
        if written.is_empty() {
            written.extend(&status.pod_ip);
        }
        // Before there is one, `podIP` may be empty.
        written.retain(|text| !text.value.is_empty());
        let mut addresses = Vec::with_capacity(written.len());
        for text in &written {
            if let Ok(address) = text.value.parse::<IpAddr>() {
                let value = address.to_canonical();
                addresses.push(Located { value, at: text.at });
            } else {
                let message = format!("{} is not an address", quoted(&text.value));
                let help = "write the pod's address, as in `10.244.1.7`";
                self.error(Code::BadCidr, text.at, message, help);
            }
        }
        (addresses.len() == written.len()).then_some(addresses)
    }
}
