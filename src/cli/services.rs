//! `triscore service …`: deployed services.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use triscore::registry::{Secret, ServiceFilter, ServiceKeys, Workspace};
use triscore::service;
use triscore::{ErrorKind, Result, ScoreError};

use super::output::{Output, table, text};
use super::service_view::{shown, state, to_json, wait};
use super::{Global, own_program, update};

/// What can be done with services.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List services.
    List(List),
    /// Show a service: its state with the reason, where it is called, what it scores on.
    Show(Name),
    /// Send a service one request and print its answer.
    Run(Run),
    /// Change a service without a gap: labels at once, all else as a new version beside the one that serves.
    Update(Box<update::Args>),
    /// Print the keys of a service.
    GetKeys(Name),
    /// Change a key of a service, which need not be started again.
    RegenKey(RegenKey),
    /// Print a token for callers of a service with tokenAuthEnabled.
    GetAccessToken(Name),
    /// Print the end of a service's log.
    GetLogs(Logs),
    /// Start a service again whose process is gone, after a restart of the machine for one.
    Start(Name),
    /// Stop a service; it stays registered.
    Stop(Name),
    /// Stop a service and remove it. Its models stay.
    Delete(Name),
}

/// What `list` takes.
#[derive(Debug, clap::Args)]
pub(super) struct List {
    /// Only services of this kind: local, aci or aks.
    #[arg(short, long, value_name = "KIND")]
    compute_type: Option<String>,
    /// Only services of this model, as `name:version`.
    #[arg(long, value_name = "ID")]
    model_id: Option<String>,
    /// Only services of any version of this model.
    #[arg(long, value_name = "NAME")]
    model_name: Option<String>,
    /// Refused: services have no images here.
    #[arg(long, value_name = "DIGEST")]
    image_digest: Option<String>,
    /// Only services with this tag: a key, or key=value.
    #[arg(long, value_name = "KEY[=VALUE]")]
    tag: Vec<String>,
    /// Only services with this property: a key, or key=value.
    #[arg(long, value_name = "KEY[=VALUE]")]
    property: Vec<String>,
}

/// A service's name.
#[derive(Debug, clap::Args)]
pub(super) struct Name {
    /// The service's name.
    #[arg(short, long)]
    name: String,
}

/// What `run` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Run {
    /// The service's name.
    #[arg(short, long)]
    name: String,
    /// The request's body; `@FILE` reads it from a file.
    #[arg(short = 'd', long, value_name = "JSON")]
    input_data: String,
    /// Give up after so many milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 60_000)]
    timeout_ms: u64,
}

/// What `get-logs` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Logs {
    /// The service's name.
    #[arg(short, long)]
    name: String,
    /// How many lines at most.
    #[arg(short = 'l', long = "num_lines", visible_alias = "num-lines", default_value_t = 5000)]
    num_lines: usize,
    /// Only from the last start on.
    #[arg(short, long)]
    init: bool,
}

/// What `regen-key` takes.
#[derive(Debug, clap::Args)]
pub(super) struct RegenKey {
    /// The service's name.
    #[arg(short, long)]
    name: String,
    /// Which key: Primary or Secondary.
    #[arg(short, long, value_name = "KEY")]
    key: String,
    /// The new key, instead of one that is made.
    #[arg(short, long, value_name = "TEXT")]
    set_key: Option<String>,
}

/// Runs one of the commands.
pub(super) fn run(command: &Command, global: &Global, out: &Output) -> Result<()> {
    let workspace = global.workspace()?;
    match command {
        Command::List(args) => list(args, &workspace, out),
        Command::Show(args) => shown(&workspace, &service::show(&workspace, &args.name)?, out),
        Command::Run(args) => call(args, &workspace, out),
        Command::GetKeys(args) => keys(&workspace.service_keys(&args.name)?, out),
        Command::Update(args) => update::run(args, &workspace, global, out),
        Command::RegenKey(args) => {
            let key = args.set_key.as_ref().map(Secret::new).transpose()?;
            keys(&service::regenerate_key(&workspace, &args.name, args.key.parse()?, key)?, out)
        }
        Command::GetAccessToken(args) => {
            let token = service::access_token(&workspace, &args.name)?;
            out.result(&token.to_json(), || token.access_token.clone())
        }
        Command::GetLogs(args) => logs(args, &workspace, out),
        Command::Start(args) => {
            let record = service::start(&workspace, &args.name, &own_program()?)?;
            wait(&workspace, &args.name, record.generation, out)
        }
        Command::Stop(args) => shown(&workspace, &service::stop(&workspace, &args.name)?, out),
        Command::Delete(args) => {
            let deleted = service::delete(&workspace, &args.name)?;
            let name = deleted.spec.name;
            out.result(&json!({ "name": name }), || format!("deleted service '{name}'"))
        }
    }
}

/// Prints the keys of a service: for whoever asks for them by name.
fn keys(keys: &ServiceKeys, out: &Output) -> Result<()> {
    let (primary, secondary) = (keys.primary.expose(), keys.secondary.expose());
    let json = json!({ "primaryKey": primary, "secondaryKey": secondary });
    out.result(&json, || format!("primary    {primary}\nsecondary  {secondary}"))
}

fn list(args: &List, workspace: &Workspace, out: &Output) -> Result<()> {
    let kinds = ["local", "aci", "aks"];
    if let Some(kind) = args.compute_type.as_deref().filter(|k| !kinds.contains(&&*k.to_ascii_lowercase())) {
        let text = format!("expected one of {}, got '{}'", kinds.join(", "), kind.escape_debug());
        return Err(ScoreError::bad_input(text).with_at("--compute-type"));
    }
    if args.image_digest.is_some() {
        let text = "services have no images here: choose them by --model-id or --model-name";
        return Err(ScoreError::unsupported(text).with_at("--image-digest"));
    }
    let filter = ServiceFilter {
        compute_type: args.compute_type.clone(),
        model_id: args.model_id.clone(),
        model_name: args.model_name.clone(),
        tags: args.tag.clone(),
        properties: args.property.clone(),
    };
    let services = service::list(workspace, &filter)?;
    let json = Value::Array(services.iter().map(|s| to_json(workspace, s)).collect());
    out.result(&json, || {
        if services.is_empty() {
            return "no services are deployed that fit; `triscore model deploy` starts one".to_owned();
        }
        let mut rows = table(&["name", "state", "model", "scoring uri", "device"]);
        for s in &services {
            rows.add_row([
                s.spec.name.clone(),
                state(s).to_owned(),
                s.spec.model_ids.join(" "),
                service::scoring_uri(s).unwrap_or_default(),
                s.status.device.clone().unwrap_or_default(),
            ]);
        }
        text(&rows)
    })
}

fn call(args: &Run, workspace: &Workspace, out: &Output) -> Result<()> {
    let body = match args.input_data.strip_prefix('@') {
        Some(file) => {
            let path = PathBuf::from(file);
            std::fs::read(&path).map_err(|e| ScoreError::io("read the request", &path, e))?
        }
        None => args.input_data.clone().into_bytes(),
    };
    let record = service::show(workspace, &args.name)?;
    let at = format!("service '{}'", args.name);
    let alive = record.status.process.is_some_and(|p| p.is_alive());
    let Some(endpoint) = service::endpoint(&record)?.filter(|_| alive) else {
        let why = record.status.reason.unwrap_or_default();
        let text = format!("Cannot call run() when service is {}. {why}", record.status.state);
        return Err(ScoreError::new(ErrorKind::NotReady, text).with_at(at));
    };
    let credential = service::credential(workspace, &record)?;
    let timeout = Duration::from_millis(args.timeout_ms.max(1));
    let answer = service::post_score(&endpoint, Some(&credential), &body, timeout)?;
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    if answer.status != 200 {
        // Several kinds share a status: these are the ones that a server answers so.
        let kind = match answer.status {
            400 => Some(ErrorKind::BadInput),
            500 => Some(ErrorKind::Internal),
            503 => Some(ErrorKind::Overloaded),
            other => ErrorKind::ALL.into_iter().find(|k| k.row().http_status == other),
        };
        let message = serde_json::from_str::<Value>(&text).ok();
        let message = message.as_ref().and_then(|m| m["message"].as_str()).unwrap_or(&text);
        let text = format!("answered {}: {message}", answer.status);
        return Err(ScoreError::new(kind.unwrap_or(ErrorKind::Internal), text).with_at(at));
    }
    // The answer is JSON already, for people and programs alike.
    let json = serde_json::from_str(&text).unwrap_or(Value::String(text.clone()));
    out.result(&json, || text)
}

fn logs(args: &Logs, workspace: &Workspace, out: &Output) -> Result<()> {
    let text = service::logs(workspace, &args.name, args.num_lines, args.init)?;
    // An array that holds one string, as Azure's tools printed it.
    out.result(&json!([text]), || text.clone())
}
