//! Recommendations as documents of our kinds.

use std::fmt::Write;

use super::{Recommendation, RecommendedPeer, RecommendedPolicy, RecommendedRule, Subject};
use crate::{
    compile::image::RuleDirection,
    policy::{API_VERSION, model::Labels},
    tools::flows::Tally,
};

/// All policies, each a document.
pub(super) fn write(recommendation: &Recommendation) -> String {
    let mut text = String::new();
    for (place, policy) in recommendation.policies.iter().enumerate() {
        if place > 0 {
            text.push_str("---\n");
        }
        // Writing into a string cannot fail.
        let _ = document(&mut text, policy);
    }
    text
}

fn document(out: &mut String, policy: &RecommendedPolicy) -> std::fmt::Result {
    writeln!(
        out,
        "# What was seen of these workloads. Look through it before you enforce it."
    )?;
    if !policy.also_selects.is_empty() {
        writeln!(
            out,
            "# Wider than what was seen: labels cannot leave out {}.",
            listed(&policy.also_selects)
        )?;
    }
    writeln!(
        out,
        "apiVersion: {API_VERSION}\nkind: SegmentPolicy\nmetadata:"
    )?;
    writeln!(out, "  name: {}", scalar(&policy.name))?;
    if let Some(namespace) = &policy.namespace {
        writeln!(out, "  namespace: {}", scalar(namespace))?;
    }
    writeln!(out, "spec:")?;
    match &policy.subject {
        Subject::Host => writeln!(out, "  selector:\n    host: true")?,
        Subject::Workloads { labels, .. } if labels.is_empty() => {
            writeln!(out, "  selector: {{}}")?;
        }
        Subject::Workloads { labels, .. } => {
            writeln!(out, "  selector:\n    matchLabels:")?;
            write_labels(out, labels, 6)?;
        }
    }
    for (direction, key, peers) in [
        (RuleDirection::Egress, "egress", "to"),
        (RuleDirection::Ingress, "ingress", "from"),
    ] {
        let rules = policy
            .rules
            .iter()
            .filter(|rule| rule.direction == direction);
        let rules: Vec<_> = rules.collect();
        if rules.is_empty() {
            continue;
        }
        writeln!(out, "  {key}:")?;
        for rule in rules {
            write_rule(out, rule, peers, policy.namespace.as_deref())?;
        }
    }
    Ok(())
}

fn write_rule(
    out: &mut String,
    rule: &RecommendedRule,
    peers: &str,
    namespace: Option<&str>,
) -> std::fmt::Result {
    writeln!(out, "    # {}", seen(&rule.seen))?;
    writeln!(out, "    - name: {}", scalar(&rule.name))?;
    writeln!(out, "      {peers}:")?;
    for peer in &rule.peers {
        match peer {
            RecommendedPeer::Host => writeln!(out, "        - entity: host")?,
            RecommendedPeer::World => writeln!(out, "        - entity: world")?,
            RecommendedPeer::Cidr(network) => {
                let length = network.prefix_len();
                if length == network.max_prefix_len() {
                    writeln!(
                        out,
                        "        - cidr: {}",
                        scalar(&network.addr().to_string())
                    )?;
                } else {
                    writeln!(out, "        - cidr: {}", scalar(&network.to_string()))?;
                }
            }
            RecommendedPeer::Workloads {
                namespace: own,
                labels,
            } => {
                if labels.is_empty() {
                    writeln!(out, "        - labels: {{}}")?;
                } else {
                    writeln!(out, "        - labels:")?;
                    write_labels(out, labels, 12)?;
                }
                if namespace != Some(own) {
                    writeln!(out, "          namespace: {}", scalar(own))?;
                }
            }
        }
    }
    writeln!(out, "      ports:")?;
    for service in &rule.stretches {
        writeln!(out, "        - {}", service.in_policy())?;
    }
    Ok(())
}

fn write_labels(out: &mut String, labels: &Labels, indent: usize) -> std::fmt::Result {
    for (key, value) in labels {
        writeln!(out, "{:indent$}{}: {}", "", scalar(key), scalar(value))?;
    }
    Ok(())
}

fn seen(tally: &Tally) -> String {
    let times = match tally.records {
        1 => "Seen once".to_owned(),
        times => format!("Seen {times} times"),
    };
    match tally.last.get(..10) {
        Some(day) => format!("{times}, last on {day}."),
        None => format!("{times}."),
    }
}

fn listed(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let shown = names.iter().take(SHOWN).map(String::as_str);
    let mut text = shown.collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        // Writing into a string cannot fail.
        let _ = write!(text, " and {} more", names.len() - SHOWN);
    }
    text
}

/// A text as YAML: quoted unless it is surely read as the same text.
pub(in crate::tools) fn scalar(text: &str) -> String {
    let plain = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.ends_with(|c: char| c.is_ascii_alphanumeric())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c));
    // YAML 1.1 and 1.2 read these as something else.
    let special = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"];
    if plain && !special.contains(&text.to_ascii_lowercase().as_str()) {
        return text.to_owned();
    }
    // JSON is YAML.
    serde_json::Value::from(text).to_string()
}

/// A text as the name of a rule or policy, at most so long.
pub(in crate::tools) fn as_name(text: &str, most: usize) -> String {
    let name: String = text
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || ".-_".contains(c) {
                c
            } else {
                '-'
            }
        })
        .take(most)
        .collect();
    let name = name.trim_matches(|c: char| !c.is_ascii_alphanumeric());
    // Dots stand between other characters only.
    let parts = name.split('.').map(|part| part.trim_matches(['-', '_']));
    let parts: Vec<_> = parts.filter(|part| !part.is_empty()).collect();
    parts.join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_yaml_would_read_otherwise_is_quoted() {
        for (text, written) in [
            ("web", "web"),
            ("example.org/app", "example.org/app"),
            ("1.10", "\"1.10\""),
            ("", "\"\""),
            ("No", "\"No\""),
            ("fd00::1", "\"fd00::1\""),
        ] {
            assert_eq!(scalar(text), written);
        }
    }

    #[test]
    fn names_have_only_what_names_may_have() {
        assert_eq!(as_name("to-10.0.0.0/8", 60), "to-10.0.0.0-8");
        assert_eq!(as_name("to-fd00::/8", 60), "to-fd00---8");
        assert_eq!(as_name("from-_x_.-y", 60), "from-_x.y");
        assert_eq!(as_name(&"a".repeat(99), 60).len(), 60);
    }
}
