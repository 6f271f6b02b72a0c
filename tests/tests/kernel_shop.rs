//! The shop's example policies on the wire: every party to every other on every port, by TCP,
//! UDP and ICMP, on IPv4 and IPv6, held against what the policies mean.

use std::time::Duration;

use anyhow::Result;
use tests::lab::{
    Expect, Lab,
    shop::{self, Shop},
    shop_flows::{self, ShopFlow},
};

#[test]
fn every_pair_is_as_the_policies_say_and_every_denial_names_its_rule() -> Result<()> {
    let lab = Lab::new()?;
    let shop = Shop::build(&lab)?;
    let _servers = shop.serve()?;
    let flows = ShopFlow::all();
    for observed in shop_flows::try_flows(&shop, &flows, |_| Expect::Open)? {
        assert!(observed.is(Expect::Open), "before: {observed:?}");
    }

    let daemons = shop.start_daemons(&lab, &shop::example_policies()?)?;
    let observed = shop_flows::try_flows(&shop, &flows, ShopFlow::expected)?;
    let wrong: Vec<String> = observed
        .iter()
        .filter(|observed| !observed.as_expected())
        .map(|o| format!("{}: {:?}, {:?}", o.flow, o.flow.expected(), o.outcomes()))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    let denied: Vec<ShopFlow> = flows
        .into_iter()
        .filter(|flow| flow.expected() == Expect::Denied)
        .collect();
    assert!(denied.len() > 50);
    let denials = shop_flows::denials(&shop, &daemons, &denied, Duration::from_secs(10))?;
    let mut lost = 0;
    for daemon in &daemons {
        lost += daemon.metric("enforcer_events_lost_total", &[])?;
    }
    let mut wrong = Vec::new();
    for (flow, denials) in denied.iter().zip(denials) {
        for (denial, family) in denials.iter().zip(["v4", "v6"]) {
            match denial {
                None => wrong.push(format!("{flow} {family}: not recorded, {lost} events lost")),
                Some(denial) => {
                    let rule = denial.record.rule.as_ref();
                    if !rule.is_some_and(|rule| rule.file.is_some() && rule.line.is_some()) {
                        wrong.push(format!("{flow} {family}: {denial:?}"));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}
