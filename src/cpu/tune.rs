//! What is measured once, when a model is loaded: how batches of which size are best run.
//!
//! Whether to cut a batch, to let ONNX Runtime spread its operators, or to do neither depends on the
//! model and on the batch: tree ensembles gain nothing from the one at 32 rows and 1.6× from the
//! other, convolutions the reverse, small batches lose by both. No rule covers that, and a measurement
//! takes a tenth of a second.

use std::time::{Duration, Instant};

use crate::error::Result;
use crate::scoring::{BatchPlan, Sample, Scored, Strategy};
use crate::tensor::Tensor;

/// Runs inputs with a strategy: all that a scorer is to what measures it.
pub(super) type Run<'a> = dyn Fn(Strategy, &[Tensor]) -> Result<Scored> + 'a;

/// Batches that are measured.
const BATCHES: [usize; 8] = [1, 2, 4, 8, 16, 32, 64, 128];
/// Measured runs of one strategy on one batch in one round; the median counts.
const RUNS: usize = 5;
/// Rounds over all strategies. A strategy is judged by its worst round, the serial one by its best: on a
/// machine that others use too, one round shows gains that are not there.
const ROUNDS: usize = 2;
/// Time for all measurements, beyond which the rest is left unmeasured.
const TIME_BASE: Duration = Duration::from_millis(100);
/// A slow model gets this many runs more.
const TIME_RUNS: u32 = 24;
const TIME_MOST: Duration = Duration::from_secs(4);
/// A run that takes so long says enough on its own.
const ONCE: Duration = Duration::from_millis(250);
/// Whether rows are independent is not checked where a call takes so long: with the one run that every
/// strategy gets then, loading does not take minutes.
pub(super) const SLOW: Duration = Duration::from_secs(1);
/// A parallel strategy must take less than this part of the serial time: a lane held is a lane that
/// nobody else can use.
const WORTH_IT: f64 = 0.9;
/// The best strategy for every measured batch, and the batch with the best rate.
pub(super) fn measure(
    run: &Run<'_>,
    sample: &Sample,
    batched: bool,
    strategies: &[Strategy],
) -> Result<(Vec<BatchPlan>, Option<usize>)> {
    let start = Instant::now();
    let mut plans: Vec<BatchPlan> = Vec::new();
    let mut time_limit = TIME_BASE;
    for batch in BATCHES {
        // Without a batch axis there is one size of call; larger batches must fit into the time left.
        let foreseen = plans.last().map_or(Duration::ZERO, |p| p.serial * (2 * ROUNDS * RUNS) as u32);
        if !plans.is_empty() && (!batched || start.elapsed() + foreseen > time_limit) {
            break;
        }
        let inputs = sample.rows(batch)?;
        let fits = |s: &&Strategy| !matches!(s, Strategy::Split { ways } if *ways > batch);
        let mut times = strategies.iter().filter(fits).map(|s| (*s, Vec::new())).collect::<Vec<_>>();
        for _ in 0..ROUNDS {
            // One strategy after the other: a spinning thread of one would slow the next one down.
            for (strategy, medians) in &mut times {
                medians.push(median(run, *strategy, &inputs)?);
            }
            if start.elapsed() > TIME_MOST {
                break;
            }
        }
        let (best, serial) = judge(&times);
        if plans.is_empty() {
            time_limit = (TIME_BASE + serial * TIME_RUNS).min(TIME_MOST);
        }
        if let Some((strategy, chosen)) = best {
            plans.push(BatchPlan { from_rows: batch, strategy, serial, chosen });
        }
    }
    let preferred = preferred(&plans).filter(|_| batched);
    Ok((plans, preferred))
}

/// The fastest strategy, if it is worth it, with its time; and the time of one thread alone.
fn judge(times: &[(Strategy, Vec<Duration>)]) -> (Option<(Strategy, Duration)>, Duration) {
    let of_serial = times.iter().find(|(s, _)| *s == Strategy::Serial);
    let Some(serial) = of_serial.and_then(|(_, medians)| medians.iter().min().copied()) else {
        return (None, Duration::ZERO);
    };
    let parallel = times.iter().filter(|(s, _)| *s != Strategy::Serial);
    let fastest =
        parallel.filter_map(|(s, medians)| Some((*s, *medians.iter().max()?))).min_by_key(|(_, t)| *t);
    let worth_it = fastest.filter(|(_, t)| t.as_secs_f64() < serial.as_secs_f64() * WORTH_IT);
    (worth_it.or(Some((Strategy::Serial, serial))), serial)
}

/// The smallest batch whose rate is nearly the best.
fn preferred(plans: &[BatchPlan]) -> Option<usize> {
    const NEARLY: f64 = 0.95;
    let rate = |p: &BatchPlan| p.from_rows as f64 / p.chosen.as_secs_f64().max(1e-9);
    let best = plans.iter().map(rate).fold(0.0, f64::max);
    plans.iter().find(|p| rate(p) >= best * NEARLY).map(|p| p.from_rows)
}

fn median(run: &Run<'_>, strategy: Strategy, inputs: &[Tensor]) -> Result<Duration> {
    let time = || {
        let start = Instant::now();
        run(strategy, inputs).map(|_| start.elapsed())
    };
    // The first run allocates and wakes threads up.
    let first = time()?;
    if first > ONCE {
        return Ok(first);
    }
    let runs = if first > Duration::from_millis(20) { RUNS / 2 } else { RUNS };
    let mut times = (0..runs).map(|_| time()).collect::<Result<Vec<_>>>()?;
    times.sort();
    Ok(times.get(times.len() / 2).copied().unwrap_or(first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_preferred_batch_is_the_smallest_that_is_nearly_the_fastest() {
        let plan = |from_rows, us| BatchPlan {
            from_rows,
            strategy: Strategy::Serial,
            serial: Duration::from_micros(us),
            chosen: Duration::from_micros(us),
        };
        assert_eq!(preferred(&[plan(1, 10), plan(8, 20), plan(32, 79), plan(64, 160)]), Some(8));
        assert_eq!(preferred(&[]), None);
    }

    #[test]
    fn a_parallel_strategy_must_win_in_every_round() {
        let us = |list: &[u64]| list.iter().map(|t| Duration::from_micros(*t)).collect::<Vec<_>>();
        let (split, wide) = (Strategy::Split { ways: 2 }, Strategy::Wide { threads: 2 });
        for (serial, of_split, of_wide, expected) in [
            (&[100, 110][..], &[60, 70][..], &[80, 80][..], split),
            (&[100, 110], &[60, 99], &[80, 80], wide),
            (&[100, 300], &[60, 95], &[95, 70], Strategy::Serial),
            (&[100, 100], &[91, 91], &[200, 20], Strategy::Serial),
        ] {
            let times = [(Strategy::Serial, us(serial)), (split, us(of_split)), (wide, us(of_wide))];
            let (best, alone) = judge(&times);
            assert_eq!(best.unwrap().0, expected, "{serial:?} {of_split:?} {of_wide:?}");
            assert_eq!(alone, Duration::from_micros(serial[0]));
        }
        assert_eq!(judge(&[]).0, None);
    }
}
