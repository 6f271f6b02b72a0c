//! `enforcer explain`.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use anyhow::Context;
use clap::Args;

use super::{Exit, OutputFormat, output, socket, status};
use crate::{
    api::question::{self, FlowQuestion, QuestionError, Service, parse_party},
    compile::{
        Inputs, Limits, Numbers, Subjects, compile,
        explain::{Answer, Explainer, Explanation, Party, PolicyView},
        image::RuleDirection,
    },
    policy::{
        self,
        model::{Mode, Moment},
    },
    reconcile::mode,
};

/// Arguments of `explain`.
#[derive(Debug, Args)]
#[group(id = "sides", multiple = true)]
pub struct ExplainArgs {
    /// The flow, as in 'shop/web -> shop/db:5432/tcp'. A party is NAMESPACE/NAME, `host`,
    /// `world` or an address; a service is PORT/PROTOCOL, TYPE[.CODE]/icmp or */PROTOCOL.
    #[arg(
        value_name = "FLOW",
        required_unless_present_all = ["from", "to", "port"],
        conflicts_with_all = ["from", "to", "port"],
    )]
    flow: Vec<String>,
    /// Who opens the flow.
    #[arg(long, value_name = "PARTY", value_parser = party, requires_all = ["to", "port"])]
    from: Option<Party>,
    /// Who is addressed.
    #[arg(long, value_name = "PARTY", value_parser = party)]
    to: Option<Party>,
    /// Protocol and port.
    #[arg(long, value_name = "PORT/PROTOCOL")]
    port: Option<Service>,
    /// Ask this tree instead of the daemon. Nothing runs for it.
    #[arg(long, value_name = "DIR")]
    policies: Option<PathBuf>,
    #[command(flatten)]
    socket: socket::SocketArg,
}

fn party(text: &str) -> Result<Party, QuestionError> {
    parse_party(text)
}

/// Explains. Exit code 1: the flow is denied.
pub fn run(args: &ExplainArgs, format: OutputFormat) -> anyhow::Result<Exit> {
    let question = match (&args.from, &args.to, args.port) {
        (Some(from), Some(to), Some(service)) => FlowQuestion {
            from: from.clone(),
            to: to.clone(),
            service,
        },
        // Unquoted, the flow comes as several words.
        _ => match args.flow.join(" ").parse() {
            Ok(question) => question,
            Err(error) => {
                eprintln!("enforcer: {error}");
                return Ok(Exit::Usage);
            }
        },
    };
    let sides = match &args.policies {
        Some(path) => match offline(path, &question)? {
            Some(sides) => sides,
            None => return Ok(Exit::Refuse),
        },
        None => socket::block_on(args.socket.client().post("/v1/explain", &question))??,
    };
    output::print(format, &sides, |out| render(&question, &sides, out))?;
    let denied = sides.iter().any(|side| side.verdict == Answer::Deny);
    Ok(if denied { Exit::Refuse } else { Exit::Done })
}

/// By a tree alone. `None`: it has errors, which were told.
fn offline(path: &PathBuf, question: &FlowQuestion) -> anyhow::Result<Option<Vec<Explanation>>> {
    let policy = match policy::load_paths(std::slice::from_ref(path)) {
        Ok(policy) => policy,
        Err(errors) => {
            eprint!(
                "{}",
                errors.render(io::IsTerminal::is_terminal(&io::stderr()))
            );
            return Ok(None);
        }
    };
    let mode = mode::effective(None, &policy.node, None).effective;
    let now = Moment::now();
    let inputs = Inputs {
        policy: &policy,
        mode,
        now,
        host_addresses: &[],
        elsewhere: &crate::compile::elsewhere::NOBODY,
        attested: crate::compile::NOBODY,
        subjects: Subjects::All,
        limits: &Limits::NONE,
        in_force: None,
    };
    let image = compile(&inputs, &mut Numbers::default()).context("cannot compile the policy")?;
    let explainer = Explainer {
        policy: &policy,
        mode,
        now,
        image: &image,
    };
    Ok(Some(question::explain(&explainer, question)?))
}

fn render(question: &FlowQuestion, sides: &[Explanation], out: &mut dyn Write) -> io::Result<()> {
    let verdict = sides
        .iter()
        .map(|side| side.verdict)
        .max_by_key(|v| match v {
            Answer::Allow => 0,
            Answer::Audit => 1,
            Answer::Deny => 2,
        });
    writeln!(
        out,
        "{question}: {}",
        verdict.map_or("not judged here", verdict_name)
    )?;
    for side in sides {
        let direction = match side.direction {
            RuleDirection::Egress => "egress of",
            RuleDirection::Ingress => "ingress of",
        };
        write!(
            out,
            "\n{direction} {}: {} ({})",
            side.endpoint,
            verdict_name(side.verdict),
            side.reason
        )?;
        if let Some(rule) = &side.rule {
            write!(
                out,
                " by {}",
                rule_name(rule.namespace.as_deref(), &rule.policy, &rule.rule)
            )?;
            if let Some(origin) = &rule.origin {
                write!(out, " at {origin}")?;
            }
        }
        writeln!(out)?;
        if let Some(note) = &side.note {
            writeln!(out, "  {note}")?;
        }
        for tier in &side.tiers {
            writeln!(
                out,
                "  tier {}{}",
                status::tier_name(tier.tier),
                if tier.reached { "" } else { " (decided above)" }
            )?;
            for policy in &tier.policies {
                render_policy(policy, out)?;
            }
        }
        if side.tiers.is_empty() {
            writeln!(out, "  no policy is about it: the node's default holds")?;
        }
    }
    Ok(())
}

fn render_policy(policy: &PolicyView, out: &mut dyn Write) -> io::Result<()> {
    writeln!(
        out,
        "    policy {} at {}{}",
        match &policy.namespace {
            Some(namespace) => format!("{namespace}/{}", policy.name),
            None => policy.name.clone(),
        },
        policy.origin,
        if policy.mode == Mode::Audit {
            " (audit)"
        } else {
            ""
        }
    )?;
    for rule in &policy.rules {
        writeln!(
            out,
            "    {} {} {} at {}{}",
            if rule.decides { "=>" } else { "  " },
            format_args!("{:<5}", rule.action.name()),
            rule.name,
            rule.origin,
            match &rule.why_not {
                Some(why_not) => format!(": {why_not}"),
                None if rule.decides => ": decides".to_owned(),
                None => ": matches".to_owned(),
            }
        )?;
    }
    if policy.isolates {
        writeln!(
            out,
            "    {} deny  what no rule allows (isolation){}",
            if policy.isolation_decides { "=>" } else { "  " },
            if policy.isolation_decides {
                ": decides"
            } else {
                ""
            }
        )?;
    }
    Ok(())
}

fn rule_name(namespace: Option<&str>, policy: &str, rule: &str) -> String {
    match namespace {
        Some(namespace) => format!("{namespace}/{policy} {rule}"),
        None => format!("{policy} {rule}"),
    }
}

const fn verdict_name(verdict: Answer) -> &'static str {
    match verdict {
        Answer::Allow => "allow",
        Answer::Deny => "deny",
        Answer::Audit => "audit (would be denied; passes and is reported)",
    }
}
