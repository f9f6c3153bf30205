//! Whether a decoded model is a sound one: every name defined once and before it is used, every
//! tensor and attribute what it says, every function finite.
//!
//! ONNX Runtime checks most of this too, in C++, after it has begun to build from it. Checking here first
//! means that a hostile file meets safe code, that every backend may rely on the same facts, and that the message
//! names the node. Where ONNX's own checker and real exporters disagree, the exporters are let through:
//! the cases are in the tests.

mod functions;
mod nodes;
mod types;

use std::collections::{BTreeMap, HashMap, HashSet};

use super::elements::ElementType;
use super::external::Wanted;
use super::limits::ReadLimits;
use super::onnx::{GraphProto, ModelProto, NodeProto, OperatorSetIdProto, ValueInfoProto};
use super::shown::shown;
use super::tensors;
use crate::error::{Result, ScoreError};

/// The newest version of the format whose fields are known and checked here.
pub(super) const MAX_IR_VERSION: i64 = 14;

/// Versions of operator sets by domain; ONNX's own domain is the empty one.
pub(super) type Opsets<'a> = BTreeMap<&'a str, i64>;

/// What the checks found out on their way.
#[derive(Debug, Default)]
pub(super) struct Findings<'a> {
    pub(super) opsets: Opsets<'a>,
    /// How often each operator stands in all graphs and function bodies.
    pub(super) operators: BTreeMap<String, usize>,
    /// Elements of all initialisers.
    pub(super) parameters: u64,
    pub(super) parameter_bytes: u64,
    /// Initialisers whose bytes lie in files of their own.
    pub(super) external: Vec<Wanted<'a>>,
    /// Of all sparse tensors, made dense.
    dense_bytes: u64,
}

/// Checks everything about a model but its files and its ports.
///
/// # Errors
/// `BadModel`, `TooLarge` or `Unsupported`, naming the node or the tensor.
pub(super) fn check<'a>(model: &'a ModelProto, limits: &'a ReadLimits) -> Result<Findings<'a>> {
    match model.ir_version {
        None => return bad("it has no IR version"),
        Some(version) if version < 1 => return bad(format!("IR version {version}")),
        Some(version) if version > MAX_IR_VERSION => {
            let what = format!("IR version {version} is newer than {MAX_IR_VERSION}, the newest known here");
            return Err(ScoreError::unsupported(what));
        }
        Some(_) => {}
    }
    let Some(graph) = &model.graph else { return bad("it has no graph") };
    if !model.training_info.is_empty() {
        let what = "it carries training information: export it for inference";
        return Err(ScoreError::unsupported(what));
    }
    if model.opset_import.is_empty() {
        return bad("it imports no operator set");
    }
    let mut findings = Findings { opsets: opsets(&model.opset_import)?, ..Default::default() };
    let mut checker = Checker { limits, findings: &mut findings, own: HashSet::new(), parameters: None };
    functions::check(&mut checker, model)?;
    let opsets = checker.findings.opsets.clone();
    checker.graph(graph, None, &opsets)?;
    if graph.output.is_empty() {
        return bad("its graph has no outputs");
    }
    Ok(findings)
}

fn bad<T>(what: impl Into<String>) -> Result<T> {
    Err(ScoreError::bad_model(what))
}

/// The domain with its two spellings of ONNX's own made one.
pub(super) fn domain(name: &str) -> &str {
    if name == "ai.onnx" { "" } else { name }
}

/// An operator as messages and placements name it: its domain is left out where it is ONNX's own.
pub(super) fn operator(node: &NodeProto) -> String {
    match domain(node.domain()) {
        "" => node.op_type().to_owned(),
        domain => format!("{domain}.{}", node.op_type()),
    }
}

/// The imported operator sets. The same import twice is what skl2onnx writes; two versions are refused.
fn opsets(imports: &[OperatorSetIdProto]) -> Result<Opsets<'_>> {
    let mut opsets = Opsets::new();
    for import in imports {
        let (domain, version) = (domain(import.domain()), import.version());
        if version < 1 {
            return bad(format!("it imports version {version} of operator set '{}'", shown(domain)));
        }
        if let Some(other) = opsets.insert(domain, version).filter(|other| *other != version) {
            let what = format!("it imports operator set '{}' as {other} and as {version}", shown(domain));
            return bad(what);
        }
    }
    Ok(opsets)
}

/// The names that are defined where a node stands: those of its graph so far, and those around it.
struct Scope<'a, 'o> {
    names: HashSet<&'a str>,
    around: Option<&'o Scope<'a, 'o>>,
}

impl Scope<'_, '_> {
    fn knows(&self, name: &str) -> bool {
        self.names.contains(name) || self.around.is_some_and(|around| around.knows(name))
    }
}

struct Checker<'a, 'f> {
    limits: &'a ReadLimits,
    findings: &'f mut Findings<'a>,
    /// Domains in which the model defines functions.
    own: HashSet<&'a str>,
    /// The attribute parameters of the function whose body is checked; `None` outside of functions.
    parameters: Option<HashSet<&'a str>>,
}

impl<'a> Checker<'a, '_> {
    fn graph(
        &mut self,
        graph: &'a GraphProto,
        around: Option<&Scope<'a, '_>>,
        opsets: &Opsets<'_>,
    ) -> Result<()> {
        let mut scope = Scope { names: HashSet::new(), around };
        let mut inputs: HashMap<&str, &ValueInfoProto> = HashMap::new();
        for input in &graph.input {
            let place = |e: ScoreError| e.with_at(format!("input '{}'", shown(input.name())));
            self.value(input).map_err(place)?;
            if inputs.insert(input.name(), input).is_some() {
                return bad("two inputs have this name").map_err(place);
            }
        }
        scope.names.extend(inputs.keys());
        self.initialisers(graph, &mut scope, &inputs)?;
        for info in &graph.value_info {
            let place = |e: ScoreError| e.with_at(format!("value '{}'", shown(info.name())));
            self.value(info).map_err(place)?;
        }
        self.nodes(&graph.node, &mut scope, opsets)?;
        let mut outputs = HashSet::new();
        for output in &graph.output {
            let place = |e: ScoreError| e.with_at(format!("output '{}'", shown(output.name())));
            self.value(output).map_err(place)?;
            if !outputs.insert(output.name()) {
                return bad("two outputs have this name").map_err(place);
            }
            if !scope.knows(output.name()) {
                return bad("nothing in the graph makes it").map_err(place);
            }
        }
        Ok(())
    }

    fn initialisers(
        &mut self,
        graph: &'a GraphProto,
        scope: &mut Scope<'a, '_>,
        inputs: &HashMap<&str, &ValueInfoProto>,
    ) -> Result<()> {
        let mut seen = HashSet::new();
        for tensor in &graph.initializer {
            let name = tensor.name();
            let place = |e: ScoreError| e.with_at(format!("initialiser '{}'", shown(name)));
            let checked = tensors::check(tensor, self.limits).map_err(place)?;
            // Up to IR version 3 every initialiser was an input too, so the two may share a name.
            if let Some(declared) = inputs.get(name).and_then(|input| types::elem_type(input))
                && declared != tensor.data_type()
            {
                let declared = ElementType::of(declared).map_err(place)?.name;
                return bad(format!("the input of this name is {declared}, it is another type"))
                    .map_err(place);
            }
            if let Some(reference) = checked.external {
                self.findings.external.push((reference, checked.bytes));
            }
            self.define_initialiser(name, checked.elements, checked.bytes, &mut seen).map_err(place)?;
        }
        for sparse in &graph.sparse_initializer {
            let name = sparse.values.as_ref().map_or("", |values| values.name());
            let place = |e: ScoreError| e.with_at(format!("sparse initialiser '{}'", shown(name)));
            let checked = tensors::check_sparse(sparse, self.limits, &mut self.findings.dense_bytes);
            let checked = checked.map_err(place)?;
            self.define_initialiser(name, checked.elements, checked.bytes, &mut seen).map_err(place)?;
        }
        scope.names.extend(seen);
        Ok(())
    }

    fn define_initialiser(
        &mut self,
        name: &'a str,
        elements: u64,
        bytes: u64,
        seen: &mut HashSet<&'a str>,
    ) -> Result<()> {
        if name.is_empty() {
            return bad("it has no name");
        }
        if !seen.insert(name) {
            return bad("two initialisers have this name");
        }
        self.findings.parameters = self.findings.parameters.saturating_add(elements);
        self.findings.parameter_bytes = self.findings.parameter_bytes.saturating_add(bytes);
        Ok(())
    }
}
