//! Which records a reader wants. The same query is made from the command line's flags and
//! read from the URL of `GET /v1/flows`.

use std::{fmt, str::FromStr, time::Duration};

use ipnet::IpNet;
use time::OffsetDateTime;

use crate::{
    compile::image::RuleDirection,
    observe::{
        clock::rfc3339,
        patterns::{
            LabelPattern, PortRange, ProtocolName, ReasonName, RulePattern, WorkloadPattern,
            direction_name, parse_direction, parse_network,
        },
        record::{FlowRecord, Verdict},
    },
};

/// A query. What is of one kind is joined by *or* (labels by *and*), the kinds by *and*; an
/// empty list asks for nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlowQuery {
    /// Either side is one of these workloads.
    pub workloads: Vec<WorkloadPattern>,
    /// One side has all of these labels.
    pub labels: Vec<LabelPattern>,
    /// Verdicts.
    pub verdicts: Vec<Verdict>,
    /// Reasons.
    pub reasons: Vec<ReasonName>,
    /// The port that the flow is addressed to.
    pub ports: Vec<PortRange>,
    /// Protocols.
    pub protocols: Vec<ProtocolName>,
    /// Seen from the judging side.
    pub direction: Option<RuleDirection>,
    /// The peer's address is in one of these.
    pub peers: Vec<IpNet>,
    /// One of these rules decided.
    pub rules: Vec<RulePattern>,
    /// Not older than so long (in whole milliseconds).
    pub since: Option<Duration>,
    /// Of those before now, the last so many.
    pub last: Option<usize>,
    /// Go on with new ones.
    pub follow: bool,
}

/// What is wrong with a query.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// No such parameter.
    #[error(
        "`{0}` is no filter of flows: there are workload, label, verdict, reason, port, protocol, direction, peer, policy, since_milliseconds, last and follow"
    )]
    Unknown(String),
    /// A parameter that can be given once.
    #[error("{0} is given twice")]
    Twice(&'static str),
    /// A value.
    #[error("{name} `{value}`: {problem}")]
    Value {
        /// The parameter.
        name: &'static str,
        /// Its value.
        value: String,
        /// What is wrong, and what to write.
        problem: String,
    },
}

impl FlowQuery {
    /// Whether a record is asked for, whatever its time.
    pub fn matches(&self, record: &FlowRecord) -> bool {
        let sides = [&record.workload, &record.peer];
        let destination = record.destination();
        admits(&self.workloads, |p| sides.iter().any(|s| p.matches(s)))
            && (self.labels.is_empty()
                || sides
                    .iter()
                    .any(|side| self.labels.iter().all(|label| label.matches(side))))
            && admits(&self.verdicts, |v| *v == record.verdict)
            && admits(&self.reasons, |r| r.0.name() == record.reason)
            && admits(&self.ports, |p| {
                destination.port.is_some_and(|port| p.0.contains(&port))
            })
            && admits(&self.protocols, |p| p.0 == record.protocol)
            && self.direction.is_none_or(|d| d == record.direction)
            && admits(&self.peers, |net| {
                record.peer.address.is_some_and(|a| net.contains(&a))
            })
            && admits(&self.rules, |pattern| pattern.matches(record))
    }

    /// The earliest [`FlowRecord::time`] that is asked for.
    pub fn oldest(&self, now: OffsetDateTime) -> Option<String> {
        let since = self.since?;
        let moment = now
            .checked_sub(time::Duration::try_from(since).ok()?)
            .unwrap_or(OffsetDateTime::UNIX_EPOCH);
        Some(rfc3339(moment))
    }

    /// The query of a URL, escaped, without the question mark.
    pub fn to_url_query(&self) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        append(&mut query, "workload", &self.workloads);
        append(&mut query, "label", &self.labels);
        for verdict in &self.verdicts {
            query.append_pair("verdict", verdict.name());
        }
        append(&mut query, "reason", &self.reasons);
        append(&mut query, "port", &self.ports);
        append(&mut query, "protocol", &self.protocols);
        if let Some(direction) = self.direction {
            query.append_pair("direction", direction_name(direction));
        }
        append(&mut query, "peer", &self.peers);
        append(&mut query, "policy", &self.rules);
        if let Some(since) = self.since {
            query.append_pair("since_milliseconds", &since.as_millis().to_string());
        }
        if let Some(last) = self.last {
            query.append_pair("last", &last.to_string());
        }
        if self.follow {
            query.append_pair("follow", "true");
        }
        query.finish()
    }

    /// From the query of a URL, without the question mark.
    pub fn from_url_query(query: &str) -> Result<Self, QueryError> {
        let mut found = Self::default();
        let mut follow = None;
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let value = value.as_ref();
            match name.as_ref() {
                "workload" => found.workloads.push(parse("workload", value)?),
                "label" => found.labels.push(parse("label", value)?),
                "verdict" => found.verdicts.push(parse("verdict", value)?),
                "reason" => found.reasons.push(parse("reason", value)?),
                "port" => found.ports.push(parse("port", value)?),
                "protocol" => found.protocols.push(parse("protocol", value)?),
                "direction" => once(&mut found.direction, "direction", value, parse_direction)?,
                "peer" => found.peers.push(
                    parse_network(value).map_err(|problem| value_error("peer", value, problem))?,
                ),
                "policy" => found.rules.push(parse("policy", value)?),
                "since_milliseconds" => once(&mut found.since, "since_milliseconds", value, |t| {
                    let number = t.parse().map_err(|_| "write a number".to_owned())?;
                    Ok(Duration::from_millis(number))
                })?,
                "last" => once(&mut found.last, "last", value, |text| {
                    text.parse().map_err(|_| "write a number".to_owned())
                })?,
                "follow" => once(&mut follow, "follow", value, |text| {
                    text.parse()
                        .map_err(|_| "write `true` or `false`".to_owned())
                })?,
                other => return Err(QueryError::Unknown(other.to_owned())),
            }
        }
        found.follow = follow.unwrap_or(false);
        Ok(found)
    }
}

fn admits<T>(patterns: &[T], matches: impl FnMut(&T) -> bool) -> bool {
    patterns.is_empty() || patterns.iter().any(matches)
}

fn append<T: fmt::Display>(
    query: &mut form_urlencoded::Serializer<'_, String>,
    name: &str,
    values: &[T],
) {
    for value in values {
        query.append_pair(name, &value.to_string());
    }
}

fn parse<T: FromStr<Err = String>>(name: &'static str, value: &str) -> Result<T, QueryError> {
    value
        .parse()
        .map_err(|problem| value_error(name, value, problem))
}

fn once<T>(
    slot: &mut Option<T>,
    name: &'static str,
    value: &str,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Result<(), QueryError> {
    let parsed = parse(value).map_err(|problem| value_error(name, value, problem))?;
    match slot.replace(parsed) {
        None => Ok(()),
        Some(_) => Err(QueryError::Twice(name)),
    }
}

fn value_error(name: &'static str, value: &str, problem: String) -> QueryError {
    QueryError::Value {
        name,
        value: value.to_owned(),
        problem,
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use enforcer_common::Reason;
    use proptest::prelude::*;

    use super::*;
    use crate::{
        observe::{fixtures, record::SideKind},
        protocol_name,
    };

    fn matches(query: &str, record: &FlowRecord) -> bool {
        FlowQuery::from_url_query(query).unwrap().matches(record)
    }

    #[test]
    fn each_filter_takes_and_leaves() {
        // shop/web (10.77.21.2:40000) → shop/db (10.77.22.2:5432), denied by isolation.
        let record = fixtures::record();
        for (takes, leaves) in [
            ("workload=web", "workload=api"),
            ("workload=shop/db", "workload=bank/db"),
            (
                "label=app%3Dweb&label=tier%3Dfront",
                "label=app%3Dweb&label=app%3Ddb",
            ),
            ("verdict=deny", "verdict=audit&verdict=allow"),
            ("reason=isolation", "reason=rule"),
            ("port=5432", "port=40000"),
            ("port=1-80&port=5000-6000", "port=1-5431"),
            ("protocol=tcp", "protocol=17"),
            ("protocol=6", "protocol=udp&protocol=unknown"),
            ("direction=ingress", "direction=egress"),
            ("peer=10.77.21.0/24", "peer=10.77.22.2"),
            ("policy=db", "policy=web"),
            ("policy=shop/db:isolation", "policy=shop/db:other"),
            ("workload=web&port=5432", "workload=web&port=80"),
            ("", "workload=host"),
        ] {
            assert!(matches(takes, &record), "{takes}");
            assert!(!matches(leaves, &record), "{leaves}");
        }
        let mut host = fixtures::record();
        host.workload.kind = SideKind::Host;
        host.workload.name = None;
        assert!(matches("workload=host", &host));
    }

    #[test]
    fn nonsense_is_refused_with_what_to_write() {
        for query in [
            "colour=red",
            "workload=",
            "workload=a/b/c",
            "workload=/a",
            "label=app",
            "verdict=no",
            "reason=because",
            "port=80-70",
            "port=65536",
            "protocol=quic",
            "protocol=256",
            "direction=up",
            "peer=10.0.0.0/33",
            "policy=a:",
            "since_milliseconds=5m",
            "last=-1",
            "follow=yes",
            "last=1&last=2",
        ] {
            let error = FlowQuery::from_url_query(query).unwrap_err();
            assert!(error.to_string().len() > 10, "{query}: {error}");
        }
    }

    #[test]
    fn since_is_compared_as_text() {
        let query = FlowQuery {
            since: Some(Duration::from_mins(5)),
            ..FlowQuery::default()
        };
        let now = time::macros::datetime!(2026-01-01 00:01:00 UTC);
        assert_eq!(
            query.oldest(now).as_deref(),
            Some("2025-12-31T23:56:00.000000Z")
        );
    }

    fn name() -> impl Strategy<Value = String> {
        // What a URL must escape is among it.
        "[a-z&=%+ ?#.é-]{1,8}"
    }

    prop_compose! {
        fn queries()(
            workloads in proptest::collection::vec((proptest::option::of(name()), name()), 0..3),
            labels in proptest::collection::vec(("[a-z./-]{1,8}", "[a-z&=%+ ]{0,8}"), 0..3),
            verdicts in proptest::sample::subsequence(Verdict::ALL.to_vec(), 0..=3),
            reasons in proptest::sample::subsequence(Reason::ALL.to_vec(), 0..=3),
            ports in proptest::collection::vec((any::<u16>(), any::<u16>()), 0..3),
            protocols in proptest::collection::vec(any::<u8>(), 0..3),
            direction in proptest::option::of(proptest::bool::ANY),
            peers in proptest::collection::vec((any::<IpAddr>(), 0u8..=32), 0..3),
            rules in proptest::collection::vec((proptest::option::of(name()), name(), proptest::option::of("[a-z\\[\\]:/]{1,6}")), 0..3),
            since in proptest::option::of(0u64..1_000_000_000),
            last in proptest::option::of(any::<usize>()),
            follow in any::<bool>(),
        ) -> FlowQuery {
            FlowQuery {
                workloads: workloads.into_iter().map(|(namespace, name)| WorkloadPattern { namespace, name }).collect(),
                labels: labels.into_iter().map(|(key, value)| LabelPattern { key, value }).collect(),
                verdicts,
                reasons: reasons.into_iter().map(ReasonName).collect(),
                ports: ports.into_iter().map(|(a, b)| PortRange(a.min(b)..=a.max(b))).collect(),
                protocols: protocols.into_iter().map(|n| ProtocolName(protocol_name::text(n))).collect(),
                direction: direction.map(|e| if e { RuleDirection::Egress } else { RuleDirection::Ingress }),
                peers: peers.into_iter().map(|(a, l)| IpNet::new(a, l).unwrap()).collect(),
                rules: rules.into_iter().map(|(namespace, policy, rule)| RulePattern { namespace, policy, rule }).collect(),
                since: since.map(Duration::from_millis),
                last,
                follow,
            }
        }
    }

    proptest! {
        #[test]
        fn a_query_survives_its_url(query in queries()) {
            let url = query.to_url_query();
            prop_assert_eq!(FlowQuery::from_url_query(&url), Ok(query), "{}", url);
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,60}") {
            let _ = FlowQuery::from_url_query(&text);
        }
    }
}
