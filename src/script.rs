//! Entry scripts: a user's own Python in front of a model.

pub mod door;
