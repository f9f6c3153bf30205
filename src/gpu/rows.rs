//! With how many rows batches are run.
//!
//! Traffic comes in batches of any size, and every number of rows that is run has a plan, captured graphs and choices between kernels and libraries of its own.
//! A quarter more rows at most cost less than that: so few numbers are run, and what becomes of the rows beyond a batch's own nobody sees.

/// The rows that a batch is run with: up to eight each, then four numbers to a doubling.
pub(super) fn batch_rows(rows: usize) -> usize {
    let step = rows.checked_next_power_of_two().map_or(1, |power| (power / 8).max(1));
    rows.checked_next_multiple_of(step).unwrap_or(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offload::ByShape;

    #[test]
    fn batches_are_run_with_a_few_numbers_of_rows() {
        for (rows, wanted) in
            [(0, 0), (1, 1), (7, 7), (8, 8), (9, 10), (16, 16), (17, 20), (33, 40), (64, 64), (100, 112)]
        {
            assert_eq!(batch_rows(rows), wanted, "{rows}");
        }
        assert_eq!(batch_rows(usize::MAX), usize::MAX);
        let all = (1..=1024).map(batch_rows).collect::<std::collections::BTreeSet<_>>();
        assert!(all.len() <= ByShape::<()>::MOST, "{}", all.len());
        for rows in 1..=1024 {
            assert!(rows <= batch_rows(rows) && batch_rows(rows) * 4 <= rows * 5, "{rows}");
        }
    }
}
