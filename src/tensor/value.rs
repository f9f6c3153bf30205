//! What a model answers: nearly always tensors; for some scikit-learn models, sequences and maps.

use super::Tensor;
use crate::error::{Result, ScoreError};

/// One output of a model.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// An n-dimensional array.
    Tensor(Tensor),
    /// An ordered list of values, as `SequenceConstruct` or `ZipMap` answers.
    Sequence(Vec<Value>),
    /// Keys and their values, as one row of `ZipMap` answers.
    Map(Map),
}

/// An ONNX map: keys (integers or text) and as many values.
#[derive(Debug, Clone, PartialEq)]
pub struct Map {
    keys: Tensor,
    values: Tensor,
}

impl Map {
    /// A map of `keys` to `values`, both one-dimensional and equally long.
    ///
    /// # Errors
    /// `BadInput` when they are not.
    pub fn new(keys: Tensor, values: Tensor) -> Result<Self> {
        if keys.shape().len() != 1 || keys.shape() != values.shape() {
            return Err(ScoreError::bad_input(format!(
                "a map needs as many keys as values, each in one dimension; got {:?} and {:?}",
                keys.shape(),
                values.shape()
            )));
        }
        Ok(Self { keys, values })
    }

    /// The keys, one-dimensional.
    pub fn keys(&self) -> &Tensor {
        &self.keys
    }

    /// The values, in the order of the keys.
    pub fn values(&self) -> &Tensor {
        &self.values
    }
}

impl Value {
    /// The tensor.
    ///
    /// # Errors
    /// `BadInput` when it is a sequence or a map.
    pub fn as_tensor(&self) -> Result<&Tensor> {
        match self {
            Self::Tensor(tensor) => Ok(tensor),
            Self::Sequence(_) => {
                Err(ScoreError::bad_input("the value is a sequence, it was read as a tensor"))
            }
            Self::Map(_) => Err(ScoreError::bad_input("the value is a map, it was read as a tensor")),
        }
    }

    /// The size of its content in bytes.
    pub fn size_bytes(&self) -> usize {
        match self {
            Self::Tensor(tensor) => tensor.size_bytes(),
            Self::Sequence(values) => values.iter().map(Value::size_bytes).sum(),
            Self::Map(map) => map.keys.size_bytes() + map.values.size_bytes(),
        }
    }
}

impl From<Tensor> for Value {
    fn from(tensor: Tensor) -> Self {
        Self::Tensor(tensor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_has_as_many_keys_as_values() {
        let t = |n: usize| Tensor::from_slice(&[n], &vec![1i64; n]).unwrap();
        assert!(Map::new(t(2), t(2)).is_ok());
        assert!(Map::new(t(2), t(3)).is_err());
        let square = Tensor::from_slice(&[1, 1], &[1i64]).unwrap();
        assert!(Map::new(square.clone(), square).is_err());
    }

    #[test]
    fn a_value_is_not_taken_for_what_it_is_not() {
        let t = Tensor::from_slice(&[1], &[1f32]).unwrap();
        assert_eq!(Value::from(t.clone()).as_tensor().unwrap(), &t);
        assert!(Value::Sequence(vec![t.into()]).as_tensor().is_err());
    }
}
