//! Functions of one element as tables.
//!
//! Between a `DequantizeLinear` and a `QuantizeLinear` stands a part of the graph that computes, element by element, from one tensor
//! and constants: an activation, a chain of them, `x · hardsigmoid(x)`. An integer of 8 bits has 256 values, so the whole part is a table
//! of 256 results (65,536 for 16 bits), whatever is in it.
//!
//! Each operator is computed in f64 and rounded to f32, as the float model would store it; the four basic operations are
//! those of f32. Functions are those of `libm`, so a table is the same on every machine.

use std::collections::HashMap;
use std::rc::Rc;

use super::{Quantised, Target, ToIntegers, params};
use crate::error::Result;
use crate::graph::attributes::Attributes;
use crate::graph::edit::Uses;
use crate::graph::{Graph, Node, ValueId, functions};
use crate::tensor::Tensor;

/// A part of more nodes is no function that anybody wrote for one element.
const MAX_DEPTH: usize = 64;

impl ToIntegers<'_> {
    /// Makes the target by a table, if it is a function of one element of one tensor.
    pub(super) fn table(&mut self, read: ValueId, target: &Target<'_>) -> Result<bool> {
        let mut part = Part {
            graph: self.graph,
            uses: &self.uses,
            source: None,
            known: HashMap::new(),
            origins: Vec::new(),
        };
        let Some(values) = part.values(read, 0) else { return Ok(false) };
        let (source, mut origins) = (part.source.take(), std::mem::take(&mut part.origins));
        let Some(source) = source else { return Ok(false) };
        // Broadcasting against a constant of more axes would make another shape of it.
        if self.graph.value(source.value).shape.rank() != self.graph.value(target.made).shape.rank() {
            return Ok(false);
        }
        origins.extend(target.origins);
        // What is clamped is in the part already.
        let target = Target { origins: &origins, clamp: params::Clamp::NONE, ..*target };
        self.push_table(&source, &values, &target)?;
        Ok(true)
    }

    /// Makes the target from integers by a table of what each of them becomes.
    pub(super) fn push_table(&mut self, from: &Quantised, values: &[f32], target: &Target<'_>) -> Result<()> {
        let entries = values.iter().map(|v| target.to.quantise(*v)).collect::<Vec<_>>();
        let tensor = target.to.tensor(&[entries.len()], &entries)?;
        let name = self.graph.value(target.made).name.clone();
        let table = self.graph.add_constant(&format!("{name}/table"), tensor);
        let (low, _) = from.params.range();
        let attributes = Attributes::new().with_int("first", low.into());
        let inputs = vec![Some(from.value), Some(table)];
        self.push_clamped(functions::DOMAIN, "Table", attributes, inputs, target)
    }
}

/// Whether a node computes each element of its result from one element of one tensor, and constants of one element.
pub fn is_function_of_one(graph: &Graph, node: &Node) -> bool {
    let constant = |id: &&ValueId| graph.constant(**id).is_some_and(|t| t.len() == 1);
    let others = node.inputs.iter().flatten().filter(|id| !constant(id)).count();
    others == 1 && function(node).is_some() && node.outputs.len() == 1
}

/// The part of a graph that is being looked at.
struct Part<'a> {
    graph: &'a Graph,
    uses: &'a Uses,
    /// The tensor that everything is a function of, once it was met.
    source: Option<Quantised>,
    known: HashMap<ValueId, Rc<[f32]>>,
    origins: Vec<usize>,
}

impl Part<'_> {
    /// What a value is for each integer of the source; a constant is the one element.
    fn values(&mut self, id: ValueId, depth: usize) -> Option<Rc<[f32]>> {
        if let Some(known) = self.known.get(&id) {
            return Some(known.clone());
        }
        if depth > MAX_DEPTH {
            return None;
        }
        let found: Rc<[f32]> = match self.graph.constant(id) {
            Some(tensor) => one_float(tensor)?,
            None => {
                let node = self.graph.node(self.uses.maker(id)?)?;
                match params::of_dequantize(self.graph, node) {
                    Some(source) => self.dequantised(source)?,
                    None => self.computed(node, depth)?,
                }
            }
        };
        self.known.insert(id, found.clone());
        Some(found)
    }

    fn dequantised(&mut self, q: Quantised) -> Option<Rc<[f32]>> {
        if !q.params.is_per_tensor() {
            return None;
        }
        if let Some(tensor) = self.graph.constant(q.value) {
            let [one] = super::integers(tensor)?.try_into().ok()?;
            let one: i32 = one;
            return Some([(one - q.params.zero()) as f32 * q.params.scale()].into());
        }
        let values = q.params.all_values();
        match &self.source {
            None => self.source = Some(q),
            Some(source) if source.value == q.value && source.params.same(&q.params) => {}
            Some(_) => return None,
        }
        Some(values.into())
    }

    fn computed(&mut self, node: &Node, depth: usize) -> Option<Rc<[f32]>> {
        let function = function(node)?;
        let mut read = Vec::new();
        for input in &node.inputs {
            read.push(match input {
                Some(id) => Some(self.values(*id, depth + 1)?),
                None => None,
            });
        }
        let length = read.iter().flatten().map(|v| v.len()).max()?;
        let at = |values: &Rc<[f32]>, i: usize| values.get(i).or(values.first()).copied();
        let value = |i: usize| {
            let arguments = read.iter().map(|v| v.as_ref().and_then(|v| at(v, i))).collect::<Vec<_>>();
            function(&node.op.attributes, &arguments)
        };
        self.origins.extend(&node.origins);
        (0..length).map(value).collect()
    }
}

fn one_float(tensor: &Tensor) -> Option<Rc<[f32]>> {
    match tensor.as_slice::<f32>().ok()? {
        [one] => Some([*one].into()),
        _ => None,
    }
}

/// A function of an operator's attributes and of its inputs, which may be left out.
type Function = fn(&Attributes, &[Option<f32>]) -> Option<f32>;

/// What an operator computes for one element.
fn function(node: &Node) -> Option<Function> {
    macro_rules! of_one {
        ($f:expr) => {
            |_, x| Some($f(f64::from(x.first().copied()??)) as f32)
        };
    }
    macro_rules! of_two {
        ($f:expr) => {
            |_, x| match x {
                [Some(a), Some(b)] => Some($f(*a, *b)),
                _ => None,
            }
        };
    }
    /// With one attribute that has a default.
    macro_rules! with {
        ($name:literal, $default:literal, $f:expr) => {
            |attributes, x| {
                let a = attributes.float($name).unwrap_or($default);
                Some($f(f64::from(x.first().copied()??), f64::from(a)) as f32)
            }
        };
    }
    Some(match node.op.onnx_name()? {
        "Abs" => of_one!(f64::abs),
        "Add" => of_two!(|a: f32, b: f32| a + b),
        "Ceil" => of_one!(libm::ceil),
        "Clip" => |_, x| {
            let low = x.get(1).copied().flatten().unwrap_or(f32::NEG_INFINITY);
            let high = x.get(2).copied().flatten().unwrap_or(f32::INFINITY);
            Some(x.first().copied()??.max(low).min(high))
        },
        "Cos" => of_one!(libm::cos),
        "Div" => of_two!(|a: f32, b: f32| a / b),
        "Elu" => with!("alpha", 1.0, |x: f64, a: f64| if x < 0.0 { a * libm::expm1(x) } else { x }),
        "Erf" => of_one!(libm::erf),
        "Exp" => of_one!(libm::exp),
        "Floor" => of_one!(libm::floor),
        "Gelu" => |attributes, x| {
            let x = f64::from(x.first().copied()??);
            let is_tanh = attributes.text("approximate") == Some("tanh");
            let root_two_over_pi = (2.0 / std::f64::consts::PI).sqrt();
            let share = match is_tanh {
                true => libm::tanh(root_two_over_pi * (x + 0.044_715 * x * x * x)),
                false => libm::erf(x / std::f64::consts::SQRT_2),
            };
            Some((0.5 * x * (1.0 + share)) as f32)
        },
        "HardSigmoid" => |attributes, x| {
            let (alpha, beta) =
                (attributes.float("alpha").unwrap_or(0.2), attributes.float("beta").unwrap_or(0.5));
            Some((alpha * x.first().copied()?? + beta).clamp(0.0, 1.0))
        },
        "HardSwish" => |_, x| {
            let x = x.first().copied()??;
            Some(x * (x / 6.0 + 0.5).clamp(0.0, 1.0))
        },
        "LeakyRelu" => |attributes, x| {
            let (x, alpha) = (x.first().copied()??, attributes.float("alpha").unwrap_or(0.01));
            Some(if x < 0.0 { alpha * x } else { x })
        },
        "Log" => of_one!(libm::log),
        "Max" => of_two!(f32::max),
        "Min" => of_two!(f32::min),
        "Mish" => of_one!(|x: f64| x * libm::tanh(libm::log1p(libm::exp(x)))),
        "Mul" => of_two!(|a: f32, b: f32| a * b),
        "Neg" => of_one!(|x: f64| -x),
        "PRelu" => of_two!(|x: f32, slope: f32| if x < 0.0 { slope * x } else { x }),
        "Pow" => of_two!(|a: f32, b: f32| libm::pow(a.into(), b.into()) as f32),
        "Reciprocal" => |_, x| Some(x.first().copied()??.recip()),
        "Relu" => |_, x| Some(x.first().copied()??.max(0.0)),
        "Round" => of_one!(f64::round_ties_even),
        "Selu" => |attributes, x| {
            let x = f64::from(x.first().copied()??);
            let alpha = f64::from(attributes.float("alpha").unwrap_or(1.673_263_2));
            let gamma = f64::from(attributes.float("gamma").unwrap_or(1.050_701));
            Some((gamma * if x < 0.0 { alpha * libm::expm1(x) } else { x }) as f32)
        },
        "Sigmoid" => of_one!(|x: f64| 1.0 / (1.0 + libm::exp(-x))),
        "Sign" => of_one!(|x: f64| if x == 0.0 { 0.0 } else { x.signum() }),
        "Sin" => of_one!(libm::sin),
        "Softplus" => of_one!(|x: f64| x.max(0.0) + libm::log1p(libm::exp(-x.abs()))),
        "Softsign" => of_one!(|x: f64| x / (1.0 + x.abs())),
        "Sqrt" => |_, x| Some(x.first().copied()??.sqrt()),
        "Sub" => of_two!(|a: f32, b: f32| a - b),
        "Swish" => with!("alpha", 1.0, |x: f64, a: f64| x / (1.0 + libm::exp(-a * x))),
        "Tanh" => of_one!(libm::tanh),
        "ThresholdedRelu" => with!("alpha", 1.0, |x: f64, a: f64| if x > a { x } else { 0.0 }),
        _ => return None,
    })
}
