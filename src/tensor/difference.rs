//! How far numbers are from what they should be: what lower precision, or quantising, costs.

/// How far a tensor is from what it should be, summed up over samples.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Difference {
    signal: f64,
    noise: f64,
    product: f64,
    other: f64,
    sum_abs: f64,
    max_abs: f64,
    count: u64,
}

impl Difference {
    /// Takes in what it should be and what it is.
    pub fn add(&mut self, expected: &[f32], got: &[f32]) {
        for (e, g) in expected.iter().zip(got) {
            let (e, g) = (f64::from(*e), f64::from(*g));
            let error = (e - g).abs();
            self.signal += e * e;
            self.other += g * g;
            self.product += e * g;
            self.noise += error * error;
            self.sum_abs += error;
            self.max_abs = self.max_abs.max(error);
            self.count += 1;
        }
    }

    /// Takes in what another one saw.
    pub fn merge(&mut self, other: &Self) {
        self.signal += other.signal;
        self.other += other.other;
        self.product += other.product;
        self.noise += other.noise;
        self.sum_abs += other.sum_abs;
        self.max_abs = self.max_abs.max(other.max_abs);
        self.count += other.count;
    }

    /// The ratio of signal and noise in decibels, `10 log₁₀ Σe² / Σ(e - g)²`; infinite without noise.
    pub fn sqnr_db(&self) -> f64 {
        10.0 * (self.signal / self.noise).log10()
    }

    /// The cosine of the angle between the two.
    pub fn cosine(&self) -> f64 {
        match self.signal * self.other {
            0.0 => 1.0,
            product => self.product / product.sqrt(),
        }
    }

    /// The mean absolute error.
    pub fn mean_abs(&self) -> f64 {
        self.sum_abs / self.count.max(1) as f64
    }

    /// The largest absolute error.
    pub fn max_abs(&self) -> f64 {
        self.max_abs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_summed_up() {
        let mut difference = Difference::default();
        difference.add(&[3.0, 4.0], &[3.0, 4.5]);
        assert!((difference.sqnr_db() - 20.0).abs() < 1e-9, "{}", difference.sqnr_db());
        assert_eq!((difference.max_abs(), difference.mean_abs()), (0.5, 0.25));
        assert!(difference.cosine() > 0.99);
        let mut none = Difference::default();
        none.add(&[1.0], &[1.0]);
        assert!(none.sqnr_db().is_infinite());
        none.merge(&difference);
        assert_eq!(none.max_abs(), 0.5);
    }
}
