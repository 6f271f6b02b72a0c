//! Says how far a test is that tries very many random trees.

use std::{
    cell::RefCell,
    io::Write as _,
    time::{Duration, Instant},
};

/// How often.
const INTERVAL: Duration = Duration::from_secs(20);

struct Count {
    trees: u64,
    started: Instant,
    told: Instant,
}

thread_local! {
    /// Every test has a thread of its own, which has its name.
    static COUNT: RefCell<Count> = RefCell::new(Count {
        trees: 0,
        started: Instant::now(),
        told: Instant::now(),
    });
}

/// Counts a tree, and says so from time to time where somebody asked for a number of cases.
pub(super) fn one() {
    COUNT.with_borrow_mut(|count| {
        count.trees += 1;
        if count.told.elapsed() < INTERVAL || std::env::var_os("ENFORCER_CASES").is_none() {
            return;
        }
        count.told = Instant::now();
        let thread = std::thread::current();
        let seconds = count.started.elapsed().as_secs().max(1);
        // Past the test harness, which keeps what is printed until the test has ended.
        let _ = writeln!(
            std::io::stderr(),
            "{}: {} random trees in {seconds} s, {} a second",
            thread.name().unwrap_or("a test"),
            count.trees,
            count.trees / seconds
        );
    });
}
