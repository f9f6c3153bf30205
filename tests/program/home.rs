//! A home folder with the program in it, and the end of everything that was started there.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// What only a broken program takes longer than.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// A folder for models and services, and a place for a test's files beside it.
pub(crate) struct Home {
    dir: tempfile::TempDir,
    program: PathBuf,
    /// Whether the drivers of this machine are seen.
    sees_opencl: bool,
    /// The folder of the CUDA driver that is seen.
    cuda: Option<PathBuf>,
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ran {
    #[allow(dead_code, reason = "for the messages of failed tests")]
    pub(crate) args: String,
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
    pub(crate) took: Duration,
}

/// The file of one of the project's models, or something beside it.
pub(crate) fn models(path: &str) -> String {
    format!("{}/models/{path}", env!("CARGO_MANIFEST_DIR"))
}

/// JSON in a file.
pub(crate) fn json_file(path: impl AsRef<Path>) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Waits for something to come true.
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let since = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(since.elapsed() < DEADLINE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Sends a signal.
pub(crate) fn signal(pid: u32, signal: i32) {
    let pid = i32::try_from(pid).unwrap();
    assert!(pid > 1, "process {pid} is not a test's to signal");
    // SAFETY: sends a signal and touches no memory.
    unsafe { libc::kill(pid, signal) };
}

/// Whether a process still runs: one that has ended and was not waited for does not.
pub(crate) fn is_alive(pid: u32) -> bool {
    triscore::registry::ProcessStamp::of(pid).is_some()
}

impl Home {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("icd")).unwrap();
        Self { dir, program: env!("CARGO_BIN_EXE_triscore").into(), sees_opencl: false, cuda: None }
    }

    /// A home on whose machine OpenCL drivers are seen, and two devices where the driver emulates them; `None`, with the reason printed,
    /// where there are not so many.
    pub(crate) fn with_fpgas(count: usize) -> Option<Self> {
        let mut home = Self::new();
        home.sees_opencl = true;
        let devices = home.json(&["devices"]);
        let fpga = devices.as_array().unwrap().iter().find(|b| b["backend"] == "fpga");
        let found = fpga.and_then(|b| b["devices"].as_array()).map_or(0, Vec::len);
        if found < count {
            println!("skipped: {found} OpenCL devices, {count} are wanted: {devices:#}");
        }
        (found >= count).then_some(home)
    }

    /// The home on a machine that has the CUDA driver of that folder.
    #[allow(dead_code, reason = "not every test that has this file asks for GPUs")]
    pub(crate) fn with_cuda(mut self, folder: &Path) -> Self {
        self.cuda = Some(folder.to_owned());
        self
    }

    /// A home with the digits model registered.
    pub(crate) fn with_digits() -> Self {
        let home = Self::new();
        home.ok(&["model", "register", "-n", "digits", "-p", &models("digits_cnn/model.onnx")]);
        home
    }

    /// A path beside the workspace.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The workspace.
    pub(crate) fn root(&self) -> PathBuf {
        self.path("home")
    }

    /// Writes a file beside the workspace; gives its path.
    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// The program that is run.
    pub(crate) fn program_mut(&mut self) -> &mut PathBuf {
        &mut self.program
    }

    /// A command of the program, on a machine without accelerators, whatever this machine has, unless it is of [`Home::with_fpgas`] or [`Home::with_cuda`].
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(args).env("TRISCORE_HOME", self.root()).env_remove("TRISCORE_LOG").stdin(Stdio::null());
        match &self.cuda {
            Some(folder) => command.env("LD_LIBRARY_PATH", folder).env_remove("TRISCORE_LIBCUDA"),
            None => command.env("TRISCORE_LIBCUDA", "/nonexistent"),
        };
        match self.sees_opencl {
            true => command.env("POCL_DEVICES", "pthread pthread").env("CL_CONFIG_CPU_EMULATE_DEVICES", "2"),
            false => command.env("OCL_ICD_VENDORS", self.path("icd")),
        };
        command
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        self.finish(self.command(args))
    }

    /// Runs a command of this home to its end: within the deadline, and without a panic.
    pub(crate) fn finish(&self, mut command: Command) -> Ran {
        let streams = tempfile::tempdir_in(self.dir.path()).unwrap();
        let file = |name: &str| streams.path().join(name);
        command.stdout(File::create(file("out")).unwrap()).stderr(File::create(file("err")).unwrap());
        let args = command.get_args().map(|a| a.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ");
        let since = Instant::now();
        let mut child = command.spawn().unwrap();
        let status = until(&format!("the end of `triscore {args}`"), || child.try_wait().unwrap());
        let text = |name: &str| String::from_utf8_lossy(&fs::read(file(name)).unwrap()).into_owned();
        let (out, err) = (text("out"), text("err"));
        let ran = Ran { args, code: status.code().unwrap_or(-1), out, err, took: since.elapsed() };
        assert!(ran.code != 101 && !ran.err.contains("panicked at"), "a panic: {ran:#?}");
        ran
    }

    /// Runs a command that must succeed.
    pub(crate) fn ok(&self, args: &[&str]) -> Ran {
        let ran = self.run(args);
        assert_eq!(ran.code, 0, "{ran:#?}");
        ran
    }

    /// Runs a command that must succeed, with `--json`; gives its result.
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        self.ok(&[args, &["--json"]].concat()).json()
    }

    /// Runs a command that must fail with that code; every one of the words is in what it says.
    pub(crate) fn fails(&self, args: &[&str], code: i32, words: &[&str]) -> Ran {
        let ran = self.run(args);
        ran.failed(code, words);
        ran
    }

    /// Deploys the digits under that name, on a free port.
    pub(crate) fn deploy(&self, name: &str, config: &str) -> Ran {
        self.run(&["model", "deploy", "-n", name, "-m", "digits", "--dc", config, "--port", "0"])
    }

    /// Deploys them as a local service, which must become healthy; gives its port.
    pub(crate) fn deploy_local(&self, name: &str) -> u16 {
        let ran = self.deploy(name, &models("digits_cnn/deploymentconfig.json"));
        assert_eq!(ran.code, 0, "{ran:#?}");
        self.port(name)
    }

    /// How a service stands.
    pub(crate) fn show(&self, name: &str) -> Value {
        self.json(&["service", "show", "-n", name])
    }

    /// The port of a service.
    pub(crate) fn port(&self, name: &str) -> u16 {
        let shown = self.show(name);
        shown["port"].as_u64().and_then(|p| u16::try_from(p).ok()).unwrap_or_else(|| panic!("{shown}"))
    }

    /// The supervisor of a service.
    pub(crate) fn supervisor(&self, name: &str) -> u32 {
        let shown = self.show(name);
        shown["pid"].as_u64().and_then(|p| u32::try_from(p).ok()).unwrap_or_else(|| panic!("{shown}"))
    }

    /// The host of a service: the child of its supervisor.
    pub(crate) fn host(&self, name: &str) -> u32 {
        let wanted = format!("host {name} ");
        until(&format!("a host of '{name}'"), || {
            self.processes().into_iter().find(|(_, args)| args.contains(&wanted)).map(|(pid, _)| pid)
        })
    }

    /// Every process that was started with this home, and its arguments.
    pub(crate) fn processes(&self) -> Vec<(u32, String)> {
        let home = self.dir.path().to_str().unwrap();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else { continue };
            let args = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let args = String::from_utf8_lossy(&args).replace('\0', " ");
            if args.contains(home) && pid != std::process::id() && is_alive(pid) {
                found.push((pid, args));
            }
        }
        found
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // A killed supervisor may just have started a host, so look again.
        for _ in 0..1000 {
            let left = self.processes();
            if left.is_empty() {
                return;
            }
            left.iter().for_each(|(pid, _)| signal(*pid, libc::SIGKILL));
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Ran {
    /// What it printed, as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {self:#?}"))
    }

    /// That it failed with that code, and said every one of the words.
    pub(crate) fn failed(&self, code: i32, words: &[&str]) {
        let said = format!("{}{}", self.out, self.err);
        let missing = words.iter().filter(|w| !said.contains(**w)).collect::<Vec<_>>();
        assert!(self.code == code && missing.is_empty(), "expected {code} and {missing:?}: {self:#?}");
    }
}

/// A process of a test, killed at its end.
pub(crate) struct Running(pub(crate) Child);

impl Running {
    /// Waits for its end; gives its exit code, -1 for a signal.
    pub(crate) fn end(&mut self) -> i32 {
        until("the end of a process", || self.0.try_wait().unwrap()).code().unwrap_or(-1)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
