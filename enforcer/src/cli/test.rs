//! `enforcer test`.

use std::{
    fs::File,
    io::{self, IsTerminal, Write},
    path::PathBuf,
};

use anyhow::Context;
use clap::Args;
use serde::Serialize;

use super::{Exit, OutputFormat, output};
use crate::{
    compile::image::RuleDirection,
    policy::{self, model::Moment},
    policy_test::{self, TestReport, write_junit},
};

/// Arguments of `test`.
#[derive(Debug, Args)]
pub struct TestArgs {
    /// Policy trees and files with their tests (kind PolicyTest); read together, as one policy.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Write the results as JUnit XML too.
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// List the rules that no test reaches.
    #[arg(long)]
    coverage: bool,
    /// Fail if the tests reach less than this part of all rules.
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    min_coverage: Option<u8>,
}

#[derive(Serialize)]
struct Results<'a> {
    passed: bool,
    #[serde(flatten)]
    report: &'a TestReport,
    coverage_percent: usize,
}

/// Runs the tests of these trees and files. Needs no privileges. Exit code 1: a flow is not as
/// expected, a tree has errors or no test, or too few rules are reached.
pub fn run(args: &TestArgs, format: OutputFormat) -> anyhow::Result<Exit> {
    let study = match policy::study(&args.paths) {
        Ok(study) => study,
        Err(errors) => {
            eprint!("{}", errors.render(io::stderr().is_terminal()));
            return Ok(Exit::Refuse);
        }
    };
    let report = policy_test::run(&study, Moment::now()).context("cannot compile the policy")?;
    if let Some(path) = &args.junit {
        let write = || -> io::Result<()> {
            let mut file = io::BufWriter::new(File::create(path)?);
            write_junit(&report, &mut file)?;
            file.flush()
        };
        write().with_context(|| format!("cannot write {}", path.display()))?;
    }
    let percent = report.coverage.percent();
    let too_few = args.min_coverage.filter(|min| percent < usize::from(*min));
    let results = Results {
        passed: report.passed(),
        report: &report,
        coverage_percent: percent,
    };
    let with_coverage = args.coverage || args.min_coverage.is_some();
    output::print(format, &results, |out| render(&report, with_coverage, out))?;
    if report.tests.is_empty() {
        eprintln!("enforcer: there is no PolicyTest in these trees and files");
        return Ok(Exit::Refuse);
    }
    if let Some(min) = too_few {
        eprintln!("enforcer: the tests reach {percent} % of the rules, {min} % are demanded");
        return Ok(Exit::Refuse);
    }
    Ok(if report.passed() {
        Exit::Done
    } else {
        Exit::Refuse
    })
}

fn render(report: &TestReport, with_coverage: bool, out: &mut dyn Write) -> io::Result<()> {
    for test in &report.tests {
        for flow in &test.flows {
            let failed = !flow.failures.is_empty();
            let result = if failed { "FAIL" } else { "ok  " };
            write!(out, "{result} {}: {}", test.name, flow.name)?;
            if failed {
                write!(out, " at {}", flow.origin)?;
            }
            writeln!(out)?;
            for failure in &flow.failures {
                match failure.flow.as_str() {
                    "" => writeln!(out, "     {}", failure.message)?,
                    flow => writeln!(out, "     {flow}: {}", failure.message)?,
                }
                for decided in &failure.decided {
                    writeln!(out, "       {decided}")?;
                }
            }
        }
    }
    let (passed, failed) = report.counts();
    writeln!(out, "{passed} passed, {failed} failed")?;
    if with_coverage {
        let coverage = &report.coverage;
        writeln!(
            out,
            "{} of {} rules reached ({} %)",
            coverage.reached,
            coverage.rules,
            coverage.percent()
        )?;
        for rule in &coverage.unreached {
            let direction = match rule.direction {
                RuleDirection::Egress => "egress",
                RuleDirection::Ingress => "ingress",
            };
            writeln!(
                out,
                "  not reached: {} {direction} rule {} at {}",
                rule.policy, rule.rule, rule.origin
            )?;
        }
    }
    Ok(())
}
