mod compiled;

use super::*;
use crate::gpu::nvrtc;
use crate::graph::testing::graph_of;
use crate::graph::{fold, rewrite};

fn planned(text: &str, precision: Precision) -> Result<Plan> {
    planned_for(MMA, text, precision)
}

fn planned_for(tensor_cores: TensorCores, text: &str, precision: Precision) -> Result<Plan> {
    let mut graph = graph_of(text);
    fold::fold(&mut graph, None)?;
    plan(&graph, Settings { precision, tensor_cores, ..Settings::default() })
}

fn kernels(text: &str) -> Vec<&'static str> {
    kernels_in(text, Precision::F32)
}

fn kernels_in(text: &str, precision: Precision) -> Vec<&'static str> {
    let plan = planned(text, precision).unwrap_or_else(|e| panic!("{e}\n{text}"));
    plan.launches.iter().map(|l| l.kernel).collect()
}

/// Tensor cores without floats of 8 bits, and with them.
const AMPERE: TensorCores = TensorCores::Mma { has_float8: false, multiprocessors: 2 };
const MMA: TensorCores = TensorCores::Mma { has_float8: true, multiprocessors: 2 };

/// Two multiprocessors, so that small products fill them.
const HOPPER: TensorCores = TensorCores::Wgmma { multiprocessors: 2 };

#[test]
fn chains_are_one_kernel() {
    assert_eq!(kernels("x: f32[2, 3]\na = Relu(x)\nb = Exp(a)\ny = Neg(b)\n-> y"), ["map"]);
    // Behind a product they are its end, behind a softmax its end, before it its beginning.
    let text =
        "x: f32[2, 8]\nw = f32[8, 8] 1\nb = f32[8] 1\na = MatMul(x, w)\nc = Add(a, b)\ny = Relu(c)\n-> y";
    assert_eq!(kernels(text), ["gemm_float"]);
    assert_eq!(kernels(&text.replace("8", "7")), ["gemm"]);
    assert_eq!(kernels("x: f32[2, 8]\na = Neg(x)\nb = Softmax(a)\ny = Sqrt(b)\n-> y"), ["softmax"]);
    // What two read is computed once.
    assert_eq!(kernels("x: f32[2, 3]\na = Exp(x)\nb = Neg(a)\ny = Mul(a, b)\n-> y"), ["map", "map"]);
    // Views are no kernels.
    let text = "x: f32[2, 3, 4]\na = Transpose<perm=[1, 0, 2]>(x)\nb = Neg(a)\ny = Exp(b)\n-> y";
    assert_eq!(kernels(text), ["map"]);
}

#[test]
fn attention_reads_and_leaves_heads_where_they_lie() {
    let text = "a: f32[2, 40, 3, 16]
         b: f32[2, 50, 3, 16]
         q = Transpose<perm=[0, 2, 1, 3]>(a)
         k = Transpose<perm=[0, 2, 1, 3]>(b)
         p = triscore.Attention<scale=0.25>(q, k, k)
         t = Transpose<perm=[0, 2, 1, 3]>(p)
         s = i64[3] 2 40 48
         y = Reshape(t, s)
         -> y";
    assert_eq!(kernels(text), ["attention"]);
    let heads = text.replace("3, 16", "3, 64").replace("48", "192").replace("f32", "f16");
    assert_eq!(kernels(&heads), ["attention_tensor"]);
    assert_eq!(kernels(&text.replace("40", "4")), ["attention_row"]);
    // Wider than a tile takes.
    let text = text.replace("3, 16", "3, 260").replace("48", "780");
    assert_eq!(kernels(&text), ["gemm_float", "softmax", "gemm", "map"]);
}

#[test]
fn queries_keys_and_values_are_one_product_and_stay_where_it_leaves_them() {
    let text = "x: f32[2, 40, 24]
         w = f32[24, 64] 0.1
         b = f32[64] 0.5
         n = i64[4] 2 40 2 32
         o = i64[3] 2 40 64
         a = MatMul(x, w)
         c = Add(a, b)
         d = Reshape(c, n)
         q = Transpose<perm=[0, 2, 1, 3]>(d)
         e = MatMul(x, w)
         f = Reshape(e, n)
         k = Transpose<perm=[0, 2, 1, 3]>(f)
         g = MatMul(x, w)
         h = Add(g, b)
         i = Reshape(h, n)
         v = Transpose<perm=[0, 2, 1, 3]>(i)
         p = triscore.Attention<scale=0.25>(q, k, v)
         t = Transpose<perm=[0, 2, 1, 3]>(p)
         y = Reshape(t, o)
         -> y";
    let mut graph = graph_of(text);
    assert_eq!(rewrite::join_products(&mut graph).unwrap(), 1);
    graph.tidy().unwrap();
    fold::fold(&mut graph, None).unwrap();
    let settings = Settings { tensor_cores: MMA, ..Settings::default() };
    let kernels = plan(&graph, settings).unwrap().launches.iter().map(|l| l.kernel).collect::<Vec<_>>();
    assert_eq!(kernels, ["gemm_float", "attention"]);
}

#[test]
fn tensor_cores_take_products_of_whole_pieces() {
    let text = "x: f32[70, 40]\nw = f32[40, 33] 1\na = Relu(x)\ny = MatMul(a, w)\n-> y";
    for (precision, product) in
        [(Precision::F32, "gemm_float"), (Precision::Tf32, "gemm_tensor"), (Precision::Bf16, "gemm_tensor")]
    {
        assert_eq!(kernels_in(text, precision), ["map", product]);
        // 41 floats are no multiple of 16 bytes.
        assert_eq!(kernels_in(&text.replace("40", "41"), precision), ["map", "gemm"]);
    }
    // Weights are uploaded as they are wanted, what is computed is turned first, and read where it lies if it need not be.
    let text = "x: f16[9, 16]\nw: f16[5, 16]\na = Abs(x)\ny = Gemm<transA=1, transB=1>(a, w)\n-> y";
    assert_eq!(kernels(&text.replace("transA=1, ", "")), ["map", "gemm_tensor"]);
    let text = text.replace("[5, 16]", "[5, 9]");
    assert_eq!(kernels(&text), ["map", "gemm"]);
    let text = text.replace("[9, 16]", "[8, 16]").replace("[5, 9]", "[5, 8]");
    assert_eq!(kernels(&text), ["map", "map", "gemm_tensor"]);
}

#[test]
fn hopper_takes_products_that_fill_it() {
    let kernels = |text: &str, precision| {
        let plan = planned_for(HOPPER, text, precision).unwrap_or_else(|e| panic!("{e}\n{text}"));
        let tiles = plan.launches.iter().map(|l| (l.kernel, plan.sources[l.source].contains("PARTS 2")));
        tiles.collect::<Vec<_>>()
    };
    let text = "x: f32[500, 40]\nw = f32[40, 200] 1\na = Relu(x)\ny = MatMul(a, w)\n-> y";
    for precision in [Precision::Tf32, Precision::F16, Precision::Bf16] {
        assert_eq!(kernels(text, precision), [("map", false), ("gemm_wgmma", true)]);
        assert_eq!(kernels(&text.replace("500", "70"), precision), [("map", false), ("gemm_wgmma", false)]);
        // Few columns, of many rows and not; too few rows, too few columns.
        assert_eq!(kernels(&text.replace("200", "64"), precision), [("map", false), ("gemm_wgmma", true)]);
        let few = text.replace("200", "40").replace("500", "70");
        assert_eq!(kernels(&few, precision), [("map", false), ("gemm_wgmma", false)]);
        assert_eq!(kernels(&text.replace("500", "64"), precision), [("map", false), ("gemm_tensor", false)]);
        assert_eq!(kernels(&text.replace("200", "32"), precision), [("map", false), ("gemm_tensor", false)]);
    }
    assert_eq!(kernels(text, Precision::F32), [("map", false), ("gemm_float", false)]);
    // As Hopper multiplies TF32 in one way alone, what is computed the other way round is left to the other kernel.
    let text = text.replace("w = f32[40, 200] 1", "w: f32[40, 200]");
    assert_eq!(kernels(&text, Precision::Tf32), [("map", false), ("gemm_tensor", false)]);
    assert_eq!(kernels(&text, Precision::F16).last(), Some(&("gemm_wgmma", true)));
    // A batch of three axes that do not follow each other, and rows that repeat.
    let text = "x: f16[2, 3, 100, 5, 24]\nw: f16[5, 2, 3, 24, 104]\na = Transpose<perm=[3, 0, 1, 2, 4]>(x)\ny = MatMul(a, w)\n-> y";
    assert_eq!(kernels(text, Precision::F32).first(), Some(&("gemm_wgmma", false)));
    let text =
        text.replace("perm=[3, 0, 1, 2, 4]", "perm=[1, 3, 0, 2, 4]").replace("f16[5, 2, 3,", "f16[3, 5, 2,");
    assert_eq!(kernels(&text, Precision::F32).first(), Some(&("gemm_tensor", false)));
}

#[test]
fn hopper_takes_convolutions_of_channels_that_fill_a_stage() {
    let kernel = |text: &str, precision| {
        let plan = planned_for(HOPPER, text, precision).unwrap_or_else(|e| panic!("{e}\n{text}"));
        plan.launches.iter().map(|l| l.kernel).filter(|k| *k != "map").collect::<Vec<_>>().join(" ")
    };
    let text = "x: f32[2, 64, 9, 9]\nw = f32[72, 64, 3, 3] 1\ny = Conv(x, w)\n-> y";
    for precision in [Precision::Tf32, Precision::F16, Precision::Bf16] {
        assert_eq!(kernel(text, precision), "conv_wgmma");
    }
    // A stage is 64 elements of 16 bits, or 32 floats.
    let few = text.replace("64", "24");
    assert_eq!(
        (kernel(&few, Precision::Bf16), kernel(&few, Precision::Tf32)),
        ("conv_tensor".into(), "conv_wgmma".into())
    );
    let grouped =
        text.replace("[2, 64,", "[2, 192,").replace("[72, 64", "[216, 64").replace("Conv(", "Conv<group=3>(");
    assert_eq!(kernel(&grouped, Precision::Bf16), "conv_wgmma");
    // A group's channels that a stage would have another's beside.
    let odd = grouped.replace("192", "144").replace("[216, 64", "[216, 48");
    assert_eq!(kernel(&odd, Precision::Bf16), "conv_tensor");
    // What copies cannot say: steps of nine, three axes.
    let steps = text.replace("9, 9]", "90, 90]").replace("Conv(", "Conv<strides=[9, 9]>(");
    assert_eq!(kernel(&steps, Precision::Bf16), "conv_tensor");
    let deep = text.replace("9, 9]", "9, 9, 9]").replace("3, 3]", "3, 3, 3]");
    assert_eq!(kernel(&deep, Precision::Bf16), "conv_tensor");
}

#[test]
fn integers_of_eight_bits_are_multiplied_as_they_are_stored() {
    // Whatever floats are multiplied as; what zero points have in the sums is computed once.
    let text =
        "x: u8[70, 48]\nw = i8[48, 33] 1\nz = u8[] 3\na = MatMulInteger(x, w, z)\ny = Cast<to=1>(a)\n-> y";
    for precision in [Precision::F32, Precision::Tf32, Precision::F16, Precision::Bf16] {
        assert_eq!(kernels_in(text, precision), ["gemm_tensor"]);
    }
    assert_eq!(kernels(&text.replace("48", "41")), ["gemm"]);
    // Hopper's own products are of integers, too, but where what is beyond an image is not zero.
    let kernel = |text: &str| {
        let plan = planned_for(HOPPER, text, Precision::Bf16).unwrap();
        plan.launches.iter().map(|l| l.kernel).find(|k| k.starts_with("gemm") || k.starts_with("conv"))
    };
    assert_eq!(kernel(&text.replace("70", "700").replace("33", "330")), Some("gemm_wgmma"));
    let wide = "x: u8[2, 128, 19, 19]\nw = i8[72, 128, 3, 3] 1\nz = u8[] 3\na = ConvInteger(x, w, z)\ny = Cast<to=1>(a)\n-> y";
    assert_eq!(kernel(wide), Some("conv_wgmma"));
    let padded = wide.replace("ConvInteger", "ConvInteger<pads=[1, 1, 1, 1]>");
    assert_eq!(kernel(&padded), Some("conv_tensor"));
    assert_eq!(kernel(&padded.replace("u8[] 3", "u8[] 0")), Some("conv_wgmma"));
    // What is computed is turned round, and summed where there is a zero point on the other side.
    let computed = text.replace("w = i8[48, 33] 1", "w: i8[48, 33]");
    assert_eq!(kernels(&computed), ["map", "reduce_columns", "gemm_tensor"]);
    let text = "x: u8[2, 16, 9, 9]\nw = u8[20, 16, 3, 3] 100\nz = u8[] 3\nv = u8[] 128\na = ConvInteger<pads=[1, 1, 1, 1]>(x, w, z, v)\nb = Cast<to=1>(a)\ny = GlobalAveragePool(b)\n-> y";
    assert_eq!(kernels(text), ["map", "conv_tensor", "reduce_columns"]);
    // More products than 32 bits hold with their zero points.
    let deep =
        "x: u8[2, 70000]\nw: i8[70000, 5]\nz: u8[]\na = MatMulInteger(x, w, z)\ny = Cast<to=1>(a)\n-> y";
    assert_eq!(kernels(deep), ["map", "gemm"]);
}

#[test]
fn floats_of_eight_bits_are_multiplied_as_tensor_cores_have_them() {
    let (wide, narrow) = ("x: LEFT[70, 64]\nw: RIGHT[64, 72]", "x: LEFT[7, 24]\nw: RIGHT[24, 5]");
    let image = "x: LEFT[2, 128, 9, 9]\nw = RIGHT[72, 128, 3, 3] 56";
    let (product, conv) =
        ("\ny = triscore.MatMulFloat8(x, w)\n-> y", "\ny = triscore.ConvFloat8(x, w)\n-> y");
    let none = TensorCores::None;
    // (operands, product, device, kernels, what the last one multiplies)
    let rows: &[(&str, &str, TensorCores, &[&str], &str)] = &[
        (wide, product, none, &["gemm"], "LEFT f8e4m3\n#define RIGHT f8e5m2"),
        (wide, product, AMPERE, &["map", "map", "gemm_tensor"], "ELEMENT f16\n#define RIGHT f16"),
        (wide, product, MMA, &["map", "gemm_tensor"], "ELEMENT f8e4m3\n#define RIGHT f8e5m2"),
        (wide, product, HOPPER, &["map", "gemm_wgmma"], "ELEMENT f8e4m3\n#define RIGHT f8e5m2"),
        // 24 are pieces of 16 bits and not of 8.
        (narrow, product, AMPERE, &["map", "map", "gemm_tensor"], "ELEMENT f16\n#define RIGHT f16"),
        (narrow, product, MMA, &["gemm"], "LEFT f8e4m3\n#define RIGHT f8e5m2"),
        // Weights lose nothing where they are stored beside other images.
        (image, conv, none, &["map", "conv", "map"], "LEFT f8e4m3\n#define RIGHT f8e5m2"),
        (image, conv, AMPERE, &["map", "conv_tensor", "map"], "ELEMENT f16\n#define RIGHT f16"),
        (image, conv, MMA, &["map", "conv_tensor", "map"], "ELEMENT f8e4m3\n#define RIGHT f8e5m2"),
        (image, conv, HOPPER, &["map", "conv_wgmma", "map"], "ELEMENT f8e4m3\n#define RIGHT f8e5m2"),
    ];
    for (operands, operator, device, kernels, multiplied) in rows {
        let text = format!("{operands}{operator}").replace("LEFT", "f8e4m3").replace("RIGHT", "f8e5m2");
        // As they are stored, whatever floats of 32 bits are multiplied as.
        for precision in [Precision::F32, Precision::Tf32, Precision::F16, Precision::Bf16] {
            let plan = planned_for(*device, &text, precision).unwrap();
            let of = plan.launches.iter().map(|l| l.kernel).collect::<Vec<_>>();
            assert_eq!(of, *kernels, "{device:?} {precision:?}\n{text}");
            let launch = plan.launches.iter().find(|l| l.kernel != "map").unwrap();
            let source = &plan.sources[launch.source];
            assert!(source.contains(&format!("#define {multiplied}\n")), "{device:?}\n{source}");
        }
    }
    // A scale, a bias and what is cut off are the end of the kernel.
    let text = "x: f8e4m3[70, 64]\nw = f8e5m2[64, 72] 56\ns = f32[72] 0.5\nb = f32[72] 1\na = triscore.MatMulFloat8(x, w)\nc = Mul(a, s)\nd = Add(c, b)\ne = Relu(d)\ny = Cast<to=17>(e)\n-> y: f8e4m3[?]";
    assert_eq!(kernels(text), ["gemm_tensor"]);
}

#[test]
fn integers_are_multiplied_by_integer_instructions_of_tensor_cores() {
    if let Err(e) = nvrtc::version() {
        assert_ne!(std::env::var("TRISCORE_NVRTC").as_deref(), Ok("required"), "{e}");
        return println!("skipped: {e}");
    }
    let product = "x: LEFT[70, 64]\nw: RIGHT[64, 72]\na = MatMulInteger(x, w)\ny = Cast<to=1>(a)\n-> y";
    let conv = "x: u8[2, 16, 9, 9]\nw = i8[20, 16, 3, 3] 1\na = ConvInteger(x, w)\ny = Cast<to=1>(a)\n-> y";
    for (text, left, right) in [
        (product, "u8", "u8"),
        (product, "u8", "i8"),
        (product, "i8", "u8"),
        (product, "i8", "i8"),
        (conv, "u8", "i8"),
    ] {
        let plan = planned(&text.replace("LEFT", left).replace("RIGHT", right), Precision::F32).unwrap();
        let launch = plan.launches.iter().find(|l| l.kernel.ends_with("_tensor")).unwrap();
        // A device that is newer than the compiler gets text.
        let made = nvrtc::compile(launch.kernel, &plan.sources[launch.source], "sm_990").unwrap();
        assert!(made.is_ptx);
        let made = String::from_utf8_lossy(&made.bytes);
        let products = made.matches("mma.sync.").count();
        let own = format!("mma.sync.aligned.m16n8k32.row.col.s32.{left}.{right}.s32").replace("i8", "s8");
        assert!(products > 0 && made.matches(&own).count() == products, "{own}: {products} products");
    }
}

#[test]
fn convolutions_keep_their_channels_last() {
    let text = "x: f32[2, 3, 9, 9]
         w = f32[20, 3, 3, 3] 1
         v = f32[20, 20, 1, 1] 1
         a = Conv(x, w)
         b = Relu(a)
         c = Conv(b, v)
         d = Add(c, b)
         y = GlobalAveragePool(d)
         -> y";
    // Turned once at the beginning; the sum is the end of the second convolution.
    assert_eq!(kernels(text), ["map", "map", "conv_float", "gemm_float", "reduce_columns"]);
    assert_eq!(kernels(&text.replace("f32", "f64")), ["map", "conv", "conv", "reduce_columns"]);
    // Zeros beside three channels; a kernel of one pixel is a product, whose depth of 20 must be whole pieces.
    let expected = ["map", "map", "conv_tensor", "gemm_tensor", "reduce_columns"];
    assert_eq!(kernels_in(text, Precision::Tf32), expected);
    assert_eq!(kernels_in(&text.replace("20", "24"), Precision::Bf16), expected);
}

#[test]
fn moves_are_views_where_strides_can_say_them() {
    let maps = |text: &str| assert_eq!(kernels(text), ["map"], "{text}");
    maps("x: f32[5, 4, 3]\ni = i64[] -1\na = Gather<axis=1>(x, i)\ny = Exp(a)\n-> y");
    maps("x: f32[9, 6]\ni = i64[3] 1 3 5\na = Gather(x, i)\ny = Exp(a)\n-> y");
    maps("x: f32[5, 6]\np = i64[4] -1 0 -1 -3\na = Pad(x, p)\ny = Exp(a)\n-> y");
    maps("x: f32[4, 4]\na = Einsum<equation=ii->i>(x)\ny = Exp(a)\n-> y");
    maps("x: f32[2, 5, 6]\na = Trilu(x)\ny = Exp(a)\n-> y");
    // A product of matrices is found however an equation writes it, and its end still grows.
    let text =
        "x: f32[2, 3, 8]\nw: f32[8, 2, 4]\na = Einsum<equation=bsd,dhk->bshk>(x, w)\ny = Relu(a)\n-> y";
    assert_eq!(kernels(text), ["gemm_float", "map"]);
    assert_eq!(kernels("x: f32[2, 5, 6]\na = Hardmax(x)\ny = Neg(a)\n-> y"), ["arg_rows", "map"]);
}

#[test]
fn rows_are_gathered_in_the_widest_units_that_fit() {
    let unit = |text: &str| {
        let plan = planned(text, Precision::F32).unwrap();
        let source = plan.sources.iter().find(|s| s.contains("#define UNIT")).unwrap();
        source.lines().find_map(|l| l.strip_prefix("#define UNIT ")).unwrap().to_owned()
    };
    assert_eq!(unit("x: f32[50, 64]\ni: i64[7]\ny = Gather(x, i)\n-> y"), "Vector<unsigned, 4>");
    assert_eq!(unit("x: f32[50, 6]\ni: i64[7]\ny = Gather(x, i)\n-> y"), "u64");
    assert_eq!(unit("x: f32[50, 7]\ni: i64[7]\ny = Gather(x, i)\n-> y"), "unsigned");
    assert_eq!(unit("x: f32[50, 64]\ni: i64[7]\ny = Gather<axis=1>(x, i)\n-> y"), "unsigned");
}

#[test]
fn what_no_plan_can_say_is_refused_in_words() {
    let refused = |text: &str| planned(text, Precision::F32).unwrap_err().to_string();
    let why = refused("x: f32[5]\na = NonZero(x)\ny = Cast<to=1>(a)\n-> y");
    assert!(why.contains("how much NonZero makes depends on what it reads"), "{why}");
    let why = refused("x: f32[5]\nk: i64[1]\ny, _ = TopK(x, k)\n-> y");
    assert!(why.contains("'k' must be constant for the GPU, and is computed"), "{why}");
    let why = refused("x: f32[4, 3]\np = i64[4] 1 1 1 1\ny = Pad<mode=odd>(x, p)\n-> y");
    assert!(why.contains("mode is 'odd'"), "{why}");
}
