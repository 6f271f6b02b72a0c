//! Memory that was needed for a while goes back to the system.

/// Hands back what is free. The allocator keeps it otherwise: after a large tree was read and
/// compiled, that is as much as what stays in use. Takes milliseconds.
pub fn give_back() {
    // SAFETY: it has no preconditions; the allocator takes its own locks.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(all(test, target_env = "gnu"))]
mod tests {
    use std::hint::black_box;

    use super::*;

    fn resident() -> usize {
        let text = std::fs::read_to_string("/proc/self/statm").unwrap();
        let pages = text.split(' ').nth(1).unwrap();
        pages.parse::<usize>().unwrap() * 4096
    }

    #[test]
    fn what_is_free_goes_back_though_something_behind_it_is_in_use() {
        const EACH: usize = 1 << 10;
        let mut many: Vec<Vec<u8>> = (0..64 << 10).map(|_| black_box(vec![1; EACH])).collect();
        let last = many.pop();
        drop(many);
        let before = resident();
        give_back();
        let after = resident();
        assert!(before > after + (32 << 20), "{before} {after}");
        drop(black_box(last));
    }
}
