//! The `triscore` program.
fn main() {}
