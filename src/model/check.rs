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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::model::onnx::{AttributeProto, SparseTensorProto, TrainingInfoProto, TypeProto};
    use crate::model::testing::*;
    use crate::tensor::DType;

    /// The error that reading this model gives; empty where it is read.
    fn refusal(model: &ModelProto) -> String {
        read(model).err().map(|e| e.to_string()).unwrap_or_default()
    }

    /// The `layer` model with a change; what that does to it.
    fn changed(change: impl Fn(&mut ModelProto, &mut GraphProto)) -> String {
        let mut model = layer();
        let mut graph = model.graph.take().unwrap();
        change(&mut model, &mut graph);
        refusal(&ModelProto { graph: Some(graph), ..model })
    }

    /// The `layer` model with an attribute in its last node; what that does to it.
    fn with_attribute(attribute: AttributeProto) -> String {
        changed(|_, g| g.node[1].attribute.push(attribute.clone()))
    }

    fn assert_each(cases: Vec<(String, &str)>) {
        for (i, (got, expected)) in cases.into_iter().enumerate() {
            let fits = got.contains(expected) && got.is_empty() == expected.is_empty();
            assert!(fits, "case {i}: expected '{expected}', got '{got}'");
        }
    }

    #[test]
    fn what_real_exporters_write_is_read() {
        assert_each(vec![
            (refusal(&layer()), ""),
            (refusal(&branches()), ""),
            (refusal(&calls()), ""),
            // skl2onnx imports a set twice, and some call ONNX's own domain by its long name.
            (changed(|m, _| m.opset_import.push(opset("ai.onnx", 21))), ""),
            (changed(|_, g| g.node[0].domain = Some("ai.onnx".to_owned())), ""),
            // IR version 3: every weight is an input too.
            (
                changed(|m, g| {
                    m.ir_version = Some(3);
                    g.input.push(value("w", DType::F32, &["3", "2"]));
                }),
                "",
            ),
            // Nodes without names, and without a graph name.
            (
                changed(|_, g| {
                    g.name = None;
                    g.node.iter_mut().for_each(|n| n.name = None);
                }),
                "",
            ),
            // Optional inputs and outputs that are left out.
            (changed(|_, g| g.node[1].input.extend([String::new(), String::new()])), ""),
            (changed(|_, g| g.node[1].output.push(String::new())), ""),
            // A value info without a type, as shape inference leaves it behind.
            (changed(|_, g| g.value_info.push(ValueInfoProto { r#type: None, ..g.input[0].clone() })), ""),
            // A branch may name its values as the graph around it does: it is a scope of its own.
            (
                refusal(&{
                    let mut model = branches();
                    let graph = model.graph.as_mut().unwrap();
                    let branch = graph.node[1].attribute[1].g.as_mut().unwrap();
                    branch.node[0] = node("Neg", &["x"], &["c"]);
                    branch.output[0] = value("c", DType::F32, &["batch"]);
                    model
                }),
                "",
            ),
            // A graph may hand on an input or a weight.
            (changed(|_, g| g.output.push(value("x", DType::F32, &["batch", "3"]))), ""),
        ]);
    }

    #[test]
    fn models_say_what_they_are() {
        assert_each(vec![
            (changed(|m, _| m.ir_version = None), "it has no IR version"),
            (changed(|m, _| m.ir_version = Some(0)), "IR version 0"),
            (changed(|m, _| m.ir_version = Some(15)), "IR version 15 is newer than 14"),
            (changed(|m, _| m.opset_import.clear()), "it imports no operator set"),
            (changed(|m, _| m.opset_import.push(opset("", 20))), "operator set '' as 21 and as 20"),
            (changed(|m, _| m.opset_import.push(opset("x", 0))), "version 0 of operator set 'x'"),
            (changed(|m, _| m.training_info.push(TrainingInfoProto::default())), "training information"),
            (changed(|_, g| g.output.clear()), "its graph has no outputs"),
            (refusal(&ModelProto { graph: None, ..layer() }), "it has no graph"),
        ]);
    }

    #[test]
    fn every_name_is_defined_once_and_before_it_is_used() {
        assert_each(vec![
            (
                changed(|_, g| g.node[0].input[0] = "z".to_owned()),
                "node 'make_h' (MatMul): it uses 'z', which nothing defines",
            ),
            (
                changed(|_, g| g.node.swap(0, 1)),
                "node 'make_y' (Relu): it uses 'h', which is made only here or later",
            ),
            (changed(|_, g| g.node[0].input[0] = "h".to_owned()), "out of order, or form a cycle"),
            (changed(|_, g| g.node[0].input[0] = "y".to_owned()), "out of order, or form a cycle"),
            (changed(|_, g| g.node[1].output[0] = "h".to_owned()), "it makes 'h', which is defined already"),
            (changed(|_, g| g.node[0].output[0] = "x".to_owned()), "it makes 'x', which is defined already"),
            (changed(|_, g| g.node[0].output[0] = "w".to_owned()), "it makes 'w', which is defined already"),
            (changed(|_, g| g.node[1].output.push("y".to_owned())), "it makes 'y', which is defined already"),
            (changed(|_, g| g.node[1].name = g.node[0].name.clone()), "two nodes have this name"),
            (changed(|_, g| g.input.push(g.input[0].clone())), "input 'x': two inputs have this name"),
            (changed(|_, g| g.input[0].name = None), "input '': it has no name"),
            (changed(|_, g| g.output.push(g.output[0].clone())), "output 'y': two outputs have this name"),
            (
                changed(|_, g| g.output[0].name = Some("z".to_owned())),
                "output 'z': nothing in the graph makes it",
            ),
            (changed(|_, g| g.initializer.push(weight("w", &[1]))), "initialiser 'w': two initialisers"),
            (changed(|_, g| g.initializer.push(weight("", &[1]))), "initialiser '': it has no name"),
            (changed(|_, g| g.initializer[0].dims = vec![3, 3]), "initialiser 'w': f32[3, 3] takes 36 bytes"),
            (
                changed(|_, g| g.input.push(value("w", DType::I64, &["3", "2"]))),
                "initialiser 'w': the input of this name is i64",
            ),
            (
                changed(|_, g| g.sparse_initializer.push(SparseTensorProto::default())),
                "sparse initialiser '': a sparse tensor without values",
            ),
            (changed(|_, g| g.node[0].op_type = None), "it has no operator"),
            (changed(|_, g| g.node[1].op_type = Some("EPContext".to_owned())), "compiled for one device"),
            (
                changed(|_, g| g.node.push(node("Sin", &[], &[]))),
                "node 2 (Sin): it has neither inputs nor outputs",
            ),
            (
                changed(|_, g| g.node[0].domain = Some("com.microsoft".to_owned())),
                "the operator set 'com.microsoft' is not imported",
            ),
            (
                changed(|m, _| m.opset_import = vec![opset("x", 1)]),
                "the operator set 'ai.onnx' is not imported",
            ),
            (
                changed(|_, g| g.value_info.push(value("h", DType::F32, &["-2"]))),
                "value 'h': a dimension of -2",
            ),
            (changed(|_, g| g.value_info.push(value("h", DType::F32, &["1"; 65]))), "max_rank"),
            (changed(|_, g| g.input[0].name = Some("n".repeat(5000))), "max_name_bytes"),
        ]);
    }

    #[test]
    fn a_branch_sees_what_is_around_it_and_nobody_sees_into_it() {
        let inside = |change: &dyn Fn(&mut GraphProto)| {
            let mut model = branches();
            change(model.graph.as_mut().unwrap());
            refusal(&model)
        };
        let branch = |graph: &mut GraphProto, change: &dyn Fn(&mut GraphProto)| {
            change(graph.node[1].attribute[0].g.as_mut().unwrap());
        };
        assert_each(vec![
            (
                inside(&|g| branch(g, &|b| b.node[0].input[0] = "negated".to_owned())),
                "node 'make_y' (If): attribute 'then_branch': node 'make_doubled' (Mul): \
                 it uses 'negated', which nothing defines",
            ),
            (
                inside(&|g| branch(g, &|b| b.node[0].input[0] = "y".to_owned())),
                "it uses 'y', which nothing defines",
            ),
            (
                inside(&|g| branch(g, &|b| b.initializer[0].dims[0] = 2)),
                "initialiser 'two': f32[2] takes 8 bytes",
            ),
            (inside(&|g| branch(g, &|b| b.output[0].name = Some("z".to_owned()))), "output 'z': nothing"),
            (inside(&|g| branch(g, &|b| b.output[0].name = Some("x".to_owned()))), ""),
            (inside(&|g| g.output[0].name = Some("doubled".to_owned())), "nothing in the graph makes it"),
        ]);
        let mut deep = branches().graph.unwrap();
        for _ in 0..16 {
            let outer = branches().graph.unwrap();
            let choose = outer.node[1].clone().with(subgraph("third", deep));
            deep = GraphProto { node: vec![outer.node[0].clone(), choose], ..outer };
        }
        let error = read(&model(deep)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooLarge);
        assert!(error.message().contains("max_depth"), "{error}");
    }

    #[test]
    fn attributes_hold_what_they_say() {
        use crate::model::onnx::attribute_proto::AttributeType as T;
        let a = |kind| attribute("a", kind);
        assert_each(vec![
            (with_attribute(int("a", 1)), ""),
            // A proto3 writer leaves a zero out.
            (with_attribute(a(T::Int)), ""),
            (with_attribute(a(T::Ints)), ""),
            // Before IR version 2, attributes had no type.
            (with_attribute(AttributeProto { r#type: None, ..int("a", 1) }), ""),
            (with_attribute(AttributeProto { t: Some(weight("", &[2])), ..a(T::Tensor) }), ""),
            (with_attribute(int("", 1)), "attribute '': it has no name"),
            (with_attribute(AttributeProto { r#type: None, ..a(T::Int) }), "neither a type nor a value"),
            (with_attribute(AttributeProto { r#type: Some(99), ..int("a", 1) }), "attribute type 99"),
            (
                with_attribute(AttributeProto { i: Some(1), ..a(T::Float) }),
                "node 'make_y' (Relu): attribute 'a': it says that it is FLOAT, and holds INT",
            ),
            (with_attribute(AttributeProto { f: Some(1.), ..int("a", 1) }), "values of several types"),
            (with_attribute(a(T::Graph)), "says that it is GRAPH, and holds nothing"),
            (
                with_attribute(AttributeProto { ref_attr_name: Some("b".to_owned()), ..a(T::Int) }),
                "stands in no function",
            ),
            (
                with_attribute(AttributeProto {
                    t: Some(outside("t", &[2], &[("location", "w")])),
                    ..a(T::Tensor)
                }),
                "external data is taken for initialisers only",
            ),
            (
                with_attribute(AttributeProto {
                    sparse_tensor: Some(Default::default()),
                    ..a(T::SparseTensor)
                }),
                "without values",
            ),
            (
                with_attribute(AttributeProto {
                    tp: value("", DType::F32, &["-7"]).r#type,
                    ..a(T::TypeProto)
                }),
                "a dimension of -7",
            ),
            (with_attribute(AttributeProto { tp: Some(TypeProto::default()), ..a(T::TypeProto) }), ""),
            (
                changed(|_, g| g.node[1].attribute = vec![int("a", 1), int("a", 1)]),
                "attribute 'a': two attributes have this name",
            ),
        ]);
    }
}
