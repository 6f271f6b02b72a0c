//! Random changes to frames.

use crate::frames::least;

/// A small generator of numbers (xorshift64*): a failure prints the frame, so nothing better is
/// needed.
#[derive(Clone, Debug)]
pub struct Mutator(u64);

impl Mutator {
    /// Always the same numbers.
    pub fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(number).expect("31 bits") % end
    }

    fn byte(&mut self) -> u8 {
        // Edges more often than not.
        const EDGES: [u8; 12] = [0, 1, 6, 17, 44, 58, 60, 0x40, 0x45, 0x60, 0x80, 0xff];
        match self.below(2) {
            0 => EDGES[self.below(EDGES.len())],
            _ => u8::try_from(self.below(256)).expect("a byte"),
        }
    }

    /// Changes bytes, cuts, grows, doubles pieces.
    pub fn mutate(&mut self, seed: &[u8]) -> Vec<u8> {
        let mut frame = seed.to_vec();
        for _ in 0..=self.below(4) {
            // Headers are what matters: mutations are near the front.
            let reach = frame.len().min(14 + self.below(80) + 1);
            let at = self.below(reach);
            match self.below(8) {
                0 => frame.truncate(at.max(15)),
                1 => frame.extend(vec![self.byte(); self.below(64)]),
                2 => {
                    let piece = frame[at..reach].to_vec();
                    frame.splice(at..at, piece);
                }
                3 => {
                    frame.drain(at..reach.min(at + 1 + self.below(8)));
                }
                _ => frame[at] = self.byte(),
            }
        }
        frame.resize(frame.len().clamp(15, 3000), 0);
        frame.resize(frame.len().max(least(&frame)), 0);
        frame
    }
}

impl Default for Mutator {
    fn default() -> Self {
        Self::new()
    }
}
