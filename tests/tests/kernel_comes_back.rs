//! An interface that is no endpoint any more is one again at once.

use anyhow::{Context, Result};
use enforcer::{
    compile::Image,
    datapath::{
        clock::WallClock,
        desired::{DesiredEndpoint, EndpointPlace},
    },
};
use enforcer_common::identity;
use tests::test_run::Bed;

/// The kernel takes programs off their hooks when it finds the time, and on a machine with
/// nothing to do that is at once: many links, many times.
const ROUNDS: usize = 60;

#[test]
fn an_interface_is_an_endpoint_again_as_soon_as_it_is_wanted() -> Result<()> {
    let bed = Bed::new()?;
    let links = bed.links.clone();
    bed.enter(|loaded| {
        let endpoints: Vec<_> = (2..)
            .zip(&links)
            .map(|(id, ifindex)| DesiredEndpoint {
                id,
                identity: identity::HOST,
                place: EndpointPlace::Interface {
                    ifindex: *ifindex,
                    name: format!("w{}", id - 2),
                },
                audit: false,
                strict_source: false,
                addresses: Vec::new(),
            })
            .collect();
        for round in 0..ROUNDS {
            for wanted in [endpoints.clone(), Vec::new()] {
                loaded
                    .apply(Image::default(), wanted, Vec::new(), WallClock::now())
                    .with_context(|| format!("in round {round}"))?;
            }
        }
        Ok(())
    })?
}
