//! Models that are written as text, by kind: each table has every form in which its kernels come.

pub(super) const POINTWISE: &[&str] = &[
    "x: f32[2, 3, 4]\ny = Relu(x)\n-> y",
    "x: f32[2, 3, 4]\nb = f32[4] 1 2 3 4\na = Add(x, b)\ny = Sigmoid(a)\n-> y",
    "x: f32[2, 3, 4]\nb: f32[3, 1]\na = Mul(x, b)\nc = Sub(a, x)\ny = Tanh(c)\n-> y",
    "x: f32[2, 3, 5, 7]\ny = Transpose<perm=[0, 2, 3, 1]>(x)\n-> y",
    "x: f32[4, 6]\na = Exp(x)\nb = Neg(a)\ny = Mul(a, b)\n-> y",
    "x: f32[4, 6]\ny = Mul(x, x)\n-> y",
    "x: f32[4, 6]\na = Abs(x)\nb = Sqrt(a)\nc = Log(b)\ny = Erf(c)\n-> y",
    "x: f32[5]\na = f32[] 0.25\nb = f32[] 0.5\ny = Clip(x, a, b)\n-> y",
    "x: f32[3, 4]\nz: f32[3, 4]\nc = Greater(x, z)\ny = Where(c, x, z)\n-> y",
    "x: f32[3, 4]\na = LeakyRelu<alpha=0.2>(x)\nb = Elu(a)\nc = Selu(b)\nd = Softplus(c)\ny = HardSigmoid(d)\n-> y",
    "x: f32[3, 4]\na = Gelu(x)\nb = HardSwish(a)\nc = Mish(b)\nd = Softsign(c)\ny = Celu<alpha=0.7>(d)\n-> y",
    "x: f32[3, 4]\na = Floor(x)\nb = Ceil(x)\nc = Round(x)\nd = Sum(a, b, c)\ny = Reciprocal(d)\n-> y",
    "x: f32[3, 4]\na = Sin(x)\nb = Cos(x)\nc = Max(a, b, x)\nd = Min(c, x)\ny = Mean(d, x)\n-> y",
    "x: i64[3, 4]\nz: i64[4]\na = Add(x, z)\nb = Mul(a, x)\ny = Cast<to=1>(b)\n-> y",
    "x: i32[3, 4]\na = Cast<to=1>(x)\nb = f32[] 1.5\ny = Pow(a, b)\n-> y",
    "x: bool[3, 4]\nz: bool[4]\na = And(x, z)\nb = Not(a)\nc = Xor(b, z)\ny = Cast<to=1>(c)\n-> y",
    "x: f32[2, 3, 4]\ns = f32[3] 1 2 3\nb = f32[3] 3 2 1\nm = f32[3] 0.1\nv = f32[3] 0.5 1 2\ny = BatchNormalization(x, s, b, m, v)\n-> y",
    "x: f32[2, 3, 4]\ns = f32[] 0.02\nz = u8[] 128\na = QuantizeLinear(x, s, z)\ny = DequantizeLinear(a, s, z)\n-> y",
    "x: f32[2, 3, 4]\ns = f32[3] 0.02 0.01 0.03\nz = i8[3] 0\na = QuantizeLinear<axis=1>(x, s, z)\ny = DequantizeLinear<axis=1>(a, s, z)\n-> y",
    "x: f32[7]\ns = f32[7] 0.25\ny = PRelu(x, s)\n-> y",
    "x: f32[1]\ny = Neg(x)\n-> y",
    "x: f32[]\ny = Neg(x)\n-> y",
];

pub(super) const MOVING: &[&str] = &[
    "x: f32[2, 3, 4]\na = Transpose<perm=[2, 0, 1]>(x)\ns = i64[2] 4 -1\nb = Reshape(a, s)\ny = Neg(b)\n-> y",
    "x: f32[2, 6, 4]\na, b = Split<axis=1, num_outputs=2>(x)\nc = Neg(a)\ny = Add(b, c)\n-> y",
    "x: f32[5, 6]\ns = i64[2] 4 1\ne = i64[2] 0 6\na = i64[2] 0 1\nt = i64[2] -1 2\ny = Slice(x, s, e, a, t)\n-> y",
    "x: f32[1, 3, 1]\ns = i64[3] 2 3 4\na = Expand(x, s)\ny = Exp(a)\n-> y",
    "x: f32[2, 3]\nr = i64[2] 2 3\ny = Tile(x, r)\n-> y",
    "x: f32[2, 3]\nz: f32[2, 5]\na = Exp(x)\ny = Concat<axis=1>(a, z, x)\n-> y",
    "x: f32[2, 8, 3, 2]\ny = DepthToSpace<blocksize=2>(x)\n-> y",
    "x: f32[2, 8, 3, 2]\ny = DepthToSpace<blocksize=2, mode=CRD>(x)\n-> y",
    "x: f32[2, 3, 4, 6]\ny = SpaceToDepth<blocksize=2>(x)\n-> y",
    "x: f32[2, 3, 4]\na = i64[1] 0\nb = Unsqueeze(x, a)\nc = Squeeze(b, a)\ny = Flatten<axis=2>(c)\n-> y",
    "x: f32[4, 4]\ny = Identity(x)\n-> y",
];

pub(super) const ROWS: &[&str] = &[
    "x: f32[2, 3, 40]\ny = Softmax(x)\n-> y",
    "x: f32[2, 30, 4]\na = Mul(x, x)\nb = Softmax<axis=1>(a)\ny = Sqrt(b)\n-> y",
    "x: f32[2, 3, 1000]\ny = LogSoftmax(x)\n-> y",
    "x: f32[2, 3, 1001]\ny = LogSoftmax(x)\n-> y",
    "x: f32[2, 3, 40]\ns = f32[40] 1 2 3\nb = f32[40] 2 0\ny = LayerNormalization(x, s, b)\n-> y",
    "x: f32[3, 1000]\ns = f32[1000] 1 2 3\nb = f32[1000] 2 0\ny = LayerNormalization(x, s, b)\n-> y",
    "x: f32[3, 1001]\ns = f32[1001] 1 2 3\nb = f32[1001] 2 0\ny = LayerNormalization(x, s, b)\n-> y",
    // Rows that a warp keeps: several of a block and one too few, lanes with a four more than others, an end that lies otherwise.
    "x: f32[7, 132]\nr: f32[7, 132]\ns = f32[132] 1 2 3\nb = f32[132] 2 0\na = Add(x, r)\nc, m, f = LayerNormalization(a, s, b)\nd = Add(c, m)\ny = Mul(d, f)\n-> y",
    "x: f32[5, 3, 1024]\na = Softmax(x)\nt = Transpose<perm=[2, 0, 1]>(a)\ny = Neg(t)\n-> y",
    "x: f32[2, 3, 4]\ns = f32[3, 4] 1 2 3\na = Add(x, x)\ny = LayerNormalization<axis=1>(a, s)\n-> y",
    "x: f32[2, 6, 5]\ns = f32[6] 1 2 3\nb = f32[6] 2 4\ny = GroupNormalization<num_groups=2>(x, s, b)\n-> y",
    "x: f32[2, 3, 5]\ns = f32[3] 1 2 3\nb = f32[3] 2 4\ny = InstanceNormalization(x, s, b)\n-> y",
    "x: f32[2, 6, 5]\ny = LpNormalization<p=1>(x)\n-> y",
    "x: f32[2, 6, 5]\ny = LpNormalization<axis=1>(x)\n-> y",
    "x: f32[2, 6, 5]\na = i64[1] 1\ny = ReduceMean(x, a)\n-> y",
    "x: f32[2, 6, 5]\na = i64[2] 0 2\nb = ReduceSum<keepdims=0>(x, a)\ny = Neg(b)\n-> y",
    "x: f32[2, 6, 500]\na = i64[1] 2\nb = ReduceMax(x, a)\ny = Sub(x, b)\n-> y",
    "x: f32[2, 6, 5]\ny = ReduceMin(x)\n-> y",
    "x: f32[2, 6, 5]\na = i64[1] 2\ny = ReduceL2(x, a)\n-> y",
    "x: f32[2, 6, 5]\na = i64[1] 2\nb = ReduceL1(x, a)\nc = ReduceSumSquare(x, a)\ny = Add(b, c)\n-> y",
    "x: i32[2, 6, 5]\na = i64[1] 2\nb = ReduceProd(x, a)\ny = Cast<to=1>(b)\n-> y",
    "x: f32[2, 6, 5]\na = i64[1] 2\nb = ReduceLogSumExp(x, a)\nc = Exp(x)\nd = ReduceLogSum(c, a)\ny = Add(b, d)\n-> y",
    "x: f32[2, 6, 5, 3]\ny = GlobalAveragePool(x)\n-> y",
    "x: f32[2, 6, 5, 3]\ny = GlobalMaxPool(x)\n-> y",
];

pub(super) const PRODUCTS: &[&str] = &[
    "x: f32[2, 70, 33]\nw = f32[33, 65] 0.1 0.2 -0.3\nb = f32[65] 1 2 3\na = MatMul(x, w)\nc = Add(a, b)\ny = Gelu(c)\n-> y",
    "x: f32[2, 3, 70, 33]\nw: f32[3, 33, 65]\ny = MatMul(x, w)\n-> y",
    "x: f32[2, 1, 7, 9]\nw: f32[3, 9, 5]\nr: f32[2, 3, 7, 5]\na = MatMul(x, w)\nb = Add(a, r)\ny = Relu(b)\n-> y",
    "x: f32[2, 7, 9]\nw: f32[2, 5, 9]\nt = Transpose<perm=[0, 2, 1]>(w)\ny = MatMul(x, t)\n-> y",
    "x: f32[9]\nw: f32[2, 9, 5]\ny = MatMul(x, w)\n-> y",
    "x: f32[2, 5, 9]\nw: f32[9]\na = MatMul(x, w)\ny = Exp(a)\n-> y",
    "x: f32[9]\nw: f32[9]\ny = MatMul(x, w)\n-> y",
    "x: f32[9, 7]\nw: f32[5, 9]\nc: f32[5]\ny = Gemm<transA=1, transB=1, alpha=0.5, beta=2.0>(x, w, c)\n-> y",
    "x: f32[70, 40]\nw = f32[40, 80] 0.1 0.2 -0.3\na = MatMul(x, w)\nb = Softmax(a)\nv = f32[80, 3] 1 2\ny = MatMul(b, v)\n-> y",
    "x: i32[7, 33]\nw: i32[33, 5]\na = MatMul(x, w)\ny = Cast<to=1>(a)\n-> y",
];

/// Products that tensor cores take, where they lie so or after a copy, with edges and ends of all kinds.
pub(super) const TENSOR_PRODUCTS: &[&str] = &[
    "x: f32[2, 70, 40]\nw = f32[40, 72] 0.1 0.2 -0.3 0.4\nb = f32[72] 1 2 3\nr: f32[2, 70, 72]\na = MatMul(x, w)\nc = Add(a, b)\ng = Gelu(c)\ny = Add(g, r)\n-> y",
    "x: f32[2, 3, 140, 48]\nw: f32[2, 3, 48, 136]\nz: f32[3, 136, 24]\na = MatMul(x, w)\ny = MatMul(a, z)\n-> y",
    "x: f32[130, 64]\nw = f32[37, 64] 0.1 0.2 -0.3 0.4 0.5\nb = f32[37] 1 2\ny = Gemm<transB=1, alpha=0.5>(x, w, b)\n-> y",
    "x: f32[16, 9]\nw: f32[5, 16]\na = Abs(x)\ny = Gemm<transA=1, transB=1>(a, w)\n-> y",
    "x: f32[2, 9, 16]\nw: f32[16, 24]\na = Abs(x)\nb = Abs(w)\nc = MatMul(a, b)\nt = Transpose<perm=[2, 1, 0]>(c)\ny = Neg(t)\n-> y",
    "x: f32[1500, 16]\nw = f32[16, 1200] 0.1 0.2 -0.3 0.4 0.5\na = MatMul(x, w)\nb = i64[1] 1\ny = ReduceMax(a, b)\n-> y",
    // As many rows as fill a device, and few columns, that lie together or do not.
    "x: f32[100, 70, 40]\nw: f32[100, 40, 56]\nv = Abs(w)\na = MatMul(x, v)\nb = i64[1] 1\ny = ReduceMax(a, b)\n-> y",
    "x: f32[12200, 16]\nw = f32[37, 16] 0.1 0.2 -0.3 0.4 0.5\nb = f32[37] 1 2\ny = Gemm<transB=1>(x, w, b)\n-> y",
    // Several steps of depth, more of them than stages, and columns that are no pairs.
    "x: f32[150, 320]\nw = f32[137, 320] 0.1 0.2 -0.3 0.4 0.5\nb = f32[137] 1 2\na = Gemm<transB=1>(x, w, b)\ny = Relu(a)\n-> y",
    // The same of few columns, of low tiles and of high ones; columns that lie together, few and many.
    "x: f32[150, 640]\nw = f32[50, 640] 0.1 0.2 -0.3 0.4 0.5\nb = f32[50] 1 2\na = Gemm<transB=1>(x, w, b)\ny = Relu(a)\n-> y",
    "x: f32[500, 400]\nw = f32[63, 400] 0.1 0.2 -0.3 0.4 0.5\nb = f32[63] 1 2\na = Gemm<transB=1>(x, w, b)\ny = Relu(a)\n-> y",
    "x: f32[2, 150, 104]\nw: f32[2, 104, 56]\nv: f32[2, 104, 136]\na = Abs(w)\nb = Abs(v)\nc = MatMul(x, a)\nd = MatMul(x, b)\n-> c, d",
    "x: f16[3, 24]\nw: f16[24, 10]\na = MatMul(x, w)\ny = Cast<to=1>(a)\n-> y",
    // Blocks share the depth of one tile, of two beside each other, and of each of a batch; two products of which one is behind the other.
    "x: f32[20, 840]\nw = f32[840, 48] 0.1 0.2 -0.3 0.4\nb = f32[48] 1 2\na = MatMul(x, w)\nc = Add(a, b)\ny = Gelu(c)\n-> y",
    "x: f32[70, 400]\nw = f32[400, 416] 0.1 0.2 -0.3 0.4 0.5\nv = f32[37, 416] 0.1 -0.2 0.3\na = MatMul(x, w)\ny = Gemm<transB=1>(a, v)\n-> y",
    "x: f32[2, 9, 416]\nw: f32[2, 416, 24]\na = MatMul(x, w)\ny = Relu(a)\n-> y",
];

pub(super) const WINDOWS: &[&str] = &[
    "x: f32[2, 3, 9, 9]\nw: f32[20, 3, 3, 3]\nb = f32[20] 1 2\na = Conv<pads=[1, 1, 1, 1]>(x, w, b)\ny = Relu(a)\n-> y",
    "x: f32[2, 3, 9, 9]\nw = f32[20, 3, 3, 3] 0.1 0.2 -0.3 0.4\nb = f32[20] 1 2\na = Conv<pads=[1, 1, 1, 1]>(x, w, b)\ny = Relu(a)\n-> y",
    "x: f32[2, 3, 9, 10]\nw = f32[20, 3, 3, 2] 0.1 0.2 -0.3 0.4\na = Conv<strides=[2, 1], pads=[1, 0, 0, 1]>(x, w)\nv = f32[70, 20, 1, 1] 0.1 -0.2 0.3\nb = Conv(a, v)\nc = Conv(a, v)\nd = Relu(c)\ny = Add(b, d)\n-> y",
    "x: f32[2, 4, 9, 9]\nw = f32[4, 1, 3, 3] 1 2 3 4 5\ny = Conv<group=4>(x, w)\n-> y",
    "x: f32[2, 4, 9, 9]\nw = f32[40, 2, 3, 3] 1 2 3 4 5\ny = Conv<group=2, dilations=[2, 2]>(x, w)\n-> y",
    "x: f32[2, 4, 9]\nw = f32[20, 4, 3] 1 2 3 4 5\ny = Conv<auto_pad=SAME_UPPER, strides=[2]>(x, w)\n-> y",
    "x: f32[1, 2, 5, 6, 7]\nw = f32[17, 2, 2, 3, 2] 1 2 3 4 5\ny = Conv(x, w)\n-> y",
    "x: f32[2, 4, 5, 6]\nw = f32[4, 6, 3, 3] 1 2 3 4 5\nb = f32[6] 1 2\ny = ConvTranspose<strides=[2, 2], pads=[1, 0, 0, 1], output_padding=[1, 0]>(x, w, b)\n-> y",
    "x: f32[2, 4, 5, 6]\nw = f32[4, 3, 3, 3] 1 2 3 4 5\ny = ConvTranspose<group=2, dilations=[2, 1]>(x, w)\n-> y",
    "x: f32[2, 4, 9, 9]\ny = MaxPool<kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]>(x)\n-> y",
    "x: f32[2, 4, 9, 9]\ny = MaxPool<kernel_shape=[3, 2], ceil_mode=1, strides=[2, 2]>(x)\n-> y",
    "x: f32[2, 4, 9]\na, i = MaxPool<kernel_shape=[3]>(x)\nf = Cast<to=1>(i)\ny = Add(a, f)\n-> y",
    "x: f32[2, 4, 9, 9]\ny = AveragePool<kernel_shape=[3, 3], pads=[1, 1, 1, 1]>(x)\n-> y",
    "x: f32[2, 4, 9, 9]\ny = AveragePool<kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1, ceil_mode=1, strides=[2, 2]>(x)\n-> y",
    "x: f32[2, 4, 9, 9]\ny = LpPool<kernel_shape=[3, 3], p=3>(x)\n-> y",
    "x: f32[1, 3, 12, 12]\nw = f32[16, 3, 3, 3] 0.1 0.2 -0.3\na = Conv(x, w)\nb = Relu(a)\nc = MaxPool<kernel_shape=[2, 2], strides=[2, 2]>(b)\nd = GlobalAveragePool(c)\ne = Flatten(d)\nv = f32[16, 4] 0.3 -0.1\ny = Gemm(e, v)\n-> y",
    "x: f32[2, 8, 6, 6]\nw = f32[16, 8, 1, 1] 0.1 -0.2 0.3\na = Conv(x, w)\nb = Conv(x, w)\nc = Concat<axis=1>(a, b)\ny = Relu(c)\n-> y",
];

/// Convolutions that tensor cores take: of one, two and three axes, with padding, steps, gaps and groups, of three channels and of one pixel.
pub(super) const TENSOR_WINDOWS: &[&str] = &[
    "x: f32[2, 3, 19, 17]\nw = f32[20, 3, 3, 3] 0.1 0.2 -0.3 0.4 0.5\nb = f32[20] 1 2\na = Conv<pads=[1, 1, 1, 1], strides=[2, 2]>(x, w, b)\ny = Relu(a)\n-> y",
    "x: f32[2, 16, 9, 10]\nw = f32[72, 16, 3, 2] 0.1 0.2 -0.3 0.4 0.5\nr: f32[2, 72, 9, 7]\na = Conv<dilations=[1, 3], pads=[2, 0, 0, 0]>(x, w)\nb = Add(a, r)\nv = f32[33, 72, 1, 1] 0.1 -0.2 0.3\nc = Conv(b, v)\ny = Sigmoid(c)\n-> y",
    "x: f32[2, 32, 9, 9]\nw = f32[36, 16, 3, 3] 0.1 0.2 -0.3 0.4 0.5\nb = f32[36] 1 2 3\ny = Conv<group=2, strides=[2, 1]>(x, w, b)\n-> y",
    "x: f32[2, 8, 40]\nw = f32[17, 8, 3] 0.1 0.2 -0.3 0.4 0.5\ny = Conv<auto_pad=SAME_UPPER, strides=[2]>(x, w)\n-> y",
    "x: f32[1, 8, 5, 6, 7]\nw: f32[18, 8, 2, 3, 2]\ny = Conv<pads=[1, 0, 0, 0, 1, 0]>(x, w)\n-> y",
    "x: f32[3, 16, 6, 6]\nw = f32[16, 16, 1, 1] 0.1 -0.2 0.3\na = Conv(x, w)\nb = Conv<pads=[1, 1, 1, 1]>(x, w)\nc = Conv<strides=[2, 2]>(b, w)\nd = Flatten(a)\ne = Flatten(c)\ny = Concat<axis=1>(d, e)\n-> y",
    "x: f32[1, 8, 130, 130]\nw = f32[140, 8, 1, 3] 0.1 0.2 -0.3 0.4 0.5\na = Conv(x, w)\ny = GlobalAveragePool(a)\n-> y",
    // As many rows as fill a device, and few outputs.
    "x: f32[1, 8, 114, 115]\nw = f32[50, 8, 2, 3] 0.1 0.2 -0.3 0.4 0.5\na = Conv<pads=[0, 1, 0, 0]>(x, w)\ny = GlobalAveragePool(a)\n-> y",
    // Channels that fill a stage, or most of one.
    "x: f32[2, 64, 13, 11]\nw = f32[72, 64, 3, 2] 0.1 0.2 -0.3 0.4 0.5\nb = f32[72] 1 2\na = Conv<dilations=[1, 3], pads=[2, 1, 0, 2], strides=[2, 1]>(x, w, b)\ny = Relu(a)\n-> y",
    "x: f32[3, 128, 6, 7]\nw = f32[140, 64, 2, 2] 0.1 0.2 -0.3 0.4 0.5\ny = Conv<group=2, auto_pad=SAME_LOWER>(x, w)\n-> y",
    "x: f32[2, 48, 190]\nw = f32[66, 48, 3] 0.1 0.2 -0.3 0.4 0.5\nr: f32[2, 66, 95]\na = Conv<auto_pad=SAME_UPPER, strides=[2]>(x, w)\ny = Add(a, r)\n-> y",
    // Few outputs, of low tiles and, in groups, of high ones.
    "x: f32[3, 64, 9, 9]\nw = f32[50, 64, 3, 3] 0.1 0.2 -0.3 0.4 0.5\nb = f32[50] 1 2\na = Conv<pads=[1, 1, 1, 1]>(x, w, b)\ny = Relu(a)\n-> y",
    "x: f32[4, 128, 12, 12]\nw = f32[100, 64, 2, 2] 0.1 0.2 -0.3 0.4 0.5\nr: f32[4, 100, 11, 11]\na = Conv<group=2>(x, w)\ny = Add(a, r)\n-> y",
    // Blocks share the depth: of one tile, and of each group's.
    "x: f32[1, 48, 5, 5]\nw = f32[40, 48, 3, 3] 0.1 0.2 -0.3 0.4 0.5\nb = f32[40] 1 2\na = Conv<pads=[1, 1, 1, 1]>(x, w, b)\ny = Relu(a)\n-> y",
    "x: f32[1, 96, 5, 5]\nw = f32[36, 48, 3, 3] 0.1 0.2 -0.3 0.4 0.5\ny = Conv<group=2>(x, w)\n-> y", // Groups that begin at odd channels.
    "x: f32[2, 32, 9, 9]\nw: f32[34, 16, 3, 3]\nr: f32[2, 34, 7, 7]\na = Conv<group=2>(x, w)\ny = Add(a, r)\n-> y",
];

pub(super) const ATTENTIONS: &[&str] = &[
    // Tiles that are full and that are not, heads of all widths, masks that repeat.
    "q: f32[2, 2, 64, 32]\nk: f32[2, 2, 64, 32]\nv: f32[2, 2, 64, 32]\nt = Transpose<perm=[0, 1, 3, 2]>(k)\ns = MatMul(q, t)\np = Softmax(s)\ny = MatMul(p, v)\n-> y",
    "q: f32[2, 70, 2, 20]\nk: f32[2, 130, 2, 20]\nv: f32[2, 130, 2, 40]\nm: f32[2, 1, 1, 130]\nh = f32[] 4
     a = Transpose<perm=[0, 2, 1, 3]>(q)\nt = Transpose<perm=[0, 2, 3, 1]>(k)\nb = Transpose<perm=[0, 2, 1, 3]>(v)
     s = MatMul(a, t)\nd = Div(s, h)\ne = Add(d, m)\np = Softmax(e)\nc = MatMul(p, b)
     f = Transpose<perm=[0, 2, 1, 3]>(c)\nr = i64[3] 2 70 80\ng = Reshape(f, r)\nw = f32[80, 24] 0.1 -0.2 0.3\ny = MatMul(g, w)\n-> y",
    "q: f32[1, 2, 17, 128]\nk: f32[1, 2, 9, 128]\nv: f32[1, 2, 9, 128]\nm: f32[2, 17, 9]\nt = Transpose<perm=[0, 1, 3, 2]>(k)\ns = MatMul(q, t)\ne = Add(s, m)\np = Softmax(e)\na = MatMul(p, v)\ny = Relu(a)\n-> y",
    "q: f32[1, 2, 65, 64]\nk: f32[1, 2, 200, 64]\nv: f32[1, 2, 200, 64]\nm: f32[65, 200]\nr: f32[1, 2, 65, 64]\nt = Transpose<perm=[0, 1, 3, 2]>(k)\ns = MatMul(q, t)\ne = Add(s, m)\np = Softmax(e)\na = MatMul(p, v)\nb = Relu(a)\ny = Add(b, r)\n-> y",
    "q: f32[2, 130, 2, 96]\nk: f32[2, 60, 2, 96]\nh = f32[] 10\na = Transpose<perm=[0, 2, 1, 3]>(q)\nb = Transpose<perm=[0, 2, 1, 3]>(k)\nt = Transpose<perm=[0, 2, 3, 1]>(k)\ns = MatMul(a, t)\nd = Div(s, h)\np = Softmax(d)\nc = MatMul(p, b)\ny = Transpose<perm=[0, 2, 1, 3]>(c)\n-> y",
    // Queries, keys and values of one product.
    "x: f32[2, 40, 24]\nu = f32[24, 64] 0.1 -0.2 0.3\nv = f32[24, 64] -0.1 0.2\nw = f32[24, 64] 0.2 0.1 -0.3 0.1 -0.1\nb = f32[64] 0.5 -0.5\nn = i64[4] 2 40 2 32\no = i64[3] 2 40 64\nh = f32[] 6
     a = MatMul(x, u)\nc = Add(a, b)\nd = Reshape(c, n)\nq = Transpose<perm=[0, 2, 1, 3]>(d)\ne = MatMul(x, v)\nf = Reshape(e, n)\nk = Transpose<perm=[0, 2, 3, 1]>(f)\ng = MatMul(x, w)\ni = Add(b, g)\nj = Reshape(i, n)
     l = Transpose<perm=[0, 2, 1, 3]>(j)\ns = MatMul(q, k)\nm = Div(s, h)\np = Softmax(m)\nr = MatMul(p, l)\nt = Transpose<perm=[0, 2, 1, 3]>(r)\ny = Reshape(t, o)\n-> y",
    // Few rows, and heads that are too wide.
    "q: f32[2, 3, 1, 40]\nk: f32[2, 3, 300, 40]\nv: f32[2, 3, 300, 150]\nt = Transpose<perm=[0, 1, 3, 2]>(k)\ns = MatMul(q, t)\np = Softmax(s)\ny = MatMul(p, v)\n-> y",
    "q: f32[1, 1, 20, 260]\nk: f32[1, 1, 30, 260]\nv: f32[1, 1, 30, 260]\nm: f32[20, 30]\nt = Transpose<perm=[0, 1, 3, 2]>(k)\ns = MatMul(q, t)\ne = Add(m, s)\np = Softmax(e)\ny = MatMul(p, v)\n-> y",
];
