//! Stories: the crate used as its users use it, through `kube::Client` and through real HTTP.

mod support;

mod api;
mod autoscaling;
mod endings;
mod faults;
mod kubectl;
mod ownership;
mod persistence;
mod rollout;
mod rubbish;
mod serving;
mod traffic;
mod watches;
