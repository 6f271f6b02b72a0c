//! The inventory's cgroups against real ones: new, gone, made anew, by the thousand, and too
//! fast to follow.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::MetadataExt,
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use enforcer::{
    datapath::desired::EndpointPlace,
    inventory::{
        Inventory, InventoryError, InventoryHandle, InventorySettings, Snapshot,
        cgroups::{CgroupError, CgroupTree},
        place::place,
    },
    policy::model::{Assurance, Labels, Origin, Place, Workload},
};
use tests::lab::Lab;
use tokio::sync::watch;

type Snapshots = watch::Receiver<Arc<Snapshot>>;

/// Far more than any change takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);

async fn start(root: &Path) -> Result<(InventoryHandle, Snapshots), InventoryError> {
    Inventory::start(InventorySettings {
        cgroup_root: Some(root.to_owned()),
        ..InventorySettings::default()
    })
    .await
}

async fn until(
    snapshots: &mut Snapshots,
    what: &str,
    reached: impl Fn(&Snapshot) -> bool,
) -> Result<Arc<Snapshot>> {
    let wait = snapshots.wait_for(|snapshot| reached(snapshot));
    let found = tokio::time::timeout(PATIENCE, wait)
        .await
        .with_context(|| format!("waiting for: {what}"))?;
    Ok(found.context("the inventory ended")?.clone())
}

fn id(path: &Path) -> Result<u64> {
    Ok(fs::metadata(path)?.ino())
}

/// What is on disk below `root`, by the names that a snapshot has.
fn on_disk(root: &Path) -> io::Result<BTreeMap<String, u64>> {
    fn add(path: &Path, name: &str, found: &mut BTreeMap<String, u64>) -> io::Result<()> {
        let shown = if name.is_empty() { "/" } else { name };
        found.insert(shown.to_owned(), fs::metadata(path)?.ino());
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                let child = format!("{name}/{}", entry.file_name().to_string_lossy());
                add(&entry.path(), &child, found)?;
            }
        }
        Ok(())
    }
    let mut found = BTreeMap::new();
    add(root, "", &mut found)?;
    Ok(found)
}

fn workload(name: &str, place: Place) -> Arc<Workload> {
    Arc::new(Workload {
        namespace: "default".into(),
        name: name.into(),
        origin: Origin {
            file: "w.yaml".into(),
            line: 1,
            column: 1,
        },
        labels: Labels::new(),
        spiffe_id: None,
        service_account: None,
        ports: [].into(),
        assurance: Assurance::Address,
        addresses: Vec::new(),
        place: Some(place),
        unit_elsewhere: None,
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cgroups_come_go_and_come_back_as_others() -> Result<()> {
    let lab = Lab::new()?;
    let before = lab.cgroup("before/start")?;
    let (_handle, mut snapshots) = start(lab.cgroups()).await?;
    let first = snapshots.borrow().clone();
    assert_eq!(first.cgroups, on_disk(lab.cgroups())?);
    assert_eq!(first.cgroups["/before/start"], id(&before)?);

    let deep = lab.cgroup("system.slice/web.service/worker/1")?;
    let wanted = id(&deep)?;
    until(&mut snapshots, "a deep new cgroup", |s| {
        s.cgroups.get("/system.slice/web.service/worker/1") == Some(&wanted)
    })
    .await?;

    fs::remove_dir(&deep)?;
    until(&mut snapshots, "its end", |s| {
        !s.cgroups.contains_key("/system.slice/web.service/worker/1")
    })
    .await?;
    fs::create_dir(&deep)?;
    let again = id(&deep)?;
    assert_ne!(again, wanted, "the kernel does not reuse an id at once");
    until(&mut snapshots, "its successor", |s| {
        s.cgroups.get("/system.slice/web.service/worker/1") == Some(&again)
    })
    .await?;

    // A service that restarts: gone and back within one burst, with a child in the new one only.
    let service = lab.cgroup("system.slice/api.service")?;
    let old = id(&service)?;
    until(&mut snapshots, "the service", |s| {
        s.cgroups.get("/system.slice/api.service") == Some(&old)
    })
    .await?;
    fs::remove_dir(&service)?;
    fs::create_dir_all(service.join("child"))?;
    let (new, child) = (id(&service)?, id(&service.join("child"))?);
    let last = until(&mut snapshots, "the restarted service", |s| {
        s.cgroups.get("/system.slice/api.service") == Some(&new)
            && s.cgroups.get("/system.slice/api.service/child") == Some(&child)
    })
    .await?;

    let workloads = [
        workload("web", Place::Unit("web.service".into())),
        workload("api", Place::Cgroup("/system.slice/a*".into())),
    ];
    let placement = place(&workloads, &last);
    let places: Vec<_> = placement.endpoints.iter().map(|e| &e.place).collect();
    assert_eq!(
        places,
        [
            &EndpointPlace::Cgroup {
                id: new,
                path: "/system.slice/api.service".into()
            },
            &EndpointPlace::Cgroup {
                id: id(&lab.cgroups().join("system.slice/web.service"))?,
                path: "/system.slice/web.service".into()
            },
        ]
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_cgroup_is_known_within_milliseconds() -> Result<()> {
    let lab = Lab::new()?;
    let (_handle, mut snapshots) = start(lab.cgroups()).await?;
    let mut times = Vec::new();
    for round in 0..21 {
        let name = format!("c{round}");
        let made = Instant::now();
        lab.cgroup(&name)?;
        until(&mut snapshots, "a new cgroup", |s| {
            s.cgroups.contains_key(&format!("/{name}"))
        })
        .await?;
        times.push(made.elapsed());
    }
    times.sort();
    let median = times[times.len() / 2];
    println!("median {median:?}, longest {:?}", times[times.len() - 1]);
    // 5 ms of quiet and the way there; a machine with better things to do gets five times that.
    assert!(median < Duration::from_millis(25), "{times:?}");
    Ok(())
}

/// Makes and removes trees for a while, as fast as the kernel lets it.
fn churn(root: &Path, stop: &AtomicBool) -> io::Result<u32> {
    let mut rounds = 0;
    while !stop.load(Ordering::Relaxed) {
        fs::create_dir_all(root.join("a/b/c"))?;
        fs::create_dir_all(root.join("a/d"))?;
        for gone in ["a/b/c", "a/b", "a/d", "a"] {
            fs::remove_dir(root.join(gone))?;
        }
        rounds += 1;
    }
    fs::create_dir_all(root.join("a/b/last"))?;
    Ok(rounds)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_storm_the_snapshot_is_what_is_there() -> Result<()> {
    let lab = Lab::new()?;
    let roots = [lab.cgroup("one")?, lab.cgroup("two")?];
    let (mut handle, mut snapshots) = start(lab.cgroups()).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let workers = roots.map(|root| {
        let stop = stop.clone();
        thread::spawn(move || churn(&root, &stop))
    });
    let mut published = 0;
    let end = tokio::time::sleep(Duration::from_secs(2));
    tokio::pin!(end);
    loop {
        tokio::select! {
            () = &mut end => break,
            changed = snapshots.changed() => {
                changed?;
                published += 1;
            }
            ended = handle.ended() => panic!("the inventory ended: {ended:?}"),
        }
    }
    stop.store(true, Ordering::Relaxed);
    for worker in workers {
        let rounds = worker.join().expect("the worker does not panic")?;
        assert!(rounds > 10, "{rounds}: this was no storm");
    }
    // Bursts that go on are published all the same, and coalesced.
    assert!(
        (5..=400).contains(&published),
        "{published} snapshots in 2 s"
    );
    let wanted = on_disk(lab.cgroups())?;
    until(&mut snapshots, "the tree as it is on disk", |s| {
        s.cgroups == wanted
    })
    .await?;
    Ok(())
}

/// Not polled meanwhile, the watcher's queue overflows; everything is read anew then.
#[tokio::test(flavor = "current_thread")]
async fn an_overflow_loses_nothing() -> Result<()> {
    let lab = Lab::new()?;
    let gone = lab.cgroup("gone")?;
    let mut tree = CgroupTree::open(lab.cgroups())?;
    let queue: usize = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events")?
        .trim()
        .parse()?;
    let (a, b) = (lab.cgroups().join("a"), lab.cgroups().join("b"));
    // Four events a round; the same event twice running would be merged.
    for _ in 0..=queue / 4 {
        for path in [&a, &b] {
            fs::create_dir(path)?;
        }
        for path in [&a, &b] {
            fs::remove_dir(path)?;
        }
    }
    fs::remove_dir(gone)?;
    lab.cgroup("late/child")?;
    let wanted = on_disk(lab.cgroups())?;
    let deadline = Instant::now() + PATIENCE;
    while tree.cgroups() != wanted {
        assert!(Instant::now() < deadline, "{:?}", tree.cgroups());
        tokio::time::timeout(PATIENCE, tree.changed()).await??;
    }
    assert_eq!(tree.overflows(), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_root_that_goes_away_ends_the_inventory_with_the_reason() -> Result<()> {
    let lab = Lab::new()?;
    let root = lab.cgroup("root")?;
    let (mut handle, mut snapshots) = start(&root).await?;
    fs::remove_dir(&root)?;
    fs::create_dir(&root)?;
    let ended = tokio::time::timeout(PATIENCE, handle.ended()).await?;
    assert!(
        matches!(
            ended,
            Err(InventoryError::Cgroups(CgroupError::RootGone(_)))
        ),
        "{ended:?}"
    );
    while snapshots.changed().await.is_ok() {}
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_root_that_is_not_there_is_refused() -> Result<()> {
    let lab = Lab::new()?;
    assert!(start(&lab.cgroups().join("nowhere")).await.is_err());
    assert!(matches!(
        start(&lab.folder()).await,
        Err(InventoryError::Cgroups(CgroupError::NotCgroup2(_)))
    ));
    Ok(())
}

/// The limit is set in a user namespace of its own, where this test runs itself again.
#[test]
fn a_used_up_watch_limit_is_said_and_worked_around() -> Result<()> {
    const INSIDE: &str = "INVENTORY_TEST_INSIDE";
    const NAME: &str = "a_used_up_watch_limit_is_said_and_worked_around";
    if std::env::var_os(INSIDE).is_some() {
        return with_eight_watches();
    }
    // Root outside too: a user namespace alone would do without.
    let _lab = Lab::new()?;
    let status = Command::new("unshare")
        .args(["--user", "--map-root-user", "sh", "-c"])
        .arg("echo 8 >/proc/sys/user/max_inotify_watches && exec \"$0\" --exact \"$1\"")
        .arg(std::env::current_exe()?)
        .arg(NAME)
        .env(INSIDE, "1")
        .status()?;
    assert!(status.success(), "the test failed inside");
    Ok(())
}

fn with_eight_watches() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let lab = Lab::new()?;
        for n in 0..20 {
            lab.cgroup(&format!("c{n}/child"))?;
        }
        let (_handle, mut snapshots) = start(lab.cgroups()).await?;
        let first = snapshots.borrow().clone();
        assert_eq!(first.cgroups, on_disk(lab.cgroups())?);
        // In a user namespace of its own it also misses privileges of the initial one, and says so.
        let about_watches = |note: &String| note.contains("max_user_watches");
        assert!(first.notes.iter().any(about_watches), "{:?}", first.notes);
        for n in 0..20 {
            lab.cgroup(&format!("c{n}/child/new/deep"))?;
        }
        let wanted = on_disk(lab.cgroups())?;
        until(&mut snapshots, "what could not be watched", |s| {
            s.cgroups == wanted
        })
        .await?;
        for n in 0..20 {
            for gone in ["new/deep", "new", ""] {
                fs::remove_dir(lab.cgroups().join(format!("c{n}/child/{gone}")))?;
            }
        }
        let wanted = on_disk(lab.cgroups())?;
        until(&mut snapshots, "its end", |s| s.cgroups == wanted).await?;
        Ok(())
    })
}
