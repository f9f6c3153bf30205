//! What runs where, node by node: the answer to "is it really on the GPU?".

use super::BackendKind;

/// Where every node of a model runs, in the order of the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    backend: BackendKind,
    nodes: Vec<NodePlacement>,
}

/// Where one node runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodePlacement {
    /// Its name in the model; may be empty.
    pub node: String,
    /// Its operator, with its domain unless that is ONNX's own: `Conv`, `ai.onnx.ml.Scaler`.
    pub operator: String,
    /// Where it runs.
    pub site: Site,
}

/// A place where a node runs, or the reason why it does not.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Site {
    /// On the device.
    Device,
    /// On the host, although a device was asked for.
    Host {
        /// Why the device does not take it.
        reason: String,
    },
    /// Nowhere: the model cannot be compiled for this device.
    Nowhere {
        /// Why neither device nor host takes it.
        reason: String,
    },
}

impl Placement {
    /// A placement of these nodes on a device of this backend.
    pub fn new(backend: BackendKind, nodes: Vec<NodePlacement>) -> Self {
        Self { backend, nodes }
    }

    /// The backend whose device [`Site::Device`] means.
    pub fn backend(&self) -> BackendKind {
        self.backend
    }

    /// Every node and its place.
    pub fn nodes(&self) -> &[NodePlacement] {
        &self.nodes
    }

    /// How many nodes run on the device.
    pub fn on_device(&self) -> usize {
        self.nodes.iter().filter(|n| n.site == Site::Device).count()
    }

    /// The nodes that run on the host instead, with the reasons.
    pub fn on_host(&self) -> impl Iterator<Item = &NodePlacement> {
        self.nodes.iter().filter(|n| matches!(n.site, Site::Host { .. }))
    }

    /// The nodes that run nowhere, with the reasons; none if the model can be compiled.
    pub fn nowhere(&self) -> impl Iterator<Item = &NodePlacement> {
        self.nodes.iter().filter(|n| matches!(n.site, Site::Nowhere { .. }))
    }

    /// Whether every node runs on the device itself.
    pub fn is_all_on_device(&self) -> bool {
        self.on_device() == self.nodes.len()
    }

    /// One line for logs and headers: `gpu 41/44, host 3`.
    pub fn summary(&self) -> String {
        let (host, nowhere) = (self.on_host().count(), self.nowhere().count());
        let mut out = format!("{} {}/{}", self.backend, self.on_device(), self.nodes.len());
        for (name, count) in [("host", host), ("nowhere", nowhere)] {
            if count > 0 {
                out.push_str(&format!(", {name} {count}"));
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_names_what_is_not_on_the_device() {
        let node = |site| NodePlacement { node: String::new(), operator: "Conv".into(), site };
        let host = Site::Host { reason: "no kernel".into() };
        let nowhere = Site::Nowhere { reason: "unknown operator".into() };
        let p = Placement::new(BackendKind::Gpu, vec![node(Site::Device), node(host), node(nowhere)]);
        assert_eq!(p.summary(), "gpu 1/3, host 1, nowhere 1");
        assert!(!p.is_all_on_device());
        assert_eq!(Placement::new(BackendKind::Cpu, vec![node(Site::Device)]).summary(), "cpu 1/1");
    }
}
