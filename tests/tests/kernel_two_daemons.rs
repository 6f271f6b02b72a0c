//! A second daemon on the same pins refuses to start and disturbs nothing.

use std::time::Duration;

use anyhow::Result;
use tests::lab::{Daemon, Expect, Scene};

const POLICY: &str = "\
apiVersion: enforcer.dev/v1alpha1
kind: SegmentPolicy
metadata: {name: api, namespace: shop}
spec:
  selector: {matchLabels: {app: api}}
  ingress: []
";

#[test]
fn the_second_refuses() -> Result<()> {
    let scene = Scene::new(POLICY)?;
    let shop = &scene.shop;
    let back = scene.enforce(&shop.back)?;
    let mut options = shop.back.daemon_options(scene.tree.path())?;
    options.name = "second".to_owned();
    let mut second = Daemon::prepare(&scene.lab, options)?;
    second.share_pins_with(&back);
    second.launch()?;
    let status = second.wait_for_end(Duration::from_secs(20))?;
    assert!(!status.success());
    let log = second.log();
    assert!(
        log.contains(&back.pins().display().to_string()),
        "the refusal does not name the pins: {log}"
    );
    scene.expect_tcp(&shop.intruder, &shop.api, 9000, Expect::Denied)?;
    let status: serde_json::Value = back.ask_json(&["status"])?;
    assert_eq!(status["health"]["ok"], true, "{status}");
    Ok(())
}
