//! From a float model to a quantised one, and what a quantised one computes.
//!
//! [`reference`] runs a graph of integer operators with the functions of [`int8`](crate::int8): slowly, plainly, and to the bit what every device must give.

pub mod reference;
