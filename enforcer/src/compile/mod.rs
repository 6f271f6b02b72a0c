//! From resolved policy and identities to the image. Pure.

pub mod image;
