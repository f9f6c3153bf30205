//! From the values that a tensor takes to the range that its integers cover.
//!
//! A range that holds every value wastes integers on outliers; one that cuts outliers off is finer for the rest. Which is better is
//! a matter of the model, so there are several ways to choose, all from one observation: extremes and a histogram. Observations are
//! merged, in any order and to the same result, so that calibration runs on many threads.

use crate::error::{Result, ScoreError};
use crate::int8::{QParams, QType};

/// How the range is chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Calibration {
    /// Every value is in it.
    MinMax,
    /// So many percent of the values are in it, as many cut off at either end; 99.99 is usual.
    Percentile(f64),
    /// The clipped and quantised distribution diverges least from the true one (Migacz 2017, "8-bit Inference with TensorRT").
    Entropy,
    /// The mean squared error of quantising is least (Nagel et al. 2021, arXiv 2106.08295, section 3.1).
    Mse,
}

/// Bins of a histogram. With as few as the integers have (128 is common) entropy cannot choose anything but the extremes.
const BINS: usize = 2048;

/// What was seen of a tensor: its extremes, and how often each value about.
#[derive(Debug, Clone, PartialEq)]
pub struct Observed {
    low: f32,
    high: f32,
    /// Counts over `[-reach, reach)`.
    counts: Vec<u64>,
    /// A power of two, so that two histograms' bins fall onto each other.
    reach: f64,
    not_finite: u64,
    total: u64,
}

impl Default for Observed {
    fn default() -> Self {
        Self { low: 0.0, high: 0.0, counts: vec![0; BINS], reach: 0.0, not_finite: 0, total: 0 }
    }
}

impl Observed {
    /// Takes values in.
    pub fn add(&mut self, values: &[f32]) {
        let largest = values.iter().filter(|v| v.is_finite()).fold(0f32, |m, v| m.max(v.abs()));
        if largest > 0.0 {
            // The next power of two above: a value on the edge is inside.
            self.grow(2f64.powf(f64::from(largest).log2().floor() + 1.0));
        }
        for value in values {
            if !value.is_finite() {
                self.not_finite += 1;
                continue;
            }
            self.low = self.low.min(*value);
            self.high = self.high.max(*value);
            self.total += 1;
            let at = self.bin(f64::from(*value));
            if let Some(count) = self.counts.get_mut(at) {
                *count += 1;
            }
        }
    }

    /// Takes in what another one saw.
    pub fn merge(&mut self, other: &Self) {
        let mut other = other.clone();
        let reach = self.reach.max(other.reach);
        self.grow(reach);
        other.grow(reach);
        self.low = self.low.min(other.low);
        self.high = self.high.max(other.high);
        self.not_finite += other.not_finite;
        self.total += other.total;
        self.counts.iter_mut().zip(other.counts).for_each(|(a, b)| *a += b);
    }

    /// The least and the greatest value that were seen, and zero.
    pub fn extremes(&self) -> (f32, f32) {
        (self.low, self.high)
    }

    /// How many finite values were seen.
    pub fn total(&self) -> u64 {
        self.total
    }

    fn bin(&self, value: f64) -> usize {
        match self.reach > 0.0 {
            true => (((value / self.reach + 1.0) * (BINS / 2) as f64) as usize).min(BINS - 1),
            false => BINS / 2,
        }
    }

    /// The middle of a bin.
    fn middle(&self, bin: usize) -> f64 {
        ((bin as f64 + 0.5) / (BINS / 2) as f64 - 1.0) * self.reach
    }

    /// Widens the bins until they reach that far: neighbours are merged, so nothing is lost.
    fn grow(&mut self, reach: f64) {
        if self.reach == 0.0 {
            self.reach = reach;
            // Only zeros were seen, and they are in the middle whatever the bins' width.
            return;
        }
        while self.reach < reach {
            let pairs = self.counts.chunks(2).map(|pair| pair.iter().sum::<u64>()).collect::<Vec<_>>();
            self.counts.fill(0);
            for (at, count) in pairs.into_iter().enumerate() {
                if let Some(slot) = self.counts.get_mut(at + BINS / 4) {
                    *slot = count;
                }
            }
            self.reach *= 2.0;
        }
    }

    /// The range to cover: zero is in it.
    ///
    /// # Errors
    /// `BadInput` where values were infinite or no numbers, with how many.
    pub fn range(&self, calibration: Calibration, qtype: QType) -> Result<(f32, f32)> {
        if self.not_finite > 0 {
            let what = format!(
                "{} of {} values are infinite or no numbers",
                self.not_finite,
                self.total + self.not_finite
            );
            return Err(ScoreError::bad_input(what));
        }
        let within = |(low, high): (f64, f64)| {
            ((low as f32).clamp(self.low, 0.0), (high as f32).clamp(0.0, self.high))
        };
        Ok(match calibration {
            Calibration::MinMax => (self.low, self.high),
            Calibration::Percentile(percent) => within(self.percentile(percent)),
            Calibration::Entropy => within(self.least(|range| self.divergence(range, qtype))),
            Calibration::Mse => within(self.least(|range| self.squared_error(range, qtype))),
        })
    }

    fn percentile(&self, percent: f64) -> (f64, f64) {
        let cut = ((1.0 - percent / 100.0).clamp(0.0, 1.0) / 2.0 * self.total as f64) as u64;
        let end = |mut bins: Box<dyn Iterator<Item = usize>>| {
            let mut seen = 0;
            bins.find(|bin| {
                seen += self.counts.get(*bin).copied().unwrap_or(0);
                seen > cut
            })
        };
        let width = self.reach / (BINS / 2) as f64 / 2.0;
        let low = end(Box::new(0..BINS)).map_or(0.0, |bin| self.middle(bin) - width);
        let high = end(Box::new((0..BINS).rev())).map_or(0.0, |bin| self.middle(bin) + width);
        (low, high)
    }

    /// The range, among those that are cut off at some share of the larger extreme, for which a cost is least.
    fn least(&self, cost: impl Fn((f64, f64)) -> f64) -> (f64, f64) {
        const SHARES: u32 = 100;
        let full = (f64::from(self.low), f64::from(self.high));
        let candidate = |share: u32| {
            let farthest = full.1.max(-full.0) * f64::from(share) / f64::from(SHARES);
            (full.0.max(-farthest), full.1.min(farthest))
        };
        // From the widest on: of two that are as good the wider one is taken.
        let mut best = (full, cost(full));
        for share in (1..SHARES).rev() {
            let range = candidate(share);
            let cost = cost(range);
            if cost < best.1 {
                best = (range, cost);
            }
        }
        best.0
    }

    /// The mean squared error of values in the middles of their bins.
    fn squared_error(&self, (low, high): (f64, f64), qtype: QType) -> f64 {
        let steps = (qtype.count() - 1) as f64;
        let step = (high - low) / steps;
        if step <= 0.0 {
            return f64::INFINITY;
        }
        let error = |(bin, count): (usize, &u64)| {
            let value = self.middle(bin);
            let rounded = (value.clamp(low, high) / step).round() * step;
            *count as f64 * (value - rounded).powi(2)
        };
        self.counts.iter().enumerate().filter(|(_, count)| **count > 0).map(error).sum()
    }

    /// The Kullback-Leibler divergence of the clipped, quantised distribution from the clipped one.
    fn divergence(&self, (low, high): (f64, f64), qtype: QType) -> f64 {
        let (first, last) = (self.bin(low), self.bin(high));
        let Some(inside) = self.counts.get(first..=last) else { return f64::INFINITY };
        let groups = qtype.count().min(inside.len());
        if groups < 2 {
            return f64::INFINITY;
        }
        // The reference has what is cut off in its outermost bins.
        let mut reference = inside.iter().map(|c| *c as f64).collect::<Vec<_>>();
        let outside = |bins: &[u64]| bins.iter().sum::<u64>() as f64;
        if let Some(edge) = reference.first_mut() {
            *edge += outside(self.counts.get(..first).unwrap_or_default());
        }
        if let Some(edge) = reference.last_mut() {
            *edge += outside(self.counts.get(last + 1..).unwrap_or_default());
        }
        let total = reference.iter().sum::<f64>().max(1.0);
        let kept = inside.iter().sum::<u64>() as f64;
        let mut divergence = 0.0;
        for group in 0..groups {
            let bounds = group * inside.len() / groups..(group + 1) * inside.len() / groups;
            let counts = inside.get(bounds.clone()).unwrap_or_default();
            let filled = counts.iter().filter(|c| **c > 0).count();
            // What is quantised to one integer is spread evenly over the bins that had something.
            let spread = counts.iter().sum::<u64>() as f64 / filled.max(1) as f64;
            for (p, count) in reference.get(bounds).unwrap_or_default().iter().zip(counts) {
                if *p > 0.0 {
                    let q = if *count > 0 { spread / kept.max(1.0) } else { 1e-9 };
                    divergence += p / total * (p / total / q).ln();
                }
            }
        }
        divergence
    }
}

/// The parameters that cover a range, zero exactly on an integer.
///
/// With `symmetric` zero is the middle: 0 for signed types, 128 or 32,768 for unsigned ones.
///
/// # Errors
/// `BadInput` for a range that is not finite.
pub fn params_of((low, high): (f32, f32), qtype: QType, symmetric: bool) -> Result<QParams> {
    if !low.is_finite() || !high.is_finite() {
        return Err(ScoreError::bad_input(format!("a range from {low} to {high}: expected finite numbers")));
    }
    let (low, high) = (f64::from(low.min(0.0)), f64::from(high.max(0.0)));
    let steps = f64::from(qtype.max() - qtype.min());
    // A tensor of zeros, or of numbers so small that their steps would be subnormal: any scale will do.
    let normal = |scale: f64| {
        let scale = scale as f32;
        if scale.is_normal() { scale } else { 1.0 }
    };
    if symmetric {
        let middle = qtype.min() + qtype.count() as i32 / 2;
        let scale = normal(low.abs().max(high) / f64::from(qtype.max() - middle));
        return QParams::new(scale, middle, qtype);
    }
    let scale = normal((high - low) / steps);
    let zero = f64::from(qtype.min()) - low / f64::from(scale);
    QParams::new(scale, qtype.saturate(zero.round_ties_even() as i64), qtype)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bell-shaped, with an outlier.
    fn observed() -> Observed {
        let mut state = 5u64;
        let mut next = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u32 << 24) as f32 - 0.5
        };
        let mut observed = Observed::default();
        let values = (0..20_000).map(|_| (0..6).map(|_| next()).sum::<f32>()).collect::<Vec<_>>();
        observed.add(&values);
        observed.add(&[40.0]);
        observed
    }

    #[test]
    fn what_was_seen_in_parts_is_what_was_seen_at_once() {
        let values = (0..1000).map(|i| (i as f32 - 300.0) * 0.37).collect::<Vec<_>>();
        let mut once = Observed::default();
        once.add(&values);
        for cuts in [[1, 999], [500, 501], [10, 20]] {
            let mut merged = Observed::default();
            for part in [&values[cuts[1]..], &values[..cuts[0]], &values[cuts[0]..cuts[1]]] {
                let mut one = Observed::default();
                one.add(part);
                merged.merge(&one);
            }
            assert_eq!(merged, once, "{cuts:?}");
        }
        assert_eq!(once.counts.iter().sum::<u64>(), 1000);
    }

    #[test]
    fn zeros_and_small_values_keep_their_bins() {
        let mut observed = Observed::default();
        observed.add(&[0.0, 0.0]);
        observed.add(&[1e-3, -1e-3]);
        observed.add(&[1e3]);
        assert_eq!(observed.counts.iter().sum::<u64>(), 5);
        assert_eq!(observed.extremes(), (-1e-3, 1e3));
    }

    #[test]
    fn outliers_are_cut_off_as_asked() {
        let observed = observed();
        let high = |calibration| observed.range(calibration, QType::U8).unwrap().1;
        assert_eq!(high(Calibration::MinMax), 40.0);
        assert!((39.9..=40.0).contains(&high(Calibration::Percentile(100.0))));
        assert!(high(Calibration::Percentile(99.9)) < 3.0);
        let full = observed.squared_error((f64::from(observed.low), 40.0), QType::U8);
        let (low, high) = observed.range(Calibration::Mse, QType::U8).unwrap();
        assert!(observed.squared_error((low.into(), high.into()), QType::U8) < full);
    }

    #[test]
    fn entropy_cuts_a_long_tail_off() {
        // A narrow bell, and a few values far out.
        let bell = |i: i32| ((i % 200 - 100) as f32 / 100.0).powi(3) * 0.25;
        let values = (0..400_000).map(|i| if i % 100_000 == 7 { 8.0 } else { bell(i) }).collect::<Vec<_>>();
        let mut observed = Observed::default();
        observed.add(&values);
        let high = |calibration| observed.range(calibration, QType::U8).unwrap().1;
        assert_eq!(high(Calibration::MinMax), 8.0);
        assert!((0.1..4.0).contains(&high(Calibration::Entropy)), "{}", high(Calibration::Entropy));
        assert!((0.25..8.0).contains(&high(Calibration::Mse)), "{}", high(Calibration::Mse));
    }

    #[test]
    fn what_is_no_number_is_counted_and_refused() {
        let mut observed = Observed::default();
        observed.add(&[1.0, f32::NAN, f32::INFINITY]);
        let error = observed.range(Calibration::MinMax, QType::U8).unwrap_err().to_string();
        assert!(error.contains("2 of 3 values"), "{error}");
    }

    #[test]
    fn zero_is_always_an_integer() {
        let rows = [
            ((-1.0, 3.0), QType::U8, false, 64),
            ((0.0, 6.0), QType::U8, false, 0),
            ((2.0, 6.0), QType::U8, false, 0),
            ((-6.0, -2.0), QType::I8, false, 127),
            ((-1.0, 3.0), QType::I8, true, 0),
            ((-1.0, 3.0), QType::U16, true, 32_768),
            ((0.0, 0.0), QType::U8, false, 0),
            ((0.0, 1e-44), QType::U8, false, 0),
        ];
        for (range, qtype, symmetric, zero) in rows {
            let params = params_of(range, qtype, symmetric).unwrap();
            assert_eq!(params.zero_point(), zero, "{range:?}");
            assert_eq!(params.dequantize(params.quantize(0.0)), 0.0);
            let in_range =
                |x: f32| (x - params.dequantize(params.quantize(x))).abs() <= params.scale() * 0.501;
            assert!([range.0, range.1, 0.5 * range.1].into_iter().all(in_range), "{range:?} {params:?}");
        }
        assert!(params_of((f32::NAN, 1.0), QType::U8, false).is_err());
    }
}
