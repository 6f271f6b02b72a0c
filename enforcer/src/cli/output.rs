//! Output for people and for programs.

use std::io::{self, Write};

use clap::ValueEnum;
use serde::Serialize;

/// The form of what goes to standard output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// Text for people; not to be parsed.
    #[default]
    Human,
    /// One JSON value (one a line where it is a stream).
    Json,
    /// SARIF 2.1.0, for code review; of `check` only.
    Sarif,
}

/// Writes `value` as indented JSON, or what `human` says.
pub fn print<T: Serialize>(
    format: OutputFormat,
    value: &T,
    human: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match format {
        OutputFormat::Human => human(&mut out)?,
        OutputFormat::Json | OutputFormat::Sarif => {
            serde_json::to_writer_pretty(&mut out, value)?;
            out.write_all(b"\n")?;
        }
    }
    out.flush()
}

/// Rows under headings, without frames: what `grep` and `awk` like.
pub fn table(headings: &[&str]) -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table
        .load_preset(comfy_table::presets::NOTHING)
        .set_header(headings.iter().copied());
    table
}
