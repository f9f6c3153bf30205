//! What a deployment asks for, as the adapter understands it.

use super::{AcceleratorRequest, DeploymentConfig, Policy, TriscoreOptions};
use crate::scoring::BackendKind;

/// Which devices a deployment asks for, and whether others will do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Requirement {
    /// These and no others.
    Require {
        /// The kind of backend.
        kind: BackendKind,
        /// So many devices, at least one.
        count: usize,
    },
    /// The first of these that is there; never empty.
    Prefer {
        /// Kinds and numbers of devices, best first.
        order: Vec<(BackendKind, usize)>,
    },
}

impl Requirement {
    /// What the file asks for.
    pub fn of(config: &DeploymentConfig) -> Self {
        Self::from_parts(&config.request, &config.triscore)
    }

    /// Without accelerators and without a `triscore` object it is the CPU. A backend that is named without a
    /// number of devices gets one.
    pub(super) fn from_parts(request: &AcceleratorRequest, options: &TriscoreOptions) -> Self {
        let asked = [BackendKind::Gpu, BackendKind::Fpga].into_iter().find(|k| request.of(*k) > 0);
        let first = options.backend.or(asked).unwrap_or(BackendKind::Cpu);
        let with_count = |kind: BackendKind| (kind, request.of(kind).max(1));
        match options.policy {
            Policy::Require => {
                let (kind, count) = with_count(first);
                Self::Require { kind, count }
            }
            Policy::Prefer => {
                let fallback = options.fallback.clone().unwrap_or_else(|| vec![BackendKind::Cpu]);
                let others = fallback.into_iter().filter(|k| *k != first);
                Self::Prefer { order: std::iter::once(first).chain(others).map(with_count).collect() }
            }
        }
    }

    /// Kinds and numbers of devices, best first; one entry where nothing else will do.
    pub fn order(&self) -> Vec<(BackendKind, usize)> {
        match self {
            Self::Require { kind, count } => vec![(*kind, *count)],
            Self::Prefer { order } => order.clone(),
        }
    }

    /// Whether this kind will do.
    pub fn allows(&self, wanted: BackendKind) -> bool {
        match self {
            Self::Require { kind, .. } => *kind == wanted,
            Self::Prefer { order } => order.iter().any(|(kind, _)| *kind == wanted),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use BackendKind::{Cpu, Fpga, Gpu};

    #[test]
    fn files_become_requirements() {
        let require = |kind, count| Requirement::Require { kind, count };
        let prefer = |order: &[(BackendKind, usize)]| Requirement::Prefer { order: order.to_vec() };
        for (text, expected) in [
            (r#"{"computeType": "local"}"#, require(Cpu, 1)),
            (r#"{"computeType": "aks", "gpuCores": 0}"#, require(Cpu, 1)),
            (r#"{"computeType": "aks", "gpuCores": 2}"#, require(Gpu, 2)),
            (r#"{"computeType": "aci", "containerResourceRequirements": {"gpu": 1}}"#, require(Gpu, 1)),
            (r#"{"computeType": "local", "containerResourceRequirements": {"fpga": 2}}"#, require(Fpga, 2)),
            (r#"{"computeType": "local", "triscore": {"backend": "fpga"}}"#, require(Fpga, 1)),
            (r#"{"computeType": "local", "triscore": {"backend": "cpu"}}"#, require(Cpu, 1)),
            (r#"{"computeType": "local", "triscore": {"policy": "prefer"}}"#, prefer(&[(Cpu, 1)])),
            (
                r#"{"computeType": "aks", "gpuCores": 2, "triscore": {"policy": "prefer"}}"#,
                prefer(&[(Gpu, 2), (Cpu, 1)]),
            ),
            (
                r#"{"computeType": "aks", "gpuCores": 2, "triscore": {"policy": "prefer", "fallback": []}}"#,
                prefer(&[(Gpu, 2)]),
            ),
            (
                r#"{"computeType": "aks", "gpuCores": 1, "containerResourceRequirements": {"fpga": 2},
                    "triscore": {"backend": "fpga", "policy": "prefer", "fallback": ["gpu", "cpu"]}}"#,
                prefer(&[(Fpga, 2), (Gpu, 1), (Cpu, 1)]),
            ),
        ] {
            let config = DeploymentConfig::parse(text.as_bytes()).expect(text);
            assert_eq!(Requirement::of(&config), expected, "{text}");
        }
    }
}
