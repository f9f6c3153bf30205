//! What a model file may cost to read, each bound with its number and its reason.
//!
//! A protobuf of a few bytes can stand for a structure of gigabytes, so a bound on the size of the file is not
//! enough: messages, names, nesting and what they take in memory are counted before anything is built.

use crate::error::{ErrorKind, ScoreError};

/// How much a model file may hold; a model over a limit is refused with `TooLarge`, naming the limit.
///
/// The defaults let every model through that we know of. A server that takes models from strangers sets
/// them lower:
///
/// ```
/// let mut limits = triscore::model::ReadLimits::default();
/// limits.max_bytes = 64 << 20;
/// limits.max_decoded_bytes = 256 << 20;
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReadLimits {
    /// Size of the model file. Default 2 GiB, which is protobuf's own limit.
    pub max_bytes: u64,
    /// Size of all files of external data together. Default 64 GiB.
    pub max_external_bytes: u64,
    /// Memory for the decoded messages, as estimated; payloads that are shared with the file are not
    /// counted. Default 4 GiB: twice what the largest file of typed (not raw) floats takes.
    pub max_decoded_bytes: u64,
    /// Memory that all sparse tensors would take as dense ones, which is what runtimes turn them into.
    /// Default 2 GiB.
    pub max_sparse_bytes: u64,
    /// Nodes: those of all subgraphs and functions together, and, counted apart, those that there would be
    /// if every call of a function were replaced by its body. Default 1,000,000.
    pub max_nodes: usize,
    /// How deep graphs may stand in the attributes of nodes (`If`, `Loop`, `Scan`). Default 16.
    pub max_depth: usize,
    /// How deep functions may call functions. Default 64; exporters nest them as modules are nested.
    pub max_function_depth: usize,
    /// Tensors: initialisers and those in attributes together. Default 1,000,000.
    pub max_tensors: usize,
    /// Attributes of all nodes together. Default 10,000,000.
    pub max_attributes: usize,
    /// Inputs of the model, and outputs; each, and without initialisers. Default 4,096.
    pub max_ports: usize,
    /// Length of any name: of a tensor, node, operator, domain, attribute or dimension. Default 4,096 bytes.
    pub max_name_bytes: usize,
    /// Dimensions of any tensor. Default 64.
    pub max_rank: usize,
}

impl Default for ReadLimits {
    fn default() -> Self {
        Self {
            max_bytes: 2 << 30,
            max_external_bytes: 64 << 30,
            max_decoded_bytes: 4 << 30,
            max_sparse_bytes: 2 << 30,
            max_nodes: 1_000_000,
            max_depth: 16,
            max_function_depth: 64,
            max_tensors: 1_000_000,
            max_attributes: 10_000_000,
            max_ports: 4_096,
            max_name_bytes: 4_096,
            max_rank: 64,
        }
    }
}

/// An error that names the limit, so that who meets it knows what to raise.
pub(super) fn over(what: &str, limit: impl std::fmt::Display, field: &str) -> ScoreError {
    let message = format!("{what}: the limit is {limit} (ReadLimits::{field})");
    ScoreError::new(ErrorKind::TooLarge, message)
}
