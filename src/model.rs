//! placeholder

use crate::signature::Signature;
/// Model
#[derive(Debug)]
pub struct Model {
    signature: Signature,
    nodes: Vec<Node>,
    bytes: bytes::Bytes,
    external: Vec<ExternalFile>,
}
/// ext
#[derive(Debug)]
pub struct ExternalFile {
    /// n
    pub name: String,
    /// b
    pub bytes: bytes::Bytes,
}
/// Node
#[derive(Debug)]
pub struct Node {
    /// name
    pub name: String,
    /// op
    pub operator: String,
}
impl Model {
    /// sig
    pub fn signature(&self) -> &Signature {
        &self.signature
    }
    /// nodes
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }
    /// b
    pub fn bytes(&self) -> &bytes::Bytes {
        &self.bytes
    }
    /// b
    pub fn external(&self) -> &[ExternalFile] {
        &self.external
    }
}
