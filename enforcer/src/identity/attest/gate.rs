//! Who may connect: so many from one source, so many in total. Connections that wait (for a
//! handshake, for a request) make room for new ones, the oldest first: whoever only holds
//! connections open keeps nobody out.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio_util::sync::CancellationToken;

/// From where a connection came, as far as connections are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// A cgroup of this host: its workloads share addresses.
    Cgroup(u64),
    /// An address; of IPv6 the network of 64 bits, of which whoever has it has all.
    Address(IpAddr),
}

impl Source {
    /// Of an address.
    pub fn of(address: IpAddr) -> Self {
        Self::Address(match address.to_canonical() {
            IpAddr::V6(v6) => {
                let network = u128::from(v6) & !u128::from(u64::MAX);
                IpAddr::V6(network.into())
            }
            v4 @ IpAddr::V4(_) => v4,
        })
    }
}

/// How many connections there may be.
#[derive(Clone, Copy, Debug)]
pub struct GateLimits {
    /// From one source.
    pub per_source: usize,
    /// In total.
    pub total: usize,
}

/// The gate.
#[derive(Debug)]
pub struct Gate {
    limits: GateLimits,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    inside: usize,
    per_source: HashMap<Source, usize>,
    /// What waits, the oldest first.
    waiting: BTreeMap<u64, CancellationToken>,
}

/// The right to be connected; given back when it is dropped.
#[derive(Debug)]
pub struct Pass {
    gate: Arc<Gate>,
    number: u64,
    source: Source,
    cut: CancellationToken,
}

/// Why a connection is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// The source has as many as it may.
    Source,
    /// Everybody is busy, and nobody only waits.
    Total,
}

impl Gate {
    /// With these limits.
    pub fn new(limits: GateLimits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            inner: Mutex::default(),
        })
    }

    /// Lets a connection in. Where there is no room, the one that waits longest is cut.
    pub fn enter(self: &Arc<Self>, source: Source) -> Result<Pass, Full> {
        let mut inner = self.lock();
        let mine = inner.per_source.get(&source).copied().unwrap_or(0);
        if mine >= self.limits.per_source {
            return Err(Full::Source);
        }
        if inner.inside >= self.limits.total {
            let (_, oldest) = inner.waiting.pop_first().ok_or(Full::Total)?;
            oldest.cancel();
        }
        inner.next += 1;
        let number = inner.next;
        let cut = CancellationToken::new();
        inner.waiting.insert(number, cut.clone());
        inner.inside += 1;
        *inner.per_source.entry(source).or_default() += 1;
        drop(inner);
        Ok(Pass {
            gate: Arc::clone(self),
            number,
            source,
            cut,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing in it can panic half-way.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pass {
    /// Ends when the connection is to make room for another one.
    pub fn cut(&self) -> CancellationToken {
        self.cut.clone()
    }

    /// A request is being answered: the connection does not wait.
    pub fn busy(&self) {
        self.gate.lock().waiting.remove(&self.number);
    }

    /// It waits for the next one.
    pub fn idle(&self) {
        let mut inner = self.gate.lock();
        // It is the youngest of those that wait.
        inner.waiting.insert(self.number, self.cut.clone());
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut inner = self.gate.lock();
        inner.inside -= 1;
        inner.waiting.remove(&self.number);
        if let Some(count) = inner.per_source.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                inner.per_source.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: GateLimits = GateLimits {
        per_source: 2,
        total: 3,
    };

    #[test]
    fn a_source_has_its_share_and_gives_it_back() {
        let gate = Gate::new(LIMITS);
        let one = gate.enter(Source::Cgroup(1)).unwrap();
        let _two = gate.enter(Source::Cgroup(1)).unwrap();
        assert_eq!(gate.enter(Source::Cgroup(1)).unwrap_err(), Full::Source);
        drop(one);
        gate.enter(Source::Cgroup(1)).unwrap();
        assert_eq!(gate.lock().per_source.len(), 1);
    }

    #[test]
    fn whoever_waits_longest_makes_room() {
        let gate = Gate::new(LIMITS);
        let passes: Vec<_> = (0..3)
            .map(|n| gate.enter(Source::Cgroup(n)).unwrap())
            .collect();
        passes[0].busy();
        let fourth = gate.enter(Source::Cgroup(7)).unwrap();
        let cut = |n: usize| passes[n].cut().is_cancelled();
        assert_eq!([cut(0), cut(1), cut(2)], [false, true, false]);
        passes[2].busy();
        fourth.busy();
        assert_eq!(gate.enter(Source::Cgroup(8)).unwrap_err(), Full::Total);
        passes[0].idle();
        gate.enter(Source::Cgroup(8)).unwrap();
        assert!(cut(0));
    }

    #[test]
    fn all_of_a_network_is_one_source() {
        let source = |text: &str| Source::of(text.parse().unwrap());
        assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:1"));
        assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
        assert_ne!(source("10.0.0.1"), source("10.0.0.2"));
        assert_eq!(source("::ffff:10.0.0.1"), source("10.0.0.1"));
    }
}
