//! Kernels' sources become images: what a device loads.
//!
//! Compiling is the slow part of making a model ready (half a second for a family of kernels), and gives the same bytes
//! every time. So what NVRTC made is kept on disk, and a machine without NVRTC runs from what another one left there.
//! An emulated device is the exception that makes tests possible: its driver takes the source itself.

mod cache;

use std::sync::Arc;

use super::nvrtc::{self, Nvrtc};
use super::plan::TensorCores;
use crate::error::{Result, ScoreError};
use crate::scoring::Device;
use cache::{Cache, Key};

/// What the emulated driver knows a source by.
const SOURCE: &[u8] = b"// CUDA C++\n";

/// Multiprocessors of a device that nobody can ask: those of an H100 or H200.
const MULTIPROCESSORS: usize = 132;

/// What makes images for one kind of device; used from many threads at once.
#[derive(Debug)]
pub(super) struct Images {
    architecture: String,
    device: Kind,
    tensor_cores: TensorCores,
}

#[derive(Debug)]
enum Kind {
    Emulated,
    Real {
        /// The CUDA that its driver speaks, where that is known: 13 for 13.0.
        driver: Option<i32>,
        /// `None` where there is no folder for it.
        cache: Option<Cache>,
    },
}

impl Images {
    /// What makes images for a device that a probe found.
    ///
    /// # Errors
    /// `Unavailable` when the driver does not say what the device can do.
    pub(super) fn for_device(device: &Device) -> Result<Self> {
        let fact =
            |name: &str| device.facts.iter().find(|(fact, _)| *fact == name).map(|(_, text)| text.as_str());
        let capability = fact("compute capability");
        let numbers = capability.and_then(|text| text.split_once('.'));
        let numbers = numbers.and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
        let multiprocessors = fact("multiprocessors").and_then(|text| text.parse().ok());
        let multiprocessors = multiprocessors.unwrap_or(MULTIPROCESSORS);
        if device.emulated {
            return Ok(Self {
                architecture: "emulated".to_owned(),
                device: Kind::Emulated,
                tensor_cores: TensorCores::of(numbers.unwrap_or((8, 0)), multiprocessors),
            });
        }
        let Some(numbers) = numbers else {
            return Err(ScoreError::unavailable(format!(
                "{device}: expected a compute capability like 9.0 from its driver, got {}: update the NVIDIA driver",
                capability.unwrap_or("none")
            )));
        };
        let driver =
            fact("driver").and_then(|text| text.strip_prefix("CUDA ")?.split('.').next()?.parse().ok());
        let device = Kind::Real { driver, cache: Cache::of_process() };
        Ok(Self {
            architecture: nvrtc::architecture(numbers),
            device,
            tensor_cores: TensorCores::of(numbers, multiprocessors),
        })
    }

    /// What makes images for devices that are not here: `sm_90a`.
    ///
    /// # Errors
    /// `BadConfig` for what is no architecture.
    pub(super) fn for_architecture(architecture: &str) -> Result<Self> {
        let number = architecture.strip_prefix("sm_").map(|n| n.trim_end_matches(['a', 'f']));
        let Some(number) = number.and_then(|n| n.parse::<u32>().ok()) else {
            return Err(ScoreError::bad_config(format!(
                "expected an architecture like sm_90a, got '{architecture}'"
            )));
        };
        Ok(Self {
            architecture: architecture.to_owned(),
            device: Kind::Real { driver: None, cache: Cache::of_process() },
            tensor_cores: match (number, architecture.ends_with('a')) {
                (90, false) => TensorCores::Mma { has_float8: true, multiprocessors: MULTIPROCESSORS },
                _ => TensorCores::of((number / 10, number % 10), MULTIPROCESSORS),
            },
        })
    }

    /// What kernels are compiled for: `sm_90a`, or `emulated`.
    #[cfg(test)]
    fn architecture(&self) -> &str {
        &self.architecture
    }

    /// What the device multiplies tiles with.
    pub(super) fn tensor_cores(&self) -> TensorCores {
        self.tensor_cores
    }

    /// What `cuModuleLoadData` takes for this source. `name` is for messages.
    ///
    /// # Errors
    /// `Unavailable` when NVRTC is missing and no cache has it; as [`Nvrtc::compile`] otherwise.
    pub(super) fn image(&self, name: &str, source: &str) -> Result<Arc<[u8]>> {
        match &self.device {
            Kind::Emulated => Ok([SOURCE, source.as_bytes(), b"\0"].concat().into()),
            Kind::Real { driver, cache } => {
                let key = Key::new(source, &self.architecture);
                obtain(name, &key, cache.as_ref(), *driver, Nvrtc::ready(*driver), |nvrtc| {
                    let cubin = nvrtc.compile(name, source, &self.architecture)?;
                    if cubin.is_ptx {
                        tracing::info!(
                            "kernel {name}: {} is newer than NVRTC, the driver compiles it",
                            self.architecture
                        );
                    }
                    for usage in &cubin.usage {
                        tracing::debug!("kernel {name} for {}: {usage:?}", self.architecture);
                    }
                    Ok(cubin.bytes)
                })
            }
        }
    }
}

/// The folder in which what is worth keeping is kept, where there is one.
pub(super) fn cache_folder() -> Option<std::path::PathBuf> {
    Cache::of_process().map(|cache| cache.folder().to_owned())
}

/// What versions have, and tests fake.
trait Compiler {
    fn version(&self) -> (i32, i32);
}

impl Compiler for &Nvrtc {
    fn version(&self) -> (i32, i32) {
        self.version
    }
}

/// From the cache what this compiler made before, or from the compiler; without a compiler, what any other made.
fn obtain<C: Compiler>(
    name: &str,
    key: &Key,
    cache: Option<&Cache>,
    driver: Option<i32>,
    compiler: Result<C>,
    compile: impl FnOnce(C) -> Result<Vec<u8>>,
) -> Result<Arc<[u8]>> {
    let compiler = match compiler {
        Ok(compiler) => compiler,
        Err(missing) => {
            return cache.and_then(|cache| cache.any(key, driver)).ok_or_else(|| {
                let place = cache.map_or_else(
                    || format!("there is no kernel cache ({} names its folder)", cache::FOLDER_VARIABLE),
                    |cache| format!("the kernel cache in {} has no image of it", cache.folder().display()),
                );
                ScoreError::unavailable(format!("{place}, and {}", missing.message()))
                    .with_at(format!("kernel {name}"))
            });
        }
    };
    let version = compiler.version();
    if let Some(image) = cache.and_then(|cache| cache.read(key, version)) {
        return Ok(image);
    }
    let image = compile(compiler)?;
    if let Some(cache) = cache {
        cache.write(key, version, &image);
    }
    Ok(image.into())
}

#[cfg(test)]
mod tests;
