//! A node: an operator, what it reads and what it makes.

use std::fmt;

use super::attributes::Attributes;
use super::value::ValueId;

/// An operator and its place between values.
#[derive(Debug, Clone)]
pub struct Node {
    /// Its name in the model; may be empty.
    pub name: String,
    /// What it computes.
    pub op: Op,
    /// What it reads, in the operator's order; `None` where an optional input is left out.
    pub inputs: Vec<Option<ValueId>>,
    /// What it makes, in the operator's order; `None` where an optional output is not wanted.
    pub outputs: Vec<Option<ValueId>>,
    /// What the graphs in its attributes read from the graph around them.
    pub captures: Vec<ValueId>,
    /// The places, in the model's order, of the nodes that it came from.
    pub origins: Vec<usize>,
}

/// An operator of ONNX, or of another domain, by name.
#[derive(Debug, Clone, PartialEq)]
pub struct Op {
    /// Empty for ONNX's own.
    pub domain: String,
    /// As ONNX calls it.
    pub name: String,
    /// In the form of [`OPSET`](super::OPSET).
    pub attributes: Attributes,
}

impl Op {
    /// One of ONNX's own operators.
    pub fn onnx(name: &str, attributes: Attributes) -> Self {
        Self { domain: String::new(), name: name.to_owned(), attributes }
    }

    /// Whether it is that operator of ONNX's own.
    pub fn is(&self, name: &str) -> bool {
        self.domain.is_empty() && self.name == name
    }

    /// Its name, if it is one of ONNX's own operators.
    pub fn onnx_name(&self) -> Option<&str> {
        self.domain.is_empty().then_some(self.name.as_str())
    }
}

impl fmt::Display for Op {
    /// As placements name it: `Conv`, `com.microsoft.QLinearAdd`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.domain.as_str() {
            "" => f.write_str(&self.name),
            domain => write!(f, "{domain}.{}", self.name),
        }
    }
}

impl Node {
    /// The input at that place, if it is there.
    pub fn input(&self, index: usize) -> Option<ValueId> {
        self.inputs.get(index).copied().flatten()
    }

    /// The output at that place, if it is wanted.
    pub fn output(&self, index: usize) -> Option<ValueId> {
        self.outputs.get(index).copied().flatten()
    }

    /// The first output that is wanted.
    pub fn first_output(&self) -> Option<ValueId> {
        self.outputs.iter().flatten().next().copied()
    }

    /// Everything that it reads, captures too.
    pub fn reads(&self) -> impl Iterator<Item = ValueId> {
        self.inputs.iter().flatten().chain(&self.captures).copied()
    }

    /// Everything that it makes.
    pub fn makes(&self) -> impl Iterator<Item = ValueId> {
        self.outputs.iter().flatten().copied()
    }

    /// Whether it is that operator of ONNX's own.
    pub fn is(&self, name: &str) -> bool {
        self.op.is(name)
    }
}
