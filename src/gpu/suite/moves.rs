//! Operators of indices, positions, order and whole numbers, as the suite runs them. Random integers are from 0 to 3: axes that they pick from are longer,
//! and negative indices are constants.

use super::{FLOATS, Precision, SCHEDULES, everywhere, run};

const INDEXED: &[&str] = &[
    "x: f32[50, 64]\ni: i64[2, 7]\ny = Gather(x, i)\n-> y",
    "x: f32[5, 9, 3]\ni: i32[2, 7]\na = Exp(x)\ny = Gather<axis=1>(a, i)\n-> y",
    "x: f32[9, 5]\ni = i64[4] -1 0 -9 3\nt = Transpose<perm=[1, 0]>(x)\ny = Gather<axis=1>(t, i)\n-> y",
    "x: u8[9, 8]\ni: i64[3]\na = Gather(x, i)\ny = Cast<to=1>(a)\n-> y",
    "x: f32[9, 5]\ni = i64[] -2\na = Gather(x, i)\ny = Neg(a)\n-> y",
    "x: f32[9, 5]\ni = i64[3] 1 3 5\na = Gather(x, i)\ny = Neg(a)\n-> y",
    "x: f32[5, 4, 3]\ni: i64[5, 2, 3]\ny = GatherElements<axis=1>(x, i)\n-> y",
    "x: f32[4, 5, 6]\ni: i64[3, 2]\ny = GatherND(x, i)\n-> y",
    "x: f32[3, 5, 6]\ni: i64[3, 2, 1]\ny = GatherND<batch_dims=1>(x, i)\n-> y",
    "x: f32[4, 5]\ni = i64[2, 2] -1 -5 0 3\ny = GatherND(x, i)\n-> y",
    "x: f32[4, 5]\ni = i64[2, 5] 0 1 2 3 0 3 2 1 0 1\nu: f32[2, 5]\ny = ScatterElements(x, i, u)\n-> y",
    "x: f32[5, 4]\ni: i64[5, 9]\nu: f32[5, 9]\ny = ScatterElements<axis=1, reduction=add>(x, i, u)\n-> y",
    "x: i8[5, 7]\ni: i64[5, 9]\nu: i8[5, 9]\na = ScatterElements<axis=1, reduction=max>(x, i, u)\ny = Cast<to=1>(a)\n-> y",
    "x: f32[6, 5, 4]\ni = i64[3, 1] 0 2 -1\nu: f32[3, 5, 4]\na = ScatterND(x, i, u)\ny = Exp(a)\n-> y",
    "x: f64[6, 5]\ni: i64[9, 1]\nu: f64[9, 5]\na = ScatterND<reduction=mul>(x, i, u)\ny = Cast<to=1>(a)\n-> y",
    "i: i64[3, 4]\nd = i64[] 3\nv = f32[2] 2 7\ny = OneHot<axis=1>(i, d, v)\n-> y",
];

const PLACED: &[&str] = &[
    "x: f32[2, 4, 5]\nk = i64[] 1\na = Trilu(x, k)\nb = Trilu<upper=0>(x)\ny = Add(a, b)\n-> y",
    "x: f32[4, 5]\na = EyeLike<k=1>(x)\ny = Add(a, x)\n-> y",
    "x: f32[3, 4]\np = i64[4] 1 0 2 3\nv = f32[] 1.5\na = Exp(x)\ny = Pad(a, p, v)\n-> y",
    "x: f32[5, 6]\np = i64[4] -1 2 1 -3\ny = Pad(x, p)\n-> y",
    "x: f32[2, 3, 5, 6]\np = i64[8] 0 0 2 1 0 0 1 3\ny = Pad<mode=reflect>(x, p)\n-> y",
    "x: f32[2, 5, 8]\np = i64[6] 0 2 0 0 1 0\ny = Pad<mode=edge>(x, p)\n-> y",
    "x: f32[1, 2, 4, 5]\ns = f32[4] 1 1 2 1.7\ny = Resize(x, _, s)\n-> y",
    "x: f32[1, 2, 4, 5]\ns = f32[4] 1 1 2 2\na = Resize<mode=linear>(x, _, s)\ny = Relu(a)\n-> y",
    "x: f32[1, 2, 9, 7]\ns = i64[4] 1 2 5 11\ny = Resize<mode=cubic>(x, _, _, s)\n-> y",
    "x: f32[1, 2, 9, 7]\ns = i64[4] 1 2 5 3\ny = Resize<mode=linear, antialias=1>(x, _, _, s)\n-> y",
    "x: f32[1, 3, 9, 9]\nw = f32[16, 3, 3, 3] 0.1 0.2 -0.3\na = Conv(x, w)\ns = f32[4] 1 1 2 2\nb = Resize<mode=linear, coordinate_transformation_mode=asymmetric>(a, _, s)\ny = Relu(b)\n-> y",
];

const ORDERED: &[&str] = &[
    "x: f32[3, 700]\na = ArgMax<axis=1>(x)\ny = Cast<to=1>(a)\n-> y",
    "x: i32[3, 70, 4]\na = ArgMin<axis=1, keepdims=0, select_last_index=1>(x)\ny = Cast<to=1>(a)\n-> y",
    "x: f32[3, 40]\nk = i64[1] 7\na, i = TopK(x, k)\nf = Cast<to=1>(i)\ny = Add(a, f)\n-> y",
    "x: f32[3, 20, 2]\nk = i64[1] 20\na = Relu(x)\nb, i = TopK<axis=1, largest=0>(a, k)\nf = Cast<to=1>(i)\ny = Add(b, f)\n-> y",
    "x: f32[2, 3000]\nk = i64[1] 3\na, i = TopK(x, k)\ny = Cast<to=1>(i)\n-> y",
    "x: f32[3, 7, 5]\na = i64[] 1\ny = CumSum<exclusive=1>(x, a)\n-> y",
    "x: i32[3, 1000]\na = i64[] -1\nb = CumSum<reverse=1>(x, a)\ny = Cast<to=1>(b)\n-> y",
    "x: f32[3, 5, 2]\ny = Hardmax<axis=1>(x)\n-> y",
];

const COMPOSED: &[&str] = &[
    "x: f32[2, 7, 5, 4]\ny = LRN<size=3, alpha=0.01, beta=0.6, bias=1.5>(x)\n-> y",
    "x: f32[2, 7, 5, 4]\ny = MeanVarianceNormalization(x)\n-> y",
    "x: f32[2, 3, 8]\nw: f32[8, 2, 4]\na = Einsum<equation=bsd,dhk->bshk>(x, w)\ny = Relu(a)\n-> y",
    "x: f32[2, 3, 4, 5]\nz: f32[2, 3, 6, 5]\ny = Einsum<equation=bhid,bhjd->bhij>(x, z)\n-> y",
    "x: f32[2, 3, 3]\ny = Einsum<equation=...ii->...i>(x)\n-> y",
    "x: f32[2, 3]\nz: f32[3, 4]\nw: f32[4, 5]\ny = Einsum<equation=ab,bc,cd->ad>(x, z, w)\n-> y",
    "x: f32[3, 4]\nz: f32[3, 5]\ny = Einsum<equation=bi,bj->bij>(x, z)\n-> y",
    "x: f32[3, 4]\ny = Einsum<equation=ij->j>(x)\n-> y",
];

#[test]
fn indices_pick_and_place_what_they_do_elsewhere() {
    everywhere("gpu::suite::moves::indices_pick_and_place_what_they_do_elsewhere", &SCHEDULES[..2], || {
        run(INDEXED, &[Precision::F32]);
    });
}

#[test]
fn paddings_and_sizes_are_what_they_are_elsewhere() {
    everywhere("gpu::suite::moves::paddings_and_sizes_are_what_they_are_elsewhere", &SCHEDULES[..1], || {
        run(PLACED, &FLOATS);
    });
}

#[test]
fn ordered_rows_are_what_they_are_elsewhere() {
    everywhere("gpu::suite::moves::ordered_rows_are_what_they_are_elsewhere", &SCHEDULES, || {
        run(ORDERED, &[Precision::F32]);
    });
}

#[test]
fn compositions_are_what_they_are_elsewhere() {
    everywhere("gpu::suite::moves::compositions_are_what_they_are_elsewhere", &SCHEDULES[..1], || {
        run(COMPOSED, &FLOATS);
    });
}
