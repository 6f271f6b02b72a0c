//! What is written on command lines and in URLs.

use std::fmt::{Debug, Display};
use std::str::FromStr;

use enforcer::{
    api::{
        question::{self, FlowQuestion, Service},
        request::WaitRequest,
    },
    cli::duration,
    compile::explain::Explainer,
    observe::{
        filter::FlowQuery,
        patterns::{
            LabelPattern, PortRange, ProtocolName, RulePattern, WorkloadPattern, parse_network,
        },
    },
    policy::model::{Mode, Moment, SpiffePattern, UnitPattern},
    tools::{recommend::Generalise, revision::Revision},
};

use super::scene::{NOW, SCENE};

/// A flow as `explain` takes it: what is understood is written as it is read, and answered.
pub fn question(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let Ok(question) = is_read_back::<FlowQuestion>(&text) else {
        return;
    };
    let (policy, image) = &*SCENE;
    let explainer = Explainer {
        policy,
        mode: Mode::Enforce,
        now: NOW,
        image,
    };
    if let Ok(sides) = question::explain(&explainer, &question) {
        serde_json::to_value(&sides).expect("an explanation has a JSON form");
    }
}

/// The queries of `GET /v1/flows` and `GET /v1/wait`.
pub fn filters(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(query) = FlowQuery::from_url_query(&text) {
        let again = FlowQuery::from_url_query(&query.to_url_query());
        assert_eq!(again.as_ref(), Ok(&query));
        query.oldest(time::OffsetDateTime::UNIX_EPOCH);
    }
    if let Ok(request) = WaitRequest::from_query(&text) {
        request.to_path();
    }
}

/// Values of flags. The first byte says of which.
pub fn arguments(data: &[u8]) {
    let Some((which, rest)) = data.split_first() else {
        return;
    };
    let text = &*String::from_utf8_lossy(rest);
    match which % 12 {
        0 => drop(is_read_back::<WorkloadPattern>(text)),
        1 => drop(is_read_back::<RulePattern>(text)),
        2 => drop(is_read_back::<LabelPattern>(text)),
        3 => drop(is_read_back::<PortRange>(text)),
        4 => drop(is_read_back::<ProtocolName>(text)),
        5 => drop(is_read_back::<Service>(text)),
        6 => drop(is_read_back::<Moment>(text)),
        7 => drop(parse_network(text)),
        8 => drop(duration::parse(text)),
        9 => drop(text.parse::<Generalise>()),
        10 => drop(Revision::parse(text)),
        _ => {
            // A pattern without wildcards means itself.
            let (pattern, found) = text.split_once(' ').unwrap_or((text, text));
            let is_plain = !pattern.contains(['*', '?']);
            let by_id = SpiffePattern::new(pattern).matches(found);
            let by_unit = UnitPattern::new(pattern).matches(found);
            assert!(!is_plain || by_unit == (pattern == found));
            assert!(!is_plain || by_id == (pattern == found));
        }
    }
}

/// What was understood and is written out is understood as the same.
fn is_read_back<T>(text: &str) -> Result<T, T::Err>
where
    T: FromStr<Err: Debug> + Display + PartialEq + Debug,
{
    let value: T = text.parse()?;
    let written = value.to_string();
    let again = written.parse::<T>().expect("what is written is read");
    assert_eq!(again, value, "{written}");
    Ok(value)
}
