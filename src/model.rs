//! placeholder

use crate::signature::Signature;
/// Model
#[derive(Debug)]
pub struct Model {
    signature: Signature,
    nodes: Vec<Node>,
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
}
