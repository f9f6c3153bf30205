//! Where tensors lie in a device's memory: what the planners of all devices share.

pub(crate) mod arena;
pub(crate) mod view;
