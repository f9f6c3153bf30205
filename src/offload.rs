//! A model that a device runs, and a host what the device does not take: what every backend with a planner shares.
//!
//! A device's planner says of a graph what it takes ([`Planner`]); a machine makes parts of the graph ready and gives lanes over them ([`Machine`]).
//! From these follow where each node runs ([`placement`]), the parts that run one after the other ([`parts`]), and the scorer over both ([`scorer`]).

mod parts;
mod placement;
mod scorer;
mod shapes;

use std::sync::Arc;
use std::time::Duration;

pub(crate) use placement::{Placed, place, require_device};
pub(crate) use scorer::OffloadScorer;
pub(crate) use shapes::{ByShape, shapes_of};

use crate::error::{Result, ScoreError};
use crate::graph::{Graph, Node};
use crate::scoring::{BackendKind, Call, Scored};
use crate::tensor::Tensor;

/// A node that a device does not take.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// Its place in the graph.
    pub(crate) place: usize,
    pub(crate) error: ScoreError,
    /// Only because of what stands around it: at the edge of a part, it would be taken.
    pub(crate) is_misplaced: bool,
}

/// What of a graph a kind of device takes. Pure: no device is asked.
pub(crate) trait Planner: Sync {
    /// Which backend's.
    fn kind(&self) -> BackendKind;

    /// What is not taken of a graph whose shapes are bound; `Err` where something is wrong with what goes in or comes out.
    fn refusals(&self, graph: &Graph) -> Result<Vec<Refusal>>;

    /// Whether nothing would be computed for a graph that is taken whole.
    fn is_nothing(&self, graph: &Graph) -> Result<bool>;
}

/// A device that parts of graphs are made ready on.
pub(crate) trait Machine: Send + Sync + 'static {
    /// A part that is ready, for all lanes.
    type Part: Send + Sync;
    /// What runs parts, one at a time.
    type Lane: PartLane<Part = Self::Part> + 'static;

    /// Makes a part ready; its free dimensions are still free.
    fn part(self: &Arc<Self>, graph: Graph) -> Result<Self::Part>;

    /// One more lane.
    fn lane(self: &Arc<Self>) -> Result<Self::Lane>;

    /// The most bytes that one lane's arena may have.
    fn most_bytes(&self) -> usize;

    /// With how many rows a batch is run: with more than it has where another plan costs more than they do.
    fn batch_rows(rows: usize) -> usize {
        rows
    }
}

/// A lane over parts.
pub(crate) trait PartLane: Send {
    /// What it runs.
    type Part;

    /// Runs a part; with so many rows, if it is said: a machine that never asks for more ([`Machine::batch_rows`]) is never told to. What becomes of rows
    /// beyond the inputs' own is nobody's business.
    fn run(
        &mut self,
        part: &Self::Part,
        inputs: &[Tensor],
        rows: Option<usize>,
        call: &Call,
    ) -> Result<Scored>;

    /// How large its arena has become.
    fn arena_bytes(&self) -> usize;
}

/// For how long a device may be at something before it counts as hanging: so many seconds as the variable says, or the default.
pub(crate) fn hang_limit(variable: &str, default: Duration) -> Duration {
    let named = std::env::var(variable).ok().and_then(|s| s.parse::<f64>().ok());
    named.and_then(|s| Duration::try_from_secs_f64(s).ok()).filter(|d| !d.is_zero()).unwrap_or(default)
}

/// A node as messages name it.
pub(crate) fn shown(graph: &Graph, node: &Node) -> String {
    match (node.name.as_str(), node.first_output()) {
        ("", Some(made)) => format!("{} that makes '{}'", node.op, graph.value(made).name),
        (name, _) => format!("{} '{name}'", node.op),
    }
}
