//! Stories of the whole program: the binary as a user runs it, real processes, real HTTP, a real store.
//!
//! One file a story; `support` has what they share. Nothing here reaches inside the engine.

mod api;
mod audit;
mod baselines;
mod busy;
mod checked;
mod checks;
mod cluster;
mod commands;
mod control;
mod crash;
mod dead;
mod ending;
mod environment;
mod faults;
mod fuzz;
mod gateways;
mod guards;
mod history;
mod lanes;
mod leak;
mod leases;
mod matrix;
mod node;
mod offline;
mod ownership;
mod pages;
mod planned;
mod rbac;
mod real;
mod refused;
mod render;
mod retention;
mod roles;
mod rollouts;
mod schedules;
mod serve;
mod status;
mod story;
mod streams;
mod support;
mod tidy;
mod watches;
mod workflows;
