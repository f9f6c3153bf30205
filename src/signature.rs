//! What a model takes and gives: ordered ports with names, element types and shapes.
//!
//! A dimension is fixed or free; free dimensions of one name are equal within one call, wherever they
//! stand. The batch axis is the one free dimension that every port shares: what a batcher joins and a
//! splitter cuts along. It is read off the shapes alone, so it is a claim about shapes; that a model
//! treats its rows independently is measured by the backend that wants to rely on it.

use std::fmt;

use crate::error::{Result, ScoreError};
use crate::tensor::{DType, Tensor};

/// The ordered inputs and outputs of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Signature {
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    batch_axis: Option<usize>,
}

/// One input or output.
#[derive(Debug, Clone, PartialEq)]
pub struct Port {
    /// Its name in the model.
    pub name: String,
    /// What kind of value passes through it.
    pub kind: PortKind,
    /// Whether a caller may leave it out, because the model holds a default for it.
    pub optional: bool,
}

/// What kind of value passes through a port.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum PortKind {
    /// A tensor; `dims` is `None` where the model does not even say how many axes there are.
    Tensor {
        /// The type of its elements.
        dtype: DType,
        /// The length of every axis.
        dims: Option<Vec<Dim>>,
    },
    /// A list of values, outputs only (`SequenceConstruct`, `ZipMap`).
    Sequence(Box<PortKind>),
    /// A map, outputs only (`ZipMap`).
    Map {
        /// The type of the keys: an integer or text.
        key: DType,
        /// The type of the values.
        value: DType,
    },
}

/// The length of one axis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dim {
    /// Always this length.
    Fixed(usize),
    /// Any length, the same wherever the same name stands; `None` is free on its own.
    Free(Option<String>),
}

impl Dim {
    /// A free dimension of that name.
    pub fn named(name: impl Into<String>) -> Self {
        Self::Free(Some(name.into()))
    }
}

impl Port {
    /// A tensor port that must be given.
    pub fn tensor(name: impl Into<String>, dtype: DType, dims: Vec<Dim>) -> Self {
        Self { name: name.into(), kind: PortKind::Tensor { dtype, dims: Some(dims) }, optional: false }
    }

    /// The element type, for a tensor port.
    pub fn dtype(&self) -> Option<DType> {
        match &self.kind {
            PortKind::Tensor { dtype, .. } => Some(*dtype),
            _ => None,
        }
    }

    /// The dimensions, for a tensor port that declares them.
    pub fn dims(&self) -> Option<&[Dim]> {
        match &self.kind {
            PortKind::Tensor { dims, .. } => dims.as_deref(),
            _ => None,
        }
    }
}

impl Signature {
    /// A signature of these ports; the batch axis is found from their shapes.
    ///
    /// # Errors
    /// `BadModel` when two ports of one side share a name.
    pub fn new(inputs: Vec<Port>, outputs: Vec<Port>) -> Result<Self> {
        for (side, ports) in [("inputs", &inputs), ("outputs", &outputs)] {
            for (i, port) in ports.iter().enumerate() {
                if ports.iter().take(i).any(|p| p.name == port.name) {
                    let name = &port.name;
                    return Err(ScoreError::bad_model(format!("two {side} are named '{name}'")));
                }
            }
        }
        let batch_axis = batch_axis(&inputs, &outputs);
        Ok(Self { inputs, outputs, batch_axis })
    }

    /// The same signature without a batch axis, for a model whose rows are not independent.
    #[must_use]
    pub fn without_batch_axis(mut self) -> Self {
        self.batch_axis = None;
        self
    }

    /// The inputs, in the order in which [`score`](crate::Scorer::score) takes them.
    pub fn inputs(&self) -> &[Port] {
        &self.inputs
    }

    /// The outputs, in the order in which [`score`](crate::Scorer::score) gives them.
    pub fn outputs(&self) -> &[Port] {
        &self.outputs
    }

    /// The axis along which requests may be joined and batches be cut, if there is one.
    pub fn batch_axis(&self) -> Option<usize> {
        self.batch_axis
    }

    /// Where the input of that name stands.
    pub fn input_index(&self, name: &str) -> Option<usize> {
        self.inputs.iter().position(|p| p.name == name)
    }

    /// Whether these tensors are what the model takes: how many, of which types and shapes, and
    /// with equal lengths where one free dimension stands twice.
    ///
    /// # Errors
    /// `BadInput` naming the tensor, what was expected and what came.
    pub fn check(&self, inputs: &[Tensor]) -> Result<()> {
        if inputs.len() != self.inputs.len() {
            let names = self.inputs.iter().map(|p| p.name.as_str()).collect::<Vec<_>>().join("', '");
            return Err(ScoreError::bad_input(format!(
                "expected {} inputs ('{names}'), got {}",
                self.inputs.len(),
                inputs.len()
            )));
        }
        // Free dimensions seen so far. Models have one or two, so a short list beats a map.
        let mut bound: Vec<(&str, usize, &str)> = Vec::new();
        for (port, tensor) in self.inputs.iter().zip(inputs) {
            port.check(tensor)?;
            for (dim, length) in port.dims().unwrap_or_default().iter().zip(tensor.shape()) {
                let Dim::Free(Some(symbol)) = dim else { continue };
                match bound.iter().find(|(s, ..)| s == symbol) {
                    Some((_, first, first_port)) if first != length => {
                        return Err(ScoreError::bad_input(format!(
                            "dimension '{symbol}' is {length} here and {first} in input '{first_port}'"
                        ))
                        .with_at(format!("input '{}'", port.name)));
                    }
                    Some(_) => {}
                    None => bound.push((symbol, *length, &port.name)),
                }
            }
        }
        Ok(())
    }

    /// How many rows these inputs hold along the batch axis; 1 without such an axis.
    pub fn rows(&self, inputs: &[Tensor]) -> usize {
        self.batch_axis
            .and_then(|axis| inputs.first().and_then(|t| t.shape().get(axis)))
            .copied()
            .unwrap_or(1)
    }
}

impl Port {
    /// Whether this tensor may pass through this port.
    ///
    /// # Errors
    /// `BadInput` naming the port, what was expected and what came.
    pub fn check(&self, tensor: &Tensor) -> Result<()> {
        let refuse =
            |what: String| Err(ScoreError::bad_input(what).with_at(format!("input '{}'", self.name)));
        let PortKind::Tensor { dtype, dims } = &self.kind else {
            return refuse("sequences and maps cannot be given as inputs".to_owned());
        };
        if *dtype != tensor.dtype() {
            return refuse(format!("expected {dtype}, got {}", tensor.dtype()));
        }
        let Some(dims) = dims else { return Ok(()) };
        let fits = dims.len() == tensor.shape().len()
            && dims.iter().zip(tensor.shape()).all(|(d, n)| match d {
                Dim::Fixed(fixed) => fixed == n,
                Dim::Free(_) => true,
            });
        if fits {
            return Ok(());
        }
        refuse(format!("expected shape {}, got {:?}", DimList(dims), tensor.shape()))
    }
}

/// The axis that every port shares as a free dimension of one name (or of none), if it is one
/// that means the same everywhere: axis 0, and the name nowhere else.
fn batch_axis(inputs: &[Port], outputs: &[Port]) -> Option<usize> {
    const AXIS: usize = 0;
    // Inputs must agree on the name; exporters often leave outputs unnamed or name them anew.
    let mut input_symbol: Option<&str> = None;
    for (port, is_input) in inputs.iter().map(|p| (p, true)).chain(outputs.iter().map(|p| (p, false))) {
        let dims = match &port.kind {
            PortKind::Tensor { dims, .. } => dims.as_deref()?,
            // One element a row, as `ZipMap` answers.
            PortKind::Sequence(_) if !is_input => continue,
            _ => return None,
        };
        let (Dim::Free(first), rest) = dims.split_first()? else { return None };
        let Some(symbol) = first else { continue };
        if rest.iter().any(|d| matches!(d, Dim::Free(Some(s)) if s == symbol)) {
            return None;
        }
        if is_input && *input_symbol.get_or_insert(symbol) != symbol {
            return None;
        }
    }
    (!inputs.is_empty()).then_some(AXIS)
}

/// Prints dimensions as `[batch, 1, 8, ?]`.
struct DimList<'a>(&'a [Dim]);

impl fmt::Display for DimList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (i, dim) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{dim}")?;
        }
        f.write_str("]")
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(n) => write!(f, "{n}"),
            Self::Free(Some(name)) => f.write_str(name),
            Self::Free(None) => f.write_str("?"),
        }
    }
}

impl fmt::Display for PortKind {
    /// As `f32[batch, 10]`, `sequence of map of i64 to f32`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tensor { dtype, dims: Some(dims) } => write!(f, "{dtype}{}", DimList(dims)),
            Self::Tensor { dtype, dims: None } => write!(f, "{dtype} of any shape"),
            Self::Sequence(of) => write!(f, "sequence of {of}"),
            Self::Map { key, value } => write!(f, "map of {key} to {value}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(name: &str, dims: &[Dim]) -> Port {
        Port::tensor(name, DType::F32, dims.to_vec())
    }
    fn n(name: &str) -> Dim {
        Dim::named(name)
    }
    const ANY: Dim = Dim::Free(None);

    #[test]
    fn the_batch_axis_is_what_every_port_shares() {
        let f = Dim::Fixed;
        type Case = (&'static str, Vec<Port>, Vec<Port>, Option<usize>);
        let cases: Vec<Case> = vec![
            ("named", vec![port("x", &[n("b"), f(3)])], vec![port("y", &[n("b")])], Some(0)),
            ("anonymous", vec![port("x", &[ANY, f(3)])], vec![port("y", &[ANY])], Some(0)),
            ("output renamed", vec![port("x", &[n("b")])], vec![port("y", &[n("c")])], Some(0)),
            (
                "two inputs",
                vec![port("a", &[n("b")]), port("c", &[n("b")])],
                vec![port("y", &[n("b")])],
                Some(0),
            ),
            (
                "two sequences",
                vec![port("a", &[n("c")]), port("q", &[n("q")])],
                vec![port("y", &[ANY])],
                None,
            ),
            ("fixed output", vec![port("x", &[n("b")])], vec![port("y", &[f(1)])], None),
            ("scalar output", vec![port("x", &[n("b")])], vec![port("y", &[])], None),
            ("square", vec![port("x", &[n("b"), n("b")])], vec![port("y", &[n("b")])], None),
            ("no input", vec![], vec![port("y", &[n("b")])], None),
        ];
        for (what, inputs, outputs, expected) in cases {
            assert_eq!(Signature::new(inputs, outputs).unwrap().batch_axis(), expected, "{what}");
        }
    }

    #[test]
    fn inputs_are_held_against_their_ports() {
        let sig = Signature::new(
            vec![port("a", &[n("b"), Dim::Fixed(3)]), port("c", &[n("b"), ANY])],
            vec![port("y", &[n("b")])],
        )
        .unwrap();
        let t = |shape: &[usize]| Tensor::zeros(DType::F32, shape).unwrap();
        let cases: Vec<(Vec<Tensor>, &str)> = vec![
            (vec![t(&[2, 3]), t(&[2, 9])], ""),
            (vec![t(&[0, 3]), t(&[0, 0])], ""),
            (vec![t(&[2, 3])], "expected 2 inputs ('a', 'c'), got 1"),
            (vec![t(&[2, 4]), t(&[2, 9])], "input 'a': expected shape [b, 3], got [2, 4]"),
            (vec![t(&[2, 3, 1]), t(&[2, 9])], "input 'a': expected shape [b, 3], got [2, 3, 1]"),
            (vec![t(&[2, 3]), t(&[5, 9])], "input 'c': dimension 'b' is 5 here and 2 in input 'a'"),
            (
                vec![t(&[2, 3]), Tensor::zeros(DType::I64, &[2, 9]).unwrap()],
                "input 'c': expected f32, got i64",
            ),
        ];
        for (inputs, message) in cases {
            let got = sig.check(&inputs).err().map(|e| e.to_string()).unwrap_or_default();
            assert_eq!(got, message, "{inputs:?}");
        }
        assert_eq!(sig.rows(&[t(&[7, 3]), t(&[7, 1])]), 7);
    }

    #[test]
    fn names_stand_once() {
        assert!(Signature::new(vec![port("x", &[]), port("x", &[])], vec![]).is_err());
        assert_eq!(port("x", &[n("b"), ANY, Dim::Fixed(8)]).kind.to_string(), "f32[b, ?, 8]");
    }
}
