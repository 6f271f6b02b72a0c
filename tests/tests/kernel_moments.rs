//! Rules begin and end on the second, with a daemon and while it is dead.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use enforcer::{observe::record::Verdict, policy::model::Moment};
use tests::lab::{
    Daemon, Expect, FlowProtocol, Scene, patient,
    shop::{Shop, UDP_PORT},
    traffic::{FlowSpec, flow},
};

/// Allowed until the moment.
const ENDS: u16 = 2222;
/// Allowed from the moment on.
const BEGINS: u16 = 9100;
/// Always allowed.
const ALWAYS: u16 = 9000;

fn policy(moment: Moment) -> String {
    format!(
        "\
apiVersion: enforcer.dev/v1alpha1
kind: SegmentPolicy
metadata: {{name: api, namespace: shop}}
spec:
  selector: {{matchLabels: {{app: api}}}}
  ingress:
    - {{name: always, from: [{{labels: {{app: web}}}}], ports: [{ALWAYS}/tcp]}}
    - name: break-glass
      validUntil: {moment}
      from: [{{labels: {{app: web}}}}]
      ports: [{ENDS}/tcp, {UDP_PORT}/udp]
    - name: begins
      validFrom: {moment}
      from: [{{labels: {{app: web}}}}]
      ports: [{BEGINS}/tcp]
"
    )
}

fn unix_time() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970")
}

/// Time until a moment; zero if it has passed.
fn until(moment: Moment) -> Duration {
    let moment = Duration::from_secs(moment.0.unsigned_abs());
    moment.saturating_sub(unix_time())
}

/// Tries to connect from `web` to `api` until the moment is over: every attempt that has ended
/// before the moment must have ended as `before` says, every one that began after it as `after`.
fn switches(shop: &Shop, port: u16, moment: Moment, before: Expect, after: Expect) -> Result<()> {
    let (web, api) = (&shop.web, &shop.api);
    let mut seen = [0, 0];
    while seen[1] < 3 {
        let began = until(moment);
        let v6 = (seen[0] + seen[1]) % 2 == 1;
        let spec = FlowSpec {
            timeout: 2500,
            ..flow(FlowProtocol::Tcp, api.ip(v6), port, Expect::Denied)
        };
        let result = web.place.try_flow(spec)?;
        let (side, expect) = match (began, until(moment)) {
            (Duration::ZERO, _) => (1, after),
            (_, Duration::ZERO) => continue,
            _ => (0, before),
        };
        seen[side] += 1;
        let left = until(moment);
        anyhow::ensure!(
            expect.accepts(result.outcome),
            "port {port}, {left:?} before the moment: {result:?} instead of {expect:?}"
        );
    }
    anyhow::ensure!(seen[0] > 0, "nothing was tried before the moment");
    Ok(())
}

/// Lets the moment pass with `daemon` up or dead.
fn pass(kill: bool) -> Result<()> {
    let scene = Scene::new("")?;
    let (web, api) = (&scene.shop.web, &scene.shop.api);
    // Time enough for the daemon's start and a look around.
    let moment =
        Moment(Moment::now().0 + i64::try_from(patient(Duration::from_secs(15)).as_secs())?);
    scene.tree.write("api.yaml", &policy(moment))?;
    let mut daemon = scene.enforce(&scene.shop.back)?;
    let busy = Some(Duration::from_millis(50));
    let mut ending = [
        web.place.hold(api.v4(ENDS), 1, busy)?,
        web.place.hold(api.v6(ENDS), 1, busy)?,
    ];
    let staying = web.place.hold(api.v4(ALWAYS), 1, None)?;
    scene.expect(web, api, FlowProtocol::Udp, UDP_PORT, Expect::Open)?;
    let status: serde_json::Value = daemon.ask_json(&["status"])?;
    assert_eq!(status["policy"]["moments"][0], moment.to_string());
    assert_eq!(daemon.metric("enforcer_policy_moments", &[])?, 1);
    if kill {
        daemon.kill()?;
    }
    for holder in &mut ending {
        holder.ensure_alive()?;
    }
    let shop = &scene.shop;
    std::thread::scope(|scope| {
        let ends = scope.spawn(|| switches(shop, ENDS, moment, Expect::Open, Expect::Denied));
        let begins = scope.spawn(|| switches(shop, BEGINS, moment, Expect::Denied, Expect::Open));
        for test in [ends, begins] {
            test.join().expect("no panic")?;
        }
        anyhow::Ok(())
    })?;
    scene.expect(web, api, FlowProtocol::Udp, UDP_PORT, Expect::Denied)?;
    if kill {
        // Nobody tells the owners, but nothing comes through any more.
        let mut sniffer = api.place.sniff("eth0", b"beat")?;
        assert!(sniffer.frame(Duration::from_secs(3)).is_err());
        for holder in &mut ending {
            holder.ensure_alive()?;
        }
        daemon.launch()?;
        daemon.wait_ready()?;
    }
    for holder in &mut ending {
        let death = holder.wait_for_death(patient(Duration::from_secs(5)))?;
        assert_ne!(death.error, "closed");
    }
    names_the_rule(&daemon, &scene)?;
    scene.expect_tcp(web, api, BEGINS, Expect::Open)?;
    scene.expect_tcp(web, api, ENDS, Expect::Denied)?;
    let summary = staying.stop()?;
    assert_eq!(summary.alive, 1, "{summary:?}");
    Ok(())
}

/// The denial of what has ended names the isolation by the policy.
fn names_the_rule(daemon: &Daemon, scene: &Scene) -> Result<()> {
    let to = scene.shop.api.ip(false);
    let record = daemon
        .wait_for_record(patient(Duration::from_secs(10)), |record| {
            record.verdict == Verdict::Deny
                && record.destination().address == Some(to)
                && record.destination().port == Some(ENDS)
        })
        .context("the denial of what has ended")?;
    assert_eq!(record.reason, "isolation");
    let rule = record.rule.as_ref().context("no rule")?;
    assert_eq!(
        (rule.policy.as_str(), rule.name.as_str()),
        ("api", "isolation")
    );
    Ok(())
}

#[test]
fn while_the_daemon_is_dead() -> Result<()> {
    pass(true)
}

#[test]
fn with_the_daemon() -> Result<()> {
    pass(false)
}
