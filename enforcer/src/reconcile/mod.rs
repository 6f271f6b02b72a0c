//! The one loop that makes the kernel hold what policy and host say. It alone decides what is
//! in force; everybody else asks it by [`command::Command`] or reads what it publishes.

mod clock_steps;
pub mod command;
pub mod desired;
pub mod in_force;
pub mod kernel;
pub mod kernel_numbers;
pub mod mode;
pub mod observer;
mod operator;
mod put_in_force;
pub mod reconciler;
pub mod sweep;

pub mod tree;

#[cfg(test)]
mod tests;
