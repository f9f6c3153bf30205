//! NVRTC: kernels' sources become what a device loads, on any machine, with a GPU or without.
//!
//! What is made is machine code for one architecture (a CUBIN) and not the portable text (PTX): the text of a newer NVRTC
//! is refused by an older driver, and is compiled once more by every driver that takes it. Text is made only where the
//! device is newer than NVRTC.
//!
//! The dozen functions are bound here rather than taken from `cudarc`, for the reasons that [`super::libraries`] gives: it
//! must be the library that was named, and one that is missing must be a reason and no panic.

mod usage;

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::OnceLock;

use super::libraries::{self, Library, Loaded};
use crate::error::{Result, ScoreError};

pub(super) use usage::Usage;

type Status = c_int;
type Handle = *mut c_void;

/// The status of a program with errors: its log has them.
const COMPILATION: Status = 6;

/// A library that says more is none.
const MOST_ARCHITECTURES: c_int = 1024;

/// What is said of a program that does not compile.
const MOST_LINES: usize = 8;
const MOST_CHARACTERS: usize = 200;

/// A compiled source.
#[derive(Debug, Clone)]
pub(super) struct Cubin {
    /// What `cuModuleLoadData` takes: an ELF file, or text with a zero at its end.
    pub(super) bytes: Vec<u8>,
    /// Text for a device that is newer than NVRTC; the driver compiles it when it is loaded.
    pub(super) is_ptx: bool,
    /// What each kernel takes of a multiprocessor; empty for text.
    pub(super) usage: Vec<Usage>,
    /// Its instructions as text, on the way to machine code.
    #[cfg(test)]
    pub(super) text: String,
    /// What the compiler said.
    #[cfg(test)]
    pub(super) log: String,
}

/// Compiles a source for an architecture (`sm_90a`), with any NVRTC that is here. `name` is for messages.
///
/// # Errors
/// `Unavailable` when NVRTC is missing, and as [`Nvrtc::compile`].
#[cfg(test)]
pub(super) fn compile(name: &str, source: &str, architecture: &str) -> Result<Cubin> {
    Nvrtc::ready(None)?.compile(name, source, architecture)
}

/// The version of the NVRTC that is here.
///
/// # Errors
/// `Unavailable` when it is missing.
#[cfg(test)]
pub(super) fn version() -> Result<(i32, i32)> {
    Ok(Nvrtc::ready(None)?.version)
}

/// What kernels are compiled for on a device of this compute capability.
///
/// From 9.0 on it is the variant with an `a`, which has what only that very generation has (`wgmma` and its like).
pub(super) fn architecture((major, minor): (u32, u32)) -> String {
    let variant = if major >= 9 { "a" } else { "" };
    format!("sm_{major}{minor}{variant}")
}

/// A library of NVRTC, ready to compile, from many threads at once.
#[derive(Debug)]
pub(super) struct Nvrtc {
    /// Its version.
    pub(super) version: (i32, i32),
    path: String,
    /// The architectures that it compiles for, as numbers: 90 is `sm_90`.
    supported: Vec<c_int>,
    functions: Functions,
}

#[derive(Debug)]
struct Functions {
    create: unsafe extern "C" fn(
        *mut Handle,
        *const c_char,
        *const c_char,
        c_int,
        *const *const c_char,
        *const *const c_char,
    ) -> Status,
    destroy: unsafe extern "C" fn(*mut Handle) -> Status,
    compile: unsafe extern "C" fn(Handle, c_int, *const *const c_char) -> Status,
    error: unsafe extern "C" fn(Status) -> *const c_char,
    log_size: Size,
    log: Text,
    cubin_size: Size,
    cubin: Text,
    ptx_size: Size,
    ptx: Text,
}

type Size = unsafe extern "C" fn(Handle, *mut usize) -> Status;
type Text = unsafe extern "C" fn(Handle, *mut c_char) -> Status;

impl Nvrtc {
    /// The library of this process: the first that is found stays the one. `driver` is the CUDA that the driver speaks
    /// (13 for 13.0), where the result is for a device of this machine.
    ///
    /// # Errors
    /// `Unavailable` when there is none yet: what that costs, and what to do.
    pub(super) fn ready(driver: Option<i32>) -> Result<&'static Self> {
        static READY: OnceLock<Nvrtc> = OnceLock::new();
        if let Some(ready) = READY.get() {
            return Ok(ready);
        }
        let bound = Self::bind(&libraries::load(Library::Nvrtc, driver)?)?;
        Ok(READY.get_or_init(|| bound))
    }

    fn bind(library: &Loaded) -> Result<Self> {
        macro_rules! function {
            ($name:literal) => {
                // SAFETY: the type of the field is the function's in NVIDIA's nvrtc.h.
                unsafe { library.function($name) }?
            };
        }
        let functions = Functions {
            create: function!("nvrtcCreateProgram"),
            destroy: function!("nvrtcDestroyProgram"),
            compile: function!("nvrtcCompileProgram"),
            error: function!("nvrtcGetErrorString"),
            log_size: function!("nvrtcGetProgramLogSize"),
            log: function!("nvrtcGetProgramLog"),
            cubin_size: function!("nvrtcGetCUBINSize"),
            cubin: function!("nvrtcGetCUBIN"),
            ptx_size: function!("nvrtcGetPTXSize"),
            ptx: function!("nvrtcGetPTX"),
        };
        let version: unsafe extern "C" fn(*mut c_int, *mut c_int) -> Status = function!("nvrtcVersion");
        let count: unsafe extern "C" fn(*mut c_int) -> Status = function!("nvrtcGetNumSupportedArchs");
        let list: unsafe extern "C" fn(*mut c_int) -> Status = function!("nvrtcGetSupportedArchs");
        let path = library.found.path.display().to_string();
        let mut nvrtc = Self { version: (0, 0), path, supported: Vec::new(), functions };
        let (mut major, mut minor, mut length) = (0, 0, 0);
        // SAFETY: writes two ints.
        nvrtc.check("nvrtcVersion", unsafe { version(&mut major, &mut minor) })?;
        // SAFETY: writes one int.
        nvrtc.check("nvrtcGetNumSupportedArchs", unsafe { count(&mut length) })?;
        if !(1..=MOST_ARCHITECTURES).contains(&length) {
            let path = nvrtc.path;
            return Err(ScoreError::unavailable(format!("{path} claims to know {length} architectures")));
        }
        let mut supported = vec![0; length as usize];
        // SAFETY: writes as many ints as it said.
        nvrtc.check("nvrtcGetSupportedArchs", unsafe { list(supported.as_mut_ptr()) })?;
        nvrtc.supported = supported;
        nvrtc.version = (major, minor);
        Ok(nvrtc)
    }

    /// Compiles a source for an architecture (`sm_90a`); for one that is newer than this NVRTC, text for the newest that
    /// it knows, and a line in the log about it.
    ///
    /// # Errors
    /// `Internal` with the compiler's first lines, `name` at their head; `Unsupported` for an architecture that this NVRTC
    /// is too new for.
    pub(super) fn compile(&self, name: &str, source: &str, architecture: &str) -> Result<Cubin> {
        self.compiled(name, source, architecture).map_err(|e| e.with_at(format!("kernel {name}")))
    }

    fn compiled(&self, name: &str, source: &str, architecture: &str) -> Result<Cubin> {
        let target = self.target(architecture)?;
        let mut options =
            vec![format!("--gpu-architecture={}", target.architecture), "--std=c++17".to_owned()];
        if target.is_ptx {
            tracing::info!(
                "kernel {name}: NVRTC {} does not know {architecture} yet: the driver makes it from {}; a newer NVRTC \
                 would make it faster",
                self.version(),
                target.architecture
            );
        } else {
            options.push("--ptxas-options=-v".to_owned());
        }
        let program = Program::new(self, name, source)?;
        let status = program.compile(&options)?;
        let log = program.text("nvrtcGetProgramLog", self.functions.log_size, self.functions.log)?;
        let log = String::from_utf8_lossy(&log);
        let log = log.trim_end_matches('\0');
        match status {
            0 => {}
            COMPILATION => {
                return Err(ScoreError::internal(format!(
                    "does not compile for {}: {}",
                    target.architecture,
                    excerpt(log)
                )));
            }
            _ => {
                self.check("nvrtcCompileProgram", status)
                    .map_err(|e| ScoreError::internal(format!("{}: {}", e.message(), excerpt(log))))?;
            }
        }
        let functions = &self.functions;
        let bytes = match target.is_ptx {
            true => program.text("nvrtcGetPTX", functions.ptx_size, functions.ptx)?,
            false => program.text("nvrtcGetCUBIN", functions.cubin_size, functions.cubin)?,
        };
        Ok(Cubin {
            bytes,
            is_ptx: target.is_ptx,
            usage: usage::parse(log),
            #[cfg(test)]
            text: String::from_utf8_lossy(&program.text("nvrtcGetPTX", functions.ptx_size, functions.ptx)?)
                .into_owned(),
            #[cfg(test)]
            log: log.to_owned(),
        })
    }

    /// What is told to NVRTC for a device of this architecture.
    fn target(&self, architecture: &str) -> Result<Target> {
        let number = architecture.strip_prefix("sm_").map(|n| n.trim_end_matches(['a', 'f']));
        let Some(number) = number.and_then(|number| number.parse::<c_int>().ok()) else {
            return Err(ScoreError::internal(format!(
                "expected an architecture like sm_90a, got '{architecture}'"
            )));
        };
        if self.supported.contains(&number) {
            return Ok(Target { architecture: architecture.to_owned(), is_ptx: false });
        }
        match self.supported.iter().filter(|known| **known < number).max() {
            Some(newest) => Ok(Target { architecture: format!("compute_{newest}"), is_ptx: true }),
            None => Err(ScoreError::unsupported(format!(
                "NVRTC {} in {} no longer compiles for {architecture}: install an older one \
                 (`pip install nvidia-cuda-nvrtc-cu12`), or name its folder in {}",
                self.version(),
                self.path,
                libraries::FOLDER_VARIABLE
            ))),
        }
    }

    fn version(&self) -> String {
        let (major, minor) = self.version;
        format!("{major}.{minor}")
    }

    fn check(&self, function: &str, status: Status) -> Result<()> {
        if status == 0 {
            return Ok(());
        }
        // SAFETY: takes any number, and gives a text that is never freed, or null.
        let text = unsafe { (self.functions.error)(status) };
        // SAFETY: the library's own text ends with a zero.
        let text = (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) }.to_string_lossy());
        let text = text.unwrap_or_default();
        Err(ScoreError::internal(format!("{function} of {} failed: error {status} {text}", self.path)))
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Target {
    architecture: String,
    is_ptx: bool,
}

/// A program of NVRTC, destroyed with this.
struct Program<'a> {
    nvrtc: &'a Nvrtc,
    handle: Handle,
}

impl<'a> Program<'a> {
    fn new(nvrtc: &'a Nvrtc, name: &str, source: &str) -> Result<Self> {
        let c = |text: &str, what: &str| {
            CString::new(text).map_err(|e| ScoreError::internal(format!("the {what} has a zero in it: {e}")))
        };
        let (source, name) = (c(source, "source")?, c(&format!("{name}.cu"), "name")?);
        let (mut handle, none) = (std::ptr::null_mut(), std::ptr::null());
        // SAFETY: both texts end with a zero, and are copied; there are no headers.
        let status =
            unsafe { (nvrtc.functions.create)(&mut handle, source.as_ptr(), name.as_ptr(), 0, none, none) };
        nvrtc.check("nvrtcCreateProgram", status)?;
        Ok(Self { nvrtc, handle })
    }

    fn compile(&self, options: &[String]) -> Result<Status> {
        let texts: std::result::Result<Vec<CString>, _> =
            options.iter().map(|o| CString::new(o.as_str())).collect();
        let texts = texts.map_err(|e| ScoreError::internal(format!("an option has a zero in it: {e}")))?;
        let pointers: Vec<*const c_char> = texts.iter().map(|text| text.as_ptr()).collect();
        // SAFETY: the program is alive, and there are as many options as it is told, each with a zero at its end.
        Ok(unsafe { (self.nvrtc.functions.compile)(self.handle, pointers.len() as c_int, pointers.as_ptr()) })
    }

    /// What NVRTC writes into a buffer of the size that it says before.
    fn text(&self, function: &str, size: Size, text: Text) -> Result<Vec<u8>> {
        let mut length = 0usize;
        // SAFETY: the program is alive; writes one size.
        self.nvrtc.check(function, unsafe { size(self.handle, &mut length) })?;
        let mut bytes = vec![0u8; length];
        // SAFETY: the program is alive; writes as many bytes as it said.
        self.nvrtc.check(function, unsafe { text(self.handle, bytes.as_mut_ptr().cast()) })?;
        Ok(bytes)
    }
}

impl Drop for Program<'_> {
    fn drop(&mut self) {
        // SAFETY: made by the same library, and used no more.
        unsafe { (self.nvrtc.functions.destroy)(&mut self.handle) };
    }
}

/// The lines of a log that say what is wrong.
fn excerpt(log: &str) -> String {
    let lines: Vec<&str> = log.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    let first = lines.iter().position(|line| line.contains("error")).unwrap_or(0);
    let lines = lines.iter().skip(first).take(MOST_LINES);
    let cut = lines.map(|line| line.chars().take(MOST_CHARACTERS).collect::<String>());
    cut.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests;
