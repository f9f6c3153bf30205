//! What a scorer can take: how many calls at once, and how batches are best given to it.

use std::time::Duration;

use crate::error::{ErrorKind, Result, ScoreError};

/// How many calls a scorer takes at once, and which batch sizes suit it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Calls that run at once; more wait.
    pub lanes: usize,
    /// The most rows that one call may hold; `None` where memory is the only limit.
    pub max_batch: Option<usize>,
    /// The number of rows that uses the device best, where that was measured.
    pub preferred_batch: Option<usize>,
    /// So many rows fit a device's memory at once, where that is known; more are taken and scored in pieces.
    pub rows_at_once: Option<usize>,
    /// How batches are run, by the number of rows, ascending; as measured when the model was warmed
    /// up. Empty where there is nothing to choose.
    pub plans: Vec<BatchPlan>,
    /// Host memory that the scorer held after warm-up, in bytes, where that was measured.
    pub resident_bytes: Option<u64>,
}

impl Limits {
    /// A scorer of that many lanes and no other known limit.
    pub fn new(lanes: usize) -> Self {
        Self {
            lanes,
            max_batch: None,
            preferred_batch: None,
            rows_at_once: None,
            plans: Vec::new(),
            resident_bytes: None,
        }
    }

    /// Refuses a batch of more rows than are taken; for whoever writes a backend.
    ///
    /// # Errors
    /// `TooLarge`, with both numbers.
    pub fn check_rows(&self, rows: usize) -> Result<()> {
        match self.max_batch.filter(|most| rows > *most) {
            Some(most) => Err(ScoreError::new(
                ErrorKind::TooLarge,
                format!("the batch holds {rows} rows, at most {most} are taken (maxBatch of the deployment)"),
            )),
            None => Ok(()),
        }
    }

    /// How a batch of that many rows is run: the plan with the most rows that are not more.
    pub fn plan(&self, rows: usize) -> Option<&BatchPlan> {
        self.plans.iter().take_while(|p| p.from_rows <= rows).last()
    }
}

/// How batches of at least so many rows are run, and what was measured for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchPlan {
    /// From this number of rows on.
    pub from_rows: usize,
    /// How they are run.
    pub strategy: Strategy,
    /// One thread alone took this long for `from_rows` rows.
    pub serial: Duration,
    /// The chosen strategy took this long for as many.
    pub chosen: Duration,
}

/// How a batch uses the processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Strategy {
    /// One thread runs the whole batch; other calls use the other threads.
    Serial,
    /// The batch is cut along its batch axis into so many parts, each on a thread and a lane of its own.
    Split {
        /// How many parts.
        ways: usize,
    },
    /// The engine spreads every operator over so many threads of its own.
    Wide {
        /// How many threads.
        threads: usize,
    },
}

impl std::fmt::Display for Strategy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Serial => f.write_str("serial"),
            Self::Split { ways } => write!(f, "split {ways}"),
            Self::Wide { threads } => write!(f, "wide {threads}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plan_of_a_batch_is_the_largest_that_is_not_larger() {
        let ms = Duration::from_millis;
        let plan = |from_rows, strategy| BatchPlan { from_rows, strategy, serial: ms(2), chosen: ms(1) };
        let split = Strategy::Split { ways: 2 };
        let mut limits = Limits::new(2);
        assert_eq!(limits.plan(7), None);
        limits.plans = vec![plan(1, Strategy::Serial), plan(16, split)];
        for (rows, strategy) in [(1, Strategy::Serial), (15, Strategy::Serial), (16, split), (9999, split)] {
            assert_eq!(limits.plan(rows).unwrap().strategy, strategy, "{rows} rows");
        }
    }
}
