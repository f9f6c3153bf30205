//! A nested array becomes one flat tensor, in one pass and without a tree of values in between.
//!
//! Every array's length is held against the model's shape, or, on a free axis, against the first array
//! at that depth; so a ragged body is refused where it is ragged, by name and index path:
//! `x[3][0]: expected 8 numbers, got 7`. A check of the total alone would take `[65] + [63]` for
//! two rows of 64.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::cells::{Cells, Column};
use super::leaf::{Leaf, Misfit, Truth};
use crate::error::{Result, ScoreError};
use crate::signature::{Dim, Port, PortKind};
use crate::tensor::{DType, F8E4M3, F8E5M2, Tensor};

/// Reads the value at hand as the tensor of a port. On an error the reason is left in `error`; serde's
/// own error type cannot carry it.
pub(super) struct TensorSeed<'a, 's> {
    pub(super) port: &'s Port,
    /// Whether to hold the data against the port's shape; without it any regular nesting is taken.
    pub(super) by_shape: bool,
    /// The length of the whole body in bytes, which bounds the number of elements.
    pub(super) body_bytes: usize,
    pub(super) error: &'a mut Option<ScoreError>,
}

impl<'de> DeserializeSeed<'de> for TensorSeed<'_, '_> {
    type Value = Tensor;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Tensor, D::Error> {
        let PortKind::Tensor { dtype, .. } = self.port.kind else {
            *self.error = Some(
                ScoreError::bad_input("sequences and maps cannot be given as inputs")
                    .with_at(self.port.name.clone()),
            );
            return Err(D::Error::custom("not a tensor"));
        };
        match dtype {
            DType::Bool => self.read::<D, Cells<Truth>>(from, dtype),
            DType::Bf16 => self.read::<D, Cells<half::bf16>>(from, dtype),
            DType::F16 => self.read::<D, Cells<half::f16>>(from, dtype),
            DType::F32 => self.read::<D, Cells<f32>>(from, dtype),
            DType::F64 => self.read::<D, Cells<f64>>(from, dtype),
            DType::F8E4M3 => self.read::<D, Cells<F8E4M3>>(from, dtype),
            DType::F8E5M2 => self.read::<D, Cells<F8E5M2>>(from, dtype),
            DType::I8 => self.read::<D, Cells<i8>>(from, dtype),
            DType::I16 => self.read::<D, Cells<i16>>(from, dtype),
            DType::I32 => self.read::<D, Cells<i32>>(from, dtype),
            DType::I64 => self.read::<D, Cells<i64>>(from, dtype),
            DType::String => self.read::<D, Vec<String>>(from, dtype),
            DType::U8 => self.read::<D, Cells<u8>>(from, dtype),
            DType::U16 => self.read::<D, Cells<u16>>(from, dtype),
            DType::U32 => self.read::<D, Cells<u32>>(from, dtype),
            DType::U64 => self.read::<D, Cells<u64>>(from, dtype),
        }
    }
}

impl TensorSeed<'_, '_> {
    fn read<'de, D: Deserializer<'de>, C: Column>(self, from: D, dtype: DType) -> Result<Tensor, D::Error> {
        let dims = if self.by_shape { self.port.dims() } else { None };
        let result = Nest::<C>::new(&self.port.name, dims, self.body_bytes).and_then(|mut nest| {
            match (Level { nest: &mut nest, depth: 0 }).deserialize(from) {
                Ok(()) => nest.finish(dtype).map(Ok),
                Err(e) => match nest.error {
                    Some(reason) => Err(reason),
                    None => Ok(Err(e)),
                },
            }
        });
        result.unwrap_or_else(|reason| {
            *self.error = Some(reason);
            Err(D::Error::custom("the tensor was refused"))
        })
    }
}

/// A tensor being read.
struct Nest<'s, C> {
    name: &'s str,
    dims: Option<&'s [Dim]>,
    /// How many axes; without a shape it is where the first element lies.
    rank: Option<usize>,
    /// The length of each axis, once an array at that depth was read to its end.
    lengths: Vec<Option<usize>>,
    /// The index at each depth above the innermost array.
    path: Vec<usize>,
    column: C,
    error: Option<ScoreError>,
}

impl<'s, C: Column> Nest<'s, C> {
    fn new(name: &'s str, dims: Option<&'s [Dim]>, body_bytes: usize) -> Result<Self> {
        // Room for one row; an element takes two bytes of the body or more, so there are never more.
        let row = dims.unwrap_or_default().iter().map(|d| match d {
            Dim::Fixed(n) => *n,
            Dim::Free(_) => 1,
        });
        let row = row.fold(1usize, usize::saturating_mul).min(body_bytes / 2 + 1);
        let rank = dims.map(<[Dim]>::len);
        let levels = rank.unwrap_or(1);
        Ok(Self {
            name,
            dims,
            rank,
            lengths: vec![None; levels],
            path: vec![0; levels],
            column: C::with_capacity(row)?,
            error: None,
        })
    }

    /// Refuses the body for that reason, at that depth's place: `x[3][0]: …`.
    fn refuse<E: serde::de::Error>(&mut self, depth: usize, what: impl Into<String>) -> E {
        let mut at = self.name.to_owned();
        for index in self.path.iter().take(depth) {
            at.push_str(&format!("[{index}]"));
        }
        self.error.get_or_insert(ScoreError::bad_input(what).with_at(at));
        E::custom("the tensor was refused")
    }

    /// Remembers which element of the array at that depth is read.
    fn step(&mut self, depth: usize, index: usize) {
        match self.path.get_mut(depth) {
            Some(at) => *at = index,
            None => self.path.push(index),
        }
    }

    /// An array at that depth ended with so many elements.
    fn close<E: serde::de::Error>(&mut self, depth: usize, got: usize) -> Result<(), E> {
        let fixed = match self.dims.and_then(|dims| dims.get(depth)) {
            Some(Dim::Fixed(n)) => Some(*n),
            _ => None,
        };
        if self.lengths.len() <= depth {
            self.lengths.resize(depth + 1, None);
        }
        let before = self.lengths.get(depth).copied().flatten();
        match fixed.or(before) {
            Some(expected) if expected != got => {
                let what = self.plural(depth, expected);
                let why = if fixed.is_some() { "" } else { " like the arrays before it" };
                Err(self.refuse(depth, format!("expected {expected} {what}{why}, got {got}")))
            }
            _ => {
                if let Some(length) = self.lengths.get_mut(depth) {
                    *length = Some(got);
                }
                Ok(())
            }
        }
    }

    /// What an array at that depth holds, in a message.
    fn plural(&self, depth: usize, count: usize) -> String {
        let inner = self.rank.is_none_or(|rank| depth + 1 == rank);
        let noun = if inner { C::Item::NOUN } else { "array" };
        format!("{noun}{}", if count == 1 { "" } else { "s" })
    }

    /// What must stand at that depth, in a message.
    fn expected(&self, depth: usize) -> String {
        let Some(rank) = self.rank.filter(|rank| depth < *rank) else {
            let article = if C::Item::NOUN.starts_with(['i']) { "an" } else { "a" };
            return format!("{article} {}", C::Item::NOUN);
        };
        match self.dims.and_then(|dims| dims.get(depth)) {
            Some(Dim::Fixed(n)) => format!("an array of {n} {}", self.plural(depth, *n)),
            _ => format!("an array of {}", self.plural(depth, rank)),
        }
    }

    /// Something else stands where an array or an element should.
    fn wrong<E: serde::de::Error>(&mut self, depth: usize, got: &str) -> E {
        let shape = match self.dims {
            Some(dims) => {
                format!(" (the shape is {})", dims.iter().map(Dim::to_string).collect::<Vec<_>>().join(" × "))
            }
            None => String::new(),
        };
        let shape = if self.dims.is_some_and(<[Dim]>::is_empty) { String::new() } else { shape };
        self.refuse(depth, format!("expected {}, got {got}{shape}", self.expected(depth)))
    }

    /// An element was refused.
    fn misfit<E: serde::de::Error>(&mut self, depth: usize, misfit: Misfit) -> E {
        match misfit {
            Misfit::Range(what) => self.refuse(depth, what),
            Misfit::Kind(got) => self.wrong(depth, &got),
        }
    }

    /// A scalar at that depth.
    fn element<E: serde::de::Error>(&mut self, depth: usize, item: Result<C::Item, Misfit>) -> Result<(), E> {
        if *self.rank.get_or_insert(depth) != depth {
            let got = match &item {
                Ok(_) if C::Item::NOUN == "integer" => "an integer".to_owned(),
                Ok(_) => format!("a {}", C::Item::NOUN),
                Err(Misfit::Kind(got) | Misfit::Range(got)) => got.clone(),
            };
            return Err(self.wrong(depth, &got));
        }
        let item = item.map_err(|m| self.misfit(depth, m))?;
        self.store(item)
    }

    fn store<E: serde::de::Error>(&mut self, item: C::Item) -> Result<(), E> {
        self.column.push(item).map_err(|e| {
            self.error = Some(e);
            E::custom("no memory")
        })
    }

    fn finish(self, dtype: DType) -> Result<Tensor> {
        let rank = self.rank.unwrap_or(self.lengths.len());
        // Below an empty array nothing was seen: fixed axes are what they are, free ones are empty too.
        let length = |axis: usize| match (self.lengths.get(axis), self.dims.and_then(|d| d.get(axis))) {
            (Some(Some(n)), _) => *n,
            (_, Some(Dim::Fixed(n))) => *n,
            _ => 0,
        };
        let shape = (0..rank).map(length).collect::<Vec<_>>();
        self.column.finish(dtype, &shape).map_err(|e| e.with_at(self.name))
    }
}

/// One value at some depth: an array above the rank, an element at the rank.
struct Level<'a, 's, C> {
    nest: &'a mut Nest<'s, C>,
    depth: usize,
}

impl<'de, C: Column> DeserializeSeed<'de> for Level<'_, '_, C> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de, C: Column> Visitor<'de> for Level<'_, '_, C> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.nest.expected(self.depth))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let Self { nest, depth } = self;
        if nest.rank == Some(depth) {
            return Err(nest.wrong(depth, "an array"));
        }
        let mut count = 0;
        loop {
            // The innermost arrays are where the time goes: their elements take the short way. Without a
            // shape, the first element tells the rank, so this is asked anew each time.
            let more = if nest.rank == Some(depth + 1) {
                let mut misfit = None;
                let element = Element { column: &mut nest.column, misfit: &mut misfit };
                match seq.next_element_seed(element) {
                    Ok(more) => more.is_some(),
                    Err(e) => {
                        nest.step(depth, count);
                        return Err(match misfit {
                            Some(Refused::Misfit(m)) => nest.misfit(depth + 1, m),
                            Some(Refused::Memory(reason)) => {
                                nest.error = Some(reason);
                                e
                            }
                            None => e,
                        });
                    }
                }
            } else {
                nest.step(depth, count);
                seq.next_element_seed(Level { nest, depth: depth + 1 })?.is_some()
            };
            if !more {
                break;
            }
            count += 1;
        }
        nest.close(depth, count)
    }

    fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<(), A::Error> {
        Err(self.nest.wrong(self.depth, "an object"))
    }
    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        Err(self.nest.wrong(self.depth, "null"))
    }
    fn visit_u64<E: serde::de::Error>(self, v: u64) -> Result<(), E> {
        self.nest.element(self.depth, C::Item::unsigned(v))
    }
    fn visit_i64<E: serde::de::Error>(self, v: i64) -> Result<(), E> {
        self.nest.element(self.depth, C::Item::signed(v))
    }
    fn visit_f64<E: serde::de::Error>(self, v: f64) -> Result<(), E> {
        self.nest.element(self.depth, C::Item::float(v))
    }
    fn visit_bool<E: serde::de::Error>(self, v: bool) -> Result<(), E> {
        self.nest.element(self.depth, C::Item::boolean(v))
    }
    fn visit_str<E: serde::de::Error>(self, v: &str) -> Result<(), E> {
        self.nest.element(self.depth, C::Item::text(v))
    }
}

/// One element of an innermost array.
struct Element<'a, C> {
    column: &'a mut C,
    misfit: &'a mut Option<Refused>,
}

enum Refused {
    Misfit(Misfit),
    Memory(ScoreError),
}

impl<C: Column> Element<'_, C> {
    #[inline]
    fn take<E: serde::de::Error>(self, item: Result<C::Item, Misfit>) -> Result<(), E> {
        let refused = match item {
            Ok(item) => match self.column.push(item) {
                Ok(()) => return Ok(()),
                Err(e) => Refused::Memory(e),
            },
            Err(misfit) => Refused::Misfit(misfit),
        };
        *self.misfit = Some(refused);
        Err(E::custom("the element was refused"))
    }

    fn kind<E: serde::de::Error>(self, got: &str) -> Result<(), E> {
        self.take(Err(Misfit::Kind(got.to_owned())))
    }
}

impl<'de, C: Column> DeserializeSeed<'de> for Element<'_, C> {
    type Value = ();

    #[inline]
    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de, C: Column> Visitor<'de> for Element<'_, C> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a {}", C::Item::NOUN)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<(), A::Error> {
        self.kind("an array")
    }
    fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<(), A::Error> {
        self.kind("an object")
    }
    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        self.kind("null")
    }
    #[inline]
    fn visit_u64<E: serde::de::Error>(self, v: u64) -> Result<(), E> {
        self.take(C::Item::unsigned(v))
    }
    #[inline]
    fn visit_i64<E: serde::de::Error>(self, v: i64) -> Result<(), E> {
        self.take(C::Item::signed(v))
    }
    #[inline]
    fn visit_f64<E: serde::de::Error>(self, v: f64) -> Result<(), E> {
        self.take(C::Item::float(v))
    }
    fn visit_bool<E: serde::de::Error>(self, v: bool) -> Result<(), E> {
        self.take(C::Item::boolean(v))
    }
    fn visit_str<E: serde::de::Error>(self, v: &str) -> Result<(), E> {
        self.take(C::Item::text(v))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANY: Dim = Dim::Free(None);

    fn read(dtype: DType, dims: Option<Vec<Dim>>, json: &str) -> Result<Tensor> {
        let port = Port { name: "x".into(), kind: PortKind::Tensor { dtype, dims }, optional: false };
        let mut error = None;
        let seed = TensorSeed { port: &port, by_shape: true, body_bytes: json.len(), error: &mut error };
        let read = seed.deserialize(&mut serde_json::Deserializer::from_str(json));
        read.map_err(|e| error.unwrap_or_else(|| ScoreError::internal(e.to_string())))
    }

    #[test]
    fn nested_arrays_become_flat_tensors() {
        let (f, b) = (Dim::Fixed, || Dim::named("b"));
        type Case = (Option<Vec<Dim>>, &'static str, &'static [usize], &'static [f32]);
        let cases: &[Case] = &[
            (Some(vec![b(), f(2)]), "[[1, 2.5], [3, -4e0]]", &[2, 2], &[1., 2.5, 3., -4.]),
            (Some(vec![b(), f(2)]), "[]", &[0, 2], &[]),
            (Some(vec![b(), ANY, f(2)]), "[[], []]", &[2, 0, 2], &[]),
            (Some(vec![b(), ANY, f(2)]), "[]", &[0, 0, 2], &[]),
            (Some(vec![f(2), f(1), f(1)]), "[[[1]],[[2]]]", &[2, 1, 1], &[1., 2.]),
            (Some(vec![]), "7", &[], &[7.]),
            (None, "7", &[], &[7.]),
            (None, "[1,2,3]", &[3], &[1., 2., 3.]),
            (None, "[[[1],[2]]]", &[1, 2, 1], &[1., 2.]),
            (None, "[]", &[0], &[]),
            (None, "[[],[]]", &[2, 0], &[]),
        ];
        for (dims, json, shape, values) in cases {
            let t = read(DType::F32, dims.clone(), json).unwrap_or_else(|e| panic!("{json}: {e}"));
            assert_eq!((t.shape(), t.as_slice::<f32>().unwrap()), (*shape, *values), "{json}");
        }
        let words = read(DType::String, Some(vec![ANY, f(1)]), r#"[["a\n"],["ü"]]"#).unwrap();
        assert_eq!(words.as_strings().unwrap(), ["a\n", "ü"]);
        let truths = read(DType::Bool, Some(vec![ANY]), "[true,false]").unwrap();
        assert_eq!(truths.as_slice::<bool>().unwrap(), [true, false]);
    }

    #[test]
    fn what_does_not_fit_is_named_by_its_place() {
        let (f, b) = (Dim::Fixed, || Dim::named("b"));
        type Case = (DType, Option<Vec<Dim>>, &'static str, &'static str);
        let x38 = || Some(vec![b(), f(3)]);
        let cases: &[Case] = &[
            (DType::F32, x38(), "[[1,2,3],[1,2]]", "x[1]: expected 3 numbers, got 2"),
            (DType::F32, x38(), "[[1,2,3],[1,2,3,4,5]]", "x[1]: expected 3 numbers, got 5"),
            (
                DType::F32,
                Some(vec![b(), f(1), f(2)]),
                "[[[1,2]],[[3]]]",
                "x[1][0]: expected 2 numbers, got 1",
            ),
            (DType::F32, Some(vec![f(2), f(1)]), "[[1]]", "x: expected 2 arrays, got 1"),
            (
                DType::F32,
                Some(vec![b(), ANY]),
                "[[1,2],[3]]",
                "x[1]: expected 2 numbers like the arrays before it, got 1",
            ),
            (
                DType::F32,
                x38(),
                "[1,2,3]",
                "x[0]: expected an array of 3 numbers, got a number (the shape is b × 3)",
            ),
            (
                DType::F32,
                x38(),
                "[[[1,2,3]]]",
                "x[0][0]: expected a number, got an array (the shape is b × 3)",
            ),
            (DType::F32, x38(), "[[1,null,3]]", "x[0][1]: expected a number, got null (the shape is b × 3)"),
            (
                DType::F32,
                x38(),
                "[[1,{},3]]",
                "x[0][1]: expected a number, got an object (the shape is b × 3)",
            ),
            (DType::F32, x38(), "{}", "x: expected an array of arrays, got an object (the shape is b × 3)"),
            (
                DType::F32,
                x38(),
                r#"[["1",2,3]]"#,
                "x[0][0]: expected a number, got a string (the shape is b × 3)",
            ),
            (DType::F32, x38(), "[[1,1e39,3]]", "x[0][1]: 1e39 does not fit f32 (at most 3.4028235e38)"),
            (DType::U8, Some(vec![ANY]), "[0,300]", "x[1]: 300 does not fit u8 (0 to 255)"),
            (DType::I32, Some(vec![ANY]), "[1.0]", "x[0]: expected an integer, got 1.0 (the shape is ?)"),
            (DType::Bool, Some(vec![]), "1", "x: expected a boolean, got the number 1"),
            (DType::F32, None, "[[1],[[2]]]", "x[1][0]: expected a number, got an array"),
            (DType::F32, None, "[[[1]],[2]]", "x[1][0]: expected an array of numbers, got a number"),
            (DType::F32, None, "[[],[1]]", "x[1]: expected 0 numbers like the arrays before it, got 1"),
            (DType::F32, Some(vec![]), "[1]", "x: expected a number, got an array"),
        ];
        for (dtype, dims, json, message) in cases {
            let e = read(*dtype, dims.clone(), json).expect_err(json);
            assert_eq!(e.to_string(), *message, "{json}");
        }
    }
}
