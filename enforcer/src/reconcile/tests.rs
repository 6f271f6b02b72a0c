//! The loop with a kernel that only remembers.

mod host;
mod proofs;

use std::{fs, path::Path, sync::Arc, time::Duration};

use tokio::time::sleep;

use self::host::{Host, tree_of};
use crate::{
    api::{
        problem::ProblemCode,
        request::ApplyRequest,
        status::{ModeSource, PolicySource},
    },
    inventory::Snapshot,
    policy::model::Mode,
};

fn enforce_on_trial(seconds: u64) -> ApplyRequest {
    ApplyRequest {
        mode: Some(Mode::Enforce),
        trial_milliseconds: Some(seconds * 1_000),
        ..ApplyRequest::default()
    }
}

#[tokio::test(start_paused = true)]
async fn a_trial_rolls_back_unless_confirmed() {
    let host = Host::new("web");
    let daemon = host.start().await;
    assert!(daemon.kernel.audit());
    let answer = daemon.apply(enforce_on_trial(60)).await.unwrap();
    assert_eq!(answer.mode, Mode::Enforce);
    assert!(answer.trial.is_some());
    sleep(Duration::from_secs(59)).await;
    assert!(!daemon.kernel.audit());
    sleep(Duration::from_secs(2)).await;
    assert!(daemon.kernel.audit());
    assert_eq!(daemon.now().trial, None);
    assert_eq!(daemon.now().activity.rolled_back, 1);
    assert_eq!(
        daemon.confirm().await.unwrap_err().code,
        ProblemCode::NoTrial
    );
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_confirmed_stays_across_a_restart() {
    let host = Host::new("web");
    let daemon = host.start().await;
    daemon.apply(enforce_on_trial(60)).await.unwrap();
    assert_eq!(daemon.confirm().await.unwrap().mode, Mode::Enforce);
    sleep(Duration::from_hours(1)).await;
    assert!(!daemon.kernel.audit());
    daemon.stop().await;
    let daemon = host.start().await;
    assert!(!daemon.kernel.audit());
    assert_eq!(daemon.now().mode.from, ModeSource::Operator);
    let request = ApplyRequest {
        forget_mode: true,
        ..ApplyRequest::default()
    };
    assert_eq!(daemon.apply(request).await.unwrap().mode, Mode::Audit);
    assert_eq!(daemon.now().mode.from, ModeSource::Default);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_trial_survives_a_restart_and_ends_in_time() {
    let host = Host::new("web");
    let mut daemon = host.start().await;
    daemon.apply(enforce_on_trial(600)).await.unwrap();
    host.write(&tree_of("risky"));
    daemon.tree_changes().await;
    assert_eq!(daemon.workload(), "risky");
    daemon.stop().await;

    let daemon = host.start().await;
    assert!(!daemon.kernel.audit());
    assert_eq!(daemon.workload(), "risky");
    assert!(daemon.now().trial.is_some());
    sleep(Duration::from_secs(601)).await;
    assert!(daemon.kernel.audit());
    assert_eq!(daemon.workload(), "web");
    // The tree on disk is still the risky one: it is held, also by the next daemon.
    assert!(daemon.now().held.is_some());
    daemon.stop().await;
    let mut daemon = host.start().await;
    assert_eq!(daemon.workload(), "web");
    daemon.tree_changes().await;
    assert_eq!(daemon.workload(), "web");
    host.write(&tree_of("better"));
    daemon.tree_changes().await;
    assert_eq!(daemon.workload(), "better");
    assert_eq!(daemon.now().held, None);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_trial_that_ran_out_while_the_daemon_was_away_is_rolled_back_at_once() {
    let host = Host::new("web");
    let mut daemon = host.start().await;
    daemon.apply(enforce_on_trial(1)).await.unwrap();
    host.write(&tree_of("risky"));
    daemon.tree_changes().await;
    daemon.stop().await;
    // The real clock: the next daemon compares with it.
    std::thread::sleep(Duration::from_millis(1_100));
    let daemon = host.start().await;
    assert!(daemon.kernel.audit());
    assert_eq!(daemon.workload(), "web");
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn another_tree_on_trial() {
    let host = Host::new("web");
    let other = host.root.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("b.yaml"), tree_of("other")).unwrap();
    let daemon = host.start().await;
    let request = || ApplyRequest {
        tree: Some(other.clone()),
        trial_milliseconds: Some(60_000),
        ..ApplyRequest::default()
    };
    daemon.apply(request()).await.unwrap();
    assert_eq!(daemon.workload(), "other");
    sleep(Duration::from_secs(61)).await;
    assert_eq!(daemon.workload(), "web");
    assert_eq!(daemon.now().held, None);

    daemon.apply(request()).await.unwrap();
    daemon.stop().await;
    // The next daemon goes on with the copy, whatever became of the original.
    fs::remove_dir_all(&other).unwrap();
    let daemon = host.start().await;
    assert_eq!(daemon.workload(), "other");
    daemon.confirm().await.unwrap();
    daemon.stop().await;
    let daemon = host.start().await;
    assert_eq!(daemon.workload(), "other");
    let request = ApplyRequest::default();
    daemon.apply(request).await.unwrap();
    assert_eq!(daemon.workload(), "web");
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn another_commit_of_the_same_files_is_named_and_compiles_nothing() {
    let host = Host::new("web");
    let git = host.tree().join(".git");
    fs::create_dir(&git).unwrap();
    let [a, b] = ["a", "b"].map(|digit| digit.repeat(40));
    fs::write(git.join("HEAD"), &a).unwrap();
    let mut daemon = host.start().await;
    let before = daemon.now();
    fs::write(git.join("HEAD"), &b).unwrap();
    daemon.tree_changes().await;
    let now = daemon.now();
    assert_eq!(now.policy.commit.as_deref(), Some(&*b));
    assert_eq!(now.policy_status(&host.tree()).commit.as_ref(), Some(&b));
    let then = now.commits.at_generation(before.generation);
    assert_eq!(then.map(AsRef::as_ref), Some(&*a));
    let since = now.commits.at_generation(now.generation);
    assert_eq!(since.map(AsRef::as_ref), Some(&*b));
    // What was read is the same in memory, which is what the compiler compares.
    let (one, other) = (&before.policy.workloads[0], &now.policy.workloads[0]);
    assert!(Arc::ptr_eq(one, other));
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_bad_tree_changes_nothing_and_is_named() {
    let host = Host::new("web");
    let (git, commit) = (host.tree().join(".git"), "a".repeat(40));
    std::fs::create_dir(&git).unwrap();
    std::fs::write(git.join("HEAD"), &commit).unwrap();
    let mut daemon = host.start().await;
    host.write("kind: Nonsense\n");
    daemon.tree_changes().await;
    assert_eq!(daemon.workload(), "web");
    let refused = daemon.now().refused.clone().unwrap();
    assert_eq!(refused.problem.code, ProblemCode::BadPolicy);
    assert!(!refused.problem.diagnostics.is_empty());
    assert!(!daemon.now().health.ok);
    let refused = daemon.apply(ApplyRequest::default()).await;
    assert_eq!(refused.unwrap_err().code, ProblemCode::BadPolicy);
    // The mode can be changed all the same.
    let request = ApplyRequest {
        mode: Some(Mode::Enforce),
        ..ApplyRequest::default()
    };
    let answer = daemon.apply(request).await.unwrap();
    assert_eq!(answer.mode, Mode::Enforce);
    assert!(answer.warning.is_some());
    daemon.stop().await;

    // A start with the bad tree uses the copy.
    let mut daemon = host.start().await;
    assert_eq!(daemon.workload(), "web");
    let status = daemon.now().policy_status(&host.tree());
    assert_eq!(status.from, PolicySource::LastGood);
    assert_eq!(status.commit, Some(commit));
    assert!(!daemon.now().health.ok);
    host.write(&tree_of("web"));
    daemon.tree_changes().await;
    assert_eq!(daemon.now().from, PolicySource::Tree);
    assert!(daemon.now().health.ok, "{:?}", daemon.now().health);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_first_start_with_a_bad_tree_enforces_nothing_and_says_so() {
    let host = Host::new("web");
    host.write("kind: Nonsense\n");
    let mut daemon = host.start().await;
    assert_eq!(daemon.kernel.endpoints(), 0);
    assert!(daemon.now().ready && !daemon.now().health.ok);
    host.write(&tree_of("web"));
    daemon.tree_changes().await;
    assert_eq!(daemon.workload(), "web");
    assert!(daemon.now().health.ok, "{:?}", daemon.now().health);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_former_runs_policy_is_not_replaced_by_none() {
    let host = Host::new("web");
    host.start().await.stop().await;
    let generation = host.kernel.0.lock().unwrap().generation;
    fs::remove_dir_all(host.root.path().join("state")).unwrap();
    host.write("kind: Nonsense\n");
    let daemon = host.start().await;
    assert_eq!(host.kernel.0.lock().unwrap().generation, generation);
    assert!(!daemon.now().health.ok);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_the_kernel_refuses_is_tried_again() {
    let host = Host::new("web");
    let mut daemon = host.start().await;
    daemon.kernel.refuse(true);
    let refused = daemon.apply(enforce_on_trial(60)).await.unwrap_err();
    assert_eq!(refused.code, ProblemCode::NotApplied);
    assert_eq!(daemon.now().trial, None);
    host.write(&tree_of("next"));
    daemon.tree_changes().await;
    assert_eq!(daemon.workload(), "web");
    assert!(daemon.now().refused.is_some());
    sleep(Duration::from_secs(10)).await;
    daemon.kernel.refuse(false);
    sleep(Duration::from_secs(61)).await;
    assert_eq!(daemon.workload(), "next");
    assert!(daemon.now().health.ok, "{:?}", daemon.now().health);
    daemon.stop().await;
    // The refused trial has left nothing behind.
    let daemon = host.start().await;
    assert!(daemon.kernel.audit());
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn endpoints_come_and_go_with_their_numbers() {
    let host = Host::new("web");
    let mut daemon = host.start().await;
    assert_eq!(daemon.kernel.endpoints(), 0);
    let mut number = None;
    for round in 0..3 {
        for there in [true, false] {
            let mut snapshot = Snapshot::default();
            if there {
                snapshot.cgroups.insert("/web".into(), 70 + round);
            }
            daemon.published.mark_unchanged();
            daemon.inventory.send(Arc::new(snapshot)).unwrap();
            daemon.published.changed().await.unwrap();
            assert_eq!(daemon.kernel.endpoints(), usize::from(there));
            if there {
                let id = daemon.now().endpoints[0].id;
                assert_eq!(*number.get_or_insert(id), id);
            }
        }
    }
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn impossible_requests_are_refused() {
    let host = Host::new("web");
    let daemon = host.start().await;
    for request in [
        ApplyRequest {
            mode: Some(Mode::Audit),
            forget_mode: true,
            ..ApplyRequest::default()
        },
        ApplyRequest {
            tree: Some(Path::new("relative").into()),
            ..ApplyRequest::default()
        },
        ApplyRequest {
            trial_milliseconds: Some(0),
            ..ApplyRequest::default()
        },
        ApplyRequest {
            trial_milliseconds: Some(u64::MAX),
            ..ApplyRequest::default()
        },
    ] {
        let refused = daemon.apply(request).await.unwrap_err();
        assert_eq!(refused.code, ProblemCode::BadRequest);
    }
    daemon.stop().await;
}
