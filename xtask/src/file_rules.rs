//! Rules about files that no other tool checks: telling names, one job each.

use std::{fs, path::Path};

use anyhow::{Result, bail};

use crate::{step, workspace};

/// Names that say nothing about what is inside.
const NAMELESS: &[&str] = &[
    "utils", "util", "helpers", "helper", "types", "common", "misc",
];
/// The aim is about 500 lines; a file beyond this is two rooms, and the check says so.
const MOST_LINES: usize = 800;

/// Checks every Rust source that git knows or would add.
pub fn check() -> Result<()> {
    step::say("file rules");
    let listed = step::output(workspace::command("git").args([
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
        "--",
        "*.rs",
    ]))?;
    let mut broken = Vec::new();
    for file in listed.lines() {
        // A file that was deleted but is still in the index has nothing to check.
        if let Ok(text) = fs::read_to_string(workspace::root().join(file)) {
            broken.extend(broken_rule(file, text.lines().count()));
        }
    }
    if !broken.is_empty() {
        bail!("file rules:\n  {}", broken.join("\n  "));
    }
    Ok(())
}

fn broken_rule(file: &str, lines: usize) -> Option<String> {
    let stem = Path::new(file).file_stem()?.to_str()?;
    if NAMELESS.contains(&stem) {
        return Some(format!("{file}: name it for its one job"));
    }
    (lines > MOST_LINES).then(|| format!("{file}: {lines} lines (at most {MOST_LINES}): two rooms"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_lengths() {
        assert!(broken_rule("enforcer/src/policy/model.rs", 500).is_none());
        assert!(broken_rule("enforcer/src/policy/utils.rs", 5).is_some());
        assert!(broken_rule("enforcer/src/policy/model.rs", MOST_LINES + 1).is_some());
    }
}
