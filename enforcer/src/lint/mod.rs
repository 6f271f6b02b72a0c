//! What is allowed in a tree but probably not meant. Apart from parsing: a finding refuses
//! nothing, and every lint asks the compiled image and [`crate::compile::explain`], so that none
//! has an opinion of its own on what policy means. One file for each lint; docs/lint.md has a
//! section for each.

mod cut_off;
mod empty_selector;
mod ended_rule;
mod finding;
mod ground;
mod index;
mod many_moments;
mod overruled_allow;
mod same_policy;
pub mod sarif;
mod silence;
mod unreachable_rule;
mod wide_peer;

pub use self::finding::{Finding, Lint, Related, Severity, render};
use std::collections::HashMap;

use self::ground::Ground;
use crate::{
    compile::CompileError,
    observe::record::FlowRecord,
    policy::{SourceFile, Study, model::Moment},
};

/// Everything that the lints find, in the order of file and line, without what annotations of
/// the tree silence, `now`. Lints that need flows are left out where there are none.
///
/// # Errors
/// If the policy cannot be compiled.
pub fn run(
    study: &Study,
    flows: Option<&[FlowRecord]>,
    now: Moment,
) -> Result<Vec<Finding>, CompileError> {
    let ground = Ground::new(study, now)?;
    let mut findings = empty_selector::find(&ground);
    findings.extend(unreachable_rule::find(&ground));
    findings.extend(overruled_allow::find(&ground));
    findings.extend(cut_off::find(&ground));
    findings.extend(same_policy::find(&ground));
    findings.extend(ended_rule::find(&ground));
    findings.extend(many_moments::find(&ground));
    if let Some(flows) = flows {
        findings.extend(wide_peer::find(&ground, flows));
    }
    let mut findings = silence::apply(study, findings);
    findings.sort_by(|a, b| a.place().cmp(&b.place()));
    findings.dedup();
    let files: HashMap<&str, &SourceFile> = study
        .files
        .iter()
        .map(|file| (&*file.name, &**file))
        .collect();
    for finding in &mut findings {
        finding.quote(&files);
    }
    Ok(findings)
}

#[cfg(test)]
mod tests;
