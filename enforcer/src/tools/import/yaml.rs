//! Policies and groups as documents in canonical form.

use std::fmt::Write;

use ipnet::IpNet;

use super::draft::{Draft, DraftGroup, ORIGIN};
use crate::{
    policy::{
        API_VERSION,
        model::{
            Group, LabelSelector, Labels, Peer, PortMatch, PortRange, Rule, RuleAction, Subject,
            Tier, WorkloadSelector,
        },
    },
    protocol_name,
    tools::{recommend::yaml::scalar, services::Service},
};

/// A policy, and the group of its workloads where one selector cannot say who they are.
pub(super) fn policy(draft: &Draft, workloads: Option<&Group>) -> String {
    let mut out = String::new();
    // Writing into a string cannot fail.
    let _ = write_policy(&mut out, draft, workloads);
    out
}

/// A group.
pub(super) fn group(draft: &DraftGroup) -> String {
    let mut out = String::new();
    // Writing into a string cannot fail.
    let _ = write_group(&mut out, draft);
    out
}

fn head(
    out: &mut String,
    kind: &str,
    namespace: Option<&str>,
    name: &str,
    from: &str,
) -> std::fmt::Result {
    writeln!(out, "apiVersion: {API_VERSION}\nkind: {kind}\nmetadata:")?;
    writeln!(out, "  name: {}", scalar(name))?;
    if let Some(namespace) = namespace {
        writeln!(out, "  namespace: {}", scalar(namespace))?;
    }
    writeln!(out, "  annotations:\n    {ORIGIN}: {}", quoted(from))?;
    writeln!(out, "spec:")
}

/// In double quotes: JSON is YAML.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A comment, whatever is in it.
fn comment(text: &str) -> String {
    let shown: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    format!("# {}", shown.trim())
}

fn write_group(out: &mut String, draft: &DraftGroup) -> std::fmt::Result {
    let DraftGroup { group, from } = draft;
    let namespace = group.namespace.as_deref();
    head(out, "Group", namespace, &group.name, from)?;
    if group.peers.is_empty() {
        return writeln!(out, "  peers: []");
    }
    writeln!(out, "  peers:")?;
    group
        .peers
        .iter()
        .try_for_each(|peer| write_peer(out, peer, namespace, 4))
}

fn write_policy(out: &mut String, draft: &Draft, workloads: Option<&Group>) -> std::fmt::Result {
    let policy = &draft.policy;
    let namespace = policy.namespace.as_deref();
    for line in &draft.comments {
        writeln!(out, "{}", comment(line))?;
    }
    head(out, "SegmentPolicy", namespace, &policy.name, &draft.from)?;
    match policy.tier {
        Tier::Quarantine => writeln!(out, "  tier: quarantine")?,
        Tier::Admin => writeln!(out, "  tier: admin")?,
        Tier::Application => {}
        Tier::Baseline => writeln!(out, "  tier: baseline")?,
    }
    match (&policy.subject, workloads) {
        (Subject::Host, _) => writeln!(out, "  selector:\n    host: true")?,
        (_, Some(group)) => writeln!(out, "  selector:\n    group: {}", scalar(&group.name))?,
        (Subject::Workloads(selectors), None) => match selectors.first() {
            Some(selector) => write_subject(out, selector)?,
            None => writeln!(out, "  selector: {{}}")?,
        },
    }
    let [egress, ingress] = &policy.rules;
    for (rules, key, peers) in [(ingress, "ingress", "from"), (egress, "egress", "to")] {
        let Some(rules) = rules else { continue };
        if rules.is_empty() {
            writeln!(out, "  {key}: []")?;
            continue;
        }
        writeln!(out, "  {key}:")?;
        for rule in rules {
            write_rule(out, rule, peers, namespace)?;
        }
    }
    Ok(())
}

fn write_subject(out: &mut String, selector: &WorkloadSelector) -> std::fmt::Result {
    let empty = selector.labels.is_empty()
        && selector.namespace_labels.is_empty()
        && selector.service_account.is_none();
    if empty {
        return writeln!(out, "  selector: {{}}");
    }
    writeln!(out, "  selector:")?;
    write_selector(out, &selector.labels, 4)?;
    if let Some(account) = &selector.service_account {
        writeln!(out, "    serviceAccount: {}", scalar(account))?;
    }
    if !selector.namespace_labels.is_empty() {
        writeln!(out, "    namespaceSelector:")?;
        write_selector(out, &selector.namespace_labels, 6)?;
    }
    Ok(())
}

/// `matchLabels` and `matchExpressions`.
fn write_selector(out: &mut String, selector: &LabelSelector, indent: usize) -> std::fmt::Result {
    if !selector.match_labels.is_empty() {
        writeln!(out, "{:indent$}matchLabels:", "")?;
        write_labels(out, &selector.match_labels, indent + 2)?;
    }
    write_expressions(out, selector, indent)
}

fn write_expressions(
    out: &mut String,
    selector: &LabelSelector,
    indent: usize,
) -> std::fmt::Result {
    if selector.expressions.is_empty() {
        return Ok(());
    }
    writeln!(out, "{:indent$}matchExpressions:", "")?;
    for expression in &selector.expressions {
        writeln!(out, "{:indent$}  - key: {}", "", scalar(&expression.key))?;
        writeln!(
            out,
            "{:indent$}    operator: {}",
            "",
            expression.operator.name()
        )?;
        if !expression.values.is_empty() {
            writeln!(out, "{:indent$}    values:", "")?;
            for value in &expression.values {
                writeln!(out, "{:indent$}      - {}", "", scalar(value))?;
            }
        }
    }
    Ok(())
}

fn write_labels(out: &mut String, labels: &Labels, indent: usize) -> std::fmt::Result {
    for (key, value) in labels {
        writeln!(out, "{:indent$}{}: {}", "", scalar(key), scalar(value))?;
    }
    Ok(())
}

fn write_rule(
    out: &mut String,
    rule: &Rule,
    peers: &str,
    namespace: Option<&str>,
) -> std::fmt::Result {
    writeln!(out, "    - name: {}", scalar(&rule.name))?;
    if rule.action != RuleAction::Allow {
        writeln!(out, "      action: {}", rule.action.name())?;
    }
    if rule.peers != [Peer::Any] {
        writeln!(out, "      {peers}:")?;
        for peer in &rule.peers {
            write_peer(out, peer, namespace, 8)?;
        }
    }
    if rule.ports != [PortMatch::ANY] {
        writeln!(out, "      ports:")?;
        for ports in &rule.ports {
            writeln!(out, "        - {}", port(ports))?;
        }
    }
    Ok(())
}

fn write_peer(
    out: &mut String,
    peer: &Peer,
    namespace: Option<&str>,
    indent: usize,
) -> std::fmt::Result {
    match peer {
        Peer::Any => writeln!(out, "{:indent$}- entity: any", ""),
        Peer::Host => writeln!(out, "{:indent$}- entity: host", ""),
        Peer::RemoteHost => writeln!(out, "{:indent$}- entity: remoteHost", ""),
        Peer::World => writeln!(out, "{:indent$}- entity: world", ""),
        Peer::Group(group) => writeln!(out, "{:indent$}- group: {}", "", scalar(&group.name)),
        Peer::Cidr { prefix, except } => {
            writeln!(out, "{:indent$}- cidr: {}", "", network(*prefix))?;
            if !except.is_empty() {
                writeln!(out, "{:indent$}  except:", "")?;
                for inside in except {
                    writeln!(out, "{:indent$}    - {}", "", network(*inside))?;
                }
            }
            Ok(())
        }
        Peer::Workloads(selector) => {
            let mut fields = String::new();
            write_workloads(&mut fields, selector, namespace)?;
            for (place, line) in fields.lines().enumerate() {
                let mark = if place == 0 { "- " } else { "  " };
                writeln!(out, "{:indent$}{mark}{line}", "")?;
            }
            Ok(())
        }
        // Made by no importer.
        Peer::Hosts(_) | Peer::Assured { .. } => Err(std::fmt::Error),
    }
}

fn write_workloads(
    out: &mut String,
    selector: &WorkloadSelector,
    namespace: Option<&str>,
) -> std::fmt::Result {
    let labels = &selector.labels;
    if !labels.match_labels.is_empty() {
        writeln!(out, "labels:")?;
        write_labels(out, &labels.match_labels, 2)?;
    } else if labels.expressions.is_empty() && selector.service_account.is_none() {
        writeln!(out, "labels: {{}}")?;
    }
    write_expressions(out, labels, 0)?;
    if let Some(account) = &selector.service_account {
        writeln!(out, "serviceAccount: {}", scalar(account))?;
    }
    if !selector.namespace_labels.is_empty() {
        writeln!(out, "namespaceSelector:")?;
        return write_selector(out, &selector.namespace_labels, 2);
    }
    match (&selector.namespace, namespace) {
        (Some(own), Some(of_policy)) if own == of_policy => Ok(()),
        (Some(other), _) => writeln!(out, "namespace: {}", scalar(other)),
        (None, Some(_)) => writeln!(out, "namespace: \"*\""),
        (None, None) => Ok(()),
    }
}

fn network(network: IpNet) -> String {
    let text = if network.prefix_len() == network.max_prefix_len() {
        network.addr().to_string()
    } else {
        network.to_string()
    };
    // With two dots and more it is text; a colon may end a key.
    if network.addr().is_ipv4() {
        text
    } else {
        scalar(&text)
    }
}

/// A port as the language writes it.
fn port(ports: &PortMatch) -> String {
    match ports {
        PortMatch::Named(named) => match named.protocol {
            Some(protocol) => format!("{}/{}", named.name, protocol_name::text(protocol)),
            None => format!("{{protocol: any, port: {}}}", named.name),
        },
        PortMatch::Range(PortRange {
            protocol,
            first,
            last,
        }) => {
            let service = Service {
                protocol: *protocol,
                first: *first,
                last: *last,
            };
            service.in_policy()
        }
    }
}
