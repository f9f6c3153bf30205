//! `triscore serve`: a model served in the foreground, for systemd, a container or a try; and the two
//! hidden commands that a deployed service's own processes are.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;
use triscore::deploy::DeploymentConfig;
use triscore::registry::{ModelRef, ProcessStamp};
use triscore::server::Keys;
use triscore::service::{self, Event, Host, Inherited, KeySource, Listen};
use triscore::{ErrorKind, Result, ScoreError};

use super::Global;
use super::output::Output;

/// What `serve` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The model: an .onnx file, a folder that holds one, or a registered model's `name:version`.
    model: String,

    /// The deployment file: JSON or YAML, for local, aci or aks. Without it the CPU serves.
    #[arg(long = "dc", visible_alias = "deploy-config-file", value_name = "FILE")]
    deploy_config_file: Option<PathBuf>,

    /// The service's name, in messages and in the API description [default: the model's].
    #[arg(short, long)]
    name: Option<String>,

    /// The port, instead of the file's; 0 takes a free one [default: 5001].
    #[arg(short, long)]
    port: Option<u16>,

    /// The address to listen on; 0.0.0.0 opens the service to other machines.
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    address: IpAddr,
}

/// Serves until told to stop.
pub(super) fn run(args: &Args, global: &Global, out: &Output) -> Result<()> {
    const PORT: u16 = 5001;
    let config = match &args.deploy_config_file {
        Some(file) => DeploymentConfig::read(file)?,
        None => DeploymentConfig::parse(br#"{"computeType": "local"}"#)?,
    };
    let keys = match &config.keys.primary {
        Some(primary) => {
            Some(Keys::new(primary.expose(), config.keys.secondary.as_ref().map(|k| k.expose()))?)
        }
        None => None,
    };
    // A registered model is laid out in a folder that goes once it is loaded.
    let mut laid_out = None;
    let path = PathBuf::from(&args.model);
    let (model, name, model_version) = match path.exists() {
        true => {
            let stem = path.file_stem().map(|s| s.to_string_lossy().into_owned());
            (path, stem.unwrap_or_else(|| "model".to_owned()), None)
        }
        false => {
            let registered = lay_out(&args.model, global)?;
            laid_out = Some(registered.folder);
            (registered.model, registered.name, Some(registered.version))
        }
    };
    let port = args.port.or(config.port).unwrap_or(PORT);
    let host = Host {
        name: args.name.clone().unwrap_or(name),
        model_version,
        model,
        config,
        keys: KeySource::Fixed(keys),
        listen: Listen::At(SocketAddr::new(args.address, port)),
        backends: global.backends(),
    };
    let mut address = None;
    let ended = host.run(|event| match event {
        Event::Listening(at) => address = Some(at),
        Event::Ready(selection) => {
            laid_out = None;
            let uri = address.map(|a| format!("http://{a}/score")).unwrap_or_default();
            let device = selection.to_string();
            let json = json!({ "scoringUri": uri, "device": device });
            let _ = out.result(&json, || format!("serving at {uri} on {device}"));
            let _ = std::io::stdout().flush();
        }
        _ => {}
    });
    drop(laid_out);
    ended
}

/// A folder that is removed when it is dropped.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A registered model, laid out in a folder of this process.
struct LaidOut {
    folder: Folder,
    /// The model's file or folder.
    model: PathBuf,
    name: String,
    version: String,
}

/// Lays a registered model out, below `serving/<process id>` of the workspace.
fn lay_out(id: &str, global: &Global) -> Result<LaidOut> {
    let neither = |e: ScoreError| match e.kind() {
        ErrorKind::NotFound | ErrorKind::BadInput => {
            let text = format!("'{id}' is neither a file nor a registered model: {}", e.message());
            ScoreError::not_found(text)
        }
        _ => e,
    };
    let reference = id.parse::<ModelRef>().map_err(neither)?;
    let workspace = global.workspace()?;
    let model = workspace.show(&reference).map_err(neither)?;
    let serving = workspace.root().join("serving");
    sweep(&serving);
    let folder = Folder(serving.join(std::process::id().to_string()));
    let version_dir = workspace.materialise(&ModelRef::new(&model.name, Some(model.version))?, &folder.0)?;
    let path = version_dir.join(model.top_name());
    Ok(LaidOut { folder, model: path, name: model.name.clone(), version: model.version.to_string() })
}

/// Removes what processes left behind that were killed while they loaded.
fn sweep(serving: &Path) {
    for entry in std::fs::read_dir(serving).into_iter().flatten().flatten() {
        let process = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
        if process.is_some_and(|pid| ProcessStamp::of(pid).is_none()) {
            drop(Folder(entry.path()));
        }
    }
}

/// What a deployed service's own processes take.
#[derive(Debug, clap::Args)]
pub(super) struct Own {
    /// The service's name.
    name: String,
    /// Which deployment of it.
    generation: i64,
}

/// Runs as a service's supervisor.
pub(super) fn supervise(own: &Own, global: &Global) -> Result<()> {
    service::supervise(&global.workspace()?, &own.name, own.generation)
}

/// What a service's host takes besides: the numbers of what its supervisor has left open to it.
#[derive(Debug, clap::Args)]
pub(super) struct Hosted {
    #[command(flatten)]
    own: Own,
    /// The listening socket.
    #[arg(long)]
    listener: i32,
    /// A pipe to report on.
    #[arg(long)]
    report: i32,
    /// Another host serves while this one loads.
    #[arg(long)]
    candidate: bool,
}

/// Runs as a service's host.
pub(super) fn host(args: &Hosted, global: &Global) -> Result<()> {
    let inherited = Inherited::take(args.listener, args.report, args.candidate)?;
    let workspace = Arc::new(global.workspace()?);
    let backends = triscore::deploy::backends_with;
    service::host_for_supervisor(&workspace, &args.own.name, args.own.generation, inherited, backends)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_dead_processes_left_is_swept() {
        let serving = tempfile::tempdir().unwrap();
        let (own, dead, other) = (std::process::id().to_string(), u32::MAX.to_string(), "notes".to_owned());
        for name in [&own, &dead, &other] {
            std::fs::create_dir(serving.path().join(name)).unwrap();
        }
        sweep(serving.path());
        let left = |name: &str| serving.path().join(name).exists();
        assert_eq!((left(&own), left(&dead), left(&other)), (true, false, true));
        sweep(&serving.path().join("not there"));
    }
}
