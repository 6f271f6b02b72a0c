//! The command line. One module for each command: its arguments, as `…Args`, and
//! `run(&args, format)`, which says how it ended.

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

pub mod apply;
pub mod attest;
pub mod ca;
pub mod check;
pub mod confirm;
pub mod detach;
pub mod diff;
pub mod duration;
pub mod endpoints;
pub mod exit;
pub mod explain;
pub mod fetch;
pub mod fleet_args;
pub mod fmt;
pub mod git_args;
pub mod graph;
pub mod identity;
pub mod import;
pub mod log;
mod nodes;
pub mod observe;
pub mod output;
pub mod proof_source;
pub mod recommend;
pub mod run;
pub mod schema;
pub mod shell;
pub mod simulate;
pub mod socket;
pub mod status;
pub mod test;
pub mod tree_arg;
pub mod wait;

pub use self::{exit::Exit, output::OutputFormat};

/// Identity-based network segmentation for Linux, enforced in the kernel.
#[derive(Debug, Parser)]
#[command(name = "enforcer", version, arg_required_else_help = true, after_help = EXIT_CODES)]
pub struct Cli {
    /// Form of the output.
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORM",
        env = "ENFORCER_OUTPUT",
        hide_env_values = true
    )]
    pub output: OutputFormat,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Shown under the help.
const EXIT_CODES: &str = "Exit codes: 0 done or yes; 1 refused, failed or no; 2 wrong usage; \
                          3 daemon not reachable; 4 not in time; 5 there is a difference; \
                          6 done in part.";

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon.
    Run(Box<run::RunArgs>),
    /// Say everything that `run` would refuse in these policy trees and files, and what is
    /// probably not meant.
    Check(check::CheckArgs),
    /// Print the JSON Schema of policy files, for editors.
    Schema(schema::SchemaArgs),
    /// Write policy files in canonical form.
    Fmt(fmt::FmtArgs),
    /// Run the tests that stand beside the policies.
    Test(test::TestArgs),
    /// Put the policy tree, or another mode, in force now; on trial if asked.
    Apply(apply::ApplyArgs),
    /// Keep what is on trial.
    Confirm(confirm::ConfirmArgs),
    /// Fetch policy from its git repository now, and wait until it is in force.
    Fetch(fetch::FetchArgs),
    /// Show what the daemon enforces, from where, and how it fares.
    Status(status::StatusArgs),
    /// List the enforcement points of local workloads.
    Endpoints(endpoints::EndpointsArgs),
    /// List the nodes of the fleet, and how old what is known of them is.
    Nodes(nodes::NodesArgs),
    /// Show denied flows, and why they were denied.
    Observe(observe::ObserveArgs),
    /// Say which rules decide about a flow, and at which line they are written.
    Explain(explain::ExplainArgs),
    /// Say what one policy allows and another does not.
    Diff(diff::DiffArgs),
    /// Say what a policy would have done to recorded flows.
    Simulate(simulate::SimulateArgs),
    /// Write the least policies that allow recorded flows.
    Recommend(recommend::RecommendArgs),
    /// Draw who may reach whom, by policy, by recorded flows, or both.
    Graph(graph::GraphArgs),
    /// Write policies of Cilium and Calico as policies of ours, and list what has no equivalent.
    Import(import::ImportArgs),
    /// Wait until a policy is in force in the kernel.
    Wait(wait::WaitArgs),
    /// Show and verify who somebody is.
    Identity(identity::IdentityArgs),
    /// Prove to the daemon who this workload is, and keep that proven.
    Attest(attest::AttestArgs),
    /// Make certificates: the embedded authority.
    Ca(ca::CaArgs),
    /// Remove everything from the kernel: nothing is enforced any more.
    Detach(detach::DetachArgs),
    /// Print completions for a shell.
    Completions(shell::CompletionsArgs),
    /// Print the manual page.
    Man(shell::ManArgs),
}

/// Runs what the command line says.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(exit) => exit.into(),
        Err(error) => {
            // A reader that went away (`enforcer status | head`) is no failure to talk about.
            if is_broken_pipe(&error) {
                return Exit::Done.into();
            }
            eprintln!("enforcer: {error:#}");
            exit_of(&error).into()
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<Exit> {
    let format = cli.output;
    if format == OutputFormat::Sarif && !matches!(cli.command, Command::Check(_)) {
        eprintln!("enforcer: only `check` writes SARIF");
        return Ok(Exit::Usage);
    }
    match &cli.command {
        Command::Run(args) => run::run(args, format),
        Command::Check(args) => check::run(args, format),
        Command::Schema(args) => schema::run(args),
        Command::Fmt(args) => fmt::run(args, format),
        Command::Test(args) => test::run(args, format),
        Command::Apply(args) => apply::run(args, format),
        Command::Confirm(args) => confirm::run(args, format),
        Command::Fetch(args) => fetch::run(args, format),
        Command::Status(args) => status::run(args, format),
        Command::Endpoints(args) => endpoints::run(args, format),
        Command::Nodes(args) => nodes::run(args, format),
        Command::Observe(args) => observe::run(args, format),
        Command::Explain(args) => explain::run(args, format),
        Command::Diff(args) => diff::run(args, format),
        Command::Simulate(args) => simulate::run(args, format),
        Command::Recommend(args) => recommend::run(args, format),
        Command::Graph(args) => graph::run(args, format),
        Command::Import(args) => import::run(args, format),
        Command::Wait(args) => wait::run(args, format),
        Command::Identity(args) => identity::run(args, format),
        Command::Attest(args) => attest::run(args, format),
        Command::Ca(args) => ca::run(args, format),
        Command::Detach(args) => detach::run(args, format),
        Command::Completions(args) => shell::completions(args, Cli::command()),
        Command::Man(args) => shell::man(args, Cli::command()),
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|e| e.downcast_ref::<std::io::Error>())
        .any(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
}

/// The exit code of an error that a command did not turn into one itself.
fn exit_of(error: &anyhow::Error) -> Exit {
    use crate::api::{client::ClientError, problem::ProblemCode};
    match error.downcast_ref::<ClientError>() {
        Some(ClientError::Unreachable { .. } | ClientError::Broken { .. }) => Exit::Unreachable,
        Some(ClientError::Timeout { .. }) => Exit::Timeout,
        Some(ClientError::Problem(problem)) => match problem.code {
            ProblemCode::Timeout => Exit::Timeout,
            ProblemCode::BadRequest => Exit::Usage,
            _ => Exit::Refuse,
        },
        None => Exit::Refuse,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// The help is an interface: a change to it shows here.
    #[test]
    fn help_texts_are_as_reviewed() {
        let mut command = Cli::command().term_width(100);
        command.build();
        let mut text = command.render_long_help().to_string();
        for sub in command.get_subcommands_mut() {
            if sub.get_name() != "help" {
                let help = sub.render_long_help();
                text = format!("{text}\n=== {}\n{help}", sub.get_name());
            }
        }
        let text: Vec<_> = text.lines().map(str::trim_end).collect();
        insta::assert_snapshot!(text.join("\n"));
    }

    #[test]
    fn exit_codes_follow_the_cause() {
        use crate::api::{
            client::ClientError,
            problem::{Problem, ProblemCode},
        };
        let problem = |code| anyhow::Error::from(ClientError::Problem(Problem::new(code, "x")));
        assert_eq!(exit_of(&problem(ProblemCode::Timeout)), Exit::Timeout);
        assert_eq!(exit_of(&problem(ProblemCode::NoTrial)), Exit::Refuse);
        assert_eq!(exit_of(&problem(ProblemCode::BadRequest)), Exit::Usage);
        let unreachable = ClientError::Unreachable {
            socket: "/x".into(),
            source: std::io::ErrorKind::NotFound.into(),
        };
        assert_eq!(exit_of(&unreachable.into()), Exit::Unreachable);
        assert_eq!(exit_of(&anyhow::anyhow!("x")), Exit::Refuse);
    }
}
