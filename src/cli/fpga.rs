//! `triscore fpga`: binaries of the engine. A board's compiler makes one of the sources in hours, an emulator in seconds; either lies beside a
//! manifest, without which it is never loaded.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command as Process;
use std::time::Instant;

use serde_json::json;
use triscore::fpga::{FpgaBackend, Manifest, Tile, manifest_path};
use triscore::{Backend, Device, Result, ScoreError};

use super::output::Output;

/// What `fpga` does.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Write the kernels' sources, and the options that a board's compiler needs.
    Sources {
        /// The folder to write to.
        #[arg(short, long, value_name = "DIR")]
        output: PathBuf,
        #[command(flatten)]
        size: Size,
    },
    /// Build the engine on a device that can (an emulator), and write binary and manifest.
    Build {
        /// The binary; its manifest is written beside it.
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
        #[command(flatten)]
        at: At,
        #[command(flatten)]
        size: Size,
    },
    /// Write the manifest of a binary that a board's compiler made.
    Manifest {
        /// The binary: an .aocx or an .xclbin.
        binary: PathBuf,
        #[command(flatten)]
        at: At,
        #[command(flatten)]
        size: Size,
    },
    /// Hold a binary against its manifest and a device, and load it, in a process of its own.
    Check {
        /// The binary.
        binary: PathBuf,
        #[command(flatten)]
        at: At,
        /// Load it in this process, which a driver may take along.
        #[arg(long)]
        in_this_process: bool,
    },
}

/// How large the engine is, or is to be.
#[derive(Debug, clap::Args)]
pub(super) struct Size {
    /// Output pixels that are computed side by side [default: what suits the device; 14 without one].
    #[arg(long)]
    rows: Option<usize>,
    /// Elements of a window that are staged on the chip at once.
    #[arg(long, default_value_t = Tile::default().depth)]
    depth: usize,
}

/// Which device.
#[derive(Debug, clap::Args)]
pub(super) struct At {
    /// Its number in `triscore devices`.
    #[arg(long, default_value_t = 0, value_name = "N")]
    device: usize,
}

/// Runs the command.
pub(super) fn run(command: &Command, out: &Output) -> Result<()> {
    match command {
        Command::Sources { output, size } => sources(output, size.tile(None), out),
        Command::Build { output, at, size } => {
            let device = at.device()?;
            let manifest = FpgaBackend::new().build(&device, size.tile(Some(&device)), output)?;
            told("built", output, &manifest, None, out)
        }
        Command::Manifest { binary, at, size } => {
            let device = at.device()?;
            let manifest = FpgaBackend::new().describe(&device, size.tile(Some(&device)), binary)?;
            told("described", binary, &manifest, None, out)
        }
        Command::Check { binary, at, in_this_process: true } => {
            let device = at.device()?;
            let begin = Instant::now();
            let manifest = FpgaBackend::new().check(&device, binary)?;
            told("loads", binary, &manifest, Some(begin.elapsed().as_secs_f64() * 1000.0), out)
        }
        Command::Check { binary, at, .. } => {
            // What needs no driver is looked at here.
            FpgaBackend::new().verify(&at.device()?, binary)?;
            check_elsewhere(binary, at.device, out)
        }
    }
}

impl Size {
    fn tile(&self, device: Option<&Device>) -> Tile {
        let rows = device.map_or(Tile::default(), Tile::for_device).rows;
        Tile { rows: self.rows.unwrap_or(rows), depth: self.depth }
    }
}

impl At {
    fn device(&self) -> Result<Device> {
        let devices = FpgaBackend::new().probe()?;
        let count = devices.len();
        let none = || ScoreError::unavailable(format!("there is no device fpga:{}, of {count}", self.device));
        devices.into_iter().nth(self.device).ok_or_else(none)
    }
}

fn sources(folder: &Path, tile: Tile, out: &Output) -> Result<()> {
    let (source, options) = FpgaBackend::sources(tile);
    fs::create_dir_all(folder).map_err(|e| ScoreError::io("make the folder", folder, e))?;
    let files = [("engine.cl", source), ("options", format!("{options}\n"))];
    for (name, text) in &files {
        let path = folder.join(name);
        fs::write(&path, text).map_err(|e| ScoreError::io("write", &path, e))?;
    }
    let (at, beside) = (folder.join("engine.cl"), folder.join("options"));
    out.result(&json!({ "source": at, "options": options }), || {
        format!("wrote {} and {}\n{options}\n", at.display(), beside.display())
    })
}

/// The same command in a process of its own: if a driver crashes on the binary, this one says so.
fn check_elsewhere(binary: &Path, device: usize, out: &Output) -> Result<()> {
    let mut command = Process::new(super::own_program()?);
    command
        .args(["fpga", "check", "--in-this-process", "--json", "--device", &device.to_string()])
        .arg(binary);
    let ran = command.output().map_err(|e| ScoreError::io("start", Path::new("triscore"), e))?;
    let said = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).ok();
    match (ran.status.success(), said(&ran.stdout), said(&ran.stderr)) {
        (true, Some(result), _) => {
            out.result(&result, || format!("{} loads on fpga:{device}\n", binary.display()))
        }
        (_, _, Some(error)) => {
            let text = error.pointer("/error/message").and_then(|m| m.as_str()).unwrap_or("no reason");
            Err(ScoreError::unavailable(text).with_at(binary.display().to_string()))
        }
        _ => Err(ScoreError::unavailable(format!("the driver crashed on it ({})", ran.status))
            .with_at(binary.display().to_string())),
    }
}

fn told(what: &str, binary: &Path, manifest: &Manifest, load_ms: Option<f64>, out: &Output) -> Result<()> {
    let json = json!({ "binary": binary, "manifest": manifest, "loadMs": load_ms });
    out.result(&json, || {
        let Manifest { rows, lanes, depth, size_bytes, device, .. } = manifest;
        format!(
            "{what}: {} ({size_bytes} bytes, {rows} × {lanes} elements, depth {depth}) for '{device}'; {}\n",
            binary.display(),
            manifest_path(binary).display()
        )
    })
}
