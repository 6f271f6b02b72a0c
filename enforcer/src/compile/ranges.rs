//! Port ranges and the prefixes that make them up.

use enforcer_common::policy_key::PortKey;

/// Sorts ranges and joins those that touch or overlap. Both ends are inclusive.
pub(super) fn merged(mut ranges: Vec<(u16, u16)>) -> Vec<(u16, u16)> {
    ranges.sort_unstable();
    let mut out: Vec<(u16, u16)> = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match out.last_mut() {
            Some(previous) if u32::from(first) <= u32::from(previous.1) + 1 => {
                previous.1 = previous.1.max(last);
            }
            _ => out.push((first, last)),
        }
    }
    out
}

/// The fewest disjoint prefixes that make up a range, as (length, port).
pub(super) fn prefixes(first: u16, last: u16) -> impl Iterator<Item = (u8, u16)> {
    let end = u32::from(last) + 1;
    let mut start = u32::from(first);
    std::iter::from_fn(move || {
        if start >= end {
            return None;
        }
        // The largest block that starts here: aligned, and not past the end. Both are at most
        // 16 bits, because `end - start` is at most 2^16.
        let aligned = start.trailing_zeros().min(16);
        let bits = aligned.min((end - start).ilog2());
        let length = u8::try_from(16 - bits).unwrap_or(16);
        let port = PortKey::covering(0, 0, u16::try_from(start).unwrap_or(u16::MAX), length).port;
        start += 1 << bits;
        Some((length, port))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn touching_ranges_join() {
        let ranges = vec![
            (80, 80),
            (20, 22),
            (81, 90),
            (21, 25),
            (100, 65535),
            (65535, 65535),
        ];
        assert_eq!(merged(ranges), [(20, 25), (80, 90), (100, 65535)]);
    }

    #[test]
    fn whole_range_is_one_prefix_and_a_port_another() {
        assert_eq!(prefixes(0, 65535).collect::<Vec<_>>(), [(0, 0)]);
        assert_eq!(prefixes(443, 443).collect::<Vec<_>>(), [(16, 443)]);
        assert_eq!(prefixes(65535, 65535).collect::<Vec<_>>(), [(16, 65535)]);
    }

    #[test]
    fn prefixes_cover_exactly_the_range_without_overlap() {
        for (first, last) in [
            (0, 1),
            (1, 65534),
            (1024, 65535),
            (79, 8081),
            (3, 3),
            (7, 8),
        ] {
            let keys: Vec<_> = prefixes(first, last).collect();
            for port in 0..=u16::MAX {
                let hits = keys
                    .iter()
                    .filter(|(length, masked)| {
                        PortKey::covering(0, 0, port, *length).port == *masked
                    })
                    .count();
                assert_eq!(
                    hits,
                    usize::from((first..=last).contains(&port)),
                    "port {port}"
                );
            }
        }
        // The worst case of 16 bits is 2 * 16 - 2 prefixes.
        assert_eq!(prefixes(1, 65534).count(), 30);
    }
}
