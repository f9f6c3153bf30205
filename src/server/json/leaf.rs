//! One number, truth value or text of a body becomes one element of a tensor, or is refused.
//!
//! Nothing is guessed: an integer tensor takes no `1.0`, a float tensor takes integers (JSON writers
//! drop the `.0`) but no number that it could only hold as infinity, `bool` takes no 0 and 1.

use half::{bf16, f16};

use crate::tensor::{F8E4M3, F8E5M2};

/// Why a JSON value is not an element of the tensor.
pub(super) enum Misfit {
    /// Another kind of value: what came.
    Kind(String),
    /// The right kind, and out of range: what came and the range.
    Range(String),
}

/// An element type: what it makes of each kind of JSON scalar. By default it takes none.
pub(super) trait Leaf: Sized {
    /// What a value of this type is called, one of them.
    const NOUN: &'static str;

    fn unsigned(v: u64) -> Result<Self, Misfit> {
        Err(Misfit::Kind(format!("the number {v}")))
    }
    fn signed(v: i64) -> Result<Self, Misfit> {
        Err(Misfit::Kind(format!("the number {v}")))
    }
    fn float(v: f64) -> Result<Self, Misfit> {
        Err(Misfit::Kind(format!("the number {v:?}")))
    }
    fn boolean(v: bool) -> Result<Self, Misfit> {
        Err(Misfit::Kind(v.to_string()))
    }
    fn text(_: &str) -> Result<Self, Misfit> {
        Err(Misfit::Kind("a string".to_owned()))
    }
}

macro_rules! floats {
    ($($type:ty => $name:literal, $from:expr, $max:literal;)*) => {
        $(impl Leaf for $type {
            const NOUN: &'static str = "number";

            #[inline]
            fn unsigned(v: u64) -> Result<Self, Misfit> {
                Self::float(v as f64)
            }
            #[inline]
            fn signed(v: i64) -> Result<Self, Misfit> {
                Self::float(v as f64)
            }
            #[inline]
            fn float(v: f64) -> Result<Self, Misfit> {
                let narrow: Self = $from(v);
                if narrow.is_finite() {
                    return Ok(narrow);
                }
                Err(Misfit::Range(format!("{v:?} does not fit {} (at most {})", $name, $max)))
            }
        })*
    };
}

floats! {
    bf16 => "bf16", bf16::from_f64, "3.3895e38";
    f16 => "f16", f16::from_f64, "65504";
    f32 => "f32", |v: f64| v as f32, "3.4028235e38";
    f64 => "f64", |v: f64| v, "1.7976931348623157e308";
    F8E4M3 => "f8e4m3", |v: f64| F8E4M3::from_f32_unsaturated(v as f32), "448";
    F8E5M2 => "f8e5m2", |v: f64| F8E5M2::from_f32_unsaturated(v as f32), "57344";
}

macro_rules! integers {
    ($($type:ident,)*) => {
        $(impl Leaf for $type {
            const NOUN: &'static str = "integer";

            #[inline]
            fn unsigned(v: u64) -> Result<Self, Misfit> {
                Self::try_from(v).map_err(|_| out_of_range(v, stringify!($type), Self::MIN, Self::MAX))
            }
            #[inline]
            fn signed(v: i64) -> Result<Self, Misfit> {
                Self::try_from(v).map_err(|_| out_of_range(v, stringify!($type), Self::MIN, Self::MAX))
            }
            fn float(v: f64) -> Result<Self, Misfit> {
                // An integer beyond 64 bits is read as a float; `-0` is too, and is an integer.
                if v == 0.0 && v.is_sign_negative() {
                    return Ok(0);
                }
                if v.abs() >= i64::MAX as f64 {
                    return Err(out_of_range(v, stringify!($type), Self::MIN, Self::MAX));
                }
                Err(Misfit::Kind(format!("{v:?}")))
            }
        })*
    };
}

integers! { i8, i16, i32, i64, u8, u16, u32, u64, }

fn out_of_range(
    v: impl std::fmt::Display,
    name: &str,
    min: impl std::fmt::Display,
    max: impl std::fmt::Display,
) -> Misfit {
    Misfit::Range(format!("{v} does not fit {name} ({min} to {max})"))
}

/// The byte of a `bool` tensor.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(transparent)]
pub(super) struct Truth(u8);

impl Leaf for Truth {
    const NOUN: &'static str = "boolean";

    fn boolean(v: bool) -> Result<Self, Misfit> {
        Ok(Self(u8::from(v)))
    }
}

impl Leaf for String {
    const NOUN: &'static str = "string";

    fn text(v: &str) -> Result<Self, Misfit> {
        Ok(v.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message<T>(r: Result<T, Misfit>) -> String {
        match r {
            Ok(_) => String::new(),
            Err(Misfit::Kind(what) | Misfit::Range(what)) => what,
        }
    }

    #[test]
    fn each_type_takes_what_it_can_hold() {
        let cases = [
            (message(f32::float(1e39)), "1e39 does not fit f32 (at most 3.4028235e38)"),
            (message(f32::float(3.4028235e38)), ""),
            (message(f16::unsigned(65504)), ""),
            (message(f16::unsigned(65520)), "65520.0 does not fit f16 (at most 65504)"),
            (message(bf16::float(-3e38)), ""),
            (message(f64::signed(-1)), ""),
            (message(u8::unsigned(256)), "256 does not fit u8 (0 to 255)"),
            (message(u8::signed(-1)), "-1 does not fit u8 (0 to 255)"),
            (message(i8::signed(-128)), ""),
            (message(i64::unsigned(u64::MAX)), "does not fit i64"),
            (message(i64::float(1e19)), "does not fit i64"),
            (message(u64::unsigned(u64::MAX)), ""),
            (message(i32::float(1.0)), "1.0"),
            (message(i32::float(-0.0)), ""),
            (message(i32::boolean(true)), "true"),
            (message(f32::text("1")), "a string"),
            (message(Truth::unsigned(1)), "the number 1"),
            (message(Truth::boolean(true)), ""),
            (message(String::float(1.5)), "the number 1.5"),
        ];
        for (got, expected) in cases {
            assert!(if expected.is_empty() { got.is_empty() } else { got.contains(expected) }, "{got:?}");
        }
    }
}
