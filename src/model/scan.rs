//! A walk over the raw protobuf, before anything is decoded, that adds up what decoding would take.
//!
//! Two bytes of a file can be an empty node, and a node takes hundreds of bytes in memory: a file within
//! the size limit could still fill the machine. The walk knows which fields of ONNX are messages, counts them
//! against [`ReadLimits`], and steps over payloads without touching them, so it costs next to nothing on
//! real models. Fields that it does not know are left to the decoder, which skips them.

use super::limits::{ReadLimits, over};
use super::onnx;
use crate::error::{Result, ScoreError};

/// The decoder's own bound on messages within messages; deeper ones it refuses.
const MAX_MESSAGE_DEPTH: usize = 100;

/// How many bytes a string or a byte payload takes beside its content.
const HANDLE_BYTES: u64 = 32;

/// A message of ONNX. Messages without messages or names of their own are all [`Message::Leaf`].
#[derive(Clone, Copy, PartialEq, Eq)]
enum Message {
    Annotation,
    Attribute,
    DeviceConfiguration,
    Dimension,
    Entry,
    Function,
    Graph,
    GroupMap,
    Leaf,
    Model,
    Node,
    NodeDevice,
    OperatorSet,
    Shape,
    ShardedDim,
    Sharding,
    SimpleSharding,
    SparseTensor,
    Tensor,
    TensorType,
    TrainingInfo,
    Type,
    TypeOfType,
    ValueInfo,
}

/// What a length-delimited field holds.
enum Field {
    Message(Message),
    Name,
    Text,
    /// Bytes that the decoded message shares with the file.
    Payload,
    /// Numbers of variable length, packed, of that size in memory.
    Varints(u64),
    /// Numbers of fixed length, packed.
    Fixed,
    Unknown,
}

impl Message {
    /// What the field of that number holds where it is length-delimited: `onnx-ml.proto` as a table.
    #[rustfmt::skip]
    fn field(self, number: u64) -> Field {
        use Field::{Fixed, Name, Payload, Text, Unknown, Varints};
        use Message as M;
        let message = Field::Message;
        match (self, number) {
            (M::Model, 2 | 3 | 4 | 6) => Text,
            (M::Model, 7) => message(M::Graph),
            (M::Model, 8) => message(M::OperatorSet),
            (M::Model, 14) => message(M::Entry),
            (M::Model, 20) => message(M::TrainingInfo),
            (M::Model, 25) => message(M::Function),
            (M::Model, 26) => message(M::DeviceConfiguration),
            (M::Graph, 1) => message(M::Node),
            (M::Graph, 2) => Name,
            (M::Graph, 5) => message(M::Tensor),
            (M::Graph, 10) => Text,
            (M::Graph, 11..=13) => message(M::ValueInfo),
            (M::Graph, 14) => message(M::Annotation),
            (M::Graph, 15) => message(M::SparseTensor),
            (M::Graph, 16) => message(M::Entry),
            (M::Node, 1..=4 | 7 | 8) => Name,
            (M::Node, 5) => message(M::Attribute),
            (M::Node, 6) => Text,
            (M::Node, 9) => message(M::Entry),
            (M::Node, 10) => message(M::NodeDevice),
            (M::Attribute, 1 | 21) => Name,
            (M::Attribute, 4 | 9) => Payload,
            (M::Attribute, 5 | 10) => message(M::Tensor),
            (M::Attribute, 6 | 11) => message(M::Graph),
            (M::Attribute, 7) => Fixed,
            (M::Attribute, 8) => Varints(8),
            (M::Attribute, 13) => Text,
            (M::Attribute, 14 | 15) => message(M::Type),
            (M::Attribute, 22 | 23) => message(M::SparseTensor),
            (M::Tensor, 1 | 7 | 11) => Varints(8),
            (M::Tensor, 3) => message(M::Leaf),
            (M::Tensor, 4 | 10) => Fixed,
            (M::Tensor, 5) => Varints(4),
            (M::Tensor, 6 | 9) => Payload,
            (M::Tensor, 8) => Name,
            (M::Tensor, 12) => Text,
            (M::Tensor, 13 | 16) => message(M::Entry),
            (M::SparseTensor, 1 | 2) => message(M::Tensor),
            (M::SparseTensor, 3) => Varints(8),
            (M::ValueInfo, 1) => Name,
            (M::ValueInfo, 2) => message(M::Type),
            (M::ValueInfo, 3) => Text,
            (M::ValueInfo, 4) => message(M::Entry),
            (M::Type, 1 | 8) => message(M::TensorType),
            (M::Type, 4 | 5 | 9) => message(M::TypeOfType),
            (M::Type, 6) => Text,
            (M::Type, 7) => message(M::Entry), // an opaque type: two strings, as in an entry
            (M::TypeOfType, 1 | 2) => message(M::Type), // a sequence's or optional's, a map's
            (M::TensorType, 2) => message(M::Shape),
            (M::Shape, 1) => message(M::Dimension),
            (M::Dimension, 2 | 3) => Name,
            (M::Entry, 1 | 2) => Text,
            (M::OperatorSet, 1) => Name,
            (M::Function, 1 | 4..=6 | 10 | 13) => Name,
            (M::Function, 7) => message(M::Node),
            (M::Function, 8) => Text,
            (M::Function, 9) => message(M::OperatorSet),
            (M::Function, 11) => message(M::Attribute),
            (M::Function, 12) => message(M::ValueInfo),
            (M::Function, 14) => message(M::Entry),
            (M::TrainingInfo, 1 | 2) => message(M::Graph),
            (M::TrainingInfo, 3 | 4) => message(M::Entry),
            (M::Annotation, 1) => Name,
            (M::Annotation, 2) => message(M::Entry),
            (M::DeviceConfiguration, 1 | 3) => Name,
            (M::NodeDevice, 1) => Name,
            (M::NodeDevice, 2) => message(M::Sharding),
            (M::Sharding, 1) => Name,
            (M::Sharding, 2) => Varints(8),
            (M::Sharding, 3) => message(M::GroupMap),
            (M::Sharding, 4) => message(M::ShardedDim),
            (M::GroupMap, 2) => Varints(8),
            (M::ShardedDim, 2) => message(M::SimpleSharding),
            (M::SimpleSharding, 2) => Name,
            _ => Unknown,
        }
    }

    /// What one message takes in memory, without what it points to.
    fn size_bytes(self) -> usize {
        match self {
            Self::Annotation => size_of::<onnx::TensorAnnotation>(),
            Self::Attribute => size_of::<onnx::AttributeProto>(),
            Self::DeviceConfiguration => size_of::<onnx::DeviceConfigurationProto>(),
            Self::Dimension => size_of::<onnx::tensor_shape_proto::Dimension>(),
            Self::Entry => size_of::<onnx::StringStringEntryProto>(),
            Self::Function => size_of::<onnx::FunctionProto>(),
            Self::Graph => size_of::<onnx::GraphProto>(),
            Self::GroupMap => size_of::<onnx::IntIntListEntryProto>(),
            Self::Leaf => size_of::<onnx::tensor_proto::Segment>(),
            Self::Model => size_of::<onnx::ModelProto>(),
            Self::Node => size_of::<onnx::NodeProto>(),
            Self::NodeDevice => size_of::<onnx::NodeDeviceConfigurationProto>(),
            Self::OperatorSet => size_of::<onnx::OperatorSetIdProto>(),
            Self::Shape => size_of::<onnx::TensorShapeProto>(),
            Self::ShardedDim => size_of::<onnx::ShardedDimProto>(),
            Self::Sharding => size_of::<onnx::ShardingSpecProto>(),
            Self::SimpleSharding => size_of::<onnx::SimpleShardedDimProto>(),
            Self::SparseTensor => size_of::<onnx::SparseTensorProto>(),
            Self::Tensor => size_of::<onnx::TensorProto>(),
            Self::TensorType => size_of::<onnx::type_proto::Tensor>(),
            Self::TrainingInfo => size_of::<onnx::TrainingInfoProto>(),
            Self::Type => size_of::<onnx::TypeProto>(),
            Self::TypeOfType => size_of::<onnx::type_proto::Map>(),
            Self::ValueInfo => size_of::<onnx::ValueInfoProto>(),
        }
    }
}

/// What a model file holds, counted without decoding it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    nodes: usize,
    tensors: usize,
    attributes: usize,
    decoded_bytes: u64,
}

/// Counts what the file holds.
///
/// # Errors
/// `BadModel` where it is no well-formed protobuf, `TooLarge` at the first limit that it passes.
pub(super) fn scan(file: &[u8], limits: &ReadLimits) -> Result<Tally> {
    let mut scan = Scan { tally: Tally::default(), limits };
    scan.message(Message::Model, file, 0, 0)?;
    Ok(scan.tally)
}

struct Scan<'a> {
    tally: Tally,
    limits: &'a ReadLimits,
}

impl Scan<'_> {
    fn message(&mut self, message: Message, mut bytes: &[u8], depth: usize, graphs: usize) -> Result<()> {
        if depth > MAX_MESSAGE_DEPTH {
            let what = format!("messages within messages more than {MAX_MESSAGE_DEPTH} deep");
            return Err(ScoreError::bad_model(what));
        }
        let graphs = graphs + usize::from(message == Message::Graph);
        self.count(message, graphs)?;
        while !bytes.is_empty() {
            let key = varint(&mut bytes)?;
            let (number, wire) = (key >> 3, key & 7);
            match wire {
                0 => {
                    varint(&mut bytes)?;
                    self.hold(8)?;
                }
                1 => {
                    take(&mut bytes, 8)?;
                    self.hold(8)?;
                }
                5 => {
                    take(&mut bytes, 4)?;
                    self.hold(8)?;
                }
                2 => {
                    let length = varint(&mut bytes)?;
                    let content = take(&mut bytes, length)?;
                    match message.field(number) {
                        Field::Message(inner) => self.message(inner, content, depth + 1, graphs)?,
                        Field::Name if content.len() > self.limits.max_name_bytes => {
                            let what = format!("a name of {length} bytes");
                            return Err(over(&what, self.limits.max_name_bytes, "max_name_bytes"));
                        }
                        Field::Name | Field::Text => self.hold(HANDLE_BYTES + length)?,
                        Field::Payload => self.hold(HANDLE_BYTES)?,
                        // The last byte of each number is the one without its top bit.
                        Field::Varints(size) => {
                            let count = content.iter().filter(|b| **b < 0x80).count();
                            self.hold(size.saturating_mul(count as u64))?;
                        }
                        Field::Fixed => self.hold(length)?,
                        Field::Unknown => {}
                    }
                }
                _ => return Err(ScoreError::bad_model(format!("a field of wire type {wire}"))),
            }
        }
        Ok(())
    }

    /// Counts one message against the limits.
    fn count(&mut self, message: Message, graphs: usize) -> Result<()> {
        let limits = self.limits;
        let (count, limit, what, field) = match message {
            Message::Node => (&mut self.tally.nodes, limits.max_nodes, "nodes", "max_nodes"),
            Message::Tensor => (&mut self.tally.tensors, limits.max_tensors, "tensors", "max_tensors"),
            Message::Attribute => {
                (&mut self.tally.attributes, limits.max_attributes, "attributes", "max_attributes")
            }
            // The main graph stands in no attribute.
            Message::Graph if graphs > limits.max_depth.saturating_add(1) => {
                return Err(over("graphs nested too deep", limits.max_depth, "max_depth"));
            }
            _ => return self.hold(message.size_bytes() as u64),
        };
        *count += 1;
        if *count > limit {
            return Err(over(&format!("too many {what}"), limit, field));
        }
        self.hold(message.size_bytes() as u64)
    }

    /// Counts memory against its limit.
    fn hold(&mut self, bytes: u64) -> Result<()> {
        self.tally.decoded_bytes = self.tally.decoded_bytes.saturating_add(bytes);
        if self.tally.decoded_bytes > self.limits.max_decoded_bytes {
            let what = "too much memory to decode it (estimated)";
            let limit = format!("{} bytes", self.limits.max_decoded_bytes);
            return Err(over(what, limit, "max_decoded_bytes"));
        }
        Ok(())
    }
}

/// The next number of variable length.
fn varint(bytes: &mut &[u8]) -> Result<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let Some((byte, rest)) = bytes.split_first() else {
            return Err(ScoreError::bad_model("it ends within a field: it is cut short or damaged"));
        };
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if *byte < 0x80 {
            return Ok(value);
        }
    }
    Err(ScoreError::bad_model("a number of more than 64 bits"))
}

/// The next `length` bytes.
fn take<'a>(bytes: &mut &'a [u8], length: u64) -> Result<&'a [u8]> {
    let split = usize::try_from(length).ok().and_then(|n| bytes.split_at_checked(n));
    let Some((content, rest)) = split else {
        let left = bytes.len();
        let what = format!("a field of {length} bytes where {left} are left: it is cut short or damaged");
        return Err(ScoreError::bad_model(what));
    };
    *bytes = rest;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::model::testing::{self, encoded};

    fn limits(change: impl Fn(&mut ReadLimits)) -> ReadLimits {
        let mut limits = ReadLimits::default();
        change(&mut limits);
        limits
    }

    #[test]
    fn what_a_model_holds_is_counted() {
        let tally = scan(&encoded(&testing::branches()), &ReadLimits::default()).unwrap();
        assert_eq!((tally.nodes, tally.tensors, tally.attributes), (4, 1, 2));
        assert!(tally.decoded_bytes > 4 * size_of::<onnx::NodeProto>() as u64);
    }

    #[test]
    fn every_limit_is_met_before_decoding() {
        let file = encoded(&testing::branches());
        type Case = (&'static str, fn(&mut ReadLimits), fn(&mut ReadLimits));
        let cases: [Case; 6] = [
            ("max_nodes", |l| l.max_nodes = 4, |l| l.max_nodes = 3),
            ("max_tensors", |l| l.max_tensors = 1, |l| l.max_tensors = 0),
            ("max_attributes", |l| l.max_attributes = 2, |l| l.max_attributes = 1),
            ("max_depth", |l| l.max_depth = 1, |l| l.max_depth = 0),
            ("max_name_bytes", |l| l.max_name_bytes = 12, |l| l.max_name_bytes = 11),
            ("max_decoded_bytes", |l| l.max_decoded_bytes = 1 << 20, |l| l.max_decoded_bytes = 1 << 10),
        ];
        for (name, enough, too_few) in cases {
            scan(&file, &limits(enough)).unwrap();
            let error = scan(&file, &limits(too_few)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::TooLarge, "{name}");
            assert!(error.message().contains(name), "{name}: {error}");
        }
    }

    #[test]
    fn small_files_cannot_ask_for_much_memory() {
        // A graph (field 7) of a million empty value infos (field 13): two bytes each.
        let mut file = vec![0x3a, 0x80, 0x89, 0x7a];
        file.extend([0x6a, 0x00].repeat(1_000_000));
        let error = scan(&file, &limits(|l| l.max_decoded_bytes = 64 << 20)).unwrap_err();
        assert!(error.message().contains("max_decoded_bytes"), "{error}");
        // A million one-byte numbers in an initialiser (field 5), 8 bytes each in memory.
        let ints = prost::Message::encode_to_vec(&onnx::TensorProto {
            int64_data: vec![1; 1_000_000],
            ..Default::default()
        });
        let graph = [&[0x2a][..], &prost_length(ints.len()), &ints].concat();
        let file = [&[0x3a][..], &prost_length(graph.len()), &graph].concat();
        let tally = scan(&file, &ReadLimits::default()).unwrap();
        assert!((8_000_000..8_010_000).contains(&tally.decoded_bytes), "{tally:?}");
    }

    fn prost_length(length: usize) -> Vec<u8> {
        let mut out = Vec::new();
        prost::encode_length_delimiter(length, &mut out).unwrap();
        out
    }

    #[test]
    fn damage_is_told() {
        let cases: [(&[u8], &str); 6] = [
            (&[0x08], "ends within a field"),
            (&[0x08, 0x80], "ends within a field"),
            (&[0x3a, 0x05, 0x00], "a field of 5 bytes where 1 are left"),
            (&[0x3a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], "bytes where 0 are left"),
            (&[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], "more than 64 bits"),
            (&[0x0b], "wire type 3"),
        ];
        for (file, message) in cases {
            let error = scan(file, &ReadLimits::default()).unwrap_err();
            assert!(error.message().contains(message), "{error}");
        }
    }

    #[test]
    fn messages_nest_only_so_deep() {
        // Sequence of sequence of …: two messages a level, within graph, value info and type.
        let mut inner = Vec::new();
        for _ in 0..60 {
            let sequence = [&[0x0a][..], &prost_length(inner.len()), &inner].concat();
            inner = [&[0x22][..], &prost_length(sequence.len()), &sequence].concat();
        }
        for field in [0x12, 0x5a, 0x3a] {
            inner = [&[field][..], &prost_length(inner.len()), &inner].concat();
        }
        let error = scan(&inner, &ReadLimits::default()).unwrap_err();
        assert!(error.message().contains("100 deep"), "{error}");
    }
}
