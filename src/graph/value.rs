//! A value: what passes from node to node.

use crate::graph::shapes::Shape;
use crate::tensor::{DType, Tensor};

/// A value's number in its graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(u32);

impl ValueId {
    /// A model is bound to fewer values than that by its limits.
    pub(super) fn new(index: usize) -> Self {
        Self(u32::try_from(index).unwrap_or(u32::MAX))
    }

    /// Its place in a list with one entry a value.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// What is known of a value.
#[derive(Debug, Clone)]
pub struct Value {
    /// Unique in its graph; the model's own name where the model names it.
    pub name: String,
    /// The type of its elements; `None` for what is no tensor, or was made by an operator that nobody here knows.
    pub dtype: Option<DType>,
    /// Its shape, as far as it is known.
    pub shape: Shape,
    /// Its data, if it is constant.
    pub constant: Option<Tensor>,
}

/// What a number of another graph stands for.
pub(super) static NONE: Value =
    Value { name: String::new(), dtype: None, shape: Shape::UNKNOWN, constant: None };

impl Value {
    /// A value of which nothing is known but its name.
    pub(super) fn named(name: impl Into<String>) -> Self {
        Self { name: name.into(), dtype: None, shape: Shape::UNKNOWN, constant: None }
    }

    /// A constant.
    pub(super) fn constant(name: impl Into<String>, tensor: Tensor) -> Self {
        Self {
            name: name.into(),
            dtype: Some(tensor.dtype()),
            shape: Shape::of_tensor(&tensor),
            constant: Some(tensor),
        }
    }
}
