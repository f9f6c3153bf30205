//! Whether the rows of a batch are independent: what joins requests and cuts batches must know, and no model says it.

use crate::error::Result;
use crate::signature::Signature;
use crate::tensor::Tensor;

use super::close::{Tolerance, close};
use super::{Sample, Scored};

/// Runs inputs: all that a scorer is to what checks it.
pub(crate) type Run<'a> = dyn Fn(&[Tensor]) -> Result<Scored> + 'a;

/// Rows of the sample that the independence of rows is checked with.
const CHECK_ROWS: usize = 2;

/// The signature, without its batch axis unless rows scored together equal rows scored alone, but for what rounding explains.
pub(crate) fn checked_rows(
    signature: Signature,
    sample: Result<&Sample>,
    tolerance: Tolerance,
    run: &Run<'_>,
) -> Signature {
    let Some(axis) = signature.batch_axis() else { return signature };
    let reason = match sample.and_then(|sample| rows_are_independent(run, sample, axis, tolerance)) {
        Ok(true) => return signature,
        Ok(false) => "its rows depend on each other".to_owned(),
        Err(e) => format!("that its rows are independent could not be checked: {e}"),
    };
    tracing::warn!(reason, "the model's first axis is not used as a batch axis");
    signature.without_batch_axis()
}

/// Whether rows scored together answer what they answer alone.
fn rows_are_independent(run: &Run<'_>, sample: &Sample, axis: usize, tolerance: Tolerance) -> Result<bool> {
    let all = sample.rows(CHECK_ROWS)?;
    let together = run(&all)?.outputs;
    for row in 0..CHECK_ROWS {
        let one = all.iter().map(|t| t.rows(axis, row..row + 1)).collect::<Result<Vec<_>>>()?;
        let alone = run(&one)?.outputs;
        for (together, alone) in together.iter().zip(&alone) {
            // An output that has not one element a row has no rows at all.
            let Ok(cut) = together.rows(axis, row..row + 1) else { return Ok(false) };
            if !close(&cut, alone, tolerance) {
                return Ok(false);
            }
        }
    }
    Ok(together.iter().all(|v| v.rows(axis, 0..CHECK_ROWS + 1).is_err()))
}
