//! Whether a machine has what a deployment asks for.

use super::Resources;
use crate::error::{Result, ScoreError};
pub use crate::machine::Machine;

/// A gigabyte as the deployment files count it.
const GB: f64 = 1e9;

impl Machine {
    /// Whether a service of this size fits; only what a file states is asked for.
    ///
    /// # Errors
    /// `Unavailable` with both numbers of everything that is too much.
    pub fn check(&self, asked: &Resources) -> Result<()> {
        let mut short = Vec::new();
        if asked.cpu_is_stated && asked.cpu > self.cpu_cores {
            short.push(format!(
                "insufficient cpu: asks for {}, this machine has {}",
                asked.cpu, self.cpu_cores
            ));
        }
        if let Some(bytes) = self.memory_bytes {
            let has = bytes as f64 / GB;
            if asked.memory_is_stated && asked.memory_gb > has {
                let asked = asked.memory_gb;
                short.push(format!("insufficient memory: asks for {asked} GB, this machine has {has:.2} GB"));
            }
        }
        if short.is_empty() {
            return Ok(());
        }
        short.push("ask for less in containerResourceRequirements, or use a larger machine".to_owned());
        Err(ScoreError::unavailable(short.join("; ")))
    }
}

/// The memory that a number of the files means; what is too large for a count of bytes is the largest one.
pub(super) fn bytes(gb: f64) -> u64 {
    (gb * GB) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn what_does_not_fit_is_said_with_numbers() {
        let machine = Machine { cpu_cores: 2.0, memory_bytes: Some(4_000_000_000) };
        let asked = |cpu, memory_gb, stated| Resources {
            cpu,
            memory_gb,
            cpu_limit: Some(1e6),
            memory_gb_limit: Some(1e6),
            cpu_is_stated: stated,
            memory_is_stated: stated,
        };
        for (cpu, memory, said) in [(2.0, 4.0, ""), (2.5, 4.0, "cpu: asks for 2.5"), (1.0, 64.0, "64 GB")] {
            let checked = machine.check(&asked(cpu, memory, true));
            match said {
                "" => assert!(checked.is_ok()),
                said => {
                    let e = checked.unwrap_err();
                    assert_eq!(e.kind(), ErrorKind::Unavailable);
                    assert!(e.to_string().contains(said), "{e}");
                }
            }
            assert!(machine.check(&asked(cpu, memory, false)).is_ok(), "defaults are no request");
        }
        let both = machine.check(&asked(3.0, 5.0, true)).unwrap_err().to_string();
        assert!(both.contains("asks for 3, this machine has 2; ") && both.contains("has 4.00 GB"), "{both}");
        let unknown = Machine { memory_bytes: None, ..machine };
        assert!(unknown.check(&asked(1.0, 1e300, true)).is_ok());
        assert_eq!((bytes(0.5), bytes(1e300)), (500_000_000, u64::MAX));
    }
}
