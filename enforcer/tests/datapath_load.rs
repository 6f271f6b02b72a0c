//! The datapath on the real kernel: loads, attaches, survives its daemon, goes.

use std::{path::Path, sync::Arc};

use enforcer::{
    compile::image::Image,
    datapath::{
        Adopted, Capacities, Datapath, DatapathError, DatapathSettings, XdpMode,
        clock::WallClock,
        desired::{Desired, NodeConfig},
    },
};

fn settings(pin_dir: &Path) -> DatapathSettings {
    DatapathSettings {
        pin_dir: pin_dir.into(),
        cgroup_root: None,
        capacities: Capacities {
            flows: 1024,
            ..Capacities::default()
        },
        xdp: XdpMode::OnDemand,
        numbering: 1,
    }
}

fn nothing() -> Desired {
    Desired {
        image: Arc::new(Image::default()),
        endpoints: Vec::new(),
        uplinks: Vec::new(),
        node: NodeConfig {
            audit: false,
            report_allowed: false,
            full_denies: false,
            unknown_denies: false,
            failsafe: Vec::new(),
            reject: false,
            report_limit: 100,
            reject_limit: 100,
            local_addresses: Vec::new(),
        },
        clock: WallClock::default(),
    }
}

struct Pins(std::path::PathBuf);

impl Drop for Pins {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_second_daemon_is_refused_and_the_next_one_adopts() {
    let pins = Pins(format!("/sys/fs/bpf/enforcer-load-{}", std::process::id()).into());
    let (mut first, adopted) = Datapath::open(&settings(&pins.0)).expect("root and a bpffs");
    assert_eq!(adopted, Adopted::Fresh);
    let applied = first.apply(&nothing()).expect("nothing to do is easy");
    assert!(applied.changed);
    assert!(!first.apply(&nothing()).expect("again").changed);
    assert!(matches!(
        Datapath::open(&settings(&pins.0)),
        Err(DatapathError::InUse { .. })
    ));
    drop(first);

    let (second, adopted) = Datapath::open(&settings(&pins.0)).expect("the first one is gone");
    assert_eq!(adopted, Adopted::Same);
    assert_eq!(second.generation(), applied.generation);
    drop(second);

    Datapath::detach(&pins.0).expect("nobody holds it");
    assert!(!pins.0.exists());
}
