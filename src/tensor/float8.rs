//! Floating point in 8 bits, as ONNX has it (`FLOAT8E4M3FN`, `FLOAT8E5M2`) and tensor cores multiply it: the "OCP 8-bit Floating Point Specification".
//!
//! Own code, and no crate's: what a number beyond the range becomes is for ONNX's `saturate` to say, and conversions at hand know one answer only.

use std::fmt;

/// Where a format's fields lie, and what its last codes are.
struct Format {
    /// Bits of the fraction.
    fraction_bits: u32,
    /// What is added to an exponent.
    bias: i32,
    /// The code of the greatest number.
    most: u8,
    /// The code that stands for what is beyond it.
    beyond: u8,
}

/// The code of what is no number, in both formats.
const NAN: u8 = 0x7f;
const SIGN: u8 = 0x80;

const E4M3: Format = Format { fraction_bits: 3, bias: 7, most: 0x7e, beyond: NAN };
const E5M2: Format = Format { fraction_bits: 2, bias: 15, most: 0x7b, beyond: 0x7c };

impl Format {
    /// The nearest number's code, the even one of two; beyond the range the greatest one where `saturate`, else infinity or what is no number.
    fn encode(&self, x: f32, saturate: bool) -> u8 {
        let sign = if x.is_sign_negative() { SIGN } else { 0 };
        if x.is_nan() {
            return sign | NAN;
        }
        let bits = x.abs().to_bits();
        let least_normal = 1 - self.bias;
        let code = match (bits >> 23) as i32 - 127 {
            // Multiples of the least number, which may round up to the least normal one: its code comes next.
            exponent if exponent < least_normal => {
                let unit = 2f32.powi(least_normal - self.fraction_bits as i32);
                (x.abs() / unit).round_ties_even() as u32
            }
            _ => {
                let cut = 23 - self.fraction_bits;
                let to_even = (1 << (cut - 1)) - 1 + (bits >> cut & 1);
                ((bits + to_even) >> cut).saturating_sub(((127 - self.bias) as u32) << self.fraction_bits)
            }
        };
        let code = match u8::try_from(code) {
            Ok(code) if code <= self.most => code,
            _ if saturate => self.most,
            _ => self.beyond,
        };
        sign | code
    }

    fn decode(&self, code: u8) -> f32 {
        let magnitude = code & !SIGN;
        let (exponent, fraction) =
            (i32::from(magnitude >> self.fraction_bits), magnitude & ((1 << self.fraction_bits) - 1));
        let unit = |exponent: i32| 2f32.powi(exponent - self.bias - self.fraction_bits as i32);
        let value = match exponent {
            _ if magnitude > self.most && magnitude == self.beyond && magnitude != NAN => f32::INFINITY,
            _ if magnitude > self.most => f32::NAN,
            0 => f32::from(fraction) * unit(1),
            _ => f32::from((1 << self.fraction_bits) | fraction) * unit(exponent),
        };
        if code & SIGN == 0 { value } else { -value }
    }
}

macro_rules! float8 {
    ($(#[$doc:meta])* $name:ident, $format:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, Hash, bytemuck::Pod, bytemuck::Zeroable)]
        #[repr(transparent)]
        pub struct $name(u8);

        impl $name {
            /// The greatest number.
            pub const MAX: Self = Self($format.most);

            /// The number with that code.
            pub fn from_bits(bits: u8) -> Self {
                Self(bits)
            }

            /// Its code.
            pub fn to_bits(self) -> u8 {
                self.0
            }

            /// The nearest number, the even one of two; beyond the range, infinity too, the greatest one: ONNX's `saturate=1`.
            pub fn from_f32(x: f32) -> Self {
                Self($format.encode(x, true))
            }

            /// The nearest number; beyond the range infinity, or what is no number where there is none: ONNX's `saturate=0`.
            pub fn from_f32_unsaturated(x: f32) -> Self {
                Self($format.encode(x, false))
            }

            /// Whether it is neither infinite nor what is no number.
            pub fn is_finite(self) -> bool {
                self.to_f32().is_finite()
            }

            /// Exactly.
            pub fn to_f32(self) -> f32 {
                $format.decode(self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.to_f32(), f)
            }
        }
    };
}

float8!(
    /// 4 bits of exponent, 3 of fraction: up to 448, without infinity (ONNX's `FLOAT8E4M3FN`). Equal where the codes are.
    F8E4M3,
    E4M3
);
float8!(
    /// 5 bits of exponent, 2 of fraction: up to 57,344 (ONNX's `FLOAT8E5M2`). Equal where the codes are.
    F8E5M2,
    E5M2
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_its_number_s_nearest() {
        for format in [E4M3, E5M2] {
            for code in 0..=u8::MAX {
                let value = format.decode(code);
                let magnitude = code & !SIGN;
                match magnitude <= format.most {
                    true => assert_eq!(format.encode(value, true), code, "{value}"),
                    false => assert!(!value.is_finite(), "{code:#x}"),
                }
                if (1..=format.most).contains(&magnitude) {
                    // Halfway between two the even one, and beside it the nearer one.
                    let (below, odd) = (format.decode(code - 1), code & 1);
                    let half = below + (value - below) / 2.0;
                    assert_eq!(format.encode(half, true), code - odd, "{half}");
                    assert_eq!(format.encode(half + (value - half) / 8.0, true), code, "{half}");
                    assert_eq!(format.encode(half - (half - below) / 8.0, true), code - 1, "{half}");
                }
            }
        }
    }

    #[test]
    fn what_is_beyond_the_range_saturates_or_does_not() {
        // (number, saturating, not)
        let four: [(f32, u8, u8); 7] = [
            (448.0, 0x7e, 0x7e),
            (464.0, 0x7e, 0x7e),
            (465.0, 0x7e, 0x7f),
            (-1e9, 0xfe, 0xff),
            (f32::INFINITY, 0x7e, 0x7f),
            (f32::NAN, 0x7f, 0x7f),
            (-0.0, 0x80, 0x80),
        ];
        for (x, saturated, not) in four {
            let codes = (F8E4M3::from_f32(x).to_bits(), F8E4M3::from_f32_unsaturated(x).to_bits());
            assert_eq!(codes, (saturated, not), "{x}");
        }
        let five: [(f32, u8, u8); 5] = [
            (57_344.0, 0x7b, 0x7b),
            (61_439.0, 0x7b, 0x7b),
            (61_440.0, 0x7b, 0x7c),
            (f32::NEG_INFINITY, 0xfb, 0xfc),
            (1e-9, 0, 0),
        ];
        for (x, saturated, not) in five {
            let codes = (F8E5M2::from_f32(x).to_bits(), F8E5M2::from_f32_unsaturated(x).to_bits());
            assert_eq!(codes, (saturated, not), "{x}");
        }
        assert_eq!((F8E4M3::MAX.to_f32(), F8E5M2::MAX.to_f32()), (448.0, 57_344.0));
        assert_eq!(F8E4M3::from_bits(0x38).to_f32(), 1.0);
        assert_eq!(F8E5M2::from_bits(0x7c).to_f32(), f32::INFINITY);
    }
}
