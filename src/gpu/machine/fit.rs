//! Whether a launch fits its kernel, looked at once, when both are there: a driver takes so many bytes as the kernel wants from where a launch says, and
//! what is there too little is whatever lies behind it.

use cudarc::driver::sys::{self, CUfunction_attribute, CUresult};

use super::{Function, GpuMachine};
use crate::error::{Result, ScoreError};
use crate::gpu::plan::{Launch, PlannedArgument};

/// So much dynamic shared memory a kernel has without being asked.
const FREE_SHARED_BYTES: u32 = 48 << 10;

impl GpuMachine {
    /// Lets the kernel have the shared memory that the launch wants, and compares their arguments.
    ///
    /// # Errors
    /// `Internal` for arguments that are not the kernel's, naming the first; what the driver says of so much shared memory.
    pub(in crate::gpu) fn fit(&self, function: &Function, launch: &Launch) -> Result<()> {
        if launch.shared_bytes > FREE_SHARED_BYTES {
            let which = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function is loaded, and this is one number of it.
            let status =
                unsafe { sys::cuFuncSetAttribute(function.handle, which, launch.shared_bytes as i32) };
            let doing = || format!("giving {} {} bytes of shared memory", launch.kernel, launch.shared_bytes);
            status.result().map_err(|e| self.failed(&doing(), e))?;
        }
        if !self.tells_arguments {
            return Ok(());
        }
        // One more than the launch has, to see that there is none.
        let mut wanted = Vec::new();
        for number in 0..=launch.arguments.len() {
            let (mut offset, mut bytes) = (0, 0);
            // SAFETY: the function is loaded; writes two sizes, or fails for a number that no argument has.
            match unsafe { sys::cuFuncGetParamInfo(function.handle, number, &mut offset, &mut bytes) } {
                CUresult::CUDA_SUCCESS => wanted.push(bytes),
                CUresult::CUDA_ERROR_INVALID_VALUE => break,
                other => {
                    let doing = format!("asking for the arguments of {}", launch.kernel);
                    return other.result().map_err(|e| self.failed(&doing, e));
                }
            }
        }
        compare(launch.kernel, &launch.arguments, &wanted)
    }
}

/// Compares a launch's arguments with the bytes of those that a kernel takes.
fn compare(kernel: &str, given: &[Vec<PlannedArgument>], wanted: &[usize]) -> Result<()> {
    let wrong = |what: String| {
        Err(ScoreError::internal(format!("a launch does not fit its kernel: {what}"))
            .with_at(format!("kernel {kernel}")))
    };
    for (number, (given, wanted)) in given.iter().zip(wanted).enumerate() {
        let given = bytes(given);
        if given != *wanted {
            return wrong(format!("argument {number} has {given} bytes, and {wanted} are taken"));
        }
    }
    match (given.len(), wanted.len()) {
        (given, wanted) if given > wanted => {
            wrong(format!("it has {given} arguments, and {wanted} are taken"))
        }
        (given, wanted) if given < wanted => wrong(format!("it has {given} arguments, and more are taken")),
        _ => Ok(()),
    }
}

/// The size of what these parts make up, as C has it: pointers come first, and it is a multiple of theirs.
fn bytes(parts: &[PlannedArgument]) -> usize {
    let of = |part: &PlannedArgument| match part {
        PlannedArgument::Word(_) => 4,
        PlannedArgument::Tensor(_) => 128,
        PlannedArgument::Arena(..) | PlannedArgument::Constant(..) | PlannedArgument::Null => 8,
    };
    let all = parts.iter().map(of).sum::<usize>();
    match parts.iter().all(|part| of(part) == 4) {
        true => all,
        false => all.next_multiple_of(8),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_that_are_not_the_kernels_are_named() {
        use PlannedArgument::{Arena, Null, Word};
        let given =
            [vec![Arena(0, 16)], vec![Word(1)], vec![Null, Word(2), Word(3), Word(4)], vec![Word(1); 3]];
        let rows: &[(&[usize], &str)] = &[
            (&[8, 4, 24, 12], ""),
            (&[8, 8, 24, 12], "argument 1 has 4 bytes, and 8 are taken"),
            (&[8, 4, 16, 12], "argument 2 has 24 bytes, and 16 are taken"),
            (&[8, 4, 24, 16], "argument 3 has 12 bytes, and 16 are taken"),
            (&[8, 4, 24], "it has 4 arguments, and 3 are taken"),
            (&[8, 4, 24, 12, 4], "it has 4 arguments, and more are taken"),
        ];
        for (wanted, expected) in rows {
            let said = compare("k", &given, wanted).err().map_or(String::new(), |e| e.to_string());
            assert!(said.contains(expected) && said.is_empty() == expected.is_empty(), "{wanted:?}: {said}");
            assert!(said.is_empty() || said.contains("kernel k"), "{said}");
        }
    }
}
