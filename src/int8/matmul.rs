//! Matrix products.

use super::ints::{Accumulators, Ints, broadcast, broadcast_places};
use super::params::{QParams, WeightParams};
use super::rescale::Rescale;
use crate::error::{Result, ScoreError};

/// `QLinearMatMul`: `acc = Σ_k (a - a_zero)(b - b_zero)`, then [`Rescale`]. The axes before the last two broadcast; scales of `b` run
/// along its columns. With a `bias` (one i32 a column) it is `QGemm`.
///
/// # Errors
/// `BadInput` where the shapes do not fit; `BadModel` where the scales do not.
pub fn matmul(
    (a, a_params): (&Ints, &QParams),
    (b, b_params): (&Ints, &WeightParams),
    bias: Option<&[i32]>,
    to: &QParams,
) -> Result<Ints> {
    let sums = matmul_integer(a, a_params.zero_point(), b, b_params, bias)?;
    let axis = sums.shape.len().saturating_sub(1);
    Rescale::new(a_params, b_params, to).apply_all(&sums, axis)
}

/// `QGemm` whose result is a float: `f32(acc) · f32(a_scale · b_scale[c])`.
///
/// # Errors
/// As [`matmul`].
pub fn gemm_to_f32(
    (a, a_params): (&Ints, &QParams),
    (b, b_params): (&Ints, &WeightParams),
    bias: Option<&[i32]>,
) -> Result<(Vec<usize>, Vec<f32>)> {
    let sums = matmul_integer(a, a_params.zero_point(), b, b_params, bias)?;
    let columns = sums.shape.last().copied().unwrap_or(1).max(1);
    let scale = |i: usize| a_params.scale() * b_params.channel(i % columns).0;
    let values = sums.values.iter().enumerate().map(|(i, s)| *s as f32 * scale(i)).collect();
    Ok((sums.shape, values))
}

/// The sums alone: `MatMulInteger`, where `b_params` gives only zero points.
///
/// # Errors
/// As [`matmul`].
pub fn matmul_integer(
    a: &Ints,
    a_zero: i32,
    b: &Ints,
    b_params: &WeightParams,
    bias: Option<&[i32]>,
) -> Result<Accumulators> {
    let refuse =
        || ScoreError::bad_input(format!("matrices {:?} and {:?} do not multiply", a.shape(), b.shape()));
    // A vector is a row on the left and a column on the right, and its axis goes again.
    let (mut left, mut right) = (a.shape().to_vec(), b.shape().to_vec());
    if left.is_empty() || right.is_empty() {
        return Err(refuse());
    }
    let (is_row, is_column) = (left.len() == 1, right.len() == 1);
    if is_row {
        left.insert(0, 1);
    }
    if is_column {
        right.push(1);
    }
    let ([left_batch @ .., rows, inner], [right_batch @ .., depth, columns]) = (&left[..], &right[..]) else {
        return Err(refuse());
    };
    if inner != depth {
        return Err(refuse());
    }
    b_params.check_channels(*columns)?;
    if bias.is_some_and(|b| b.len() != *columns) {
        return Err(ScoreError::bad_model(format!("a bias of other than {columns} numbers")));
    }
    let batch = broadcast(left_batch, right_batch)?;
    let (a_at, b_at) = (broadcast_places(left_batch, &batch), broadcast_places(right_batch, &batch));
    let mut values = Vec::new();
    for (a_at, b_at) in a_at.iter().zip(&b_at) {
        for row in 0..*rows {
            for column in 0..*columns {
                let (_, b_zero) = b_params.channel(column);
                let mut sum = i64::from(bias.and_then(|b| b.get(column)).copied().unwrap_or(0));
                for k in 0..*inner {
                    let x = a.at((a_at * rows + row) * inner + k) - a_zero;
                    let w = b.at((b_at * depth + k) * columns + column) - b_zero;
                    sum += i64::from(x) * i64::from(w);
                }
                values.push(sum);
            }
        }
    }
    let mut shape = batch;
    shape.extend((!is_row).then_some(*rows));
    shape.extend((!is_column).then_some(*columns));
    Ok(Accumulators { shape, values })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::int8::QType;

    fn ints(shape: &[usize], values: &[i32]) -> Ints {
        Ints::new(shape, values.to_vec()).unwrap()
    }

    #[test]
    fn worked_by_hand() {
        let a = ints(&[2, 2], &[1, 2, 3, 4]);
        let b = ints(&[2, 2], &[5, 6, 7, 8]);
        let one = WeightParams::new(vec![1.0], vec![0], QType::I8).unwrap();
        let two = WeightParams::new(vec![1.0, 2.0], vec![0, 1], QType::I8).unwrap();
        assert_eq!(matmul_integer(&a, 0, &b, &one, None).unwrap().values, [19, 22, 43, 50]);
        assert_eq!(matmul_integer(&a, 1, &b, &two, Some(&[100, 200])).unwrap().values, [107, 207, 131, 231]);
        let (shape, floats) =
            gemm_to_f32((&a, &QParams::new(0.5, 0, QType::U8).unwrap()), (&b, &two), None).unwrap();
        assert_eq!((shape, floats), (vec![2, 2], vec![9.5, 19.0, 21.5, 43.0]));
        let y = QParams::new(2.0, 1, QType::U8).unwrap();
        let out = matmul((&a, &QParams::new(1.0, 0, QType::U8).unwrap()), (&b, &one), None, &y).unwrap();
        assert_eq!(out.values(), [11, 12, 23, 26], "9.5 and 21.5 round to even");
    }

    #[test]
    fn vectors_and_batches_broadcast() {
        let one = WeightParams::new(vec![1.0], vec![0], QType::I8).unwrap();
        type Row<'a> = (&'a [usize], &'a [usize], Option<&'a [usize]>);
        let rows: [Row<'_>; 7] = [
            (&[3], &[3], Some(&[])),
            (&[3], &[3, 2], Some(&[2])),
            (&[2, 3], &[3], Some(&[2])),
            (&[4, 1, 2, 3], &[5, 3, 2], Some(&[4, 5, 2, 2])),
            (&[0, 3], &[3, 2], Some(&[0, 2])),
            (&[2, 3], &[2, 3], None),
            (&[], &[3], None),
        ];
        for (a, b, expected) in rows {
            let of = |shape: &[usize]| ints(shape, &vec![1; shape.iter().product()]);
            let found = matmul_integer(&of(a), 0, &of(b), &one, None).map(|s| s.shape);
            assert_eq!(found.ok().as_deref(), expected, "{a:?} {b:?}");
        }
        let nothing =
            matmul_integer(&ints(&[2, 0], &[]), 0, &ints(&[0, 2], &[]), &one, Some(&[7, 8])).unwrap();
        assert_eq!(nothing.values, [7, 8, 7, 8], "an empty sum is the bias");
    }
}
