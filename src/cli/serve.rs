//! `triscore serve`: a model served in the foreground, for systemd, a container or a try; and the two
//! hidden commands that a deployed service's own processes are.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde_json::json;
use triscore::deploy::DeploymentConfig;
use triscore::registry::ModelRef;
use triscore::server::Keys;
use triscore::service::{self, Event, Host};
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
            let (path, model) = registered(&args.model, global)?;
            laid_out = Some(Folder(path.clone()));
            (path.join(&model.0), model.1, Some(model.2))
        }
    };
    let port = args.port.or(config.port).unwrap_or(PORT);
    let host = Host {
        name: args.name.clone().unwrap_or(name),
        model_version,
        model,
        config,
        keys,
        address: SocketAddr::new(args.address, port),
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

/// Removes a folder when the command ends.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Lays a registered model out; gives the folder, and the model's place in it, name and version.
fn registered(id: &str, global: &Global) -> Result<(PathBuf, (PathBuf, String, String))> {
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
    let folder = workspace.root().join("serving").join(std::process::id().to_string());
    let guard = Folder(folder.clone());
    let version_dir = workspace.materialise(&ModelRef::new(&model.name, Some(model.version))?, &folder)?;
    let place = version_dir.strip_prefix(&folder).unwrap_or(&version_dir).join(model.top_name());
    std::mem::forget(guard);
    Ok((folder, (place, model.name.clone(), model.version.to_string())))
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

/// Runs as a service's host.
pub(super) fn host(own: &Own, global: &Global) -> Result<()> {
    let backends = triscore::deploy::backends_with;
    service::host_for_supervisor(&global.workspace()?, &own.name, own.generation, backends)
}
