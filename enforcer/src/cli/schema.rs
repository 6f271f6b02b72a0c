//! `enforcer schema`.

use std::io::{self, Write};

use clap::Args;

use super::Exit;
use crate::schema::schema;

/// Arguments of `schema`.
#[derive(Debug, Args)]
pub struct SchemaArgs {}

/// Prints the schema, whatever the form of output: it is JSON.
pub fn run(_args: &SchemaArgs) -> anyhow::Result<Exit> {
    let mut out = io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, &schema())?;
    out.write_all(b"\n")?;
    Ok(Exit::Done)
}
