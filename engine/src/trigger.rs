//! What starts runs besides people: schedules.
//!
//! `schedule.rs` says what a schedule means; nothing here starts anything.

pub mod schedule;
