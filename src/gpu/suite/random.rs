//! Products, convolutions and normalisations, and sums of integers, of shapes that nobody chose: seeded, so that what fails once fails again.
//!
//! `TRISCORE_CASES` says how many of each kind there are.

use super::{Noise, compare, gpus, on_all_tensor_cores};
use crate::scoring::Precision;

const CASES: usize = 6;

/// Numbers for shapes, from the suite's noise.
struct Dice(Noise);

impl Dice {
    /// From 1 to so many.
    fn up_to(&mut self, most: usize) -> usize {
        1 + (self.0.next().abs() * most as f32) as usize % most
    }

    fn is(&mut self, chance: f32) -> bool {
        self.0.next().abs() < chance
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.up_to(of.len()) - 1]
    }

    /// A length, mostly of whole pieces.
    fn length(&mut self, most: usize) -> usize {
        let length = self.up_to(most);
        if self.is(0.7) { length.next_multiple_of(8) } else { length }
    }
}

const NUMBERS: &str = "0.1 0.2 -0.3 0.4 -0.25";

/// What comes behind `a` of that shape, with a bias along `axis`.
fn end(dice: &mut Dice, shape: &str, bias: &str) -> String {
    let mut lines = vec![format!("b = f32[{bias}] 0.5 -1 2"), "c = Add(a, b)".to_owned()];
    if dice.is(0.4) {
        lines.push(format!("r: f32[{shape}]"));
        lines.push("d = Add(c, r)".to_owned());
    } else {
        lines.push("d = Identity(c)".to_owned());
    }
    lines.push(format!("y = {}(d)", dice.one(&["Relu", "Gelu", "Sigmoid", "Identity"])));
    lines.join("\n") + "\n-> y"
}

fn product(dice: &mut Dice) -> String {
    let (rows, columns, depth) = (dice.up_to(200), dice.length(200), dice.length(700));
    let batch = if dice.is(0.3) { format!("{}, ", dice.up_to(3)) } else { String::new() };
    let shape = format!("{batch}{rows}, {columns}");
    let x = format!("x: f32[{batch}{rows}, {depth}]");
    let (w, product) = match dice.up_to(3) {
        1 => (format!("w = f32[{depth}, {columns}] {NUMBERS}"), "a = MatMul(x, w)"),
        2 => (format!("w: f32[{batch}{depth}, {columns}]"), "a = MatMul(x, w)"),
        _ => {
            let turned = if batch.is_empty() { "perm=[1, 0]" } else { "perm=[0, 2, 1]" };
            let lines = format!("v: f32[{batch}{columns}, {depth}]\nw = Transpose<{turned}>(v)");
            (lines, "a = MatMul(x, w)")
        }
    };
    format!("{x}\n{w}\n{product}\n{}", end(dice, &shape, &columns.to_string()))
}

fn convolution(dice: &mut Dice) -> String {
    let groups = if dice.is(0.2) { 2 } else { 1 };
    let channels = groups * [3, 8, 16, 24, 64, 72, 128][dice.up_to(7) - 1];
    let outputs = groups * (16 + dice.up_to(70));
    let (images, height, width) = (dice.up_to(2), 5 + dice.up_to(8), 5 + dice.up_to(8));
    let (down, right) = (dice.up_to(3), dice.up_to(3));
    let (stride, pad) = (dice.up_to(2), dice.up_to(2) - 1);
    let length = |length: usize, kernel: usize| (length + 2 * pad - kernel) / stride + 1;
    let shape = format!("{images}, {outputs}, {}, {}", length(height, down), length(width, right));
    let kind = if dice.is(0.8) {
        format!("w = f32[{outputs}, {}, {down}, {right}] {NUMBERS}", channels / groups)
    } else {
        format!("w: f32[{outputs}, {}, {down}, {right}]", channels / groups)
    };
    let attributes =
        format!("group={groups}, strides=[{stride}, {stride}], pads=[{pad}, {pad}, {pad}, {pad}]");
    format!(
        "x: f32[{images}, {channels}, {height}, {width}]\n{kind}\na = Conv<{attributes}>(x, w)\n{}",
        end(dice, &shape, &format!("{outputs}, 1, 1"))
    )
}

fn normalisation(dice: &mut Dice) -> String {
    let (rows, columns) = (dice.up_to(20), dice.length(1200));
    let (op, scale) = match dice.is(0.5) {
        true => ("a = LayerNormalization(x, s)", format!("s = f32[{columns}] 1 2 3\n")),
        false => ("a = Softmax(x)", String::new()),
    };
    let shape = format!("{rows}, {columns}");
    format!("x: f32[{shape}]\n{scale}{op}\n{}", end(dice, &shape, &columns.to_string()))
}

/// Of every pair of types, with a zero point on either side, or on none.
fn integers(dice: &mut Dice) -> String {
    let (left, right) = (dice.one(&["u8", "i8"]).to_owned(), dice.one(&["u8", "i8"]).to_owned());
    let inputs = match dice.up_to(3) {
        1 => "x, w".to_owned(),
        2 => "x, w, z".to_owned(),
        _ => "x, w, z, v".to_owned(),
    };
    let zeros = format!("z = {left}[] 3\nv = {right}[] 5\n");
    if dice.is(0.5) {
        let (rows, columns, depth) =
            (dice.up_to(300), dice.length(200), dice.length(900).next_multiple_of(4));
        let w = if dice.is(0.5) { ":" } else { " =" };
        let numbers = if w == ":" { "" } else { " 1 2 7 100 0 5" };
        return format!(
            "x: {left}[{rows}, {depth}]\nw{w} {right}[{depth}, {columns}]{numbers}\n{zeros}a = MatMulInteger({inputs})\ny = Cast<to=1>(a)\n-> y"
        );
    }
    let channels = [3, 16, 64, 96, 128, 256][dice.up_to(6) - 1];
    let (outputs, side, kernel) = (16 + dice.up_to(130), 5 + dice.up_to(8), dice.up_to(3));
    let pad = dice.up_to(2) - 1;
    format!(
        "x: {left}[2, {channels}, {side}, {side}]\nw = {right}[{outputs}, {channels}, {kernel}, {kernel}] 1 2 7 100 0 5\n{zeros}a = ConvInteger<pads=[{pad}, {pad}, {pad}, {pad}]>({inputs})\ny = Cast<to=1>(a)\n-> y"
    )
}

#[test]
fn shapes_that_nobody_chose_are_what_they_are_elsewhere() {
    let count = std::env::var("TRISCORE_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(CASES);
    on_all_tensor_cores("gpu::suite::random::shapes_that_nobody_chose_are_what_they_are_elsewhere", || {
        let mut wrong = Vec::new();
        for seed in 1..=count as u64 {
            for make in [product, convolution, normalisation, integers] {
                let mut dice = Dice(Noise(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1));
                // The first numbers of neighbouring seeds are alike.
                (0..4).for_each(|_| _ = dice.0.next());
                let text = make(&mut dice);
                let precisions = [Precision::F32, Precision::Tf32, Precision::F16, Precision::Bf16];
                let precision = precisions[dice.up_to(4) - 1];
                for device in &gpus() {
                    let what = compare(device, &text, precision, seed);
                    wrong.extend(what.map(|what| format!("{seed}: {device}: {precision:?}: {what}\n{text}")));
                }
            }
        }
        assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n\n"));
    });
}
