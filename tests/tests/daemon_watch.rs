//! The daemon sees changes of its policy tree, however they are made.

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde_json::Value;
use tests::lab::{Daemon, Lab, shop::Shop, tree::SHOP_WORKLOADS};

fn policy(name: &str) -> String {
    format!(
        "\
apiVersion: enforcer.dev/v1alpha1
kind: SegmentPolicy
metadata: {{name: {name}, namespace: shop}}
spec:
  selector: {{matchLabels: {{app: api}}}}
  ingress: []
"
    )
}

fn write_tree(folder: &Path, name: &str) -> Result<()> {
    fs::create_dir_all(folder)?;
    fs::write(folder.join("workloads.yaml"), SHOP_WORKLOADS)?;
    Ok(fs::write(folder.join("policy.yaml"), policy(name))?)
}

/// Waits until exactly these policies are in force.
fn wait_for(daemon: &Daemon, names: &[&str]) -> Result<u64> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let status: Value = daemon.ask_json(&["status"])?;
        let mut found: Vec<&str> = status["policy"]["policies"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|policy| policy["name"].as_str())
            .collect();
        found.sort_unstable();
        if found == names {
            return status["policy"]["generation"]
                .as_u64()
                .context("no generation");
        }
        anyhow::ensure!(
            Instant::now() < deadline,
            "{found:?} are in force, not {names:?}\n{}",
            daemon.log()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn edits_renames_and_removals() -> Result<()> {
    let lab = Lab::new()?;
    let shop = Shop::build(&lab)?;
    let folder = lab.folder().join("policies");
    write_tree(&folder, "first")?;
    let back = shop.back.start_daemon(&lab, &folder)?;
    wait_for(&back, &["first"])?;
    // In place, as `cp` and `cat >` do.
    fs::write(folder.join("policy.yaml"), policy("second"))?;
    wait_for(&back, &["second"])?;
    // Beside and renamed over, as editors do.
    fs::write(folder.join(".policy.yaml.swp"), policy("third"))?;
    fs::rename(folder.join(".policy.yaml.swp"), folder.join("policy.yaml"))?;
    wait_for(&back, &["third"])?;
    // A new file in a new directory, and the directory moved away.
    fs::create_dir(folder.join("more"))?;
    fs::write(folder.join("more/fourth.yaml"), policy("fourth"))?;
    wait_for(&back, &["fourth", "third"])?;
    fs::rename(folder.join("more"), lab.folder().join("aside"))?;
    wait_for(&back, &["third"])?;
    fs::remove_file(folder.join("policy.yaml"))?;
    wait_for(&back, &[])?;
    Ok(())
}

#[test]
fn swapped_links_as_of_git_sync_and_config_maps() -> Result<()> {
    let lab = Lab::new()?;
    let shop = Shop::build(&lab)?;
    let root = lab.folder().join("sync");
    // git-sync: the whole tree is a link that is replaced.
    for name in ["one", "two"] {
        write_tree(&root.join(name), name)?;
    }
    let current = root.join("current");
    symlink("one", &current)?;
    let back = shop.back.start_daemon(&lab, &current)?;
    wait_for(&back, &["one"])?;
    symlink("two", root.join("next"))?;
    fs::rename(root.join("next"), &current)?;
    wait_for(&back, &["two"])?;
    drop(back);

    // A ConfigMap: each file is a link through `..data`, which is a link that is replaced.
    let map = lab.folder().join("map");
    for name in ["..one", "..two"] {
        write_tree(&map.join(name), name.trim_matches('.'))?;
    }
    symlink("..one", map.join("..data"))?;
    for file in ["workloads.yaml", "policy.yaml"] {
        symlink(format!("..data/{file}"), map.join(file))?;
    }
    let ops = shop.ops.start_daemon(&lab, &map)?;
    wait_for(&ops, &["one"])?;
    symlink("..two", map.join("..data_tmp"))?;
    fs::rename(map.join("..data_tmp"), map.join("..data"))?;
    wait_for(&ops, &["two"])?;
    Ok(())
}

#[test]
fn a_burst_is_one_change() -> Result<()> {
    let lab = Lab::new()?;
    let shop = Shop::build(&lab)?;
    let folder = lab.folder().join("policies");
    write_tree(&folder, "zz")?;
    let back = shop.back.start_daemon(&lab, &folder)?;
    let before = wait_for(&back, &["zz"])?;
    let names: Vec<String> = (0..200).map(|number| format!("p{number:03}")).collect();
    for name in &names {
        fs::write(folder.join(format!("{name}.yaml")), policy(name))?;
    }
    let mut all: Vec<&str> = names.iter().map(String::as_str).collect();
    all.push("zz");
    let after = wait_for(&back, &all)?;
    assert!(
        after - before <= 5,
        "{} changes for one burst of files",
        after - before
    );
    Ok(())
}
