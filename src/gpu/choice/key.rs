//! All that a choice depends on, as one line of text.

use std::fmt::Write as _;

use crate::gpu::plan::{ConvShape, Matrix, Shape, Strided, Work};

pub(super) fn key(work: &Work, kernel: &str) -> String {
    match work {
        Work::Product(shape) => of_product(shape, kernel),
        Work::Convolution(shape) => of_convolution(shape, kernel),
    }
}

fn of_product(shape: &Shape, kernel: &str) -> String {
    let Shape { m, n, k, batch, left, right, result, is_tf32, bias_align, residual_align, has_relu } = shape;
    let side = |matrix: &Matrix| {
        let Matrix { dtype, is_transposed, stride, batch_stride, align } = matrix;
        let lies = if *is_transposed { "columns" } else { "rows" };
        format!("{}:{lies}:{stride}:{batch_stride}:{align}", dtype.name())
    };
    let mut text = format!("{kernel} {m}x{n}x{k}x{batch} {} {} {}", side(left), side(right), side(result));
    for (name, has) in [(" tf32", *is_tf32), (" relu", *has_relu)] {
        text.push_str(if has { name } else { "" });
    }
    for (name, align) in [("bias", bias_align), ("residual", residual_align)] {
        if let Some(align) = align {
            // Writing to a text does not fail.
            let _ = write!(text, " {name}:{align}");
        }
    }
    text
}

fn of_convolution(shape: &ConvShape, kernel: &str) -> String {
    let ConvShape {
        images,
        weights,
        result,
        strides,
        dilations,
        pads,
        is_tf32,
        bias_align,
        residual,
        has_relu,
    } = shape;
    let list = |all: &[usize]| all.iter().map(ToString::to_string).collect::<Vec<_>>().join("x");
    let tensor = |lies: &Strided| {
        let Strided { dtype, lengths, strides, align } = lies;
        format!("{}:{}:{}:{align}", dtype.name(), list(lengths), list(strides))
    };
    let pads = pads.iter().map(|[before, after]| format!("{before}-{after}")).collect::<Vec<_>>().join("x");
    let mut text = format!(
        "{kernel} {} {} {} {} {} {pads}",
        tensor(images),
        tensor(weights),
        tensor(result),
        list(strides),
        list(dilations)
    );
    for (name, has) in [(" tf32", *is_tf32), (" relu", *has_relu)] {
        text.push_str(if has { name } else { "" });
    }
    if let Some(align) = bias_align {
        // Writing to a text does not fail.
        let _ = write!(text, " bias:{align}");
    }
    if let Some(residual) = residual {
        let _ = write!(text, " residual:{}", tensor(residual));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::tensor::DType;

    #[test]
    fn products_that_differ_in_anything_have_keys_that_differ() {
        let side = Matrix { dtype: DType::F16, is_transposed: false, stride: 8, batch_stride: 0, align: 256 };
        let shape = Shape {
            m: 7,
            n: 8,
            k: 8,
            batch: 1,
            left: side,
            right: side,
            result: side,
            is_tf32: false,
            bias_align: None,
            residual_align: None,
            has_relu: false,
        };
        let transposed = Matrix { is_transposed: true, ..side };
        let shapes = [
            shape.clone(),
            Shape { m: 8, ..shape.clone() },
            Shape { batch: 2, ..shape.clone() },
            Shape { left: transposed, ..shape.clone() },
            Shape { right: transposed, ..shape.clone() },
            Shape { result: Matrix { dtype: DType::F32, ..side }, ..shape.clone() },
            Shape { right: Matrix { align: 2, ..side }, ..shape.clone() },
            Shape { bias_align: Some(16), ..shape.clone() },
            Shape { has_relu: true, ..shape.clone() },
            Shape { is_tf32: true, ..shape.clone() },
            Shape { residual_align: Some(16), ..shape.clone() },
        ];
        let keys = shapes.iter().map(|shape| of_product(shape, "gemm")).collect::<BTreeSet<_>>();
        assert_eq!(keys.len(), shapes.len(), "{keys:?}");
        assert_eq!(
            key(&Work::Product(shape), "gemm"),
            "gemm 7x8x8x1 f16:rows:8:0:256 f16:rows:8:0:256 f16:rows:8:0:256"
        );
        assert!(keys.iter().all(|key| !key.contains('\n')));
    }

    #[test]
    fn convolutions_that_differ_in_anything_have_keys_that_differ() {
        let lies = Strided {
            dtype: DType::F16,
            lengths: vec![2, 8, 4, 5],
            strides: vec![160, 1, 40, 8],
            align: 256,
        };
        let shape = ConvShape {
            images: lies.clone(),
            weights: lies.clone(),
            result: lies.clone(),
            strides: vec![1, 2],
            dilations: vec![1, 1],
            pads: vec![[1, 0], [0, 2]],
            is_tf32: false,
            bias_align: None,
            residual: None,
            has_relu: false,
        };
        let other = [
            Strided { dtype: DType::F32, ..lies.clone() },
            Strided { lengths: vec![2, 8, 4, 6], ..lies.clone() },
            Strided { strides: vec![161, 1, 40, 8], ..lies.clone() },
            Strided { align: 16, ..lies.clone() },
        ];
        let mut shapes = vec![
            shape.clone(),
            ConvShape { strides: vec![2, 1], ..shape.clone() },
            ConvShape { dilations: vec![1, 2], ..shape.clone() },
            ConvShape { pads: vec![[1, 0], [2, 0]], ..shape.clone() },
            ConvShape { is_tf32: true, ..shape.clone() },
            ConvShape { bias_align: Some(256), ..shape.clone() },
            ConvShape { has_relu: true, ..shape.clone() },
        ];
        for one in other {
            shapes.push(ConvShape { images: one.clone(), ..shape.clone() });
            shapes.push(ConvShape { weights: one.clone(), ..shape.clone() });
            shapes.push(ConvShape { result: one.clone(), ..shape.clone() });
            shapes.push(ConvShape { residual: Some(one), ..shape.clone() });
        }
        let keys = shapes.iter().map(|shape| of_convolution(shape, "conv")).collect::<BTreeSet<_>>();
        assert_eq!(keys.len(), shapes.len(), "{keys:?}");
        let lies = "f16:2x8x4x5:160x1x40x8:256";
        let expected = format!("conv {lies} {lies} {lies} 1x2 1x1 1-0x0-2");
        assert_eq!(key(&Work::Convolution(shape), "conv"), expected);
        assert!(keys.iter().all(|key| !key.contains('\n')));
    }
}
