//! The OpenCL loader: found, loaded, asked for its platforms and devices.
//!
//! Why the four functions of a probe are bound here rather than taken from `opencl3`: that binds to the first
//! loader that it finds, or to none, for the life of the process. A probe must be able to say "not
//! there" now and be wrong about it later, and to be pointed at another loader. What runs models goes through
//! `opencl3`; names and numbers are from there already.

use std::ffi::{c_int, c_uint, c_void};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use opencl3::device::{
    CL_DEVICE_AVAILABLE, CL_DEVICE_GLOBAL_MEM_SIZE, CL_DEVICE_MAX_COMPUTE_UNITS, CL_DEVICE_NAME,
    CL_DEVICE_NATIVE_VECTOR_WIDTH_INT, CL_DEVICE_TYPE, CL_DEVICE_TYPE_ACCELERATOR, CL_DEVICE_TYPE_ALL,
    CL_DEVICE_TYPE_CPU, CL_DEVICE_TYPE_GPU, CL_DEVICE_VENDOR, CL_DEVICE_VERSION, CL_DRIVER_VERSION,
};
use opencl3::error_codes::{CL_DEVICE_NOT_FOUND, error_text};
use opencl3::platform::platform::CL_PLATFORM_NAME;

use crate::error::{Result, ScoreError};
use crate::library::{Loaded, Wanted};
use crate::scoring::{BackendKind, Device};

const WANTED: Wanted = Wanted {
    name: if cfg!(windows) { "OpenCL.dll" } else { "libOpenCL.so.1" },
    variable: super::LIBRARY_VARIABLE,
    folders: &[
        "/usr/lib/x86_64-linux-gnu",
        "/usr/lib/aarch64-linux-gnu",
        "/usr/lib64",
        "/usr/lib",
        "/opt/xilinx/xrt/lib",
        "/opt/intelFPGA_pro/hld/host/linux64/lib",
    ],
    advice: "install an OpenCL loader (Debian's ocl-icd-libopencl1) and the driver of the board",
};

/// What the loader calls "no driver is registered with me" (`CL_PLATFORM_NOT_FOUND_KHR`).
const NO_PLATFORM: c_int = -1001;

/// No machine has more of either; a loader that says so is none.
const MOST: c_uint = 1024;

/// The longest answer that is taken; names and versions are far below.
const LONGEST_BYTES: usize = 1 << 16;

type Id = *mut c_void;
type Ask = unsafe extern "C" fn(Id, c_uint, usize, *mut c_void, *mut usize) -> c_int;

/// The fact that says where a device is among the loader's.
const PLACE: &str = "opencl device";

/// The fact that says how many integers of 32 bits a device's vectors hold.
const VECTOR: &str = "vector lanes";

/// Where a device is among the loader's: its platform's number and its own.
///
/// # Errors
/// `Unavailable` for a device that this backend did not find.
pub(super) fn place(device: &Device) -> Result<(usize, usize)> {
    let fact = device.facts.iter().find(|(name, _)| *name == PLACE);
    let numbers = fact.and_then(|(_, text)| text.split_once('.'));
    let place = numbers.and_then(|(platform, device)| Some((platform.parse().ok()?, device.parse().ok()?)));
    place.ok_or_else(|| ScoreError::unavailable(format!("{device} was not found by this backend")))
}

/// How many integers of 32 bits its vectors hold, if it says so.
pub(super) fn vector_lanes(device: &Device) -> Option<usize> {
    let (_, lanes) = device.facts.iter().find(|(name, _)| *name == VECTOR)?;
    lanes.parse().ok()
}

/// The devices, boards first, or the reason why there is none.
pub(super) fn probe(named: Option<&Path>) -> Result<Vec<Device>> {
    // One at a time: PoCL, asked by two threads before it has started, tells the second one that it has no device.
    static ASKED: Mutex<()> = Mutex::new(());
    let _asked = ASKED.lock().unwrap_or_else(PoisonError::into_inner);
    let also = std::env::var("OPENCL_DYLIB_PATH").unwrap_or_default();
    let also = also.split(';').filter(|path| !path.is_empty()).map(PathBuf::from).collect::<Vec<_>>();
    Loader::new(WANTED.open(named, &also)?)?.devices()
}

/// The functions of a loaded OpenCL library.
struct Loader {
    library: String,
    platforms: unsafe extern "C" fn(c_uint, *mut Id, *mut c_uint) -> c_int,
    devices: unsafe extern "C" fn(Id, u64, c_uint, *mut Id, *mut c_uint) -> c_int,
    platform: Ask,
    device: Ask,
}

/// A device and what tells whether it stands in for a board.
struct Seen {
    platform: String,
    name: String,
    kinds: u64,
    device: Device,
}

impl Loader {
    fn new(library: Loaded) -> Result<Self> {
        macro_rules! function {
            ($name:literal) => {
                // SAFETY: the type of the field is the function's in Khronos' cl.h.
                unsafe { library.function($name) }?
            };
        }
        Ok(Self {
            platforms: function!("clGetPlatformIDs"),
            devices: function!("clGetDeviceIDs"),
            platform: function!("clGetPlatformInfo"),
            device: function!("clGetDeviceInfo"),
            library: library.path,
        })
    }

    fn devices(&self) -> Result<Vec<Device>> {
        let mut seen = Vec::new();
        let mut others = Vec::new();
        for (place, platform) in self.platform_ids()?.into_iter().enumerate() {
            let name =
                text(self.platform, platform, CL_PLATFORM_NAME).unwrap_or_else(|_| "unnamed".to_owned());
            let ids = match self.device_ids(platform) {
                Ok(ids) => ids,
                Err(reason) => {
                    others.push(format!("'{name}' does not list its devices: {reason}"));
                    continue;
                }
            };
            if ids.is_empty() {
                others.push(format!("'{name}' has no device"));
            }
            for (at, id) in ids.into_iter().enumerate() {
                match self.look(&name, id) {
                    Ok(mut one) => {
                        one.device.facts.push((PLACE, format!("{place}.{at}")));
                        seen.push(one);
                    }
                    Err(reason) => others.push(format!("'{name}' {reason}")),
                }
            }
        }
        if seen.is_empty() {
            let (library, others) = (&self.library, others.join("; "));
            return Err(ScoreError::unavailable(format!(
                "the OpenCL platforms of {library} have no accelerator: {others}: install the driver of the board"
            )));
        }
        if !others.is_empty() {
            tracing::debug!("OpenCL devices that are no FPGAs: {}", others.join("; "));
        }
        let simulator = std::env::var_os("XCL_EMULATION_MODE").is_some();
        for one in &mut seen {
            one.device.emulated = is_emulated(one.kinds, &one.platform, &one.name, simulator);
        }
        seen.sort_by_key(|one| one.device.emulated);
        let numbered = |(index, one): (usize, Seen)| Device { index, ..one.device };
        Ok(seen.into_iter().enumerate().map(numbered).collect())
    }

    fn platform_ids(&self) -> Result<Vec<Id>> {
        let mut ids = [std::ptr::null_mut(); MOST as usize];
        let mut count = 0;
        // SAFETY: writes at most so many ids, and one count.
        let code = unsafe { (self.platforms)(MOST, ids.as_mut_ptr(), &mut count) };
        if code == NO_PLATFORM || (code == 0 && count == 0) {
            let vendors = std::env::var("OCL_ICD_VENDORS").map(|v| format!("OCL_ICD_VENDORS={v}"));
            let vendors = vendors.unwrap_or_else(|_| "/etc/OpenCL/vendors".to_owned());
            return Err(ScoreError::unavailable(format!(
                "{} is there, and no OpenCL driver (ICD) is registered in {vendors}: install the driver of the board",
                self.library
            )));
        }
        if code != 0 {
            let reason = words(code);
            return Err(ScoreError::unavailable(format!(
                "clGetPlatformIDs of {} failed: {reason}",
                self.library
            )));
        }
        Ok(ids.into_iter().take(count as usize).filter(|id| !id.is_null()).collect())
    }

    fn device_ids(&self, platform: Id) -> std::result::Result<Vec<Id>, String> {
        let mut ids = [std::ptr::null_mut(); MOST as usize];
        let mut count = 0;
        // SAFETY: the platform is the loader's; writes at most so many ids, and one count.
        let code =
            unsafe { (self.devices)(platform, CL_DEVICE_TYPE_ALL, MOST, ids.as_mut_ptr(), &mut count) };
        match code {
            0 => Ok(ids.into_iter().take(count as usize).filter(|id| !id.is_null()).collect()),
            CL_DEVICE_NOT_FOUND => Ok(Vec::new()),
            code => Err(words(code)),
        }
    }

    /// A device that is an FPGA or may stand in for one; else what it is.
    fn look(&self, platform: &str, id: Id) -> std::result::Result<Seen, String> {
        let ask = self.device;
        let name = text(ask, id, CL_DEVICE_NAME).map_err(|e| format!("has a device without a name: {e}"))?;
        let kinds =
            number(ask, id, CL_DEVICE_TYPE).map_err(|e| format!("has '{name}' without a type: {e}"))?;
        if kinds & (CL_DEVICE_TYPE_ACCELERATOR | CL_DEVICE_TYPE_CPU) == 0 {
            let kind = if kinds & CL_DEVICE_TYPE_GPU == 0 { "of no known type" } else { "a GPU" };
            return Err(format!("has '{name}', which is {kind}"));
        }
        if number(ask, id, CL_DEVICE_AVAILABLE) == Ok(0) {
            return Err(format!(
                "has '{name}', which is not available now: is the board programmed and free?"
            ));
        }
        let mut facts = vec![("platform", platform.to_owned())];
        for (fact, what) in
            [("opencl", CL_DEVICE_VERSION), ("driver", CL_DRIVER_VERSION), ("vendor", CL_DEVICE_VENDOR)]
        {
            facts.extend(text(ask, id, what).ok().filter(|t| !t.is_empty()).map(|t| (fact, t)));
        }
        if let Ok(units) = number(ask, id, CL_DEVICE_MAX_COMPUTE_UNITS) {
            facts.push(("compute units", units.to_string()));
        }
        if let Ok(lanes) = number(ask, id, CL_DEVICE_NATIVE_VECTOR_WIDTH_INT) {
            facts.push((VECTOR, lanes.to_string()));
        }
        facts.push(("library", self.library.clone()));
        let device = Device {
            backend: BackendKind::Fpga,
            index: 0,
            name: name.clone(),
            memory_bytes: number(ask, id, CL_DEVICE_GLOBAL_MEM_SIZE).ok(),
            emulated: true,
            facts,
        };
        Ok(Seen { platform: platform.to_owned(), name, kinds, device })
    }
}

/// Whether a device stands in for a board. A processor's does; an emulation platform calls itself one; a
/// simulator claims to be everything at once; and Xilinx' looks like the board but for a variable.
fn is_emulated(kinds: u64, platform: &str, name: &str, xilinx_emulation: bool) -> bool {
    let says = |text: &str, word: &str| text.to_ascii_lowercase().contains(word);
    kinds & CL_DEVICE_TYPE_ACCELERATOR == 0
        || kinds & (CL_DEVICE_TYPE_CPU | CL_DEVICE_TYPE_GPU) != 0
        || [platform, name].iter().any(|t| says(t, "emulat") || says(t, "simulat") || says(t, "oclgrind"))
        || (xilinx_emulation && says(platform, "xilinx"))
}

/// An answer as bytes.
fn bytes(ask: Ask, of: Id, what: c_uint) -> std::result::Result<Vec<u8>, String> {
    let mut length = 0;
    // SAFETY: asks for the length alone: no buffer is given, one size is written.
    let code = unsafe { ask(of, what, 0, std::ptr::null_mut(), &mut length) };
    if code != 0 {
        return Err(words(code));
    }
    let mut buffer = vec![0u8; length.min(LONGEST_BYTES)];
    // SAFETY: writes at most as many bytes as the buffer has.
    match unsafe { ask(of, what, buffer.len(), buffer.as_mut_ptr().cast(), std::ptr::null_mut()) } {
        0 => Ok(buffer),
        code => Err(words(code)),
    }
}

fn text(ask: Ask, of: Id, what: c_uint) -> std::result::Result<String, String> {
    let bytes = bytes(ask, of, what)?;
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    Ok(String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).trim().to_owned())
}

/// A number of up to eight bytes.
fn number(ask: Ask, of: Id, what: c_uint) -> std::result::Result<u64, String> {
    let answer = bytes(ask, of, what)?;
    match *answer.as_slice() {
        [a, b, c, d] => Ok(u32::from_ne_bytes([a, b, c, d]).into()),
        [a, b, c, d, e, f, g, h] => Ok(u64::from_ne_bytes([a, b, c, d, e, f, g, h])),
        _ => Err(format!("a number of {} bytes", answer.len())),
    }
}

fn words(code: c_int) -> String {
    format!("error {code} {}", error_text(code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stand_ins_are_told_from_boards() {
        const BOARD: u64 = CL_DEVICE_TYPE_ACCELERATOR;
        let rows = [
            (BOARD, "Intel(R) FPGA SDK for OpenCL(TM)", "pac_a10 : Intel PAC Platform", false, false),
            (BOARD, "Xilinx", "xilinx_u250_gen3x16_xdma_shell_4_1", false, false),
            (BOARD, "Xilinx", "xilinx_u250_gen3x16_xdma_shell_4_1", true, true),
            (BOARD, "Intel(R) FPGA SDK for OpenCL(TM)", "pac_a10 : Intel PAC Platform", true, false),
            (
                BOARD,
                "Intel(R) FPGA Emulation Platform for OpenCL(TM)",
                "Intel(R) FPGA Emulation Device",
                false,
                true,
            ),
            (BOARD, "Altera SDK for OpenCL", "EmulatorDevice : Emulated Device", false, true),
            (BOARD | 6, "Oclgrind", "Oclgrind Simulator", false, true),
            (BOARD | CL_DEVICE_TYPE_CPU, "Some", "Thing", false, true),
            (CL_DEVICE_TYPE_CPU, "Portable Computing Language", "pthread-Intel(R) Xeon(R)", false, true),
        ];
        for (kinds, platform, name, variable, emulated) in rows {
            assert_eq!(is_emulated(kinds, platform, name, variable), emulated, "{platform}: {name}");
        }
    }
}
