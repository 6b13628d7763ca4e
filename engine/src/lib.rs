//! The engine of Graylane: workflow files, graph, runs, scheduler, journal. No Kubernetes, no HTTP, no terminal.
//!
//! ```text
//!  workflow.yaml -> document -> graph::check -> Graph --submit--> Run --decide--> commands
//!                                                                  ^                 |
//!                                                                  |               events
//!                                                        apply (the one fold)        |
//!                                                                  |                 v
//!                                  tasks <-- attempts <-- effects <-- scheduler --> journal (on disk first)
//! ```
//! Read in this order: [`document`], [`graph`], [`run`] (with `run/state.rs` and `run/decide.rs`), [`concurrency`],
//! [`scheduler`], [`journal`]. A module imports only from modules above it in the list below.

pub mod id;

pub mod clock;

pub mod document;

pub mod bundle;

pub mod claim;

pub mod retry;

pub mod expression;

pub mod schema;

pub mod workflow;

pub mod input;

pub mod ledger;

pub mod task;

pub mod approval;

pub mod schedule;

pub mod graph;

pub mod run;

pub mod audit;

pub mod concurrency;

pub mod lock;

pub mod journal;

pub mod retention;

pub mod proof;

pub mod logs;

pub mod view;

pub mod scheduler;

pub mod trigger;

pub mod preview;
