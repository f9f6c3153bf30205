//! `triscore serve`: a model or an entry script served in the foreground, for systemd, a container or a try; and the two
//! hidden commands that a deployed service's own processes are.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;
use triscore::deploy::DeploymentConfig;
use triscore::registry::{ModelRef, ProcessStamp, Workspace};
use triscore::server::Keys;
use triscore::service::{
    self, EntryScript, Event, Host, Inherited, KeySource, Listen, ScriptService, Served,
};
use triscore::{ErrorKind, Result, ScoreError};

use super::Global;
use super::inference::Inference;
use super::output::Output;

/// What `serve` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The model: an .onnx file, a folder that holds one, or a registered model's `name:version`. With an entry
    /// script there may be none, and several registered ones.
    model: Vec<String>,

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

    #[command(flatten)]
    inference: Inference,
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
    let scheme = if config.ssl.enabled { "https" } else { "http" };
    let script = args.inference.prepare(global, out)?;
    let is_script = script.is_some();
    let Laid { mut folder, name, served } = match script {
        None => model(&args.model, global)?,
        Some(script) => with_script(script, &args.model, global)?,
    };
    let port = args.port.or(config.port).unwrap_or(PORT);
    let host = Host {
        name: args.name.clone().unwrap_or(name),
        served,
        config,
        keys: KeySource::Fixed(keys),
        listen: Listen::At(SocketAddr::new(args.address, port)),
        backends: global.backends(),
    };
    let mut address = None;
    let ended = host.run(|event| match event {
        Event::Listening(at) => address = Some(at),
        Event::Ready(selection) => {
            // A script may open its model whenever it likes; a model is in memory.
            folder = folder.take().filter(|_| is_script);
            let uri = address.map(|a| format!("{scheme}://{a}/score")).unwrap_or_default();
            let device = selection.to_string();
            let json = json!({ "scoringUri": uri, "device": device });
            let _ = out.result(&json, || format!("serving at {uri} on {device}"));
            let _ = std::io::stdout().flush();
        }
        _ => {}
    });
    drop(folder);
    ended
}

/// What is served, and the folder that it lies in if that is this process's.
struct Laid {
    folder: Option<Folder>,
    name: String,
    served: Served,
}

/// A model by itself.
fn model(models: &[String], global: &Global) -> Result<Laid> {
    let [model] = models else {
        let text = "without an entry script (--ic, --es) exactly one model is served";
        return Err(ScoreError::bad_input(format!("{text}, got {}", models.len())));
    };
    let path = PathBuf::from(model);
    if path.exists() {
        let served = Served::Model { path: path.clone(), version: None };
        return Ok(Laid { folder: None, name: stem(&path, "model"), served });
    }
    let folder = Folder::new(&global.workspace()?)?;
    let registered = folder.lay_out(model, global)?;
    let served = Served::Model { path: registered.model, version: Some(registered.version) };
    Ok(Laid { folder: Some(folder), name: registered.name, served })
}

/// An entry script, where it lies. Its application's folder is the one that its source directory is in, unless
/// `AML_APP_ROOT` says so itself, as it does in an image.
fn with_script(script: EntryScript, models: &[String], global: &Global) -> Result<Laid> {
    let (inference, environment) = script.into_parts();
    let folder = Folder::new(&global.workspace()?)?;
    let within = inference.source_directory.as_deref().unwrap_or(&inference.script).parent();
    let within = within.unwrap_or(Path::new("/"));
    if let Some(root) = std::env::var_os("AML_APP_ROOT").map(PathBuf::from)
        && root.canonicalize().ok() != within.canonicalize().ok()
    {
        let text = format!("expected the folder that the entry script's is in, got '{}'", root.display());
        return Err(ScoreError::bad_config(text).with_at("AML_APP_ROOT"));
    }
    let (model_dir, name) = match models {
        [] => (std::env::var_os("AZUREML_MODEL_DIR").filter(|d| !d.is_empty()).map(PathBuf::from), None),
        [one] if Path::new(one).exists() => {
            let path = std::path::absolute(one).map_err(|e| ScoreError::io("find", Path::new(one), e))?;
            let dir = if path.is_dir() { path.clone() } else { path.parent().unwrap_or(&path).to_owned() };
            (Some(dir), Some(stem(&path, "model")))
        }
        many => {
            if let Some(file) = many.iter().find(|m| many.len() > 1 && Path::new(m).exists()) {
                let text =
                    format!("of several models each must be registered, and '{file}' is a file or a folder");
                return Err(ScoreError::bad_input(text));
            }
            let laid = many.iter().map(|id| folder.lay_out(id, global)).collect::<Result<Vec<_>>>()?;
            match laid.as_slice() {
                [one] => (Some(one.version_dir.clone()), Some(one.name.clone())),
                _ => (Some(folder.0.join("azureml-models")), None),
            }
        }
    };
    let name = name.unwrap_or_else(|| stem(&inference.entry_script, "script"));
    let served = Served::Script(Box::new(ScriptService {
        app_root: within.to_owned(),
        inference,
        environment: Arc::new(environment),
        model_dir,
        runtime: folder.0.join("runtime"),
        log: None,
    }));
    Ok(Laid { folder: Some(folder), name, served })
}

fn stem(path: &Path, otherwise: &str) -> String {
    path.file_stem().map_or_else(|| otherwise.to_owned(), |s| s.to_string_lossy().into_owned())
}

/// A folder of this process, below `serving/<process id>` of the workspace; removed when it is dropped.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A registered model, laid out.
struct LaidOut {
    /// The folder of the version.
    version_dir: PathBuf,
    /// The model's file or folder.
    model: PathBuf,
    name: String,
    version: String,
}

impl Folder {
    /// Names it; what is put into it makes it.
    fn new(workspace: &Workspace) -> Result<Self> {
        let root = workspace.root();
        let root = std::path::absolute(root).map_err(|e| ScoreError::io("find", root, e))?;
        let serving = root.join("serving");
        sweep(&serving);
        Ok(Self(serving.join(std::process::id().to_string())))
    }

    /// Lays a registered model out.
    fn lay_out(&self, id: &str, global: &Global) -> Result<LaidOut> {
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
        let version_dir =
            workspace.materialise(&ModelRef::new(&model.name, Some(model.version))?, &self.0)?;
        let path = version_dir.join(model.top_name());
        Ok(LaidOut { version_dir, model: path, name: model.name.clone(), version: model.version.to_string() })
    }
}

/// Removes what processes left behind that were killed while they served.
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
