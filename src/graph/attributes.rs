//! A node's attributes, read by name with ONNX's defaults.

use crate::error::{Result, ScoreError};
use crate::model::onnx::attribute_proto::AttributeType;
use crate::model::onnx::{AttributeProto, TensorProto};

/// The attributes of a node, as ONNX writes them; which of them there are and of which type was checked when
/// the model was read, not that they are what the operator wants: that is checked where they are asked for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Attributes(Vec<AttributeProto>);

impl Attributes {
    /// No attribute.
    pub fn new() -> Self {
        Self::default()
    }

    pub(super) fn of(attributes: &[AttributeProto]) -> Self {
        Self(attributes.to_vec())
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &AttributeProto> {
        self.0.iter()
    }

    /// The attribute of that name.
    pub fn find(&self, name: &str) -> Option<&AttributeProto> {
        self.0.iter().find(|a| a.name() == name)
    }

    /// Whether there is one of that name.
    pub fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// An integer, if it is there.
    pub fn int(&self, name: &str) -> Option<i64> {
        self.find(name).and_then(|a| a.i)
    }

    /// An integer that is true or false.
    pub fn flag(&self, name: &str) -> bool {
        self.int(name).is_some_and(|i| i != 0)
    }

    /// A float, if it is there.
    pub fn float(&self, name: &str) -> Option<f32> {
        self.find(name).and_then(|a| a.f)
    }

    /// Integers, if they are there.
    pub fn ints(&self, name: &str) -> Option<&[i64]> {
        self.find(name).map(|a| a.ints.as_slice())
    }

    /// A text, if it is there.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.find(name).and_then(|a| a.s.as_deref()).and_then(|s| std::str::from_utf8(s).ok())
    }

    /// A tensor, if it is there.
    pub fn tensor(&self, name: &str) -> Option<&TensorProto> {
        self.find(name).and_then(|a| a.t.as_ref())
    }

    /// Integers that are lengths or counts.
    ///
    /// # Errors
    /// `BadModel` for a negative one.
    pub fn lengths(&self, name: &str) -> Result<Option<Vec<usize>>> {
        let Some(ints) = self.ints(name) else { return Ok(None) };
        let lengths = ints.iter().map(|i| usize::try_from(*i)).collect::<Result<Vec<_>, _>>();
        lengths
            .map(Some)
            .map_err(|_| ScoreError::bad_model(format!("{name} is {ints:?}: expected no negative number")))
    }

    /// Sets an integer.
    #[must_use]
    pub fn with_int(mut self, name: &str, value: i64) -> Self {
        self.set(AttributeProto { i: Some(value), ..Self::named(name, AttributeType::Int) });
        self
    }

    /// Sets a float.
    #[must_use]
    pub fn with_float(mut self, name: &str, value: f32) -> Self {
        self.set(AttributeProto { f: Some(value), ..Self::named(name, AttributeType::Float) });
        self
    }

    /// Sets integers.
    #[must_use]
    pub fn with_ints(mut self, name: &str, values: &[i64]) -> Self {
        self.set(AttributeProto { ints: values.to_vec(), ..Self::named(name, AttributeType::Ints) });
        self
    }

    /// Sets a text.
    #[must_use]
    pub fn with_text(mut self, name: &str, value: &str) -> Self {
        let text = bytes::Bytes::copy_from_slice(value.as_bytes());
        self.set(AttributeProto { s: Some(text), ..Self::named(name, AttributeType::String) });
        self
    }

    /// Removes the attribute of that name and returns it.
    pub(super) fn take(&mut self, name: &str) -> Option<AttributeProto> {
        let at = self.0.iter().position(|a| a.name() == name)?;
        Some(self.0.remove(at))
    }

    fn named(name: &str, kind: AttributeType) -> AttributeProto {
        AttributeProto { name: Some(name.to_owned()), r#type: Some(kind.into()), ..Default::default() }
    }

    pub(super) fn set(&mut self, attribute: AttributeProto) {
        match self.0.iter_mut().find(|a| a.name == attribute.name) {
            Some(old) => *old = attribute,
            None => self.0.push(attribute),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_as_what_they_are_and_as_nothing_else() {
        let all = Attributes::new()
            .with_int("axis", -1)
            .with_float("epsilon", 0.5)
            .with_ints("pads", &[0, 1])
            .with_text("mode", "linear")
            .with_int("axis", 2);
        assert_eq!(all.iter().count(), 4);
        assert_eq!((all.int("axis"), all.float("axis"), all.int("keepdims")), (Some(2), None, None));
        assert_eq!((all.float("epsilon"), all.text("mode")), (Some(0.5), Some("linear")));
        assert_eq!(all.lengths("pads").unwrap(), Some(vec![0, 1]));
        assert_eq!(all.lengths("strides").unwrap(), None);
        let negative = Attributes::new().with_ints("pads", &[-1]);
        assert!(negative.lengths("pads").unwrap_err().to_string().contains("pads is [-1]"));
    }
}
