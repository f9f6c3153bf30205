//! Which inputs of a case say *what* to compute, not on what: axes, shapes, sizes, pads.
//!
//! The cases give them as inputs. A compiler for a device needs them when it compiles, since shapes follow from them, so they are
//! bound as constants first. The rule: whatever such a place of an operator depends on; but not through `Shape` and `Size`, which tell
//! of a tensor only what is known without its elements.

use std::collections::HashSet;

use triscore::cpu::CpuBackend;
use triscore::graph::{Graph, fold};
use triscore::model::onnx::ModelProto;
use triscore::{Backend, Tensor};

/// Operators, and their inputs that say what to compute.
const PLACES: &[(&str, &[usize])] = &[
    ("AffineGrid", &[1]),
    ("BlackmanWindow", &[0]),
    ("CenterCropPad", &[1]),
    ("Col2Im", &[1, 2]),
    ("ConstantOfShape", &[0]),
    ("CumSum", &[1]),
    ("DFT", &[1, 2]),
    ("Dropout", &[2]),
    ("Expand", &[1]),
    ("HammingWindow", &[0]),
    ("HannWindow", &[0]),
    ("MaxUnpool", &[2]),
    ("OneHot", &[1]),
    ("Pad", &[1, 3]),
    ("Range", &[0, 1, 2]),
    ("Reshape", &[1]),
    ("Resize", &[1, 2, 3]),
    ("Slice", &[1, 2, 3, 4]),
    ("Split", &[1]),
    ("Squeeze", &[1]),
    ("Tile", &[1]),
    ("TopK", &[1]),
    ("Trilu", &[1]),
    ("Unsqueeze", &[1]),
    ("Upsample", &[1]),
];

fn places(operator: &str) -> &'static [usize] {
    match PLACES.iter().find(|(name, _)| *name == operator) {
        Some((_, places)) => places,
        None if operator.starts_with("Reduce") => &[1],
        None => &[],
    }
}

/// The places of those inputs among the inputs that a caller gives.
pub(super) fn of(model: &ModelProto) -> HashSet<usize> {
    let graph = model.graph.as_ref().unwrap();
    let mut wanted = HashSet::new();
    // What a node reads was made before it, so one pass from the end sees everything.
    for node in graph.node.iter().rev() {
        let is_wanted = node.output.iter().any(|o| wanted.contains(o.as_str()));
        let all = is_wanted && !matches!(node.op_type(), "Shape" | "Size");
        let parameters = places(node.op_type());
        for (place, name) in node.input.iter().enumerate() {
            if !name.is_empty() && (all || parameters.contains(&place)) {
                wanted.insert(name.as_str());
            }
        }
    }
    let is_weight = |name: &str| graph.initializer.iter().any(|t| t.name() == name);
    let given = graph.input.iter().filter(|i| !is_weight(i.name())).enumerate();
    given.filter(|(_, i)| wanted.contains(i.name())).map(|(place, _)| place).collect()
}

/// What is bound is enough: once constants are folded, every shape is known.
#[test]
fn shapes_follow_from_what_is_bound() {
    let cpu = CpuBackend::new();
    let mut unknown = Vec::new();
    for name in super::super::names("float.txt") {
        let case = super::read(&name);
        let constants = of(case.model.proto());
        let (model, inputs) = case.bound(|input| constants.contains(&input));
        let shapes = inputs.iter().map(Tensor::shape).collect::<Vec<_>>();
        let mut graph = Graph::of(&model).unwrap().bind(&shapes).unwrap();
        fold::fold(&mut graph, Some(&cpu as &dyn Backend)).unwrap_or_else(|e| panic!("{name}: {e}"));
        let graph = graph.bind(&shapes).unwrap();
        let made = graph.nodes().iter().flat_map(|node| node.makes());
        if made.into_iter().any(|id| graph.value(id).shape.lengths().is_none()) {
            unknown.push(name);
        }
    }
    assert!(unknown.is_empty(), "{unknown:?}");
}
