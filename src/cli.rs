//! The command line: its commands, what they share, and how they end.
//!
//! Every command is a file here that parses nothing and decides little: it takes its arguments, calls
//! the library and prints. Results go to standard output, everything else to standard error; with
//! `--json` both are for machines. The exit code comes from the one table of
//! [`ErrorKind::row`](triscore::ErrorKind::row).

mod azure;
mod deploy;
mod devices;
mod environments;
#[cfg(feature = "opencl")]
mod estimate;
#[cfg(feature = "opencl")]
mod fpga;
mod inference;
mod inspect;
mod model;
mod named;
mod output;
mod overrides;
mod package;
mod profile;
#[cfg(any(feature = "cuda", feature = "opencl"))]
mod quantize;
mod score;
mod serve;
mod service_view;
mod services;
mod tensor_file;
mod update;

use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use triscore::registry::{Labels, Workspace};
use triscore::{Result, ScoreError};

use azure::AzureArgs;
use output::Output;

/// Score any ONNX model on CPU, GPU or FPGA, from the deployment file you already have.
#[derive(Debug, Parser)]
#[command(name = "triscore", version, after_help = EXIT_CODES)]
struct Cli {
    // Optional for clap, so that no command at all prints the help whatever the environment sets.
    #[command(subcommand)]
    command: Option<Command>,

    #[command(flatten)]
    global: Global,
}

/// What every command takes.
#[derive(Debug, Clone, clap::Args)]
struct Global {
    /// Print results and errors as JSON.
    #[arg(long, global = true)]
    json: bool,

    /// Where models and services are kept [default: $TRISCORE_HOME, else ~/.local/share/triscore].
    #[arg(long, global = true, value_name = "DIR")]
    home: Option<std::path::PathBuf>,

    /// ONNX Runtime's shared library, instead of looking for it.
    #[arg(long, global = true, value_name = "FILE")]
    onnxruntime: Option<std::path::PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List every backend's devices, or why there are none.
    Devices,
    /// Print a model's signature, operators, size, and where each backend would run it.
    Inspect(inspect::Args),
    /// Make a model compute on 8-bit integers, as an FPGA wants it, and report what that costs.
    #[cfg(any(feature = "cuda", feature = "opencl"))]
    Quantize(quantize::Args),
    /// Score a model once, without a server.
    Score(score::Args),
    /// Register, list, change and deploy models.
    Model {
        #[command(subcommand)]
        command: model::Command,
        #[command(flatten)]
        azure: AzureArgs,
    },
    /// List, show, call, change, start, stop and delete deployed services.
    Service {
        #[command(subcommand)]
        command: services::Command,
        #[command(flatten)]
        azure: AzureArgs,
    },
    /// The Python environments of entry scripts.
    #[command(visible_alias = "env")]
    Environment {
        #[command(subcommand)]
        command: environments::Command,
    },
    /// Binaries of the FPGA engine: build, describe and check them.
    #[cfg(feature = "opencl")]
    Fpga {
        #[command(subcommand)]
        command: fpga::Command,
    },
    /// Serve a model in the foreground.
    Serve(serve::Args),
    /// A deployed service's supervisor.
    #[command(hide = true)]
    Supervise(serve::Own),
    /// A deployed service's host.
    #[command(hide = true)]
    Host(serve::Hosted),
}

/// Runs the program.
pub(crate) fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => return misused(&e),
    };
    let by_form = match &cli.command {
        Some(Command::Model { azure, .. } | Command::Service { azure, .. }) => azure.is_json(),
        _ => false,
    };
    let out = Output::new(cli.global.json || by_form);
    let Some(command) = cli.command else {
        let _ = write!(std::io::stderr(), "{}", Cli::command().render_help());
        return ExitCode::from(MISUSED);
    };
    // What runs for long tells what it does; what answers at once speaks up only if something is wrong.
    let long = matches!(command, Command::Serve(_) | Command::Supervise(_) | Command::Host(_));
    start_logging(if long { "info" } else { "warn" });
    let code = match run(command, &cli.global, &out) {
        Ok(()) => 0,
        Err(e) => {
            out.error(&e);
            e.row().exit_code
        }
    };
    if long {
        // A thread may still be inside a driver (a load that was told to stop, a call that hangs): what
        // libraries tidy up at an orderly end would be taken from under it.
        // SAFETY: ends the process, whose output is flushed, and runs nothing.
        unsafe { libc::_exit(code.into()) };
    }
    ExitCode::from(code)
}

/// The codes of the table that a script may want to tell apart.
const EXIT_CODES: &str = "\
Exit codes:
   0  done
   2  the arguments cannot be read
  65  an input, a model or a name is wrong
  66  a file, a model or a service is not there
  69  a device, a library or what is asked for is not there
  70  a service failed, or this program did; the message says which
  71  memory ran out
  72  the device is lost
  73  it exists already, is in use, or another command is at work on it
  74  a file cannot be read or written
  75  not now: loading, overloaded or too slow; the same may work later
  77  a key is missing or wrong
  78  a configuration is wrong";

/// The exit code for arguments that cannot be read, as clap has it; no error of the library has it.
const MISUSED: u8 = 2;

/// Prints the help that was asked for, or what is wrong with the arguments: for programs as every other
/// error.
fn misused(e: &clap::Error) -> ExitCode {
    let json = std::env::args_os().take_while(|a| a != "--").any(|a| a == "--json");
    if !(json && e.use_stderr()) {
        let _ = e.print();
        return ExitCode::from(if e.use_stderr() { MISUSED } else { 0 });
    }
    let text = e.render().to_string();
    Output::new(true).misused(text.trim_end().trim_start_matches("error: "), MISUSED);
    ExitCode::from(MISUSED)
}

fn run(command: Command, global: &Global, out: &Output) -> Result<()> {
    match command {
        Command::Devices => devices::run(global, out),
        Command::Inspect(args) => inspect::run(&args, global, out),
        #[cfg(any(feature = "cuda", feature = "opencl"))]
        Command::Quantize(args) => quantize::run(&args, global, out),
        Command::Score(args) => score::run(&args, global, out),
        Command::Model { command, azure } => {
            azure.note(out)?;
            model::run(&command, global, out)
        }
        Command::Service { command, azure } => {
            azure.note(out)?;
            services::run(&command, global, out)
        }
        Command::Environment { command } => environments::run(&command, global, out),
        #[cfg(feature = "opencl")]
        Command::Fpga { command } => fpga::run(&command, out),
        Command::Serve(args) => serve::run(&args, global, out),
        Command::Supervise(own) => serve::supervise(&own, global),
        Command::Host(args) => serve::host(&args, global),
    }
}

/// Logs go to standard error; `TRISCORE_LOG` says how much (`info`, `triscore=debug`, …).
fn start_logging(default: &str) {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_env("TRISCORE_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let format =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    // Fails only where a logger is set already; then that one is used.
    let _ = format.try_init();
}

impl Global {
    /// Every backend that was compiled in.
    fn backends(&self) -> Vec<std::sync::Arc<dyn triscore::Backend>> {
        triscore::deploy::backends_with(self.onnxruntime.as_deref())
    }

    /// The folder of models and services, created if it is not there.
    fn workspace(&self) -> Result<Workspace> {
        let root = self.home.clone().map_or_else(Workspace::default_root, Ok)?;
        Workspace::open(root)
    }
}

/// `KEY=VALUE` arguments as labels.
fn labels(flag: &str, pairs: &[String]) -> Result<Labels> {
    let mut labels = Labels::new();
    for pair in pairs {
        let Some((key, value)) = pair.split_once('=').filter(|(key, _)| !key.is_empty()) else {
            return Err(ScoreError::bad_input(format!("expected KEY=VALUE, got '{pair}'")).with_at(flag));
        };
        if labels.insert(key.to_owned(), value.to_owned()).is_some() {
            return Err(ScoreError::bad_input(format!("'{key}' is given twice")).with_at(flag));
        }
    }
    Ok(labels)
}

/// The program's own file, which services are run by.
fn own_program() -> Result<std::path::PathBuf> {
    std::env::current_exe()
        .map_err(|e| ScoreError::internal(format!("cannot find this program's own file: {e}")).with_source(e))
}

/// A request's body, as it is given or from `@FILE`.
fn body(data: &str) -> Result<Vec<u8>> {
    let Some(file) = data.strip_prefix('@') else { return Ok(data.as_bytes().to_vec()) };
    let path = std::path::Path::new(file);
    std::fs::read(path).map_err(|e| ScoreError::io("read the request", path, e))
}

/// Writes bytes to standard output; a reader that went away (`| head`) is no error.
fn print(bytes: &[u8]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(ScoreError::io("write", std::path::Path::new("standard output"), e))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_fit_together() {
        Cli::command().debug_assert();
    }

    /// The flags of `az ml`'s commands, as its reference of version 1 lists them, without those that every
    /// command had.
    const AZ: &[(&str, &str)] = &[
        (
            "model register",
            "-n --name -p --model-path --asset-path --experiment-name -r --run-id -f \
            --run-metadata-file -d --description --tag --property --model-framework --model-framework-version --cc \
            --gb --gc --sample-input-dataset-id --sample-output-dataset-id -t --output-metadata-file",
        ),
        ("model list", "-n --model-name --tag --property --run-id --latest"),
        ("model show", "-i --model-id -n --model-name --version"),
        (
            "model update",
            "-i --add-tag --remove-tag --add-property --description --cc --gb --gc \
            --sample-input-dataset-id --sample-output-dataset-id",
        ),
        ("model delete", "-i"),
        ("model download", "-i -t --target-dir --overwrite"),
        (
            "model deploy",
            "-n --name -m --model -f --model-metadata-file --ic --dc --ct --compute-target --cp \
            --compute-type --overwrite --no-wait -e --environment-name --ev --ed --es --entry-script --sd --cf --rt \
            --ds --eg --enable-gpu --cv --bi --ir --cc --cpu-cores --ccl --gb --memory-gb --gbl --gc --gpu-cores --ae \
            --auth-enabled --token-auth-enabled --kp --ks --ai --md --as --mi --ma --ar --at --nr --rm --mr --tm --ps \
            --id --ts --st --ft --namespace --po --port --lo --dn --se --sc --sp --sk --pi --profile-input --tag \
            --property --description --vault-base-url --key-name --key-version --vnet-name --subnet-name --vn --tp",
        ),
        ("service list", "-c --compute-type --model-id --model-name --image-digest --tag --property"),
        ("service show", "-n --name"),
        ("service run", "-n -d --input-data"),
        ("service get-logs", "-n -l --num_lines -i --init"),
        ("service get-keys", "-n"),
        ("service get-access-token", "-n"),
        ("service regen-key", "-n -k --key -s --set-key"),
        (
            "service update",
            "-n -m -f --ic --dc --ct --cp -e --ev --ed --es --sd --cf --rt --ds --eg --cv --bi --ir \
            --cc --ccl --gb --gbl --gc --ae --token-auth-enabled --kp --ks --ai --md --as --mi --ma --ar --at --nr --rm \
            --mr --tm --ps --id --ts --st --ft --namespace --po --lo --dn --se --sc --sp --sk --add-tag --remove-tag \
            --add-property --description",
        ),
        ("service delete", "-n"),
    ];
    const AZ_ALL: &str =
        "-g --resource-group -w --workspace-name --subscription-id --path -v -o --output --query";

    #[test]
    fn every_flag_of_az_is_known() {
        let mut cli = Cli::command();
        cli.build();
        for (path, flags) in AZ {
            let command = path.split(' ').fold(&cli, |command, name| {
                command.find_subcommand(name).unwrap_or_else(|| panic!("no command {path}"))
            });
            let known = |flag: &str| {
                let args = || command.get_arguments();
                match flag.strip_prefix("--") {
                    Some(long) => args().any(|a| {
                        a.get_long() == Some(long) || a.get_all_aliases().unwrap_or_default().contains(&long)
                    }),
                    None => args().any(|a| a.get_short() == flag.chars().nth(1)),
                }
            };
            for flag in flags.split_whitespace().chain(AZ_ALL.split_whitespace()) {
                assert!(known(flag), "`{path}` does not know {flag}");
            }
        }
    }

    #[test]
    fn labels_are_key_and_value() {
        let pairs =
            |list: &[&str]| labels("--tag", &list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
        assert_eq!(pairs(&["a=b", "c=d=e", "f="]).unwrap().len(), 3);
        for (list, message) in [(&["a"][..], "KEY=VALUE"), (&["=b"], "KEY=VALUE"), (&["a=1", "a=2"], "twice")]
        {
            let e = pairs(list).unwrap_err().to_string();
            assert!(e.starts_with("--tag: ") && e.contains(message), "{e}");
        }
    }
}
