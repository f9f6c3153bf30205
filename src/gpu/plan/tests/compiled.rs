//! Every kernel in every form, compiled for real GPUs without one: that it compiles, keeps all in registers, and is made of the instructions that it is for.

use super::{AMPERE, HOPPER, MMA, planned_for};
use crate::gpu::nvrtc;
use crate::scoring::Precision;

/// Graphs that between them have every kernel in every form that it comes in.
const FORMS: &[&str] = &[
    "x: f32[2, 3, 4]\ny = Relu(x)\n-> y",
    "x: f32[2, 3, 4]\nb = f32[4] 1 2 3 4\na = Add(x, b)\ny = Sigmoid(a)\n-> y",
    "x: f32[2, 3, 5, 7]\ny = Transpose<perm=[0, 2, 3, 1]>(x)\n-> y",
    "x: f32[2, 3, 40]\ny = Softmax(x)\n-> y",
    "x: f32[2, 3, 40]\ny = LogSoftmax<axis=1>(x)\n-> y",
    "x: f32[2, 3, 41]\ny = Softmax(x)\n-> y",
    "x: f32[16, 1024]\nr: f32[16, 1024]\ns = f32[1024] 1\nb = f32[1024] 2\na = Add(x, r)\nc = LayerNormalization(a, s, b)\ny = Gelu(c)\n-> y",
    "x: f32[2, 1028]\ns = f32[1028] 1\nb = f32[1028] 2\ny = LayerNormalization(x, s, b)\n-> y",
    "x: f32[2, 3, 40]\ns = f32[40] 1\nb = f32[40] 2\ny = LayerNormalization(x, s, b)\n-> y",
    "x: f32[2, 6, 5]\ns = f32[6] 1\nb = f32[6] 2\ny = GroupNormalization<num_groups=2>(x, s, b)\n-> y",
    "x: f32[2, 6, 5]\ny = LpNormalization<p=1>(x)\n-> y",
    "x: f32[2, 6, 5]\na = i64[1] 1\ny = ReduceMean(x, a)\n-> y",
    "x: f32[2, 6, 5]\na = i64[1] 2\ny = ReduceMax(x, a)\n-> y",
    "x: i32[2, 6, 5]\na = i64[1] 2\nb = ReduceProd(x, a)\ny = Cast<to=1>(b)\n-> y",
    "x: f32[2, 6, 5]\na = i64[1] 2\ny = ReduceLogSumExp(x, a)\n-> y",
    "x: f32[2, 70, 33]\nw = f32[33, 65] 1\nb = f32[65] 1\na = MatMul(x, w)\nc = Add(a, b)\ny = Gelu(c)\n-> y",
    "x: f32[2, 3, 70, 33]\nw: f32[3, 33, 65]\ny = MatMul(x, w)\n-> y",
    "x: f32[2, 70, 40]\nw = f32[40, 72] 1\nb = f32[72] 1\nr: f32[2, 70, 72]\na = MatMul(x, w)\nc = Add(a, b)\ng = Gelu(c)\ny = Add(g, r)\n-> y",
    "x: f32[2, 3, 700, 40]\nw: f32[2, 3, 40, 720]\nz: f32[2, 3, 720, 40]\na = MatMul(x, w)\ny = MatMul(a, z)\n-> y",
    "x: f32[20, 840]\nw = f32[840, 48] 1\nb = f32[48] 1\na = MatMul(x, w)\nc = Add(a, b)\ny = Gelu(c)\n-> y",
    "x: f32[1, 48, 5, 5]\nw = f32[40, 48, 3, 3] 1\nb = f32[40] 1\na = Conv<pads=[1, 1, 1, 1]>(x, w, b)\ny = Relu(a)\n-> y",
    "x: i8[500, 144]\nw = i8[144, 136] 1\na = MatMulInteger(x, w)\ny = Cast<to=1>(a)\n-> y",
    "x: u8[500, 144]\nw = i8[144, 136] 1\na = MatMulInteger(x, w)\ny = Cast<to=1>(a)\n-> y",
    "x: u8[150, 144]\nw: u8[144, 50]\na = MatMulInteger(x, w)\ny = Cast<to=1>(a)\n-> y",
    "x: u8[2, 128, 13, 11]\nw = i8[72, 128, 3, 2] 1\na = ConvInteger(x, w)\ny = Cast<to=1>(a)\n-> y",
    "x: u8[20, 1712]\nw = i8[1712, 48] 1\na = MatMulInteger(x, w)\ny = Cast<to=1>(a)\n-> y",
    "x: f8e4m3[20, 1712]\nw: f8e5m2[1712, 48]\ny = triscore.MatMulFloat8(x, w)\n-> y",
    // As many rows as fill a device, and few columns.
    "x: f32[12200, 64]\nw = f32[64, 48] 1\nv = f32[33, 48] 1\na = MatMul(x, w)\ny = Gemm<transB=1>(a, v)\n-> y",
    "x: f32[1, 64, 120, 120]\nw = f32[64, 64, 3, 3] 1\ny = Conv(x, w)\n-> y",
    "x: f32[100, 70, 40]\nw: f32[100, 40, 56]\na = Abs(w)\ny = MatMul(x, a)\n-> y",
    "x: i8[12200, 64]\nw: u8[64, 48]\na = MatMulInteger(x, w)\ny = Cast<to=1>(a)\n-> y",
    "x: u8[1, 64, 120, 120]\nw = i8[64, 64, 3, 3] 1\nz = u8[] 3\na = ConvInteger<pads=[1, 1, 1, 1]>(x, w, z)\ny = Cast<to=1>(a)\n-> y",
    "x: f8e4m3[12200, 64]\nw: f8e5m2[64, 48]\ny = triscore.MatMulFloat8(x, w)\n-> y",
    "x: f8e5m2[1, 128, 120, 120]\nw = f8e5m2[64, 128, 3, 3] 56\ny = triscore.ConvFloat8(x, w)\n-> y",
    // Columns that lie together.
    "x: f32[2, 500, 64]\nw: f32[2, 64, 48]\nv: f32[2, 64, 136]\na = Abs(w)\nb = Abs(v)\nc = MatMul(x, a)\nd = MatMul(x, b)\n-> c, d",
    // Fewer rows, and the pairs of floats of 8 bits.
    "x: f32[150, 64]\nw = f32[64, 48] 1\nv = f32[48, 50] 1\na = MatMul(x, w)\ny = MatMul(a, v)\n-> y",
    "x: f32[2, 64, 9, 9]\nw = f32[64, 64, 3, 3] 1\ny = Conv(x, w)\n-> y",
    "x: f8e4m3[150, 64]\nw: f8e4m3[64, 48]\nv: f8e5m2[64, 48]\na = triscore.MatMulFloat8(x, w)\nb = triscore.MatMulFloat8(x, v)\ny = Add(a, b)\n-> y",
    "x: f8e5m2[500, 64]\nw: f8e5m2[64, 48]\nv: f8e4m3[64, 48]\na = triscore.MatMulFloat8(x, w)\nb = triscore.MatMulFloat8(x, v)\ny = Add(a, b)\n-> y",
    "x: f8e4m3[2, 128, 9, 9]\nw = f8e4m3[64, 128, 3, 3] 56\ny = triscore.ConvFloat8(x, w)\n-> y",
    "x: f32[2000, 64]\nw = f32[1001, 64] 1\nb = f32[1001] 1\ny = Gemm<transB=1>(x, w, b)\n-> y",
    "x: i32[7, 33]\nw: i32[33, 5]\na = MatMul(x, w)\ny = Cast<to=1>(a)\n-> y",
    "x: f32[2, 3, 9, 9]\nw = f32[20, 3, 3, 3] 1\nb = f32[20] 1\na = Conv<pads=[1, 1, 1, 1]>(x, w, b)\ny = Relu(a)\n-> y",
    "x: f32[2, 16, 99, 99]\nr: f32[2, 160, 97, 97]\nw = f32[160, 16, 3, 3] 1\nb = f32[160] 1\na = Conv(x, w, b)\nc = Add(a, r)\ny = HardSwish(c)\n-> y",
    "x: f32[2, 64, 9, 9]\nw = f32[72, 64, 3, 3] 1\nb = f32[72] 1\nr: f32[2, 72, 7, 7]\na = Conv(x, w, b)\nc = Add(a, r)\ny = HardSwish(c)\n-> y",
    "x: f32[2, 4, 9, 9]\nw = f32[4, 1, 3, 3] 1\ny = Conv<group=4>(x, w)\n-> y",
    "x: f32[2, 4, 9, 9]\nw = f32[4, 6, 3, 3] 1\ny = ConvTranspose<strides=[2, 2]>(x, w)\n-> y",
    "x: f32[2, 4, 9, 9]\ny = MaxPool<kernel_shape=[3, 3]>(x)\n-> y",
    "x: f32[2, 4, 9, 9]\ny = AveragePool<kernel_shape=[3, 3]>(x)\n-> y",
    "x: f32[2, 4, 9, 9]\ny = LpPool<kernel_shape=[3, 3]>(x)\n-> y",
    "q: f32[2, 3, 40, 64]\nk: f32[2, 3, 50, 64]\nv: f32[2, 3, 50, 64]\ny = triscore.Attention<scale=0.1>(q, k, v)\n-> y",
    "q: f32[2, 3, 40, 250]\nk: f32[2, 3, 50, 250]\nv: f32[2, 3, 50, 250]\nm: f32[2, 1, 1, 50]\ny = triscore.MaskedAttention<scale=0.1>(q, k, v, m)\n-> y",
    "q: f32[2, 40, 48]\nk: f32[2, 50, 24]\nv: f32[2, 50, 24]\nm: bool[50]\ny = Attention<is_causal=1, softcap=2.0, q_num_heads=6, kv_num_heads=3>(q, k, v, m)\n-> y",
    "q: f32[2, 3, 40, 64]\nk: f32[2, 3, 50, 64]\nv: f32[2, 3, 50, 300]\nm: f32[1, 40, 50]\ny, _, _, s = Attention<qk_matmul_output_mode=3>(q, k, v, m)\n-> y, s",
    "q: f32[2, 3, 40, 128]\nk: f32[2, 3, 50, 128]\nm: f32[50]\ny = triscore.MaskedAttention<scale=0.1>(q, k, k, m)\n-> y",
    "q: f32[2, 40, 192]\nk: f32[2, 50, 192]\nm: bool[50]\ny = Attention<is_causal=1, softcap=2.0, q_num_heads=2, kv_num_heads=2>(q, k, k, m)\n-> y",
    "q: f64[2, 3, 4, 64]\nk: f64[2, 3, 50, 64]\nv: f64[2, 3, 50, 64]\ny = triscore.Attention<scale=0.1>(q, k, v)\n-> y",
    "x: f32[50, 64]\ni: i64[2, 7]\ny = Gather(x, i)\n-> y",
    "x: f32[50, 63]\ni: i32[2, 7]\ny = Gather(x, i)\n-> y",
    "x: u8[50, 6, 7]\ni: i64[2, 7]\na = Gather<axis=2>(x, i)\ny = Cast<to=1>(a)\n-> y",
    "x: i64[50, 6]\ni: i64[50, 7]\na = GatherElements<axis=1>(x, i)\ny = Cast<to=1>(a)\n-> y",
    "x: f32[9, 8, 7, 6]\ni: i64[5, 3]\ny = GatherND(x, i)\n-> y",
    "x: f32[9, 8]\ni: i64[9, 3]\nu: f32[9, 3]\ny = ScatterElements<axis=1>(x, i, u)\n-> y",
    "x: f32[9, 8]\ni: i64[9, 3]\nu: f32[9, 3]\ny = ScatterElements<axis=1, reduction=add>(x, i, u)\n-> y",
    "x: i8[9, 8]\ni: i64[9, 2]\nu: i8[9]\na = ScatterND<reduction=max>(x, i, u)\ny = Cast<to=1>(a)\n-> y",
    "x: f64[9, 8]\ni: i64[9, 1]\nu: f64[9, 8]\na = ScatterND<reduction=mul>(x, i, u)\ny = Cast<to=1>(a)\n-> y",
    "i: i64[2, 3]\nd = i64[] 5\nv = f32[2] 0 1\ny = OneHot(i, d, v)\n-> y",
    "x: f32[2, 5, 6]\ny = Trilu(x)\n-> y",
    "x: f32[2, 5, 6]\np = i64[6] 0 1 2 0 1 2\ny = Pad(x, p)\n-> y",
    "x: f32[2, 5, 6]\np = i64[6] 0 1 2 0 1 2\ny = Pad<mode=reflect>(x, p)\n-> y",
    "x: f32[1, 2, 5, 6]\ns = i64[4] 1 2 9 11\ny = Resize(x, _, _, s)\n-> y",
    "x: f32[1, 2, 5, 6]\ns = i64[4] 1 2 9 11\ny = Resize<mode=linear>(x, _, _, s)\n-> y",
    "x: f32[1, 2, 5]\ns = i64[3] 1 2 9\na = Resize<mode=cubic>(x, _, _, s)\ny = Relu(a)\n-> y",
    "x: f32[2, 300]\na = ArgMax<axis=1>(x)\ny = Cast<to=1>(a)\n-> y",
    "x: f32[2, 300, 4]\na = ArgMin<axis=1>(x)\ny = Cast<to=1>(a)\n-> y",
    "x: f32[2, 300]\nk = i64[1] 100\ny, i = TopK(x, k)\n-> y, i",
    "x: f32[2, 30000]\nk = i64[1] 3\ny, _ = TopK<largest=0>(x, k)\n-> y",
    "x: f32[2, 300]\na = i64[] 1\ny = CumSum(x, a)\n-> y",
    "x: i32[2, 300]\na = i64[] 1\nb = CumSum<exclusive=1, reverse=1>(x, a)\ny = Cast<to=1>(b)\n-> y",
    "x: f32[2, 6, 5]\ny = Hardmax<axis=1>(x)\n-> y",
    "x: f32[2, 6, 5, 4]\ny = LRN<size=3>(x)\n-> y",
    "x: f32[2, 6, 5, 4]\ny = MeanVarianceNormalization(x)\n-> y",
    "x: f32[2, 3, 4, 8]\nc: f32[50, 4]\np: i64[2, 4]\ny = RotaryEmbedding(x, c, c, p)\n-> y",
    "x: u8[3, 70]\nw: i8[70, 5]\na = MatMulInteger(x, w)\ny = Cast<to=1>(a)\n-> y",
    "x: u8[3, 70]\nw: i8[70, 5]\nz: u8[]\na = MatMulInteger(x, w, z)\ny = Cast<to=1>(a)\n-> y",
    "x: u8[3, 40]\ns = f32[] 0.1\nz = u8[] 3\nw: u8[40]\na = com.microsoft.QLinearAdd(x, s, z, w, s, z, s, z)\nb = com.microsoft.QLinearMul(a, s, z, w, s, z, s, z)\ny = DequantizeLinear(b, s, z)\n-> y",
    "x: u8[70, 64]\ns = f32[] 0.1\nz = u8[] 3\nw = i8[10, 64] 1\nt = f32[10] 0.3\nv = i8[10] 0\nb = i32[10] 5\ny = com.microsoft.QGemm<transB=1>(x, s, z, w, t, v, b)\n-> y",
    "x: u8[2, 70, 80]\nw = i8[80, 72] 1\nz = u8[] 3\na = MatMulInteger(x, w, z)\ny = Cast<to=1>(a)\n-> y",
    "x: i8[2000, 64]\nw: i8[64, 1001]\na = MatMulInteger(x, w)\ny = Cast<to=1>(a)\n-> y",
    "x: u8[3, 700, 64]\nw: u8[3, 64, 720]\nz: u8[]\na = MatMulInteger(x, w, z, z)\ny = Cast<to=1>(a)\n-> y",
    "x: i8[70, 64]\nw: u8[64, 72]\na = MatMulInteger(x, w)\ny = Cast<to=1>(a)\n-> y",
    "x: u8[2, 16, 99, 99]\nr: f32[2, 160, 97, 97]\ns = f32[] 0.1\nz = u8[] 3\nw = i8[160, 16, 3, 3] 1\na = ConvInteger(x, w, z)\nb = Cast<to=1>(a)\nc = Mul(b, s)\nd = Add(c, r)\ne = Relu(d)\nq = QuantizeLinear(e, s, z)\ny = DequantizeLinear(q, s, z)\n-> y",
    "x: u8[2, 32, 9, 9]\ns = f32[] 0.1\nz = u8[] 3\nw = i8[36, 16, 3, 3] 1\nt = f32[36] 0.1\nv = i8[36] 0\nb = i32[36] 5\na = QLinearConv<group=2, pads=[1, 1, 1, 1]>(x, s, z, w, t, v, s, z, b)\ny = DequantizeLinear(a, s, z)\n-> y",
    "x: u8[1, 3, 6, 6]\ns = f32[] 0.1\nz = u8[] 3\nw = i8[20, 3, 3, 3] 1\nv = i8[] 0\na = QLinearConv(x, s, z, w, s, v, s, z)\ny = DequantizeLinear(a, s, z)\n-> y",
    // Floats of 8 bits, of both kinds on both sides: small and large tiles, batches, a depth that no piece is of.
    "x: f32[2, 70, 80]\nh = Cast<to=17>(x)\nw = f8e4m3[80, 72] 56\ns = f32[72] 0.1\nb = f32[72] 1\na = triscore.MatMulFloat8(h, w)\nc = Mul(a, s)\nd = Add(c, b)\ny = Relu(d)\n-> y",
    "x: f8e5m2[3, 700, 64]\nw: f8e5m2[3, 64, 720]\na = triscore.MatMulFloat8(x, w)\ny = Cast<to=19>(a)\n-> y: f8e5m2[?]",
    "x: f8e4m3[2000, 64]\nw: f8e5m2[64, 1001]\ny = triscore.MatMulFloat8(x, w)\n-> y",
    "x: f8e5m2[70, 64]\nw: f8e4m3[64, 72]\nv: f8e4m3[72, 41]\na = triscore.MatMulFloat8(x, w)\nb = Cast<to=17, saturate=0>(a)\ny = triscore.MatMulFloat8(b, v)\n-> y",
    "x: f8e4m3[7, 41]\nw: f8e5m2[41, 5]\ny = triscore.MatMulFloat8(x, w)\n-> y",
    "x: f8e4m3[2, 16, 99, 99]\nr: f32[2, 160, 97, 97]\nw = f8e4m3[160, 16, 3, 3] 56\ns = f32[160, 1, 1] 0.1\na = triscore.ConvFloat8(x, w)\nb = Mul(a, s)\nc = Add(b, r)\nd = Relu(c)\ny = Cast<to=17>(d)\n-> y: f8e4m3[?]",
    "x: f8e5m2[2, 32, 9, 9]\nw = f8e5m2[36, 16, 3, 3] 56\ny = triscore.ConvFloat8<group=2, pads=[1, 1, 1, 1]>(x, w)\n-> y",
    "x: f8e4m3[1, 3, 6, 6]\nw = f8e5m2[20, 3, 3, 3] 56\ny = triscore.ConvFloat8(x, w)\n-> y",
    "x: f8e5m2[2, 128, 19, 19]\nw = f8e4m3[72, 128, 3, 3] 56\ny = triscore.ConvFloat8(x, w)\n-> y",
    "x: f8e4m3[2, 128, 19, 19]\nw = f8e4m3[72, 128, 3, 3] 56\nv = f8e5m2[72, 128, 3, 3] 56\na = triscore.ConvFloat8(x, w)\nb = triscore.ConvFloat8(x, v)\ny = Add(a, b)\n-> y",
    "x: f8e5m2[2, 128, 19, 19]\nw = f8e5m2[72, 128, 3, 3] 56\ny = triscore.ConvFloat8(x, w)\n-> y",
    "x: f8e4m3[2, 4, 9, 9]\nw = f8e5m2[4, 1, 3, 3] 56\ny = triscore.ConvFloat8<group=4>(x, w)\n-> y",
    "x: f8e4m3[2, 6, 9, 9]\nw: f8e5m2[20, 6, 3, 3]\ny = triscore.ConvFloat8(x, w)\n-> y",
];

/// What a kernel is made for: its machine code must have it, whatever a compiler thinks of the text. By the kernel, and lines of its source.
const INSTRUCTIONS: &[(&str, &str, &[&str])] = &[
    ("gemm_tensor", "", &["ldmatrix.sync.aligned.m8n8.x4.shared.b16", "cp.async.cg.shared.global"]),
    ("gemm_tensor", "#define ELEMENT f16", &["mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32"]),
    ("gemm_tensor", "#define ELEMENT bf16", &["mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32"]),
    ("gemm_tensor", "#define ELEMENT float", &["mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32"]),
    ("conv_tensor", "", &["ldmatrix.sync.aligned.m8n8.x4.shared.b16", "cp.async.cg.shared.global"]),
    ("conv_tensor", "#define ELEMENT f16", &["mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32"]),
    ("conv_tensor", "#define ELEMENT bf16", &["mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32"]),
    ("conv_tensor", "#define ELEMENT float", &["mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32"]),
    ("attention_tensor", "", &["mma.sync.aligned.m16n8k", "cp.async.c", "ldmatrix.sync.aligned"]),
    (
        "gemm_wgmma",
        "",
        &[
            "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier",
            "mbarrier.try_wait",
            "wgmma.mma_async.sync.aligned",
            "setmaxnreg.inc",
        ],
    ),
    (
        "conv_wgmma",
        "",
        &[
            "cp.async.bulk.tensor.4d.shared::cluster.global.im2col.mbarrier",
            "mbarrier.try_wait",
            "wgmma.mma_async.sync.aligned",
            "setmaxnreg.inc",
        ],
    ),
    (
        "gemm_wgmma",
        "#define ELEMENT i8\n#define RIGHT i8\n#define TILE_N 128",
        &["aligned.m64n128k32.s32.s8.s8"],
    ),
    (
        "gemm_wgmma",
        "#define ELEMENT i8\n#define RIGHT u8\n#define TILE_N 64",
        &["aligned.m64n64k32.s32.s8.u8"],
    ),
    (
        "gemm_wgmma",
        "#define ELEMENT u8\n#define RIGHT u8\n#define TILE_N 64",
        &["aligned.m64n64k32.s32.u8.u8"],
    ),
    (
        "gemm_wgmma",
        "#define ELEMENT u8\n#define RIGHT i8\n#define TILE_N 128",
        &["aligned.m64n128k32.s32.u8.s8"],
    ),
    (
        "conv_wgmma",
        "#define ELEMENT u8\n#define RIGHT i8\n#define TILE_N 128",
        &["aligned.m64n128k32.s32.u8.s8"],
    ),
    ("conv_wgmma", "#define ELEMENT f16\n#define TILE_N 128", &["aligned.m64n128k16.f32.f16.f16"]),
    ("conv_wgmma", "#define ELEMENT f16\n#define TILE_N 64", &["aligned.m64n64k16.f32.f16.f16"]),
    ("conv_wgmma", "#define ELEMENT bf16\n#define TILE_N 128", &["aligned.m64n128k16.f32.bf16.bf16"]),
    ("conv_wgmma", "#define ELEMENT bf16\n#define TILE_N 64", &["aligned.m64n64k16.f32.bf16.bf16"]),
    ("conv_wgmma", "#define ELEMENT float\n#define TILE_N 128", &["aligned.m64n128k8.f32.tf32.tf32"]),
    ("conv_wgmma", "#define ELEMENT float\n#define TILE_N 64", &["aligned.m64n64k8.f32.tf32.tf32"]),
    ("gemm_wgmma", "#define ELEMENT f16\n#define TILE_N 128", &["aligned.m64n128k16.f32.f16.f16"]),
    ("gemm_wgmma", "#define ELEMENT f16\n#define TILE_N 64", &["aligned.m64n64k16.f32.f16.f16"]),
    ("gemm_wgmma", "#define ELEMENT bf16\n#define TILE_N 128", &["aligned.m64n128k16.f32.bf16.bf16"]),
    ("gemm_wgmma", "#define ELEMENT bf16\n#define TILE_N 64", &["aligned.m64n64k16.f32.bf16.bf16"]),
    ("gemm_wgmma", "#define ELEMENT float\n#define TILE_N 128", &["aligned.m64n128k8.f32.tf32.tf32"]),
    ("gemm_wgmma", "#define ELEMENT float\n#define TILE_N 64", &["aligned.m64n64k8.f32.tf32.tf32"]),
    ("gemm_tensor", "#define ELEMENT f8e4m3", &["mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e"]),
    ("gemm_tensor", "#define ELEMENT f8e5m2", &["mma.sync.aligned.m16n8k32.row.col.f32.e5m2.e"]),
    ("conv_tensor", "#define ELEMENT f8e4m3", &["mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e"]),
    ("conv_tensor", "#define ELEMENT f8e5m2", &["mma.sync.aligned.m16n8k32.row.col.f32.e5m2.e"]),
    ("gemm_wgmma", "#define ELEMENT f8e4m3\n#define TILE_N 128", &["aligned.m64n128k32.f32.e4m3.e"]),
    ("gemm_wgmma", "#define ELEMENT f8e4m3\n#define TILE_N 64", &["aligned.m64n64k32.f32.e4m3.e"]),
    ("gemm_wgmma", "#define ELEMENT f8e5m2\n#define TILE_N 128", &["aligned.m64n128k32.f32.e5m2.e"]),
    ("gemm_wgmma", "#define ELEMENT f8e5m2\n#define TILE_N 64", &["aligned.m64n64k32.f32.e5m2.e"]),
    ("conv_wgmma", "#define ELEMENT f8e4m3\n#define TILE_N 128", &["aligned.m64n128k32.f32.e4m3.e"]),
    ("conv_wgmma", "#define ELEMENT f8e4m3\n#define TILE_N 64", &["aligned.m64n64k32.f32.e4m3.e"]),
    ("conv_wgmma", "#define ELEMENT f8e5m2\n#define TILE_N 128", &["aligned.m64n128k32.f32.e5m2.e"]),
    ("conv_wgmma", "#define ELEMENT f8e5m2\n#define TILE_N 64", &["aligned.m64n64k32.f32.e5m2.e"]),
];

/// Registers that a block on Hopper begins with for each of its threads: it takes and gives what adds up to them.
const BEGUN_REGISTERS: u32 = 168;

/// What a compiler says where it waits for each product by itself, as it cannot tell that nobody touches the sums.
const ONE_BY_ONE: &str = "wgmma.mma_async instructions are serialized";

#[test]
fn every_source_compiles_for_real_gpus_and_spills_nothing() {
    if let Err(e) = nvrtc::version() {
        assert_ne!(std::env::var("TRISCORE_NVRTC").as_deref(), Ok("required"), "{e}");
        return println!("skipped: {e}");
    }
    let mut sources = std::collections::BTreeMap::new();
    for text in FORMS {
        for precision in [Precision::F32, Precision::Tf32, Precision::F16, Precision::Bf16] {
            for tensor_cores in [AMPERE, MMA, HOPPER] {
                let plan = planned_for(tensor_cores, text, precision);
                let plan = plan.unwrap_or_else(|e| panic!("{e}\n{text}"));
                for launch in &plan.launches {
                    sources.insert(plan.sources[launch.source].clone(), launch.kernel);
                }
            }
        }
    }
    println!("{} sources", sources.len());
    let mut seen = std::collections::BTreeSet::new();
    for architecture in ["sm_80", "sm_90a", "sm_120"] {
        for (source, kernel) in &sources {
            let is_wide = kernel.ends_with("_wgmma");
            // What is made for tensor cores that have floats of 8 bits.
            let is_newer = kernel.ends_with("_tensor") && source.contains("#define ELEMENT f8");
            if (is_wide && architecture != "sm_90a") || (is_newer && architecture == "sm_80") {
                continue;
            }
            let cubin = nvrtc::compile(kernel, source, architecture)
                .unwrap_or_else(|e| panic!("{architecture}: {e}\n{source}"));
            for usage in &cubin.usage {
                assert_eq!(usage.spilled_bytes, 0, "{architecture}: {usage:?}");
                assert!(!is_wide || usage.registers == BEGUN_REGISTERS, "{usage:?}");
            }
            assert!(!cubin.log.contains(ONE_BY_ONE), "{kernel}: {}", cubin.log);
            for (row, (of, lines, instructions)) in INSTRUCTIONS.iter().enumerate() {
                if of == kernel && lines.lines().all(|line| source.lines().any(|l| l == line)) {
                    seen.insert(row);
                    for instruction in *instructions {
                        let has = cubin.text.contains(instruction);
                        assert!(has, "{architecture}: {kernel} has no {instruction}\n{source}");
                    }
                }
            }
        }
    }
    let missing = INSTRUCTIONS.iter().enumerate().filter(|(row, _)| !seen.contains(row));
    assert_eq!(
        missing.map(|(_, row)| row).collect::<Vec<_>>(),
        Vec::<&(_, _, _)>::new(),
        "no form has these"
    );
}
