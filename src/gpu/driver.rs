//! The driver library: found, loaded, asked.
//!
//! Why the dozen functions of a probe are bound here rather than taken from `cudarc`: it panics where the
//! library or a symbol is missing, and it binds to the first library that it finds for the life of the
//! process. A probe must be able to say "not there" in words, now, and to be wrong about it later. What
//! runs models goes through `cudarc`, after a probe has said that there is something to run on; the loader
//! then gives it the library that is loaded already.

use std::ffi::{CStr, c_char, c_int, c_uint};
use std::path::Path;

use cudarc::driver::sys::CUdevice_attribute_enum as Attribute;

use super::libraries;
use super::names::{explain, uuid, version};
use crate::error::{Result, ScoreError};
use crate::library::Wanted;
use crate::scoring::{BackendKind, Device};

/// Where drivers and container runtimes put it when they do not tell the loader.
const WANTED: Wanted = Wanted {
    name: if cfg!(windows) { "nvcuda.dll" } else { "libcuda.so.1" },
    variable: super::LIBRARY_VARIABLE,
    folders: &[
        "/usr/lib/x86_64-linux-gnu",
        "/usr/lib/aarch64-linux-gnu",
        "/usr/lib64",
        "/usr/lib",
        "/usr/local/nvidia/lib64",
        "/usr/lib/x86_64-linux-gnu/nvidia/current",
        "/usr/lib/wsl/lib",
        "/run/opengl-driver/lib",
    ],
    advice: "install the NVIDIA driver (in a container: start it with access to the GPU)",
};

/// The oldest driver whose functions are all there (R525).
const OLDEST: i32 = 12_000;

/// No machine has more; a library that says so is no driver.
const MOST_DEVICES: c_int = 1024;

type Status = c_int;

/// The devices, or the reason.
pub(super) fn probe(named: Option<&Path>) -> Result<Vec<Device>> {
    let driver = Driver::load(named)?;
    let version = driver.start()?;
    let count = driver.count()?;
    let mut devices = Vec::new();
    let mut failed = Vec::new();
    for index in 0..count {
        match driver.device(index, version) {
            Ok(device) => devices.push(device),
            Err(e) => failed.push(format!("GPU {index}: {e}")),
        }
    }
    if devices.is_empty() {
        return Err(ScoreError::unavailable(format!("no GPU can be used: {}", failed.join("; "))));
    }
    // An emulated driver takes kernels' sources, and has no use for NVIDIA's libraries.
    let libraries = libraries::facts(version / 1000);
    for device in devices.iter_mut().filter(|device| !device.emulated) {
        device.facts.extend(libraries.iter().cloned());
    }
    if !failed.is_empty() {
        tracing::warn!("GPUs that cannot be used: {}", failed.join("; "));
    }
    Ok(devices)
}

/// The functions of a loaded driver. The ones in an `Option` are facts that a probe can do without.
struct Driver {
    library: String,
    init: unsafe extern "C" fn(c_uint) -> Status,
    version: unsafe extern "C" fn(*mut c_int) -> Status,
    count: unsafe extern "C" fn(*mut c_int) -> Status,
    get: unsafe extern "C" fn(*mut c_int, c_int) -> Status,
    name: unsafe extern "C" fn(*mut c_char, c_int, c_int) -> Status,
    memory: Option<unsafe extern "C" fn(*mut usize, c_int) -> Status>,
    attribute: Option<unsafe extern "C" fn(*mut c_int, c_int, c_int) -> Status>,
    uuid: Option<unsafe extern "C" fn(*mut [u8; 16], c_int) -> Status>,
    pci: Option<unsafe extern "C" fn(*mut c_char, c_int, c_int) -> Status>,
    error_name: Option<unsafe extern "C" fn(Status, *mut *const c_char) -> Status>,
}

impl Driver {
    fn load(named: Option<&Path>) -> Result<Self> {
        let library = WANTED.open(named, &[])?;
        macro_rules! function {
            ($name:literal) => {
                // SAFETY: the type of the field is the function's in NVIDIA's cuda.h.
                unsafe { library.function($name) }
            };
        }
        Ok(Self {
            init: function!("cuInit")?,
            version: function!("cuDriverGetVersion")?,
            count: function!("cuDeviceGetCount")?,
            get: function!("cuDeviceGet")?,
            name: function!("cuDeviceGetName")?,
            memory: function!("cuDeviceTotalMem_v2").ok(),
            attribute: function!("cuDeviceGetAttribute").ok(),
            uuid: function!("cuDeviceGetUuid_v2").or_else(|_| function!("cuDeviceGetUuid")).ok(),
            pci: function!("cuDeviceGetPCIBusId").ok(),
            error_name: function!("cuGetErrorName").ok(),
            library: library.path,
        })
    }

    /// Starts the driver, and gives its version.
    fn start(&self) -> Result<c_int> {
        let mut number = 0;
        // SAFETY: may be called before `cuInit`; writes one int.
        let asked = unsafe { (self.version)(&mut number) };
        if asked == 0 && number < OLDEST {
            let (has, oldest) = (version(number), version(OLDEST));
            return Err(ScoreError::unavailable(format!(
                "the driver in {} is too old: it speaks CUDA {has}, and {oldest} is the oldest that is \
                 supported: update the NVIDIA driver to 525 or later",
                self.library
            )));
        }
        // SAFETY: the flags must be zero.
        self.check("cuInit", unsafe { (self.init)(0) })?;
        self.check("cuDriverGetVersion", asked)?;
        Ok(number)
    }

    fn count(&self) -> Result<c_int> {
        let mut count = 0;
        // SAFETY: the driver is started; writes one int.
        self.check("cuDeviceGetCount", unsafe { (self.count)(&mut count) })?;
        match count {
            1..=MOST_DEVICES => Ok(count),
            0 => {
                let hidden =
                    std::env::var("CUDA_VISIBLE_DEVICES").map(|v| format!(" (CUDA_VISIBLE_DEVICES={v})"));
                let hidden = hidden.unwrap_or_default();
                Err(ScoreError::unavailable(format!("the driver in {} sees no GPU{hidden}", self.library)))
            }
            _ => Err(ScoreError::unavailable(format!("the driver in {} claims {count} GPUs", self.library))),
        }
    }

    fn device(&self, index: c_int, driver_version: c_int) -> Result<Device> {
        let mut device = 0;
        // SAFETY: the driver is started; writes one int.
        self.check("cuDeviceGet", unsafe { (self.get)(&mut device, index) })?;
        let name = self.text("cuDeviceGetName", |buffer, length| {
            // SAFETY: writes at most `length` bytes; `device` is the driver's.
            unsafe { (self.name)(buffer, length, device) }
        })?;
        let mut memory = 0usize;
        // SAFETY: writes one size; `device` is the driver's.
        let has_memory = self.memory.is_some_and(|ask| unsafe { ask(&mut memory, device) } == 0);
        let mut facts = vec![("driver", format!("CUDA {}", version(driver_version)))];
        let attribute = |which: Attribute| {
            let mut value = 0;
            // SAFETY: writes one int; an attribute that the driver does not know is an error, not a crash.
            self.attribute
                .filter(|ask| unsafe { ask(&mut value, which as c_int, device) } == 0)
                .map(|_| value)
        };
        let capability = (
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR),
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR),
        );
        if let (Some(major), Some(minor)) = capability {
            facts.push(("compute capability", format!("{major}.{minor}")));
        }
        if let Some(count) = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT) {
            facts.push(("multiprocessors", count.to_string()));
        }
        for (fact, which, divisor, unit) in [
            ("clock", Attribute::CU_DEVICE_ATTRIBUTE_CLOCK_RATE, 1000, "MHz"),
            ("memory clock", Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE, 1000, "MHz"),
            ("memory bus width", Attribute::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH, 1, "bits"),
            ("L2 cache", Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE, 1, "bytes"),
            // With a kernel's consent (opt-in): without it, 48 KiB everywhere.
            (
                "shared memory per block",
                Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
                1,
                "bytes",
            ),
        ] {
            // A driver that does not want to tell says zero.
            let value = attribute(which).map(|value| value / divisor).filter(|value| *value > 0);
            facts.extend(value.map(|value| (fact, format!("{value} {unit}"))));
        }
        let mut id = [0u8; 16];
        // SAFETY: writes sixteen bytes; `device` is the driver's.
        if self.uuid.is_some_and(|ask| unsafe { ask(&mut id, device) } == 0) {
            facts.push(("uuid", uuid(&id)));
        }
        if let Some(ask) = self.pci {
            // SAFETY: writes at most `length` bytes; `device` is the driver's.
            let address =
                self.text("cuDeviceGetPCIBusId", |buffer, length| unsafe { ask(buffer, length, device) });
            facts.extend(address.ok().map(|address| ("pci", address)));
        }
        facts.push(("library", self.library.clone()));
        Ok(Device {
            backend: BackendKind::Gpu,
            index: usize::try_from(index).unwrap_or_default(),
            // Drivers that stand in for a GPU in tests say so in the name, and nowhere else.
            emulated: name.to_ascii_lowercase().contains("emulat"),
            name,
            memory_bytes: has_memory.then_some(memory as u64),
            facts,
        })
    }

    /// A text that the driver writes into a buffer.
    fn text(&self, function: &str, ask: impl FnOnce(*mut c_char, c_int) -> Status) -> Result<String> {
        let mut buffer = [0u8; 256];
        // One byte is kept back, so that there is a zero at the end whatever the driver writes.
        self.check(function, ask(buffer.as_mut_ptr().cast(), buffer.len() as c_int - 1))?;
        let text = CStr::from_bytes_until_nul(&buffer).unwrap_or_default();
        Ok(text.to_string_lossy().trim().to_owned())
    }

    fn check(&self, function: &str, status: Status) -> Result<()> {
        if status == 0 {
            return Ok(());
        }
        let mut name = std::ptr::null();
        // SAFETY: writes one pointer, to a text that lives as long as the driver, or null.
        let named =
            self.error_name.is_some_and(|ask| unsafe { ask(status, &mut name) } == 0) && !name.is_null();
        // SAFETY: the driver's own text ends with a zero.
        let name = named.then(|| unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned());
        let reason = explain(status, name);
        Err(ScoreError::unavailable(format!("{function} of {} failed: {reason}", self.library)))
    }
}
