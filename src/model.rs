//! A model: an ONNX file, read so that nothing hostile in it reaches a native library.
//!
//! A model file is a program from somebody else. It can name files of yours as its weights, say that ten bytes
//! are a million floats, expand to more nodes than memory holds, or loop. Runtimes written in C++ have fallen to
//! each of these, so the file is understood here first, in safe code and within [`ReadLimits`]:
//!
//! 1. `file` opens regular files only, and never more of one than the limit;
//! 2. `scan` walks the raw protobuf and adds up what decoding it would take;
//! 3. [`onnx`] decodes it without copying payloads;
//! 4. `check` holds every name, tensor, attribute and function against ONNX's rules;
//! 5. `external` reads the files of external data whole, so that nobody below opens a path from the model;
//! 6. `ports` reads off the [`Signature`].
//!
//! What a backend gets is the bytes and the decoded messages of a model for which all that holds. It does *not*
//! hold that each operator exists and is given what it wants: that is the backend's to judge.
//!
//! ```
//! use triscore::Model;
//!
//! # fn main() -> triscore::Result<()> {
//! let model = Model::open("models/tiny/two_inputs.onnx")?;
//! for port in model.signature().inputs() {
//!     println!("{}: {}", port.name, port.kind);
//! }
//! # Ok(())
//! # }
//! ```

mod check;
mod elements;
mod external;
mod file;
mod limits;
pub mod onnx;
mod ports;
mod scan;
mod shown;
mod tensors;
#[cfg(test)]
pub(crate) mod testing;
mod weights;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use prost::Message;

pub use external::ExternalFile;
pub use limits::ReadLimits;
#[cfg(feature = "cuda")]
pub(crate) use weights::attribute_tensor;

use crate::error::{Result, ScoreError};
use crate::signature::Signature;
use onnx::{GraphProto, ModelProto, NodeProto, StringStringEntryProto};

/// An ONNX model that was read, checked and understood; share it by `Arc`.
pub struct Model {
    path: Option<PathBuf>,
    bytes: Bytes,
    external: Vec<ExternalFile>,
    proto: ModelProto,
    signature: Signature,
    nodes: Vec<Node>,
    opsets: Vec<(String, i64)>,
    operators: BTreeMap<String, usize>,
    parameters: u64,
    parameter_bytes: u64,
}

/// A node of a model's main graph.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Node {
    /// Its name in the model; `Conv#12` where it has none, after its operator and its place in the order.
    pub name: String,
    /// Its operator, with the domain before it unless that is ONNX's own: `Conv`, `ai.onnx.ml.Scaler`.
    pub operator: String,
    /// Nodes in the graphs in its attributes (`If`, `Loop`, `Scan`), all levels together.
    pub subgraph_nodes: usize,
}

impl Model {
    /// Reads a model from a file, or from a folder that holds exactly one `.onnx` file.
    ///
    /// # Errors
    /// `NotFound`, `Io` or `OutOfMemory` for the file; `BadModel`, `TooLarge` or `Unsupported` for what is
    /// in it, naming the node or the tensor.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path, &ReadLimits::default())
    }

    /// As [`open`](Self::open), within other limits.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with(path: impl AsRef<Path>, limits: &ReadLimits) -> Result<Self> {
        let path = file::model_file(path.as_ref())?;
        let too_large = || {
            limits::over("the model file is too large", format!("{} bytes", limits.max_bytes), "max_bytes")
        };
        let bytes = file::read(&path, limits.max_bytes, too_large)?;
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let place = |e: ScoreError| e.with_at(path.display().to_string());
        let mut model = Self::read(bytes, Some(folder), limits).map_err(place)?;
        model.path = Some(path);
        Ok(model)
    }

    /// Reads a model out of memory; it must hold all its data itself.
    ///
    /// # Errors
    /// `BadModel`, `TooLarge` or `Unsupported`, naming the node or the tensor.
    pub fn from_bytes(bytes: impl Into<Bytes>, limits: &ReadLimits) -> Result<Self> {
        Self::read(bytes.into(), None, limits)
    }

    fn read(bytes: Bytes, folder: Option<&Path>, limits: &ReadLimits) -> Result<Self> {
        let proto = decode(&bytes, limits)?;
        let findings = check::check(&proto, limits)?;
        let graph = proto.graph.as_ref().ok_or_else(|| ScoreError::bad_model("it has no graph"))?;
        let signature = ports::signature(graph, limits)?;
        let external = external::load(folder, &findings.external, limits)?;
        let opsets = findings.opsets.iter().map(|(domain, version)| ((*domain).to_owned(), *version));
        Ok(Self {
            path: None,
            signature,
            nodes: nodes(graph),
            opsets: opsets.collect(),
            operators: findings.operators,
            parameters: findings.parameters,
            parameter_bytes: findings.parameter_bytes,
            bytes,
            external,
            proto,
        })
    }

    /// Where it was read from; nothing for a model out of memory.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// The file's bytes as they were read and checked; give a runtime these, not the path.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The files of external data, whole; give a runtime these, and it opens none by itself.
    pub fn external(&self) -> &[ExternalFile] {
        &self.external
    }

    /// The decoded messages; their payloads share [`bytes`](Self::bytes).
    pub fn proto(&self) -> &ModelProto {
        &self.proto
    }

    /// What it takes and gives.
    pub fn signature(&self) -> &Signature {
        &self.signature
    }

    /// The nodes of the main graph, in the order in which they run.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// How often each operator stands in its graphs, subgraphs and function bodies, sorted by name.
    pub fn operators(&self) -> Vec<(String, usize)> {
        self.operators.iter().map(|(name, count)| (name.clone(), *count)).collect()
    }

    /// The operator sets that it imports, each domain once; ONNX's own domain is the empty one.
    pub fn opsets(&self) -> &[(String, i64)] {
        &self.opsets
    }

    /// The version of that operator set, if it is imported; ONNX's own domain is the empty one.
    pub fn opset(&self, domain: &str) -> Option<i64> {
        let domain = check::domain(domain);
        self.opsets.iter().find(|(name, _)| name == domain).map(|(_, version)| *version)
    }

    /// The version of the file format.
    pub fn ir_version(&self) -> i64 {
        self.proto.ir_version()
    }

    /// What wrote it, with its version (`pytorch 2.9.1`), if it says so.
    pub fn producer(&self) -> Option<String> {
        let producer = format!("{} {}", self.proto.producer_name(), self.proto.producer_version());
        Some(producer.trim().to_owned()).filter(|p| !p.is_empty())
    }

    /// The key-value pairs that its author left in it, in their order.
    pub fn metadata(&self) -> impl Iterator<Item = (&str, &str)> {
        self.proto.metadata_props.iter().map(|entry: &StringStringEntryProto| (entry.key(), entry.value()))
    }

    /// Elements of all initialisers; of a sparse one, those that are stored.
    pub fn parameter_count(&self) -> u64 {
        self.parameters
    }

    /// Size of all initialisers, as raw data.
    pub fn parameter_bytes(&self) -> u64 {
        self.parameter_bytes
    }

    /// Size of the model file and its files of external data together.
    pub fn size_bytes(&self) -> u64 {
        self.external.iter().map(|file| file.bytes.len() as u64).sum::<u64>() + self.bytes.len() as u64
    }
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Model")
            .field("path", &self.path)
            .field("size_bytes", &self.size_bytes())
            .field("nodes", &self.nodes.len())
            .field("signature", &self.signature)
            .finish_non_exhaustive()
    }
}

/// Decodes the file, after counting what that takes.
fn decode(bytes: &Bytes, limits: &ReadLimits) -> Result<ModelProto> {
    if bytes.is_empty() {
        return Err(ScoreError::bad_model("not an ONNX model: the file is empty"));
    }
    if bytes.len() as u64 > limits.max_bytes {
        let limit = format!("{} bytes", limits.max_bytes);
        return Err(limits::over("the model is too large", limit, "max_bytes"));
    }
    let not_onnx = |why: &str| {
        ScoreError::bad_model(match file::looks_like(bytes) {
            Some(what) => format!("not an ONNX model: it looks like {what}"),
            None => format!("not an ONNX model: {why}"),
        })
    };
    // A protobuf can be made so that ONNX Runtime takes it for its own format and reads another model
    // than the one that is checked here: it goes by these four bytes alone.
    if file::is_ort_format(bytes) {
        return Err(not_onnx("it begins as a model in ONNX Runtime's own format"));
    }
    scan::scan(bytes, limits).map_err(|e| match e.kind() {
        crate::ErrorKind::BadModel => not_onnx(e.message()),
        _ => e,
    })?;
    let proto = ModelProto::decode(bytes.clone()).map_err(|e| not_onnx(&e.to_string()).with_source(e))?;
    // Nearly any short text is a protobuf of unknown fields; without these two it is nobody's model.
    if proto.graph.is_none() && proto.ir_version.is_none() {
        return Err(not_onnx("it has neither a graph nor an IR version"));
    }
    Ok(proto)
}

fn nodes(graph: &GraphProto) -> Vec<Node> {
    let node = |(index, node): (usize, &NodeProto)| {
        let operator = check::operator(node);
        let name = match node.name() {
            "" => format!("{operator}#{index}"),
            name => name.to_owned(),
        };
        Node { name, operator, subgraph_nodes: subgraph_nodes(node) }
    };
    graph.node.iter().enumerate().map(node).collect()
}

/// Nodes in the graphs in a node's attributes, which the checks found to nest only so deep.
fn subgraph_nodes(node: &NodeProto) -> usize {
    let graphs = node.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs));
    graphs.flat_map(|graph| &graph.node).map(|inner| 1 + subgraph_nodes(inner)).sum()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::error::ErrorKind;
    use testing::{branches, calls, encoded, entry, layer};

    #[test]
    fn a_model_tells_what_it_is() {
        let mut proto = branches();
        proto.producer_version = Some("1".to_owned());
        proto.metadata_props = vec![entry("a", "1"), entry("b", "")];
        proto.graph.as_mut().unwrap().node[0].name = None;
        let model = testing::read(&proto).unwrap();
        let nodes = model.nodes().iter().map(|n| (n.name.as_str(), n.operator.as_str(), n.subgraph_nodes));
        assert_eq!(nodes.collect::<Vec<_>>(), [("Not#0", "Not", 0), ("make_y", "If", 2)]);
        let operators = model.operators();
        let operators = operators.iter().map(|(name, n)| (name.as_str(), *n));
        assert_eq!(operators.collect::<Vec<_>>(), [("If", 1), ("Mul", 1), ("Neg", 1), ("Not", 1)]);
        assert_eq!(model.opsets(), [(String::new(), 21), ("ai.onnx.ml".to_owned(), 5)]);
        assert_eq!(
            (model.opset("ai.onnx"), model.opset("ai.onnx.ml"), model.opset("x")),
            (Some(21), Some(5), None)
        );
        assert_eq!(model.ir_version(), 10);
        assert_eq!(model.producer().as_deref(), Some("triscore tests 1"));
        assert_eq!(model.metadata().collect::<Vec<_>>(), [("a", "1"), ("b", "")]);
        // The weight of a branch is a parameter too.
        assert_eq!((model.parameter_count(), model.parameter_bytes()), (1, 4));
        assert_eq!(model.size_bytes(), encoded(&proto).len() as u64);
        assert_eq!(model.path(), None);

        let model = testing::read(&calls()).unwrap();
        assert_eq!(model.operators(), [("Add".to_owned(), 1), ("local.Twice".to_owned(), 2)]);
        assert_eq!(model.nodes()[0].operator, "local.Twice");
    }

    #[test]
    fn payloads_are_shared_with_the_file() {
        let model = testing::read(&layer()).unwrap();
        let weight = model.proto().graph.as_ref().unwrap().initializer[0].raw_data.clone().unwrap();
        assert!(model.bytes().as_ptr_range().contains(&weight.as_ptr()));
    }

    #[test]
    fn a_file_of_two_formats_is_refused() {
        let mut model = layer();
        let file = encoded(&model);
        // A text field before all others, with the mark of the other format where that is looked for.
        model.producer_name = None;
        let both = [&b"\x12\x06..ORTM"[..], &encoded(&model)].concat();
        Model::from_bytes(file, &ReadLimits::default()).unwrap();
        assert_eq!(ModelProto::decode(&both[..]).unwrap().producer_name(), "..ORTM");
        let error = Model::from_bytes(both, &ReadLimits::default()).unwrap_err();
        assert!(error.message().contains("ONNX Runtime's own format"), "{error}");
    }

    #[test]
    fn names_that_are_not_text_are_refused() {
        let mut file = encoded(&layer());
        let at = file.windows(6).position(|w| w == b"make_h").unwrap();
        file[at] = 0xff;
        let error = Model::from_bytes(file, &ReadLimits::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BadModel);
        assert!(error.message().contains("not UTF-8"), "{error}");
    }

    /// Reads a damaged file; what matters is that this comes back, and soon.
    fn survive(file: Vec<u8>, what: &str) {
        let start = Instant::now();
        if let Ok(model) = Model::from_bytes(file, &ReadLimits::default()) {
            for tensor in model.proto().graph.iter().flat_map(|g| &g.initializer) {
                let _ = model.tensor(tensor);
            }
        }
        assert!(start.elapsed() < Duration::from_secs(2), "{what} took {:?}", start.elapsed());
    }

    #[test]
    fn damaged_files_are_survived() {
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random
        };
        for (name, model) in [("layer", layer()), ("branches", branches()), ("calls", calls())] {
            let file = encoded(&model);
            Model::from_bytes(file.clone(), &ReadLimits::default()).unwrap();
            for end in 0..file.len() {
                survive(file[..end].to_vec(), &format!("{name} cut to {end}"));
            }
            for at in 0..file.len() {
                for value in [0, 0xff, file[at] ^ 0x80, file[at].wrapping_add(1), next() as u8] {
                    let mut damaged = file.clone();
                    damaged[at] = value;
                    survive(damaged, &format!("{name} with {value} at {at}"));
                }
            }
            for round in 0..1000 {
                let mut damaged = file.clone();
                for _ in 0..=next() % 8 {
                    let at = next() as usize % damaged.len();
                    match next() % 3 {
                        0 => damaged[at] = next() as u8,
                        1 => damaged.insert(at, next() as u8),
                        _ => drop(damaged.remove(at)),
                    }
                }
                survive(damaged, &format!("{name} round {round}"));
            }
        }
    }

    #[test]
    fn the_models_of_this_repository_are_read() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
        let model = Model::open(root.join("digits_cnn/model.onnx")).unwrap();
        assert_eq!(model.signature().inputs()[0].kind.to_string(), "f32[batch, 1, 8, 8]");
        assert!(model.external().is_empty());
        let model = Model::open(root.join("tiny/matmul_external.onnx")).unwrap();
        assert_eq!(model.external().len(), 1);
        assert!(Model::open(root.join("tiny")).unwrap_err().to_string().contains("several models"));
    }
}
