//! What the demo found, for people and for programs.

use std::fmt::Write as _;

use comfy_table::{Cell, Color, ContentArrangement, Table};
use serde_json::{Value, json};

use super::{Demo, Finding, Findings, Row};
use crate::lab::{Expect, Outcome, shop_flows::Denial};

/// A word for an outcome.
const fn outcome_word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Open => "open",
        Outcome::NotPermitted => "denied (not permitted)",
        Outcome::Timeout => "denied (no answer)",
        Outcome::Aborted => "denied (aborted)",
        Outcome::Refused => "refused by the peer",
        Outcome::Unreachable => "unreachable",
        Outcome::Reset => "reset",
        Outcome::Failed => "failed",
    }
}

const fn expect_word(expect: Expect) -> &'static str {
    match expect {
        Expect::Open => "open",
        Expect::Denied => "denied",
    }
}

fn observed_words(row: &Row) -> String {
    let [v4, v6] = row.observed.outcomes().map(outcome_word);
    if v4 == v6 {
        v4.to_owned()
    } else {
        format!("v4 {v4}\nv6 {v6}")
    }
}

fn workload_words(denial: &Denial) -> String {
    let side = &denial.record.workload;
    match &side.name {
        Some(name) => format!("{name} on {}", denial.node),
        None => format!("{:?} of {}", side.kind, denial.node).to_lowercase(),
    }
}

fn process_words(denial: &Denial) -> String {
    denial.record.process.as_ref().map_or_else(
        || match &denial.record.hook {
            Some(hook) => format!("(a packet at {hook})"),
            None => String::new(),
        },
        |process| format!("{} (pid {})", process.program, process.pid),
    )
}

fn rule_words(denial: &Denial) -> [String; 2] {
    denial.record.rule.as_ref().map_or_else(
        || [denial.record.reason.clone(), String::new()],
        |rule| {
            let place = match (&rule.file, rule.line) {
                (Some(file), Some(line)) => format!("{file}:{line}"),
                _ => String::new(),
            };
            [format!("{} / {}", rule.policy, rule.name), place]
        },
    )
}

/// A preset of comfy-table with no line but the one below the header.
const HEADER_LINE_ONLY: &str = "     ──            ";

/// The table of flows.
pub fn flow_table(rows: &[Row]) -> String {
    let mut table = Table::new();
    table
        .load_preset(HEADER_LINE_ONLY)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header([
            "",
            "flow",
            "expected",
            "observed",
            "workload",
            "process",
            "rule",
            "file:line",
        ]);
    if !table.is_tty() {
        // In a file or a pipe nobody folds lines better than the reader.
        table.set_content_arrangement(ContentArrangement::Disabled);
    }
    for row in rows {
        let mut cells = vec![
            mark(row.ok()),
            Cell::new(row.observed.flow),
            Cell::new(expect_word(row.expected)),
            Cell::new(observed_words(row)),
        ];
        if let Some(denial) = row.denials.iter().flatten().next() {
            let [rule, place] = rule_words(denial);
            cells.extend([
                Cell::new(workload_words(denial)),
                Cell::new(process_words(denial)),
                Cell::new(rule),
                Cell::new(place),
            ]);
        }
        table.add_row(cells);
    }
    table.trim_fmt()
}

/// The table of findings.
pub fn finding_table(findings: &[Finding]) -> String {
    let mut table = Table::new();
    table
        .load_preset(HEADER_LINE_ONLY)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(["", "expected", "observed"]);
    for finding in findings {
        table.add_row([
            mark(finding.ok),
            Cell::new(&finding.claim),
            Cell::new(&finding.seen),
        ]);
    }
    table.trim_fmt()
}

fn mark(ok: bool) -> Cell {
    if ok {
        Cell::new("ok").fg(Color::Green)
    } else {
        Cell::new("WRONG").fg(Color::Red)
    }
}

/// Everything, for people.
pub fn human(findings: &Findings) -> String {
    let mut text = String::new();
    let before = findings.before.iter().filter(|row| row.ok()).count();
    let _ = writeln!(
        text,
        "\nBefore anything is enforced, {before} of {} flows are open, on IPv4 and IPv6.",
        findings.before.len()
    );
    if before < findings.before.len() {
        let _ = writeln!(text, "{}", flow_table(&findings.before));
    }
    for (title, table) in [
        (
            "With the policies of policies/examples/shop in mode enforce:",
            flow_table(&findings.enforced),
        ),
        (
            "A policy changes while connections are open:",
            finding_table(&findings.change),
        ),
        (
            "A daemon is killed with SIGKILL under traffic:",
            finding_table(&findings.death),
        ),
    ] {
        let _ = writeln!(text, "\n{title}\n{table}");
    }
    let _ = writeln!(
        text,
        "\n{}",
        if findings.ok() {
            "Everything was as expected."
        } else {
            "NOT everything was as expected: see the lines marked WRONG."
        }
    );
    text
}

/// Everything, for programs.
pub fn json(findings: &Findings) -> Value {
    json!({
        "ok": findings.ok(),
        "before": findings.before.iter().map(row_json).collect::<Vec<_>>(),
        "enforced": findings.enforced.iter().map(row_json).collect::<Vec<_>>(),
        "policy_change": findings.change,
        "daemon_killed": findings.death,
    })
}

fn row_json(row: &Row) -> Value {
    let flow = row.observed.flow;
    json!({
        "ok": row.ok(),
        "from": flow.from,
        "to": flow.to,
        "protocol": flow.protocol,
        "port": flow.port,
        "expected": expect_word(row.expected),
        "observed": {
            "v4": row.observed.results[0],
            "v6": row.observed.results[1],
        },
        "denials": row.denials.iter().flatten().map(|d| &d.record).collect::<Vec<_>>(),
    })
}

/// What to try in a shop that is left up.
pub fn suggestions(demo: &Demo) -> String {
    let socket = |host: usize| demo.daemons[host].socket().display().to_string();
    let enforcer = crate::lab::place::program("enforcer")
        .map_or_else(|_| "enforcer".to_owned(), |path| path.display().to_string());
    let probe = crate::lab::place::program("probe")
        .map_or_else(|_| "probe".to_owned(), |path| path.display().to_string());
    let back = &demo.shop.back;
    format!(
        "\nThe shop stays up. Its policies are in {policies}; edit them and see.

  What was denied on back, live:   {enforcer} observe --follow --socket {back_socket}
  What is enforced there:          {enforcer} status --socket {back_socket}
  Why:                             {enforcer} explain 'shop/web -> shop/db:5432/tcp' --socket {back_socket}
  Play the intruder:               ip netns exec {intruder} ping -c 1 {api}
                                   echo '[{{\"protocol\":\"tcp\",\"to\":\"{api}\",\"port\":9000,\"timeout\":500,\"attempts\":1,\"connected\":false}}]' | ip netns exec {intruder} {probe} flows
  Look into a host:                ip -n {back_ns} address
  Remove the shop:                 cargo xtask demo --down
",
        policies = demo.tree.path().display(),
        back_socket = socket(1),
        intruder = format_args!("{}-intruder", demo.lab.tag()),
        api = demo.shop.api.addresses.0,
        back_ns = back.namespace.name(),
    )
}
