//! What goes through the sinks: each a line of JSON with a form of its own.

use std::sync::Arc;

use serde::Serialize;

use crate::{identity::attest::journal::SecurityEvent, observe::record::FlowRecord};

/// A line. What has a top-level `kind` is a security event, what has none a flow record.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Entry {
    /// About a flow.
    Flow(Arc<FlowRecord>),
    /// About who proved, or failed to prove, who it is.
    Security(Arc<SecurityEvent>),
}

impl From<Arc<FlowRecord>> for Entry {
    fn from(record: Arc<FlowRecord>) -> Self {
        Self::Flow(record)
    }
}

impl From<Arc<SecurityEvent>> for Entry {
    fn from(event: Arc<SecurityEvent>) -> Self {
        Self::Security(event)
    }
}
