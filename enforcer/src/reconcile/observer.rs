//! Who is told what the loop does.

use super::in_force::InForce;

/// Names and metrics, as far as the loop knows of them.
pub trait Observer: Send + Sync {
    /// This is about to be in force, or is again: from now on the kernel may speak by its
    /// numbers.
    fn announce(&self, in_force: &InForce);
    /// This is in force.
    fn applied(&self, in_force: &InForce);
    /// Whether the tree as it is now is kept out of force; said whenever it may have changed.
    fn tree_refused(&self, refused: bool);
    /// The tree has so many errors; what was in force stays.
    fn load_failed(&self, errors: usize);
    /// The tree could not be compiled or the kernel did not take it; what was in force stays.
    fn apply_failed(&self);
}
