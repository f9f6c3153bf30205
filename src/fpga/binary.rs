//! An engine that was built before: a binary, and beside it the manifest that says what it is.
//!
//! A board cannot build kernels; hours of synthesis made its binary. Drivers believe what they are given: a truncated binary, one for
//! another board or of another version crashes the process, or computes nonsense with descriptors that it reads otherwise. So no driver
//! sees a byte before the manifest was read and the bytes were held against it; and where that leaves a doubt (the driver is of another
//! version than the one that the binary was made with), another process tries it first.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::sources::{ABI_VERSION, engine};
use super::tile::{LANES, Tile};
use crate::error::{ErrorKind, Result, ScoreError};
use crate::scoring::Device;

/// The environment variable that names the engine's binary: an `.aocx`, an `.xclbin`, or what [`FpgaBackend::build`](super::FpgaBackend::build) wrote.
pub const BINARY_VARIABLE: &str = "TRISCORE_FPGA_BINARY";

/// The environment variable that, set to 1, keeps this process from building kernels: boards cannot, and emulators then act like them.
pub const BINARY_ONLY_VARIABLE: &str = "TRISCORE_FPGA_BINARY_ONLY";

/// What is written first in every manifest.
const FORMAT: &str = "triscore-fpga-engine";

/// A manifest is a page of text, and a binary fits on any board's flash.
const MOST_MANIFEST_BYTES: u64 = 1 << 16;
const MOST_BINARY_BYTES: u64 = 1 << 30;

/// What a binary is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Manifest {
    /// `triscore-fpga-engine`.
    pub format: String,
    /// The version of what host and kernels agree on.
    pub abi_version: u32,
    /// The binary's bytes.
    pub size_bytes: u64,
    /// Their SHA-256, in hexadecimal.
    pub sha256: String,
    /// That of the kernels' sources.
    pub sources_sha256: String,
    /// Output pixels that are computed side by side.
    pub rows: usize,
    /// Outputs that are computed side by side.
    pub lanes: usize,
    /// Elements of a window that are staged on the chip at once.
    pub depth: usize,
    /// The OpenCL platform, as its driver calls itself.
    pub platform: String,
    /// The device, as its driver calls it.
    pub device: String,
    /// The version of the driver that it was made with.
    pub driver: String,
}

/// A binary whose bytes are what its manifest says.
#[derive(Debug)]
pub(super) struct Binary {
    pub(super) path: PathBuf,
    pub(super) manifest: Manifest,
    pub(super) bytes: Vec<u8>,
}

/// Where a binary's manifest lies: `engine.aocx.json` beside `engine.aocx`.
pub fn manifest_path(binary: &Path) -> PathBuf {
    let mut name = binary.as_os_str().to_owned();
    name.push(".json");
    name.into()
}

impl Manifest {
    /// The manifest of these bytes, made for that device by this version of the sources.
    pub(super) fn of(bytes: &[u8], device: &Device, tile: Tile) -> Self {
        Self {
            format: FORMAT.to_owned(),
            abi_version: ABI_VERSION,
            size_bytes: bytes.len() as u64,
            sha256: sha256(bytes),
            sources_sha256: sha256(engine().as_bytes()),
            rows: tile.rows,
            lanes: LANES,
            depth: tile.depth,
            platform: fact(device, "platform"),
            device: device.name.clone(),
            driver: fact(device, "driver"),
        }
    }

    pub(super) fn tile(&self) -> Tile {
        Tile { rows: self.rows, depth: self.depth }
    }

    /// Writes a binary and its manifest, the manifest last: a binary without one is no engine.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn write(&self, binary: &Path, bytes: &[u8]) -> Result<()> {
        let manifest = manifest_path(binary);
        let text = serde_json::to_string_pretty(self)
            .map_err(|e| ScoreError::internal(format!("a manifest that is no JSON: {e}")))?;
        fs::write(binary, bytes).map_err(|e| ScoreError::io("write the binary", binary, e))?;
        fs::write(&manifest, text + "\n").map_err(|e| ScoreError::io("write the manifest", &manifest, e))
    }

    /// Whether it is for that device, and made with that driver.
    fn is_sure(&self, device: &Device) -> bool {
        self.driver == fact(device, "driver")
    }
}

impl Binary {
    /// Reads a binary for a device: the manifest first, then the bytes, then what both say of each other.
    ///
    /// # Errors
    /// `NotFound`, `Io`: a file that is not there or cannot be read; `BadConfig`: a manifest that is none, of another version or device, or
    /// not of these bytes, each with what to do.
    pub(super) fn read(path: &Path, device: &Device) -> Result<Self> {
        let beside = manifest_path(path);
        let bad = |what: String| ScoreError::bad_config(what).with_at(beside.display().to_string());
        let text = read_at_most(&beside, MOST_MANIFEST_BYTES).map_err(|e| match e.kind() {
            ErrorKind::NotFound => ScoreError::not_found(format!(
                "no manifest {} beside the binary: without it nobody knows what the driver would be given; \
                 make both with `triscore fpga build`, or the manifest of a vendor's binary with `triscore fpga manifest`",
                beside.display()
            )),
            _ => e,
        })?;
        let manifest: Manifest =
            serde_json::from_slice(&text).map_err(|e| bad(format!("is no manifest of an engine: {e}")))?;
        let build = "build the binary anew from the sources of this version (`triscore fpga sources`)";
        if manifest.format != FORMAT {
            return Err(bad(format!("is of the format '{}', expected '{FORMAT}'", manifest.format)));
        }
        if manifest.abi_version != ABI_VERSION || manifest.lanes != LANES {
            return Err(bad(format!(
                "the binary speaks version {} of the engine's interface with {} lanes, this program {ABI_VERSION} with {LANES}: {build}",
                manifest.abi_version, manifest.lanes
            )));
        }
        if !manifest.tile().is_possible() {
            let (rows, depth) = (manifest.rows, manifest.depth);
            return Err(bad(format!("an engine of {rows} rows and a depth of {depth} is not possible")));
        }
        let platform = fact(device, "platform");
        if (manifest.platform.as_str(), manifest.device.as_str()) != (&platform, &device.name) {
            return Err(bad(format!(
                "the binary is for '{}' of '{}', the device is '{}' of '{platform}': take the binary of this device",
                manifest.device, manifest.platform, device.name
            )));
        }
        let bytes = read_at_most(path, MOST_BINARY_BYTES)?;
        let found = (bytes.len() as u64, sha256(&bytes));
        if found != (manifest.size_bytes, manifest.sha256.clone()) {
            return Err(ScoreError::bad_config(format!(
                "{} bytes of SHA-256 {}, its manifest says {} of {}: the file is damaged or another one, copy it again",
                found.0, found.1, manifest.size_bytes, manifest.sha256
            ))
            .with_at(path.display().to_string()));
        }
        Ok(Self { path: path.to_owned(), manifest, bytes })
    }

    /// Has another process load it first where the driver is not the one that it was made with: a driver that crashes on it takes that
    /// process along, and not this one.
    ///
    /// # Errors
    /// `Unavailable` where that process says no or crashes, or where there is none to ask.
    pub(super) fn try_elsewhere(&self, device: &Device, program: Option<&Path>) -> Result<()> {
        if self.manifest.is_sure(device) {
            return Ok(());
        }
        let doubt = format!(
            "{} was made with driver '{}', this one is '{}'",
            self.path.display(),
            self.manifest.driver,
            fact(device, "driver")
        );
        let unavailable = |what: String| Err(ScoreError::unavailable(format!("{doubt}: {what}")));
        let Some(program) = program else {
            return unavailable(format!(
                "whether it loads must be tried in another process, and there is no triscore program to do that: name one \
                 ({PROGRAM_VARIABLE}), or build the binary anew"
            ));
        };
        let mut command = Command::new(program);
        command
            .args(["fpga", "check", "--in-this-process", "--device", &device.index.to_string()])
            .arg(&self.path);
        match crate::child::run(&mut command, TRIAL, 1 << 12) {
            Ok(ended) if ended.is_good() => Ok(()),
            Ok(ended) => {
                let status = ended.status.map_or_else(|| "it did not end".to_owned(), |s| s.to_string());
                // Drivers complain on either stream before they crash.
                let said = format!("{} {}", ended.out.trim(), ended.err.trim());
                unavailable(format!("a process that tried to load it failed ({status}): {}", said.trim()))
            }
            Err(e) => unavailable(format!("{} cannot be started to try it: {e}", program.display())),
        }
    }
}

/// The environment variable that names the triscore program for those who embed the library.
pub const PROGRAM_VARIABLE: &str = "TRISCORE_PROGRAM";

/// Programming a board takes seconds.
const TRIAL: Duration = Duration::from_secs(120);

/// The program that tries binaries: the one that is named, or this one if it is it.
pub(super) fn program() -> Option<PathBuf> {
    let named = std::env::var_os(PROGRAM_VARIABLE).map(PathBuf::from);
    let own = || std::env::current_exe().ok().filter(|p| p.file_stem().is_some_and(|n| n == "triscore"));
    named.or_else(own)
}

fn read_at_most(path: &Path, most_bytes: u64) -> Result<Vec<u8>> {
    let failed = |e| ScoreError::io("read", path, e);
    let length = fs::metadata(path).map_err(failed)?.len();
    if length > most_bytes {
        let what = format!("{length} bytes, at most {most_bytes} are read");
        return Err(ScoreError::new(ErrorKind::TooLarge, what).with_at(path.display().to_string()));
    }
    fs::read(path).map_err(failed)
}

fn fact(device: &Device, name: &str) -> String {
    device.facts.iter().find(|(n, _)| *n == name).map(|(_, text)| text.clone()).unwrap_or_default()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}
