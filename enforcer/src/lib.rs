//! Identity-based network segmentation for Linux, enforced in the kernel.
//!
//! Data goes down one path, from [`policy`] and [`inventory`] by [`compile`] and [`reconcile`]
//! to the kernel ([`datapath`]), and up another, from the kernel by [`observe`] to [`sink`],
//! [`metrics`] and the control socket ([`api`]). [`daemon`] only wires; [`cli`] is the command
//! line. ARCHITECTURE.md has the whole.

pub mod api;
pub mod cause;
pub mod cli;
pub mod compile;
pub mod daemon;
pub mod datapath;
pub mod formatting;
pub mod git;
pub mod heap;
pub mod identity;
pub mod inventory;
pub mod kernel_handle;
pub mod lint;
pub mod lock_holder;
pub mod metrics;
pub mod narrator;
pub mod observe;
pub mod policy;
pub mod policy_test;
pub mod protocol_name;
pub mod reconcile;
pub mod registry;
pub mod reject;
pub mod schema;
pub mod sd_notify;
pub mod settings;
pub mod sink;
pub mod state;
pub mod supervisor;
pub mod tools;
pub mod watch;
