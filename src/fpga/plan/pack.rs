//! Weights in the order in which the kernels stream them.

use crate::error::{Result, ScoreError};
use crate::int8::{QType, WeightParams};

/// Outputs that the kernels compute at a time.
pub(super) use super::super::tile::LANES;

/// A layer's weights as signed 8-bit numbers and what follows from them.
#[derive(Debug, Default)]
pub(super) struct Packed {
    /// `[group][output / 16][k][16]`, `k` rounded up to even with zeros.
    pub(super) bytes: Vec<u8>,
    /// Bytes of one group.
    pub(super) group_bytes: usize,
    /// For each group, outputs rounded up to 16: what the sums begin with. They fit 32 bits unless sums have 64.
    pub(super) bias: Vec<i64>,
    /// What the weights lack: `w - w_zero = w' + lack`.
    pub(super) lack: i32,
    /// Whether two neighbouring products might not fit 16 bits together.
    pub(super) wide: bool,
}

/// How a layer's weights are found.
pub(super) struct Weights<'a> {
    pub(super) groups: usize,
    /// Outputs of one group.
    pub(super) outputs: usize,
    /// Products in a sum.
    pub(super) depth: usize,
    /// The integer of a group, an output in it and a product.
    pub(super) at: &'a dyn Fn(usize, usize, usize) -> i32,
    pub(super) params: &'a WeightParams,
    /// One number an output, over all groups.
    pub(super) bias: Option<&'a [i32]>,
    /// What the input lacks: `x - x_zero = x' + lack`.
    pub(super) x_lack: i32,
    /// The input has 16 bits: its planes are summed one after another in 32 bits, and put together in 64.
    pub(super) is_long: bool,
}

impl Packed {
    /// The bias as the kernels read it: of 64 bits where sums are.
    pub(super) fn bias_bytes(&self, is_long: bool) -> Vec<u8> {
        match is_long {
            true => bytemuck::cast_slice(&self.bias).to_vec(),
            false => bytemuck::cast_slice(&self.bias.iter().map(|b| *b as i32).collect::<Vec<_>>()).to_vec(),
        }
    }
}

/// Packs weights, and moves what x' and w' lack into the bias.
///
/// # Errors
/// `Unsupported` for weights of 16 bits, where a sum could exceed 32 bits for some input, or where zero points differ between outputs.
pub(super) fn pack(weights: &Weights<'_>) -> Result<Packed> {
    if weights.params.qtype().size_bytes() != 1 {
        return Err(ScoreError::unsupported("weights of 16 bits: the engine multiplies with constants of 8"));
    }
    let zeros = weights.params.zero_points();
    let zero = zeros.first().copied().unwrap_or(0);
    if zeros.iter().any(|z| *z != zero) {
        return Err(ScoreError::unsupported("weights whose outputs have different zero points"));
    }
    // As signed numbers: u8 less 128.
    let less = if weights.params.qtype() == QType::U8 { 128 } else { 0 };
    let lack = less - zero;
    let (even, tiles) = (weights.depth.next_multiple_of(2), weights.outputs.div_ceil(LANES));
    let group_bytes = tiles * even * LANES;
    let mut bytes = vec![0u8; weights.groups * group_bytes];
    let mut bias = vec![0i64; weights.groups * tiles * LANES];
    let mut wide = false;
    for group in 0..weights.groups {
        for output in 0..weights.outputs {
            let (mut sum, mut size) = (0i64, 0i64);
            let mut before = 0;
            for k in 0..weights.depth {
                let w = (weights.at)(group, output, k) - less;
                let place = group * group_bytes + (output / LANES * even + k) * LANES + output % LANES;
                if let Some(byte) = bytes.get_mut(place) {
                    *byte = w as i8 as u8;
                }
                sum += i64::from(w);
                size += i64::from(w.abs());
                wide |= k % 2 == 1 && w == -128 && before == -128;
                before = w;
            }
            let own =
                weights.bias.and_then(|b| b.get(group * weights.outputs + output)).copied().unwrap_or(0);
            let (x_lack, lack) = (i64::from(weights.x_lack), i64::from(lack));
            let depth = weights.depth as i64;
            let start = i64::from(own) + x_lack * sum + depth * x_lack * lack;
            // |x'| is 128 at most, in every product and in the sum of the row.
            let products = 128 * size;
            let bound =
                if weights.is_long { products } else { products + start.abs() + 128 * depth * lack.abs() };
            if bound > i64::from(i32::MAX) {
                return Err(ScoreError::unsupported(format!(
                    "the sums of output {output} could reach {bound}, more than 32 bits hold"
                )));
            }
            if let Some(slot) = bias.get_mut(group * tiles * LANES + output) {
                *slot = start;
            }
        }
    }
    Ok(Packed { bytes, group_bytes, bias, lack, wide })
}

/// One factor an output, for each group rounded up to 16.
pub(super) fn lanes_of(factors: &[f32], groups: usize, outputs: usize) -> Vec<f32> {
    let tiles = outputs.div_ceil(LANES) * LANES;
    let at = |group: usize, output: usize| match factors {
        [one] => *one,
        _ if output < outputs => factors.get(group * outputs + output).copied().unwrap_or(0.0),
        _ => 0.0,
    };
    (0..groups * tiles).map(|i| at(i / tiles, i % tiles)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(
        at: &dyn Fn(usize, usize, usize) -> i32,
        zero: i32,
        qtype: QType,
        x_lack: i32,
    ) -> Result<Packed> {
        let params = WeightParams::new(vec![1.0], vec![zero], qtype).unwrap();
        pack(&Weights {
            groups: 1,
            outputs: 17,
            depth: 3,
            at,
            params: &params,
            bias: None,
            x_lack,
            is_long: false,
        })
    }

    #[test]
    fn sixteen_outputs_lie_together() {
        let all = packed(&|_, o, k| (o * 3 + k) as i32, 0, QType::I8, 2).unwrap();
        assert_eq!(all.group_bytes, 2 * 4 * 16);
        assert_eq!(all.bytes[..4], [0, 3, 6, 9], "k = 0 of outputs 0 to 3");
        assert_eq!(all.bytes[16..18], [1, 4], "k = 1");
        assert_eq!(all.bytes[3 * 16..4 * 16], [0; 16], "rounded up to an even number");
        assert_eq!(all.bytes[64], 48, "output 16");
        assert_eq!((all.bias[0], all.bias[16]), (2 * 3, 2 * (48 + 49 + 50)));
        assert!(!all.wide && all.lack == 0);
    }

    #[test]
    fn unsigned_weights_are_less_128() {
        let all = packed(&|_, _, _| 0, 100, QType::U8, 5).unwrap();
        assert_eq!(all.bytes[0] as i8, -128);
        assert_eq!(all.lack, 28);
        assert_eq!(all.bias[0], 5 * 3 * -128 + 3 * 5 * 28);
        assert!(all.wide, "two of -128 side by side");
    }

    #[test]
    fn sums_that_do_not_fit_are_refused() {
        let params = WeightParams::new(vec![1.0], vec![0], QType::I8).unwrap();
        let weights = |depth| Weights {
            groups: 1,
            outputs: 1,
            depth,
            at: &|_, _, _| 127,
            params: &params,
            bias: None,
            x_lack: 128,
            is_long: false,
        };
        assert!(pack(&weights(60_000)).is_ok());
        let error = pack(&weights(70_000)).unwrap_err().to_string();
        assert!(error.contains("more than 32 bits hold"), "{error}");
        let two = WeightParams::new(vec![1.0; 2], vec![0, 1], QType::I8).unwrap();
        let mixed = Weights { params: &two, outputs: 2, ..weights(1) };
        assert!(pack(&mixed).unwrap_err().to_string().contains("different zero points"));
    }
}
