//! What of a model runs on a device, node by node, and in which parts: whatever can be planned.
//!
//! There is no second list of operators that could drift from what the planner does: a node is on the device when the planner takes it.
//! What it does not take goes to the host, by whole parts of the graph; each part is then planned again by itself, since a part that begins or
//! ends elsewhere may be taken otherwise, until nothing changes.

use std::collections::{HashMap, HashSet};

use crate::error::{Result, ScoreError};
use crate::graph::{Graph, Node, Part, Side, ValueId, fold};
use crate::model::Model;
use crate::scoring::{NodePlacement, Placement, Sample, Site, sample};
use crate::tensor::Tensor;

use super::{Planner, shown};

/// A model as a device and its host take it.
#[derive(Debug)]
pub(crate) struct Placed {
    /// In the form that the device's planner wants, the free dimensions free.
    pub(crate) graph: Graph,
    /// What runs one after the other.
    pub(crate) parts: Vec<Part>,
    /// Where each node of the model runs, if the host may run what the device does not take.
    pub(crate) placement: Placement,
    /// Inputs that it takes, as far as its signature tells.
    pub(crate) sample: Sample,
}

/// Where the nodes of a model run, whose graph was brought into the form that the planner wants.
///
/// # Errors
/// `Unsupported` where the model does not tell the shapes of its inputs.
pub(crate) fn place(model: &Model, graph: Graph, planner: &dyn Planner) -> Result<Placed> {
    let unknown = || ScoreError::unsupported("the model does not tell the shapes of its inputs");
    let sample = sample(model.signature()).ok_or_else(unknown)?;
    let one = sample.rows(1)?;
    let shapes = one.iter().map(Tensor::shape).collect::<Vec<_>>();
    let (parts, reasons) = cut(&graph, &shapes, planner)?;
    let mut sites = vec![Site::Device; model.nodes().len()];
    for node in graph.nodes() {
        let reason = node.makes().find_map(|id| reasons.get(&id));
        for origin in &node.origins {
            if let (Some(reason), Some(site)) = (reason, sites.get_mut(*origin)) {
                *site = Site::Host { reason: reason.clone() };
            }
        }
    }
    // What was split off a node may run elsewhere; where the operator itself runs is what counts.
    for node in graph.nodes().iter().filter(|n| !n.makes().any(|id| reasons.contains_key(&id))) {
        for origin in &node.origins {
            let own = model.nodes().get(*origin).is_some_and(|m| m.operator == node.op.to_string());
            if let (true, Some(site)) = (own, sites.get_mut(*origin)) {
                *site = Site::Device;
            }
        }
    }
    // Of a model of which nothing is left for the device, what vanished on the way is not there either.
    if let (false, Some(reason)) = (parts.iter().any(|p| p.on_device), reasons.values().next()) {
        sites
            .iter_mut()
            .filter(|s| **s == Site::Device)
            .for_each(|s| *s = Site::Host { reason: reason.clone() });
    }
    let node = |(node, site): (&crate::model::Node, Site)| NodePlacement {
        node: node.name.clone(),
        operator: node.operator.clone(),
        site,
    };
    let nodes = model.nodes().iter().zip(sites).map(node).collect();
    Ok(Placed { graph, parts, placement: Placement::new(planner.kind(), nodes), sample })
}

/// Why the host runs what the device would take, and why it does not tell much: another node is the cause.
const NOTHING_THERE: &str = "nothing is computed on the device here";

/// Why the host runs a node, by what the node makes.
type Reasons = HashMap<ValueId, String>;

/// The parts, and why some of them are the host's.
fn cut(graph: &Graph, shapes: &[&[usize]], planner: &dyn Planner) -> Result<(Vec<Part>, Reasons)> {
    let mut bound = graph.bind(shapes)?;
    fold::fold(&mut bound, None)?;
    // What is gone once shapes are known computes on shapes.
    let computed = bound.nodes().iter().flat_map(Node::makes).collect::<HashSet<_>>();
    let mut reasons = Reasons::new();
    loop {
        let side = |node: &Node| match node.makes().any(|id| reasons.contains_key(&id)) {
            true => Side::Host,
            // What callers get is made by somebody.
            false if node.makes().any(|id| graph.outputs().contains(&id)) => Side::Device,
            false if !node.makes().any(|id| computed.contains(&id)) => Side::Any,
            false if node.reads().all(|id| graph.constant(id).is_some()) => Side::Any,
            false => Side::Device,
        };
        let parts = graph.partition(side);
        let mut refused = Vec::new();
        for part in parts.iter().filter(|p| p.on_device) {
            refused.extend(look(part, &bound, parts.len() > 1, planner)?);
        }
        // A node that is only in a wrong place may be at an edge once the others are gone.
        if refused.iter().any(|r| !r.is_misplaced) {
            refused.retain(|r| !r.is_misplaced);
        }
        let before = reasons.len();
        reasons.extend(
            refused.into_iter().flat_map(|r| r.makes.into_iter().map(move |id| (id, r.reason.clone()))),
        );
        if reasons.len() > before {
            continue;
        }
        let Some(name) = no_tensor(graph, &parts) else { return Ok((parts, reasons)) };
        let reason = format!("'{name}', which the host would hand on, is no tensor");
        let all = graph.nodes().iter().flat_map(Node::makes);
        reasons.extend(all.map(|id| (id, reason.clone())));
    }
}

/// What a part of the host would take in or give out and is no tensor (a sequence, a map): a model that is cut there cannot be written down.
fn no_tensor<'g>(graph: &'g Graph, parts: &[Part]) -> Option<&'g str> {
    if !parts.iter().any(|p| p.on_device) {
        return None;
    }
    let edges = parts.iter().filter(|p| !p.on_device);
    let mut edges = edges.flat_map(|p| p.graph.inputs().iter().chain(p.graph.outputs()));
    let id = edges.find(|id| graph.value(**id).dtype.is_none())?;
    Some(graph.value(*id).name.as_str())
}

/// What the device does not take of a part.
struct Refused {
    makes: Vec<ValueId>,
    reason: String,
    is_misplaced: bool,
}

impl Refused {
    fn of(node: &Node, reason: impl ToString, is_misplaced: bool) -> Self {
        Self { makes: node.makes().collect(), reason: reason.to_string(), is_misplaced }
    }
}

/// A part of the graph with its shapes bound and what follows from them folded, for inputs as the bound graph has them.
fn bind(part: &Part, bound: &Graph) -> Result<Graph> {
    let shape = |id: &ValueId| {
        let value = bound.value(*id);
        value.shape.require_lengths().map_err(|e| e.with_at(format!("'{}'", value.name)))
    };
    let shapes = part.graph.inputs().iter().map(shape).collect::<Result<Vec<_>>>()?;
    let mut own = part.graph.bind(&shapes.iter().map(Vec::as_slice).collect::<Vec<_>>())?;
    fold::fold(&mut own, None)?;
    Ok(own)
}

impl Placed {
    /// The device's parts, bound for a batch of that many rows.
    #[cfg(feature = "opencl")]
    pub(crate) fn bound_parts(&self, rows: usize) -> Result<Vec<Graph>> {
        let sample = self.sample.rows(rows)?;
        let mut bound = self.graph.bind(&sample.iter().map(Tensor::shape).collect::<Vec<_>>())?;
        fold::fold(&mut bound, None)?;
        self.parts.iter().filter(|p| p.on_device).map(|part| bind(part, &bound)).collect()
    }
}

/// Plans a part of the graph for the shapes that the bound graph knows of.
///
/// Beside others, a part that launches nothing is not worth its transfers; a model that is nothing else is what was asked for.
fn look(part: &Part, bound: &Graph, is_one_of_several: bool, planner: &dyn Planner) -> Result<Vec<Refused>> {
    let all = |reason: &str| Ok(part.graph.nodes().iter().map(|n| Refused::of(n, reason, false)).collect());
    let own = match bind(part, bound) {
        Ok(own) => own,
        Err(e) => return all(&e.to_string()),
    };
    let refused = match planner.refusals(&own) {
        Ok(refused) => refused,
        Err(e) => return all(&e.to_string()),
    };
    let refused = refused.into_iter().filter_map(|r| {
        let node = own.node(r.place)?;
        Some(Refused::of(node, r.error.with_at(shown(&own, node)), r.is_misplaced))
    });
    let refused = refused.collect::<Vec<_>>();
    if refused.is_empty() && is_one_of_several && planner.is_nothing(&own)? {
        return all(NOTHING_THERE);
    }
    Ok(refused)
}

/// Refuses a model of which nothing is for the device, or not all of it where nobody else may run the rest.
///
/// # Errors
/// `Unsupported`, naming the first node that is not the device's and why; `device` is what it is called (`an FPGA`), `advice` what to do about it.
pub(crate) fn require_device(placed: &Placed, has_host: bool, device: &str, advice: &str) -> Result<()> {
    let reason = |node: &NodePlacement| match &node.site {
        Site::Host { reason } => reason.clone(),
        _ => String::new(),
    };
    let is_cause = |node: &&NodePlacement| reason(node) != NOTHING_THERE;
    let on_host = || placed.placement.on_host();
    let Some(node) = on_host().find(is_cause).or_else(|| on_host().next()) else { return Ok(()) };
    let on_device = placed.placement.on_device();
    if has_host && placed.parts.iter().any(|p| p.on_device) {
        return Ok(());
    }
    let (all, what) =
        (placed.placement.nodes().len(), format!("{} '{}': {}", node.operator, node.node, reason(node)));
    Err(ScoreError::unsupported(match on_device {
        0 => format!("none of its {all} nodes runs on {device}: {what}: {advice}"),
        _ => format!(
            "{} of its {all} nodes do not run on {device}: {what}: let the CPU run them \
             (\"triscore\": {{\"policy\": \"prefer\", \"fallback\": [\"cpu\"]}}), or {advice}",
            all - on_device
        ),
    }))
}
