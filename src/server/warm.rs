//! A first call before the first caller's.

use crate::error::Result;
use crate::scoring::{Call, Scorer};
use crate::signature::{Dim, PortKind};
use crate::tensor::Tensor;

/// Scores zeros once, with every free dimension 1, so that what a backend does at its first call (kernels
/// loaded, memory taken, caches filled) is done before a caller waits for it. A model that refuses
/// zeros is left as it is, and that is logged.
///
/// # Errors
/// What shows that the scorer cannot be used: `DeviceLost`.
pub fn warm_up(scorer: &dyn Scorer) -> Result<()> {
    let start = std::time::Instant::now();
    let zeros = || {
        let ports = scorer.signature().inputs().iter();
        ports.map(|port| match &port.kind {
            PortKind::Tensor { dtype, dims } => {
                let lengths = dims.iter().flatten().map(|d| match d {
                    Dim::Fixed(n) => *n,
                    Dim::Free(_) => 1,
                });
                Tensor::zeros(*dtype, &lengths.collect::<Vec<_>>())
            }
            _ => Err(crate::ScoreError::unsupported("sequences and maps cannot be given as inputs")),
        })
    };
    let scored = zeros().collect::<Result<Vec<_>>>().and_then(|inputs| scorer.score(&inputs, &Call::new()));
    match scored {
        Ok(_) => tracing::info!(ms = start.elapsed().as_secs_f64() * 1e3, "warmed up"),
        Err(e) if e.row().fatal_to_device => return Err(e),
        Err(e) => tracing::warn!(error = %e, "not warmed up: the model does not take zeros"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scoring::{Fault, FaultScorer};
    use crate::signature::{Port, Signature};
    use crate::tensor::DType;

    #[test]
    fn only_a_lost_device_is_an_error() {
        let port = |name| Port::tensor(name, DType::F32, vec![Dim::named("b"), Dim::Fixed(3)]);
        let signature = Signature::new(vec![port("x")], vec![port("y")]).unwrap();
        for (fault, works) in [(Fault::None, true), (Fault::OutOfMemory, true), (Fault::DeviceLost, false)] {
            let scorer = FaultScorer::new(signature.clone(), 1).unwrap();
            scorer.then(fault);
            assert_eq!(warm_up(&scorer).is_ok(), works, "{fault:?}");
        }
    }
}
