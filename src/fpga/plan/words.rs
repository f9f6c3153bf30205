//! Descriptors and constants as the kernels read them. The order of words is each kernel's own: the enumeration at its head.

use crate::error::{Result, ScoreError};
use crate::int8::{QParams, QType};
use crate::layout::view::{Storage, View};

/// The engine's kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in super::super) enum Kernel {
    Matrix,
    Pack,
    Depthwise,
    Elementwise,
    Move,
    Pool,
    Softmax,
    LayerNorm,
}

impl Kernel {
    /// All of them.
    pub(in super::super) const ALL: [Self; 8] = [
        Self::Matrix,
        Self::Pack,
        Self::Depthwise,
        Self::Elementwise,
        Self::Move,
        Self::Pool,
        Self::Softmax,
        Self::LayerNorm,
    ];

    /// Its name in the sources.
    pub(in super::super) const fn name(self) -> &'static str {
        match self {
            Self::Matrix => "matrix",
            Self::Pack => "pack",
            Self::Depthwise => "depthwise",
            Self::Elementwise => "elementwise",
            Self::Move => "move",
            Self::Pool => "pool",
            Self::Softmax => "softmax",
            Self::LayerNorm => "layer_norm",
        }
    }
}

/// A word, or what becomes two once storage has its place.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Word {
    Int(i64),
    Bits(u32),
    Offset(u64),
    InArena(Storage, usize),
}

/// The words of one operator.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Descriptor(Vec<Word>);

impl Descriptor {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// A number of 32 bits; whether it fits is looked at when it is written.
    pub(super) fn int(mut self, value: impl TryInto<i64>) -> Self {
        self.0.push(Word::Int(value.try_into().unwrap_or(i64::MAX)));
        self
    }

    pub(super) fn ints<T: TryInto<i64> + Copy>(self, values: &[T]) -> Self {
        values.iter().fold(self, |d, v| d.int(*v))
    }

    pub(super) fn float(mut self, value: f32) -> Self {
        self.0.push(Word::Bits(value.to_bits()));
        self
    }

    /// Where a tensor begins: two words.
    pub(super) fn view(mut self, view: &View) -> Self {
        self.0.push(Word::InArena(view.storage, view.offset));
        self
    }

    /// A place in the constants: two words.
    pub(super) fn constant(mut self, offset: usize) -> Self {
        self.0.push(Word::Offset(offset as u64));
        self
    }

    /// A number of 64 bits: two words.
    pub(super) fn long(mut self, value: u64) -> Self {
        self.0.push(Word::Offset(value));
        self
    }

    pub(super) fn write(&self, words: &mut Vec<i32>, at: impl Fn(Storage) -> usize) -> Result<()> {
        for word in &self.0 {
            let long = match word {
                Word::Int(value) => {
                    let too_large =
                        |_| ScoreError::unsupported("a number of its descriptor does not fit 32 bits");
                    words.push(i32::try_from(*value).map_err(too_large)?);
                    continue;
                }
                Word::Bits(bits) => {
                    words.push(*bits as i32);
                    continue;
                }
                Word::Offset(value) => *value,
                Word::InArena(storage, offset) => (at(*storage) + offset) as u64,
            };
            words.extend([long as u32 as i32, (long >> 32) as u32 as i32]);
        }
        Ok(())
    }
}

/// The block of constants.
#[derive(Debug, Default)]
pub(super) struct Constants(Vec<u8>);

/// What every table and every packed weight begins at a multiple of.
const ALIGN_BYTES: usize = 64;

impl Constants {
    /// Adds bytes and returns where they begin.
    pub(super) fn add(&mut self, bytes: &[u8]) -> usize {
        self.0.resize(self.0.len().next_multiple_of(ALIGN_BYTES), 0);
        self.0.extend_from_slice(bytes);
        self.0.len() - bytes.len()
    }

    pub(super) fn into_bytes(mut self) -> Vec<u8> {
        // A vector load may go over the end, and no device takes a buffer of nothing.
        self.0.resize(self.0.len() + ALIGN_BYTES, 0);
        self.0
    }
}

/// Numbers that the kernels give types of sums, behind those of quantised tensors.
pub(super) const SUMS_I32: i64 = 4;
/// As [`SUMS_I32`], of operands of 16 bits.
pub(super) const SUMS_I64: i64 = 5;

/// A type as the kernels name it: their `TYPE_U8` and so on.
pub(super) fn type_code(qtype: QType) -> i64 {
    match qtype {
        QType::U8 => 0,
        QType::I8 => 1,
        QType::U16 => 2,
        QType::I16 => 3,
    }
}

/// What the engine's signed number `x'` lacks of `x - zero`: `x - zero = x' + lack`. Of unsigned types, `x'` is less half of their range.
pub(super) fn lack(params: &QParams) -> i32 {
    let half = match params.qtype() {
        QType::U8 => 128,
        QType::U16 => 32_768,
        QType::I8 | QType::I16 => 0,
    };
    half - params.zero_point()
}

/// As [`lack`], for the matrix kernel: of 16 bits it has two planes of bytes, and what the low one is less is lacking, too.
pub(super) fn plane_lack(params: &QParams) -> i32 {
    lack(params) + if planes(params.qtype()) == 2 { 128 } else { 0 }
}

/// Planes of bytes that the matrix kernel goes over for integers of that type.
pub(super) fn planes(qtype: QType) -> usize {
    qtype.size_bytes()
}

/// The bounds of a result, less its zero point, as floats: clamping to them comes before the conversion.
pub(super) fn bounds(to: &QParams) -> (f32, f32) {
    let less = |bound: i32| (bound - to.zero_point()) as f32;
    (less(to.qtype().min()), less(to.qtype().max()))
}
