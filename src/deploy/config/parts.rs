//! What a deployment file says, typed: one struct an object of the contract, defaults filled in.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::error::{Result, ScoreError};
use crate::scoring::{BackendKind, Buckets, Precision};

/// Where Azure would have run the service. All of them run on this machine here; the type decides which
/// keys are read and what the defaults are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ComputeType {
    /// On the developer's machine.
    Local,
    /// A container instance.
    Aci,
    /// A Kubernetes cluster.
    Aks,
    /// A version behind an endpoint on a Kubernetes cluster.
    AksEndpoint,
}

impl ComputeType {
    /// Every type.
    pub const ALL: [ComputeType; 4] = [Self::Local, Self::Aci, Self::Aks, Self::AksEndpoint];
}

impl fmt::Display for ComputeType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Local => "local",
            Self::Aci => "aci",
            Self::Aks => "aks",
            Self::AksEndpoint => "aksendpoint",
        })
    }
}

impl FromStr for ComputeType {
    type Err = ScoreError;

    /// In any case: `local`, `LOCAL`, `Local`.
    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|t| t.to_string().eq_ignore_ascii_case(text)).ok_or_else(|| {
            let text = super::report::short(text);
            ScoreError::bad_config(format!("unknown compute type '{text}': expected {COMPUTE_TYPES}"))
        })
    }
}

pub(super) const COMPUTE_TYPES: &str = "local, aci, aks or aksendpoint";

/// What one replica may use of the host. A gigabyte is 10⁹ bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Resources {
    /// Cores that are asked for; 0.1 unless stated.
    pub cpu: f64,
    /// Memory that is asked for; 0.5 unless stated.
    pub memory_gb: f64,
    /// Cores that it may not exceed.
    pub cpu_limit: Option<f64>,
    /// Memory that it may not exceed.
    pub memory_gb_limit: Option<f64>,
    /// Whether the file states `cpu`: a default is no request that a machine must meet.
    pub cpu_is_stated: bool,
    /// Whether the file states `memoryInGB`.
    pub memory_is_stated: bool,
}

/// Accelerators that are asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AcceleratorRequest {
    /// `gpuCores`, or `containerResourceRequirements.gpu`.
    pub gpu: usize,
    /// `containerResourceRequirements.fpga`.
    pub fpga: usize,
}

impl AcceleratorRequest {
    /// How many devices of a kind are asked for.
    pub fn of(&self, kind: BackendKind) -> usize {
        match kind {
            BackendKind::Gpu => self.gpu,
            BackendKind::Fpga => self.fpga,
            _ => 0,
        }
    }
}

/// Who may call the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Auth {
    /// `authEnabled`: the callers bring a key.
    pub key: bool,
    /// `tokenAuthEnabled`: the callers bring a token that the service's owner has made of its key, and that
    /// ends by itself.
    pub token: bool,
}

impl Auth {
    /// Whether a call without credentials must be refused.
    pub fn is_required(&self) -> bool {
        self.key || self.token
    }
}

/// The keys that the file brings along; what it does not bring is generated.
#[derive(Debug, Clone, Default)]
pub struct Keys {
    /// `keys.primaryKey`.
    pub primary: Option<Secret>,
    /// `keys.secondaryKey`; only read beside a primary key, as Azure did.
    pub secondary: Option<Secret>,
}

/// A text that is never printed.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text. Compare it in constant time.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Transport encryption (ACI only).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ssl {
    /// `sslEnabled`. When it is set, the other three are given.
    pub enabled: bool,
    /// `sslCertificate`: a PEM file, relative to the working directory.
    pub certificate: Option<PathBuf>,
    /// `sslKey`: a PEM file, relative to the working directory.
    pub key: Option<PathBuf>,
    /// `cname`: the name in the certificate.
    pub cname: Option<String>,
}

/// How many replicas there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scaling {
    /// So many; always one for local and ACI.
    Fixed {
        /// `numReplicas`.
        replicas: u32,
    },
    /// As many as the load asks for.
    Auto {
        /// `autoScaler.minReplicas`, 1.
        min_replicas: u32,
        /// `autoScaler.maxReplicas`, 10.
        max_replicas: u32,
        /// `autoScaler.refreshPeriodInSeconds`, 1.
        refresh_period_s: u32,
        /// `autoScaler.targetUtilization`, 70.
        target_utilization_percent: u32,
    },
}

/// How long a call may take, and how many may run and wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// `scoringTimeoutMs`, 60000.
    pub scoring_timeout_ms: u32,
    /// `maxConcurrentRequestsPerContainer`, 1.
    pub max_concurrent_requests_per_container: u32,
    /// `maxQueueWaitMs`, 500; past it the answer is 503.
    pub max_queue_wait_ms: u32,
}

/// When a replica counts as alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LivenessProbe {
    /// `periodSeconds`, 10.
    pub period_s: u32,
    /// `initialDelaySeconds`, 310.
    pub initial_delay_s: u32,
    /// `timeoutSeconds`, 2.
    pub timeout_s: u32,
    /// `successThreshold`, 1.
    pub success_threshold: u32,
    /// `failureThreshold`, 3.
    pub failure_threshold: u32,
}

/// Whether the backend that a file asks for is a condition or a wish.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Policy {
    /// This backend or none.
    #[default]
    Require,
    /// This backend, else the next of the order; which one it is, is said wherever it is used.
    Prefer,
}

/// The `triscore` object: what Azure's keys cannot say.
#[derive(Debug, Clone, PartialEq)]
pub struct TriscoreOptions {
    /// `backend`; by default the one whose devices the file asks for, else the CPU.
    pub backend: Option<BackendKind>,
    /// `policy`.
    pub policy: Policy,
    /// `fallback`, with the policy `prefer`: what to try next, in this order; by default the CPU.
    pub fallback: Option<Vec<BackendKind>>,
    /// `allowEmulation`: a device that is emulated on the processor is good enough.
    pub allow_emulation: bool,
    /// `precision`.
    pub precision: Precision,
    /// `batching`.
    pub batching: Option<Batching>,
    /// `buckets`: lengths that free dimensions of the model are padded up to, by their names.
    pub buckets: Buckets,
    /// `lanes`: how many calls run at once.
    pub lanes: Option<usize>,
    /// `warmUp`, true: score once before the service is ready.
    pub warm_up: bool,
}

/// Calls that are scored together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batching {
    /// `maxBatch`: so many rows at most.
    pub max_batch: Option<usize>,
    /// `maxDelayMs`, 0: so long a call may wait for others.
    pub max_delay_ms: u32,
}
