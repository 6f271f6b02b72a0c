//! The kernel's side: load, attach, pin, adopt, apply, read. The only room that imports aya.

pub mod desired;
