//! Pools.

use super::elementwise::round_at_zero;
use super::ints::Ints;
use super::params::QParams;
use crate::error::{Result, ScoreError};

/// A window over the spatial axes of `[batch, channels, spatial…]`; one entry an axis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// Elements of the window along each axis.
    pub kernel: Vec<usize>,
    /// Steps between two windows.
    pub strides: Vec<usize>,
    /// Steps between two elements of a window.
    pub dilations: Vec<usize>,
    /// Padding, `[begins…, ends…]`.
    pub pads: Vec<usize>,
    /// Windows along each axis: it depends on how the last one is rounded, which is the graph's to know.
    pub outputs: Vec<usize>,
    /// Whether everything that the window covers counts as an element of the average: padding, and what lies behind it where the
    /// last window of a pool that rounds up reaches over the edge.
    pub count_include_pad: bool,
}

/// `MaxPool` of integers: the greatest in the window; padding is never it.
///
/// # Errors
/// `BadModel` where the window does not fit the shape.
pub fn max_pool(x: &Ints, pool: &Pool) -> Result<Ints> {
    windows(x, pool, |window| window.iter().copied().max().unwrap_or(i32::MIN))
}

/// `QLinearAveragePool`: the window's dequantised elements summed one after another in f32, divided by their number, divided by the
/// output's scale, the zero point added, rounded half to even, saturated.
///
/// # Errors
/// `BadModel` where the window does not fit the shape.
pub fn average_pool(x: &Ints, from: &QParams, pool: &Pool, to: &QParams) -> Result<Ints> {
    let covered = pool.kernel.iter().product::<usize>();
    windows(x, pool, |window| {
        let sum = window.iter().fold(0f32, |sum, q| sum + from.dequantize(*q));
        let count = if pool.count_include_pad { covered } else { window.len() };
        round_at_zero(sum / count as f32 / to.scale() + to.zero_point() as f32, to)
    })
}

/// `QLinearGlobalAveragePool`: `S = Σ (x - x_zero)`, then `saturate(round_half_even(f32(S) · f32(x_scale / f32(y_scale · n))) + y_zero)`.
///
/// # Errors
/// `BadModel` for fewer than three axes.
pub fn global_average_pool(x: &Ints, from: &QParams, to: &QParams) -> Result<Ints> {
    let [batch, channels, spatial @ ..] = x.shape() else {
        return Err(ScoreError::bad_model(format!(
            "a global pool of {:?}: expected three axes or more",
            x.shape()
        )));
    };
    let count = spatial.iter().product::<usize>();
    let factor = from.scale() / (to.scale() * count as f32);
    let sum = |i: usize| {
        (i * count..(i + 1) * count).map(|at| i64::from(x.at(at) - from.zero_point())).sum::<i64>()
    };
    let values = (0..batch * channels).map(|i| to.round(sum(i) as f32 * factor)).collect();
    let shape = [*batch, *channels].into_iter().chain(spatial.iter().map(|_| 1)).collect::<Vec<_>>();
    Ints::new(&shape, values)
}

/// Applies a function to each window: the elements that it has of the input, in row-major order.
fn windows(x: &Ints, pool: &Pool, f: impl Fn(&[i32]) -> i32) -> Result<Ints> {
    let axes = pool.kernel.len();
    let as_many = [&pool.strides, &pool.dilations, &pool.outputs].iter().all(|v| v.len() == axes);
    if x.shape().len() != axes + 2 || !as_many || pool.pads.len() != 2 * axes {
        return Err(ScoreError::bad_model(format!("a window over {axes} axes of {:?}", x.shape())));
    }
    let pixels = pool.outputs.iter().product::<usize>();
    let in_pixels = x.shape().iter().skip(2).product::<usize>();
    let taps = pool.kernel.iter().product::<usize>();
    let places = (0..pixels).map(|pixel| (0..taps).map(|tap| place(x, pool, pixel, tap)).collect::<Vec<_>>());
    let places = places.collect::<Vec<_>>();
    let planes = x.length(0) * x.length(1);
    let mut values = Vec::with_capacity(planes * pixels);
    for plane in 0..planes {
        for places in &places {
            let window = places.iter().flatten().map(|at| x.at(plane * in_pixels + at)).collect::<Vec<_>>();
            values.push(f(&window));
        }
    }
    let shape =
        [x.length(0), x.length(1)].into_iter().chain(pool.outputs.iter().copied()).collect::<Vec<_>>();
    Ints::new(&shape, values)
}

/// Where an element of a window lies within a channel of the input; nothing outside of it.
fn place(x: &Ints, pool: &Pool, mut pixel: usize, mut tap: usize) -> Option<usize> {
    let (mut place, mut stride) = (0, 1);
    for axis in (0..pool.kernel.len()).rev() {
        let (outputs, kernel, length) =
            (*pool.outputs.get(axis)?, *pool.kernel.get(axis)?, x.length(axis + 2));
        let here = pixel % outputs * pool.strides.get(axis)? + tap % kernel * pool.dilations.get(axis)?;
        place += here.checked_sub(*pool.pads.get(axis)?).filter(|h| *h < length)? * stride;
        stride *= length;
        pixel /= outputs;
        tap /= kernel;
    }
    Some(place)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::int8::QType;

    fn ints(shape: &[usize], values: &[i32]) -> Ints {
        Ints::new(shape, values.to_vec()).unwrap()
    }

    fn pool(kernel: usize, stride: usize, pads: [usize; 2], outputs: usize, count_include_pad: bool) -> Pool {
        Pool {
            kernel: vec![kernel],
            strides: vec![stride],
            dilations: vec![1],
            pads: pads.to_vec(),
            outputs: vec![outputs],
            count_include_pad,
        }
    }

    #[test]
    fn worked_by_hand() {
        let x = ints(&[1, 1, 5], &[1, 5, 2, 4, 3]);
        assert_eq!(max_pool(&x, &pool(2, 2, [0, 0], 2, false)).unwrap(), ints(&[1, 1, 2], &[5, 4]));
        assert_eq!(max_pool(&x, &pool(2, 2, [0, 0], 3, false)).unwrap().values(), [5, 4, 3], "rounded up");
        let p = QParams::new(1.0, 1, QType::U8).unwrap();
        let average = |pool: &Pool| average_pool(&x, &p, pool, &p).unwrap().values().to_vec();
        // (0 + 4)/2 = 2, (1 + 3)/2 = 2, and the zero point.
        assert_eq!(average(&pool(2, 2, [0, 0], 2, false)), [3, 3]);
        assert_eq!(
            average(&pool(2, 2, [1, 0], 3, false)),
            [1, 4, 4],
            "padding is no element: 0; (4+1)/2 = 2.5 with the zero point is 3.5"
        );
        assert_eq!(average(&pool(2, 2, [1, 0], 3, true)), [1, 4, 4]);
        assert_eq!(average(&pool(2, 2, [0, 0], 3, true)), [3, 3, 2], "so is what is behind the edge: 2 / 2");
        let global = global_average_pool(&ints(&[1, 2, 2], &[1, 3, 5, 6]), &p, &p).unwrap();
        assert_eq!(
            global,
            ints(&[1, 2, 1], &[2, 5]),
            "1 and 4.5, which rounds to even before the zero point"
        );
        assert!(max_pool(&ints(&[1, 5], &[0; 5]), &pool(2, 2, [0, 0], 2, false)).is_err());
        assert!(global_average_pool(&ints(&[5], &[0; 5]), &p, &p).is_err());
    }
}
