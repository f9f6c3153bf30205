//! What a kernel takes of a multiprocessor, as the assembler tells it.
//!
//! It is a text for people, and all that there is: the same facts can be asked of the driver only on a device. It is read
//! line by line for what is known, and everything else is passed over, so that another version's wording costs a fact and
//! breaks nothing.

/// What one kernel takes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::gpu) struct Usage {
    /// Its name, as the driver is asked for it.
    pub(in crate::gpu) kernel: String,
    /// Registers of each thread.
    pub(in crate::gpu) registers: u32,
    /// Bytes of shared memory of each block, without what is asked for at launch.
    pub(in crate::gpu) shared_bytes: u32,
    /// Bytes of registers that are kept in memory for want of room, written and read: time that no test shows.
    pub(in crate::gpu) spilled_bytes: u32,
}

/// The kernels of a log, in its order.
pub(super) fn parse(log: &str) -> Vec<Usage> {
    let mut kernels: Vec<Usage> = Vec::new();
    for line in log.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            let kernel = rest.split('\'').next().unwrap_or_default().to_owned();
            kernels.push(Usage { kernel, ..Usage::default() });
        }
        let Some(kernel) = kernels.last_mut() else { continue };
        kernel.spilled_bytes += before(line, " bytes spill stores") + before(line, " bytes spill loads");
        kernel.registers = kernel.registers.max(before(line, " registers"));
        kernel.shared_bytes = kernel.shared_bytes.max(before(line, " bytes smem"));
    }
    kernels
}

/// The number before these words; zero where they are not.
fn before(line: &str, words: &str) -> u32 {
    let number = line.split_once(words).and_then(|(head, _)| head.rsplit([' ', ',']).next());
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_assemblers_words_become_numbers() {
        let log = "\
ptxas info    : 0 bytes gmem, 72 bytes cmem[4]
ptxas info    : Compiling entry function 'softmax' for 'sm_90a'
ptxas info    : Function properties for softmax
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 32 registers, used 1 barriers, 4096 bytes smem
ptxas info    : Compile time = 12.3 ms
ptxas info    : Compiling entry function '_Z4gemmPf' for 'sm_90a'
ptxas info    : Function properties for _Z4gemmPf
    1120 bytes stack frame, 4196 bytes spill stores, 100 bytes spill loads
ptxas info    : Used 255 registers
";
        let usage = |kernel: &str, registers, shared_bytes, spilled_bytes| Usage {
            kernel: kernel.to_owned(),
            registers,
            shared_bytes,
            spilled_bytes,
        };
        let rows = [
            (log, vec![usage("softmax", 32, 4096, 0), usage("_Z4gemmPf", 255, 0, 4296)]),
            ("", vec![]),
            ("Used 7 registers\nnothing of a kernel", vec![]),
            ("Compiling entry function 'k", vec![usage("k", 0, 0, 0)]),
            (
                "Compiling entry function 'k'\nUsed many registers, 99999999999 bytes smem",
                vec![usage("k", 0, 0, 0)],
            ),
        ];
        for (log, expected) in rows {
            assert_eq!(parse(log), expected, "{log}");
        }
    }
}
