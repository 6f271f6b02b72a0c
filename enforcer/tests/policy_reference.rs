//! docs/policy.md says what is so: its examples load, and its tables are complete.

use std::{fs, path::Path};

use enforcer::policy::{self, Code, model};

fn reference() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/policy.md");
    fs::read_to_string(path).expect("docs/policy.md is there")
}

/// The blocks of YAML, each with the number of its first line.
fn examples(text: &str) -> Vec<(usize, String)> {
    let mut examples = Vec::new();
    let mut block: Option<(usize, String)> = None;
    for (index, line) in text.lines().enumerate() {
        match (&mut block, line) {
            (None, "```yaml") => block = Some((index + 2, String::new())),
            (Some(_), "```") => examples.extend(block.take()),
            (Some((_, block)), line) => {
                block.push_str(line);
                block.push('\n');
            }
            (None, _) => {}
        }
    }
    examples
}

#[test]
fn every_example_is_good() {
    let text = reference();
    let examples = examples(&text);
    assert!(examples.len() >= 6, "{}", examples.len());
    for (line, example) in examples {
        if let Err(errors) = policy::load_text(&format!("docs/policy.md+{line}"), &example) {
            panic!("{}", errors.render(false));
        }
    }
}

#[test]
fn the_example_of_kubernetes_is_good() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/kubernetes.md");
    let text = fs::read_to_string(path).expect("docs/kubernetes.md is there");
    let examples = examples(&text);
    assert_eq!(examples.len(), 1);
    for (line, example) in examples {
        if let Err(errors) = policy::load_text(&format!("docs/kubernetes.md+{line}"), &example) {
            panic!("{}", errors.render(false));
        }
    }
}

#[test]
fn every_code_is_explained() {
    let text = reference();
    let rows: Vec<&str> = text
        .lines()
        .skip_while(|line| *line != "| code | meaning |")
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.split('`').nth(1).expect("a code"))
        .collect();
    let codes: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
    assert_eq!(rows, codes);
}

#[test]
fn the_built_in_failsafe_ports_are_the_ones_listed() {
    let text = reference();
    let table: String = text
        .lines()
        .skip_while(|line| *line != "| built in | for |")
        .take_while(|line| line.starts_with('|'))
        .collect();
    for port in model::BUILT_IN_FAILSAFE {
        let direction = match port.direction {
            enforcer_common::Direction::Ingress => "ingress",
            enforcer_common::Direction::Egress => "egress",
        };
        let protocol = if port.protocol == 6 { "TCP" } else { "UDP" };
        let row = format!("{direction} {protocol} {}", port.port);
        assert!(table.contains(&row), "{row}");
    }
    let listed = table.matches("ingress ").count() + table.matches("egress ").count();
    assert_eq!(listed, model::BUILT_IN_FAILSAFE.len());
}

#[test]
fn short_forms_mean_what_the_table_says() {
    let text = reference();
    let rows: Vec<(String, String)> = text
        .lines()
        .skip_while(|line| *line != "| short form | means |")
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|line| {
            let mut words = line.split('`');
            let short = words.nth(1).expect("a short form").to_owned();
            (short, words.nth(1).expect("its meaning").to_owned())
        })
        .collect();
    assert!(rows.len() >= 4);
    for (short, long) in rows {
        let ports = |port: &str| {
            let text = format!(
                "apiVersion: enforcer.dev/v1alpha1\nkind: SegmentPolicy\nmetadata: {{name: a}}\n\
                 spec: {{selector: {{}}, ingress: [{{ports: [{port}]}}]}}\n"
            );
            let policy = policy::load_text("a.yaml", &text).expect("good");
            policy.policies[0].rules[1].clone().expect("ingress")[0]
                .ports
                .clone()
        };
        assert_eq!(ports(&short), ports(&long), "{short}");
    }
}
