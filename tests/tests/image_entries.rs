//! Every entry of an image leads back to what is written, and the same tree gives the same image
//! in whatever order it is read.
//!
//! `ENFORCER_CASES` sets the number of trees tried.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    sync::Arc,
};

use enforcer::{
    compile::{
        self, Image, Inputs, Limits, Numbers, Subjects,
        image::{RuleDirection, RuleInfo},
    },
    policy::{
        load_files,
        model::{Mode, Moment, Origin, PortMatch, PortRange, ResolvedPolicy, RuleAction},
    },
};
use enforcer_common::{
    Action, Decision, Direction, Reason,
    policy_key::{OWN_RULE, PortKey},
};
use proptest::{collection::vec, prelude::*};
use tests::generate;

fn compile(policy: &ResolvedPolicy, mode: Mode, now: Moment) -> (Image, Numbers) {
    let inputs = Inputs {
        policy,
        mode,
        now,
        host_addresses: &[],
        elsewhere: &enforcer::compile::elsewhere::NOBODY,
        attested: enforcer::compile::NOBODY,
        subjects: Subjects::All,
        limits: &Limits::NONE,
        in_force: None,
    };
    let mut numbers = Numbers::default();
    let image = compile::compile(&inputs, &mut numbers).expect("nothing is too large");
    (image, numbers)
}

/// What a decision of some entry is said to come from is there, and does that.
fn leads_back(
    policy: &ResolvedPolicy,
    image: &Image,
    decision: Decision,
) -> Result<(), TestCaseError> {
    let reason = Reason::from_byte(decision.reason);
    if reason == Some(Reason::Unrestricted) {
        prop_assert_eq!(decision.action(), Action::Allow);
        return Ok(());
    }
    let rule = image.rules.get(&decision.rule);
    let rule = rule.expect("every rule number has something behind it");
    if reason == Some(Reason::NodeDefault) {
        prop_assert_eq!(&*rule.rule, "default");
        return Ok(());
    }
    let mut policies = policy.policies.iter();
    let written = policies.find(|policy| {
        (policy.kind, &policy.namespace, &policy.name) == (rule.kind, &rule.namespace, &rule.policy)
    });
    let written = written.expect("the policy is in the tree");
    prop_assert_eq!(rule.tier, Some(written.tier));
    let direction = match rule.direction {
        Some(RuleDirection::Egress) => Direction::Egress,
        Some(RuleDirection::Ingress) => Direction::Ingress,
        None => return Err(TestCaseError::fail(format!("{rule:?} has no direction"))),
    };
    let rules = written.rules[direction as usize].as_ref();
    let rules = rules.expect("the policy says something in this direction");
    let denies = decision.action() != Action::Allow;
    match reason {
        Some(Reason::Rule) => {
            let is_it =
                |r: &&enforcer::policy::model::Rule| Some(&r.origin) == rule.origin.as_ref();
            let found = rules.iter().find(is_it).expect("the rule is in the policy");
            prop_assert_eq!(&found.name, &rule.rule);
            prop_assert_eq!(found.action == RuleAction::Deny, denies);
        }
        Some(Reason::Isolation) => {
            prop_assert!(denies);
            prop_assert_eq!(Some(&written.origin), rule.origin.as_ref());
        }
        other => return Err(TestCaseError::fail(format!("{other:?} is in no image"))),
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: generate::cases(2000),
        max_shrink_iters: 2000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_entry_leads_back_to_its_rule(scenario in generate::scenario(0)) {
        let (image, _) = compile(&scenario.policy, scenario.mode, scenario.now);
        for (key, entry) in image.policies.iter() {
            leads_back(&scenario.policy, &image, entry.decision)?;
            let known = image.identities.contains_key(&key.peer);
            prop_assert!(known || key.peer == enforcer_common::identity::ANY, "{:?}", key);
        }
        let mut tables = BTreeSet::new();
        for (_, entry) in image.policies.iter().filter(|(_, entry)| entry.lengths != 0) {
            tables.insert(entry.table);
            let table = image.ports.part(entry.table).expect("the table is there");
            for (_, decision) in table.iter() {
                let own = decision.rule == OWN_RULE;
                let rule = if own { entry.rule } else { decision.rule };
                leads_back(&scenario.policy, &image, Decision { rule, ..*decision })?;
            }
        }
        // And there is no table that no entry leads to.
        prop_assert!(image.ports.parts().map(|(table, _)| table).eq(tables));
        for (prefix, (rule, _)) in &image.blocked {
            let rule = &image.rules[rule];
            let written = scenario.policy.node.blocked.iter();
            let mut written = written.filter(|blocked| blocked.prefix.trunc() == *prefix);
            prop_assert!(written.any(|blocked| Some(&blocked.origin) == rule.origin.as_ref()));
        }
    }

    /// Neither the order of memory nor that of hash tables, which differs from table to table,
    /// shows.
    #[test]
    fn the_same_tree_gives_the_same_bytes(scenario in generate::scenario(0)) {
        let (first, first_numbers) = compile(&scenario.policy, scenario.mode, scenario.now);
        let mut copy = scenario.policy.clone();
        let workloads = copy.workloads.iter().map(|w| Arc::new((**w).clone()));
        copy.workloads = Arc::new(workloads.collect());
        copy.policies = copy.policies.iter().map(|p| Arc::new((**p).clone())).collect();
        let (second, second_numbers) = compile(&copy, scenario.mode, scenario.now);
        prop_assert_eq!(&first, &second);
        let bytes = |numbers: &Numbers| serde_json::to_string(numbers).expect("JSON");
        prop_assert_eq!(bytes(&first_numbers), bytes(&second_numbers));
    }
}

/// Documents of a tree, each with a name of its own.
fn documents(workloads: &[(u8, u8, u8)], policies: &[(u8, u8, u16, u16, bool)]) -> Vec<String> {
    let mut documents = Vec::new();
    for (i, (app, zone, address)) in workloads.iter().enumerate() {
        documents.push(format!(
            "apiVersion: enforcer.dev/v1alpha1\nkind: Workload\nmetadata:\n  name: w{i}\n  \
             namespace: ns{}\n  labels: {{app: a{app}, zone: z{zone}}}\nspec:\n  cgroup: /w{i}\n  \
             addresses: [10.0.{i}.{address}, '10.{address}.{i}.0/24']\n",
            zone % 2
        ));
    }
    for (i, (subject, peer, one, other, denies)) in policies.iter().enumerate() {
        let mut text = format!(
            "apiVersion: enforcer.dev/v1alpha1\nkind: SegmentPolicy\nmetadata:\n  name: p{i}\nspec:\n  \
             tier: {}\n  selector:\n    matchLabels: {{app: a{subject}}}\n  ingress:\n",
            if *denies { "admin" } else { "application" },
        );
        let action = if *denies { "deny" } else { "allow" };
        let (first, last) = (one.min(other).max(&1), one.max(other).max(&1));
        let _ = write!(
            text,
            "  - name: r0\n    action: {action}\n    from: [{{labels: {{zone: z{peer}}}}}]\n    \
             ports: ['{first}-{last}/tcp']\n  - name: r1\n    action: {action}\n    from: [{{cidr: \
             10.{peer}.0.0/16}}]\n    ports: [53/udp]\n"
        );
        documents.push(text);
    }
    documents
}

/// The image without files and lines, and the numbers that were given out. Rules are called by
/// policy and name, which are unique in these trees.
fn told(files: Vec<(String, String)>) -> (Image, String) {
    let policy = match load_files("tree", files, None) {
        Ok(policy) => policy,
        Err(errors) => panic!("{}", errors.render(false)),
    };
    let (mut image, numbers) = compile(&policy, Mode::Enforce, Moment::default());
    let placeless: Vec<(u32, Arc<RuleInfo>)> = image
        .rules
        .iter()
        .map(|(number, info)| {
            let mut info = (**info).clone();
            info.origin = None::<Origin>;
            (*number, Arc::new(info))
        })
        .collect();
    image.rules = placeless.into_iter().collect();
    let mut numbers = serde_json::to_value(&numbers).expect("JSON");
    // Has the places of rules.
    numbers["rule_infos"].take();
    (image, numbers.to_string())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: generate::cases(2000) / 10 + 1,
        max_shrink_iters: 2000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Documents in another order, in other files, which are given in another order.
    #[test]
    fn the_order_of_documents_and_files_does_not_show(
        workloads in vec((0_u8..4, 0_u8..4, 1_u8..9), 0..12),
        policies in vec((0_u8..4, 0_u8..4, any::<u16>(), any::<u16>(), any::<bool>()), 1..8),
        places in vec((0_usize..4, any::<u32>()), 20..=20),
    ) {
        let documents = documents(&workloads, &policies);
        let in_one_file = vec![("a.yaml".to_owned(), documents.join("---\n"))];
        let mut shuffled: Vec<_> = documents.into_iter().zip(places).collect();
        shuffled.sort_by_key(|(_, (_, order))| *order);
        let mut files: BTreeMap<usize, Vec<String>> = BTreeMap::new();
        for (document, (file, _)) in shuffled {
            files.entry(file).or_default().push(document);
        }
        let files = files.into_iter().rev();
        let files = files.map(|(n, documents)| (format!("{n}.yaml"), documents.join("---\n")));
        let (image, numbers) = told(in_one_file);
        let (shuffled_image, shuffled_numbers) = told(files.collect());
        prop_assert_eq!(image, shuffled_image);
        prop_assert_eq!(numbers, shuffled_numbers);
    }

    /// What one rule says of ports takes the fewest entries that can say it.
    #[test]
    fn ports_take_the_fewest_entries(
        ranges in vec((any::<u16>(), prop_oneof![Just(0_u16), 0_u16..40, any::<u16>()]), 1..5),
    ) {
        let mut tree = load_files("tree", vec![("a.yaml".to_owned(), documents(&[(0, 0, 1)], &[(0, 0, 80, 80, false)]).join("---\n"))], None).expect("good");
        let ranges: Vec<(u16, u16)> = ranges.iter().map(|(first, more)| (*first, first.saturating_add(*more))).collect();
        let policy = Arc::make_mut(&mut tree.policies[0]);
        let rules = policy.rules[Direction::Ingress as usize].as_mut().expect("ingress");
        rules.truncate(1);
        rules[0].ports = ranges.iter().map(|(first, last)| PortMatch::Range(PortRange {
            protocol: Some(6),
            first: *first,
            last: *last,
        })).collect();
        let (image, _) = compile(&tree, Mode::Enforce, Moment::default());
        let allowed = image.ports.iter().filter(|(_, decision)| decision.action() == Action::Allow);
        let allowed: Vec<PortKey> = allowed.map(|(key, _)| key).collect();
        // Blocks that lie within, do not overlap, and have as many ports as there are.
        let mut named = 0;
        for (i, key) in allowed.iter().enumerate() {
            let bits = 16 - u32::from(key.length);
            prop_assert_eq!(fewest(key.port.into(), bits, &ranges), 1, "{:?}", key);
            named += 1 << bits;
            for other in &allowed[..i] {
                let length = key.length.min(other.length);
                let same = |port| PortKey::covering(0, 0, port, length).port;
                prop_assert_ne!(same(key.port), same(other.port), "{:?} {:?}", key, other);
            }
        }
        let inside = |port: &u16| ranges.iter().any(|(first, last)| (first..=last).contains(&port));
        prop_assert_eq!(named, (0..=u16::MAX).filter(inside).count());
        prop_assert_eq!(allowed.len(), fewest(0, 16, &ranges), "{:?}", allowed);
    }
}

/// How many prefixes it takes at least to name the ports of these ranges between `start` and the
/// end of the block of `bits` bits: none, the block itself, or those of its halves.
fn fewest(start: u32, bits: u32, ranges: &[(u16, u16)]) -> usize {
    let block = start..start + (1 << bits);
    let inside = |port: u32| {
        let holds =
            |(first, last): &(u16, u16)| u32::from(*first) <= port && port <= u32::from(*last);
        ranges.iter().any(holds)
    };
    // Whether something changes inside of the block: at the beginning or after the end of a range.
    let edges = ranges
        .iter()
        .flat_map(|(first, last)| [u32::from(*first), u32::from(*last) + 1]);
    let mut edges = edges.filter(|edge| block.start < *edge && *edge < block.end);
    if edges.any(|edge| inside(edge - 1) != inside(edge)) {
        let half = 1 << (bits - 1);
        return fewest(start, bits - 1, ranges) + fewest(start + half, bits - 1, ranges);
    }
    usize::from(inside(start))
}
