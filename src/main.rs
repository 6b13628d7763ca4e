//! graylane
fn main() {}
