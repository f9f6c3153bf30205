//! What is computed for each element of a tensor, before anybody has said where it is written.
//!
//! A program is a straight line of calls over leaves: elements of tensors in memory, and at most one value that a kernel has just computed. Chains
//! of pointwise operators grow into one program, which becomes the body of one kernel, or the end of the kernel that computes what it begins with.

use crate::error::{Result, ScoreError};
use crate::layout::view::View;
use crate::tensor::DType;

/// The type that elements are computed with, whatever they are stored as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Register {
    F32,
    F64,
    I32,
    U32,
    I64,
    U64,
    Bool,
}

impl Register {
    /// Of elements that are stored so; `None` for what no kernel computes with.
    pub(super) fn of(dtype: DType) -> Result<Self> {
        Ok(match dtype {
            DType::F32 | DType::F16 | DType::Bf16 | DType::F8E4M3 | DType::F8E5M2 => Self::F32,
            DType::F64 => Self::F64,
            DType::I8 | DType::U8 | DType::I16 | DType::U16 | DType::I32 => Self::I32,
            DType::U32 => Self::U32,
            DType::I64 => Self::I64,
            DType::U64 => Self::U64,
            DType::Bool => Self::Bool,
            other => {
                return Err(ScoreError::unsupported(format!("no kernel computes with {}", other.name())));
            }
        })
    }

    /// As kernels write it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::F32 => "float",
            Self::F64 => "double",
            Self::I32 => "int",
            Self::U32 => "unsigned",
            Self::I64 => "i64",
            Self::U64 => "u64",
            Self::Bool => "bool",
        }
    }

    /// What its numbers are stored as where nothing is lost.
    pub(super) fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F64 => DType::F64,
            Self::I32 => DType::I32,
            Self::U32 => DType::U32,
            Self::I64 => DType::I64,
            Self::U64 => DType::U64,
            Self::Bool => DType::Bool,
        }
    }

    pub(super) fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F64)
    }

    /// A number of this type as kernels write it.
    pub(super) fn literal(self, value: f64) -> String {
        match self {
            Self::Bool => (value != 0.0).to_string(),
            Self::F32 | Self::F64 if value.is_nan() => format!("({})NAN_VALUE", self.name()),
            Self::F32 | Self::F64 if value.is_infinite() => {
                format!("({}){}INFINITY", self.name(), if value < 0.0 { "-" } else { "" })
            }
            Self::F32 => format!("{:?}f", value as f32),
            Self::F64 => format!("{value:?}"),
            // Floats beyond 2^53 are no integers that anybody wrote.
            Self::I32 => format!("(int){}ll", value as i32),
            Self::U32 => format!("{}u", value as u32),
            Self::I64 => format!("(i64)({}ll - 1)", (value as i64).saturating_add(1)),
            Self::U64 => format!("{}ull", value as u64),
        }
    }
}

/// A tensor in the device's memory.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Array {
    pub(super) view: View,
    /// What its elements are stored as.
    pub(super) dtype: DType,
}

/// As kernels write the type of stored elements.
pub(super) fn stored_name(dtype: DType) -> Result<&'static str> {
    Ok(match dtype {
        DType::F32 => "float",
        DType::F16 => "f16",
        DType::Bf16 => "bf16",
        DType::F8E4M3 => "f8e4m3",
        DType::F8E5M2 => "f8e5m2",
        DType::F64 => "double",
        DType::I8 => "i8",
        DType::U8 => "u8",
        DType::I16 => "i16",
        DType::U16 => "u16",
        DType::I32 => "int",
        DType::U32 => "unsigned",
        DType::I64 => "i64",
        DType::U64 => "u64",
        DType::Bool => "bool",
        other => return Err(ScoreError::unsupported(format!("no kernel reads {}", other.name()))),
    })
}

/// Where a program begins.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Leaf {
    /// An element of a tensor that has the program's shape, by strides of zero where it is repeated.
    Memory(Array),
    /// What a kernel has computed for the element.
    Given(Register),
}

#[derive(Debug, Clone, PartialEq)]
struct Step {
    register: Register,
    kind: Kind,
}

#[derive(Debug, Clone, PartialEq)]
enum Kind {
    Leaf(usize),
    Literal(String),
    Call(&'static str, Vec<usize>),
    Cast(usize),
}

/// A straight line of calls; its value is that of the last step.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Program {
    pub(super) shape: Vec<usize>,
    pub(super) leaves: Vec<Leaf>,
    steps: Vec<Step>,
}

/// What a program does to the value that it is given, where that is multiplying it with a number, adding tensors to it, and cutting off what is negative,
/// and no more.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct End<'p> {
    pub(super) factor: f32,
    pub(super) addends: Vec<&'p Array>,
    pub(super) has_relu: bool,
}

/// Kernels take so many operands at most: their places are arguments.
const MOST_LEAVES: usize = 16;
/// Longer chains are cut.
const MOST_STEPS: usize = 96;

impl Program {
    /// The elements of a tensor.
    pub(super) fn of(array: Array) -> Result<Self> {
        let register = Register::of(array.dtype)?;
        Ok(Self {
            shape: array.view.shape.clone(),
            leaves: vec![Leaf::Memory(array)],
            steps: vec![Step { register, kind: Kind::Leaf(0) }],
        })
    }

    /// What a kernel computes for each element of this shape.
    pub(super) fn given(register: Register, shape: &[usize]) -> Self {
        Self {
            shape: shape.to_vec(),
            leaves: vec![Leaf::Given(register)],
            steps: vec![Step { register, kind: Kind::Leaf(0) }],
        }
    }

    /// The same number everywhere.
    pub(super) fn literal(register: Register, text: String, shape: &[usize]) -> Self {
        let steps = vec![Step { register, kind: Kind::Literal(text) }];
        Self { shape: shape.to_vec(), leaves: Vec::new(), steps }
    }

    /// The type of its value.
    pub(super) fn register(&self) -> Register {
        self.steps.last().map_or(Register::F32, |s| s.register)
    }

    /// Whether it begins with what a kernel has just computed.
    pub(super) fn is_given(&self) -> bool {
        self.leaves.iter().any(|l| matches!(l, Leaf::Given(_)))
    }

    /// Whether it is a tensor in memory and nothing else.
    pub(super) fn is_copy(&self) -> bool {
        matches!(self.steps.as_slice(), [Step { kind: Kind::Leaf(_), .. }])
    }

    /// Its tensors in memory.
    pub(super) fn arrays(&self) -> impl Iterator<Item = &Array> {
        self.leaves.iter().filter_map(|l| match l {
            Leaf::Memory(array) => Some(array),
            Leaf::Given(_) => None,
        })
    }

    /// What it does to a float that it is given; `None` where it does anything else, or does it to another number.
    pub(super) fn end(&self) -> Option<End<'_>> {
        if self.steps.iter().any(|step| step.register != Register::F32) {
            return None;
        }
        let last = self.steps.len().checked_sub(1)?;
        let (sum, has_relu) = match &self.steps.get(last)?.kind {
            Kind::Call("relu", of) => (*of.first()?, true),
            _ => (last, false),
        };
        let (mut addends, mut factors) = (Vec::new(), Vec::new());
        let mut open = vec![sum];
        while let Some(at) = open.pop() {
            match &self.steps.get(at)?.kind {
                Kind::Call("add", of) => open.extend(of),
                Kind::Call("multiply", of) => factors.push(self.scaled(of)?),
                Kind::Leaf(leaf) => match self.leaves.get(*leaf)? {
                    Leaf::Memory(array) => addends.push(array),
                    Leaf::Given(_) => factors.push(1.0),
                },
                _ => return None,
            }
        }
        match factors.as_slice() {
            [factor] => Some(End { factor: *factor, addends, has_relu }),
            _ => None,
        }
    }

    /// The number that what is given is multiplied with, where a product is that of these two.
    fn scaled(&self, of: &[usize]) -> Option<f32> {
        let kind = |at: &usize| self.steps.get(*at).map(|step| &step.kind);
        let [left, right] = of else { return None };
        let (leaf, text) = match (kind(left)?, kind(right)?) {
            (Kind::Leaf(leaf), Kind::Literal(text)) | (Kind::Literal(text), Kind::Leaf(leaf)) => (leaf, text),
            _ => return None,
        };
        let number = text.trim_end_matches('f').parse::<f32>().ok()?;
        matches!(self.leaves.get(*leaf)?, Leaf::Given(_)).then_some(number)
    }

    /// The program that reads from memory what it was to be given.
    pub(super) fn with_given(&self, array: &Array) -> Self {
        let leaf = |leaf: &Leaf| match leaf {
            Leaf::Given(_) => Leaf::Memory(array.clone()),
            Leaf::Memory(_) => leaf.clone(),
        };
        Self { leaves: self.leaves.iter().map(leaf).collect(), ..self.clone() }
    }

    /// Its value as another type.
    #[must_use]
    pub(super) fn cast(mut self, register: Register) -> Self {
        if self.register() != register {
            let last = self.steps.len().saturating_sub(1);
            self.steps.push(Step { register, kind: Kind::Cast(last) });
        }
        self
    }

    /// The program with every tensor of it looked at otherwise; `None` where one cannot be.
    pub(super) fn viewed(&self, shape: &[usize], look: impl Fn(&View) -> Option<View>) -> Option<Self> {
        let leaf = |leaf: &Leaf| match leaf {
            Leaf::Memory(array) => Some(Leaf::Memory(Array { view: look(&array.view)?, dtype: array.dtype })),
            Leaf::Given(_) => None,
        };
        let leaves = self.leaves.iter().map(leaf).collect::<Option<Vec<_>>>()?;
        Some(Self { shape: shape.to_vec(), leaves, steps: self.steps.clone() })
    }

    /// Under another shape of as many elements in the same order, what a kernel gives with it.
    pub(super) fn reshaped(&self, shape: &[usize]) -> Option<Self> {
        let leaf = |leaf: &Leaf| match leaf {
            Leaf::Memory(array) => {
                Some(Leaf::Memory(Array { view: array.view.reshaped(shape)?, dtype: array.dtype }))
            }
            Leaf::Given(register) => Some(Leaf::Given(*register)),
        };
        let leaves = self.leaves.iter().map(leaf).collect::<Option<Vec<_>>>()?;
        Some(Self { shape: shape.to_vec(), leaves, steps: self.steps.clone() })
    }

    /// Repeated to a shape that it broadcasts to.
    pub(super) fn broadcast(&self, shape: &[usize]) -> Option<Self> {
        if self.shape == shape {
            return Some(self.clone());
        }
        self.viewed(shape, |view| broadcast(view, shape))
    }

    /// A call of these, all of one shape; `None` where it would be too long.
    pub(super) fn call(function: &'static str, register: Register, of: &[Program]) -> Option<Self> {
        let mut joined = Self { shape: of.first()?.shape.clone(), leaves: Vec::new(), steps: Vec::new() };
        let mut values = Vec::new();
        for program in of {
            let places = program.leaves.iter().map(|leaf| {
                let known = joined.leaves.iter().position(|l| l == leaf);
                known.unwrap_or_else(|| {
                    joined.leaves.push(leaf.clone());
                    joined.leaves.len() - 1
                })
            });
            let places = places.collect::<Vec<_>>();
            let first = joined.steps.len();
            for step in &program.steps {
                let kind = match &step.kind {
                    Kind::Leaf(at) => Kind::Leaf(*places.get(*at)?),
                    Kind::Literal(text) => Kind::Literal(text.clone()),
                    Kind::Call(name, of) => Kind::Call(name, of.iter().map(|v| v + first).collect()),
                    Kind::Cast(value) => Kind::Cast(value + first),
                };
                joined.steps.push(Step { register: step.register, kind });
            }
            values.push(joined.steps.len().checked_sub(1)?);
        }
        joined.steps.push(Step { register, kind: Kind::Call(function, values) });
        (joined.leaves.len() <= MOST_LEAVES && joined.steps.len() <= MOST_STEPS).then_some(joined)
    }

    /// The function of one element: `name(a0, a1, …)`, of the leaves in their order.
    pub(super) fn function(&self, name: &str) -> Result<String> {
        let mut arguments = Vec::new();
        for (at, leaf) in self.leaves.iter().enumerate() {
            let kind = match leaf {
                Leaf::Memory(array) => stored_name(array.dtype)?,
                Leaf::Given(register) => register.name(),
            };
            arguments.push(format!("{kind} a{at}"));
        }
        let mut text = format!(
            "__device__ __forceinline__ {} {name}({})\n{{\n",
            self.register().name(),
            arguments.join(", ")
        );
        for (at, step) in self.steps.iter().enumerate() {
            let value = match &step.kind {
                Kind::Leaf(leaf) => match self.leaves.get(*leaf) {
                    Some(Leaf::Given(_)) => format!("a{leaf}"),
                    _ => format!("load(a{leaf})"),
                },
                Kind::Literal(text) => text.clone(),
                Kind::Call(function, of) => {
                    let of = of.iter().map(|v| format!("v{v}")).collect::<Vec<_>>();
                    format!("{function}({})", of.join(", "))
                }
                Kind::Cast(of) => format!("({})v{of}", step.register.name()),
            };
            text.push_str(&format!("    {} v{at} = {value};\n", step.register.name()));
        }
        text.push_str(&format!("    return v{};\n}}\n", self.steps.len().saturating_sub(1)));
        Ok(text)
    }
}

/// A view repeated to a shape, as ONNX broadcasts: axes are matched from the last one on.
pub(super) fn broadcast(view: &View, shape: &[usize]) -> Option<View> {
    let before = shape.len().checked_sub(view.shape.len())?;
    let mut strides = vec![0; before];
    for (axis, length) in shape.iter().skip(before).enumerate() {
        match view.length(axis) {
            own if own == *length => strides.push(view.stride(axis)),
            1 => strides.push(0),
            _ => return None,
        }
    }
    Some(View { shape: shape.to_vec(), strides, ..view.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::view::Storage;

    fn array(storage: usize, shape: &[usize]) -> Program {
        let view = View::row_major(Storage(storage), shape, 4);
        Program::of(Array { view, dtype: DType::F32 }).unwrap()
    }

    #[test]
    fn chains_join_and_read_a_tensor_once() {
        let (x, b) = (array(0, &[2, 3]), array(1, &[3]).broadcast(&[2, 3]).unwrap());
        let sum = Program::call("add", Register::F32, &[x.clone(), b]).unwrap();
        let y = Program::call("multiply", Register::F32, &[sum, x]).unwrap().cast(Register::I64);
        assert_eq!(y.leaves.len(), 2);
        let text = y.function("compute").unwrap();
        assert!(text.starts_with("__device__ __forceinline__ i64 compute(float a0, float a1)"), "{text}");
        assert!(text.contains("v2 = add(v0, v1)") && text.contains("v4 = multiply(v2, v3)"), "{text}");
        assert!(text.contains("i64 v5 = (i64)v4"), "{text}");
        assert_eq!(array(0, &[2]).broadcast(&[3]), None);
        assert_eq!(y.arrays().count(), 2);
    }

    #[test]
    fn an_end_of_sums_and_a_relu_is_told_from_others() {
        let (given, x) = (Program::given(Register::F32, &[2, 3]), array(0, &[2, 3]));
        let call = |name, of: &[Program]| Program::call(name, Register::F32, of).unwrap();
        let sum = call("add", &[x.clone(), call("add", &[given.clone(), array(1, &[2, 3])])]);
        let relu = call("relu", std::slice::from_ref(&sum));
        let of = |p: &Program| p.end().map(|end| (end.addends.len(), end.has_relu, end.factor));
        let expected = [Some((0, false, 1.0)), Some((2, false, 1.0)), Some((2, true, 1.0))];
        assert_eq!([of(&given), of(&sum), of(&relu)], expected);
        let half = Program::literal(Register::F32, Register::F32.literal(0.5), &[2, 3]);
        let scaled = call("multiply", &[given.clone(), half.clone()]);
        assert_eq!(of(&scaled), Some((0, false, 0.5)));
        assert_eq!(of(&call("relu", &[call("add", &[x.clone(), scaled.clone()])])), Some((1, true, 0.5)));
        // The number is the given's alone, and one.
        for other in [
            call("multiply", &[call("add", &[given.clone(), x.clone()]), half.clone()]),
            call("add", &[given.clone(), call("multiply", &[x.clone(), half.clone()])]),
            call("multiply", &[scaled.clone(), half]),
            call("add", &[scaled, given.clone()]),
        ] {
            assert_eq!(of(&other), None);
        }
        assert_eq!(of(&call("add", &[given.clone(), given.clone()])), None);
        assert_eq!(of(&call("add", &[relu, x.clone()])), None);
        assert_eq!(of(&call("multiply", &[given.clone(), x.clone()])), None);
        assert_eq!(of(&given.cast(Register::I32)), None);
        assert_eq!(of(&x), None);
    }

    #[test]
    fn literals_are_what_kernels_can_read() {
        for (register, value, text) in [
            (Register::F32, 0.1, "0.1f"),
            (Register::F32, 1e30, "1e30f"),
            (Register::F32, f64::NEG_INFINITY, "(float)-INFINITY"),
            (Register::F64, 0.5, "0.5"),
            (Register::I32, -3.0, "(int)-3ll"),
            (Register::I64, 7.0, "(i64)(8ll - 1)"),
            (Register::Bool, 1.0, "true"),
        ] {
            assert_eq!(register.literal(value), text);
        }
    }
}
