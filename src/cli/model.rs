//! `triscore model …`: the registry's commands, with the names and flags that they had.

use std::path::PathBuf;

use serde_json::{Value, json};
use triscore::registry::{
    BestBy, Framework, Goal, ModelFilter, ModelMetadata, ModelRecord, ModelRef, ModelSource, ModelUpdate,
    NewModel, Progress, Resources, RunSource,
};
use triscore::{Result, ScoreError};

use super::output::{Output, size, table, text};
use super::{Global, deploy, labels, package, profile};

/// What can be done with models.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Register a model: a file, a folder, or an output of a training run. It gets the next version.
    Register(Box<Register>),
    /// List registered models.
    List(List),
    /// Show a model.
    Show(Show),
    /// Change a model's tags, description and requirements; add properties.
    Update(Update),
    /// Copy a model's files into a folder.
    Download(Download),
    /// Delete a model that no service uses.
    Delete(Delete),
    /// Deploy a model as a service.
    Deploy(Box<deploy::Args>),
    /// Measure a model on sample data, and say what to ask for in its deployment file.
    Profile(Box<profile::Args>),
    /// Write a service as a folder from which docker builds an image.
    Package(Box<package::Args>),
}

/// What a service needs to run a model, where its configuration does not say.
#[derive(Debug, clap::Args)]
struct Needs {
    /// Processor cores.
    #[arg(long, value_name = "CORES")]
    cc: Option<f64>,
    /// Memory in GB.
    #[arg(long, value_name = "GB")]
    gb: Option<f64>,
    /// GPUs.
    #[arg(long, value_name = "COUNT")]
    gc: Option<u32>,
    /// The id of a dataset of sample inputs.
    #[arg(long, value_name = "ID")]
    sample_input_dataset_id: Option<String>,
    /// The id of a dataset of sample outputs.
    #[arg(long, value_name = "ID")]
    sample_output_dataset_id: Option<String>,
}

impl Needs {
    fn resources(&self) -> Resources {
        Resources { cpu: self.cc, memory_gb: self.gb, gpu: self.gc, fpga: None }
    }
}

/// What `register` takes.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("source").required(true).args(["model_path", "asset_path"]))]
pub(super) struct Register {
    /// The name.
    #[arg(short, long)]
    name: String,
    /// The file or folder.
    #[arg(short = 'p', long, value_name = "PATH")]
    model_path: Option<PathBuf>,
    /// Instead of a path: the file or folder in a training run's outputs.
    #[arg(long, value_name = "PATH")]
    asset_path: Option<PathBuf>,
    /// The experiment of the run.
    #[arg(long, value_name = "NAME")]
    experiment_name: Option<String>,
    /// The run; without it, the experiment's best by --best-metric.
    #[arg(short = 'r', long, value_name = "ID")]
    run_id: Option<String>,
    /// A JSON file that names experiment and run.
    #[arg(short = 'f', long, value_name = "FILE")]
    run_metadata_file: Option<PathBuf>,
    /// Where runs are kept, as MLflow keeps them.
    #[arg(long, value_name = "DIR", default_value = "mlruns")]
    runs_root: PathBuf,
    /// The metric that makes a run the best.
    #[arg(long, value_name = "NAME")]
    best_metric: Option<String>,
    /// The lowest value of --best-metric is the best, not the highest.
    #[arg(long, requires = "best_metric")]
    lowest: bool,
    /// What it is, in words.
    #[arg(short, long)]
    description: Option<String>,
    /// A label that may change.
    #[arg(long, value_name = "KEY=VALUE")]
    tag: Vec<String>,
    /// A label that never changes.
    #[arg(long, value_name = "KEY=VALUE")]
    property: Vec<String>,
    /// What it was made with: Custom, TensorFlow, ScikitLearn, Onnx, TfKeras, PyTorch or Multi.
    #[arg(long, value_name = "NAME")]
    model_framework: Option<String>,
    /// Which version of that.
    #[arg(long, value_name = "VERSION")]
    model_framework_version: Option<String>,
    #[command(flatten)]
    needs: Needs,
    /// Write the model's id into this file, for `model deploy -f`.
    #[arg(short = 't', long, value_name = "FILE")]
    output_metadata_file: Option<PathBuf>,
}

/// What `list` takes.
#[derive(Debug, clap::Args)]
pub(super) struct List {
    /// Only models of this name.
    #[arg(short = 'n', long)]
    model_name: Option<String>,
    /// Only models with this tag: a key, or key=value.
    #[arg(long, value_name = "KEY[=VALUE]")]
    tag: Vec<String>,
    /// Only models with this property: a key, or key=value.
    #[arg(long, value_name = "KEY[=VALUE]")]
    property: Vec<String>,
    /// Only models out of this training run.
    #[arg(long, value_name = "ID")]
    run_id: Option<String>,
    /// Only models made with this.
    #[arg(long, value_name = "NAME")]
    framework: Option<String>,
    /// Only the latest version of each name.
    #[arg(short, long)]
    latest: bool,
}

/// What `show` takes.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("which").required(true).args(["model_id", "model_name"]))]
pub(super) struct Show {
    /// The model: `name:version`, or a name for its latest version.
    #[arg(short = 'i', long, value_name = "ID")]
    model_id: Option<String>,
    /// The model's name.
    #[arg(short = 'n', long, value_name = "NAME")]
    model_name: Option<String>,
    /// The version; the latest if it is not given.
    #[arg(long, requires = "model_name")]
    version: Option<i64>,
}

/// What `update` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Update {
    /// The model: `name:version`, or a name for its latest version.
    #[arg(short = 'i', long, value_name = "ID")]
    model_id: String,
    /// A tag to put.
    #[arg(long, value_name = "KEY=VALUE")]
    add_tag: Vec<String>,
    /// A tag to take away.
    #[arg(long, value_name = "KEY")]
    remove_tag: Vec<String>,
    /// A property to add; one that is there cannot be changed.
    #[arg(long, value_name = "KEY=VALUE")]
    add_property: Vec<String>,
    /// What it is, in words.
    #[arg(long)]
    description: Option<String>,
    #[command(flatten)]
    needs: Needs,
}

/// What `download` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Download {
    /// The model: `name:version`, or a name for its latest version.
    #[arg(short = 'i', long, value_name = "ID")]
    model_id: String,
    /// The folder to copy into.
    #[arg(short = 't', long, value_name = "DIR")]
    target_dir: PathBuf,
    /// Replace files that are there.
    #[arg(long)]
    overwrite: bool,
}

/// What `delete` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Delete {
    /// The model: `name:version`, or a name for its latest version.
    #[arg(short = 'i', long, value_name = "ID")]
    model_id: String,
}

/// Runs one of the commands.
pub(super) fn run(command: &Command, global: &Global, out: &Output) -> Result<()> {
    match command {
        Command::Register(args) => register(args, global, out),
        Command::List(args) => list(args, global, out),
        Command::Show(args) => {
            let model = match (&args.model_id, &args.model_name) {
                (Some(id), _) => id.parse()?,
                (None, Some(name)) => ModelRef::new(name, args.version)?,
                (None, None) => {
                    return Err(ScoreError::bad_input("name a model: --model-id or --model-name"));
                }
            };
            shown(&global.workspace()?.show(&model)?, out)
        }
        Command::Update(args) => {
            let update = ModelUpdate {
                add_tags: labels("--add-tag", &args.add_tag)?,
                remove_tags: args.remove_tag.clone(),
                add_properties: labels("--add-property", &args.add_property)?,
                description: args.description.clone(),
                resources: args.needs.resources(),
                sample_input_dataset_id: args.needs.sample_input_dataset_id.clone(),
                sample_output_dataset_id: args.needs.sample_output_dataset_id.clone(),
            };
            shown(&global.workspace()?.update(&args.model_id.parse()?, &update)?, out)
        }
        Command::Download(args) => {
            let model = args.model_id.parse()?;
            let path = global.workspace()?.download(&model, &args.target_dir, args.overwrite)?;
            out.result(&json!({ "path": path }), || path.display().to_string())
        }
        Command::Delete(args) => {
            let deleted = global.workspace()?.delete(&args.model_id.parse()?)?;
            out.result(&json!({ "id": deleted.id() }), || format!("deleted {}", deleted.id()))
        }
        Command::Deploy(args) => deploy::run(args, global, out),
        Command::Profile(args) => profile::run(args, global, out),
        Command::Package(args) => package::run(args, global, out),
    }
}

fn register(args: &Register, global: &Global, out: &Output) -> Result<()> {
    let source = match (&args.model_path, &args.asset_path) {
        (Some(path), _) => ModelSource::Path(path.clone()),
        (None, Some(asset)) => {
            let goal = if args.lowest { Goal::Min } else { Goal::Max };
            ModelSource::Run(RunSource {
                runs_root: args.runs_root.clone(),
                experiment_name: args.experiment_name.clone(),
                run_id: args.run_id.clone(),
                best_by: args.best_metric.clone().map(|metric| BestBy { metric, goal }),
                run_metadata_file: args.run_metadata_file.clone(),
                ..RunSource::new(asset)
            })
        }
        (None, None) => {
            return Err(ScoreError::bad_input("name a file or folder: --model-path or --asset-path"));
        }
    };
    let from_run = args.asset_path.is_some();
    let new = NewModel {
        description: args.description.clone(),
        tags: labels("--tag", &args.tag)?,
        properties: labels("--property", &args.property)?,
        framework: args.model_framework.as_deref().map(str::parse::<Framework>).transpose()?,
        framework_version: args.model_framework_version.clone(),
        resources: args.needs.resources(),
        sample_input_dataset_id: args.needs.sample_input_dataset_id.clone(),
        sample_output_dataset_id: args.needs.sample_output_dataset_id.clone(),
        experiment_name: args.experiment_name.clone().filter(|_| !from_run),
        run_id: args.run_id.clone().filter(|_| !from_run),
        ..NewModel::new(&args.name, source)
    };
    let mut told = std::time::Instant::now();
    let mut progress = |p: &Progress<'_>| {
        // Small models are done before anybody could read a line about them.
        if told.elapsed().as_millis() >= 500 {
            told = std::time::Instant::now();
            out.note(&format!(
                "copying {} ({} of {}, file {} of {})",
                p.file,
                size(p.bytes_done),
                size(p.bytes),
                p.files_done + 1,
                p.files
            ));
        }
    };
    let model = global.workspace()?.register_with(&new, &mut progress)?;
    if let Some(path) = &args.output_metadata_file {
        ModelMetadata { model_id: model.id(), workspace_name: None, resource_group_name: None }
            .write(path)?;
    }
    shown(&model, out)
}

fn list(args: &List, global: &Global, out: &Output) -> Result<()> {
    let filter = ModelFilter {
        name: args.model_name.clone(),
        tags: args.tag.clone(),
        properties: args.property.clone(),
        run_id: args.run_id.clone(),
        framework: args.framework.as_deref().map(str::parse::<Framework>).transpose()?,
        latest: args.latest,
    };
    let models = global.workspace()?.list(&filter)?;
    let json = Value::Array(models.iter().map(ModelRecord::to_cli_json).collect());
    out.result(&json, || {
        if models.is_empty() {
            return "no models are registered that fit; `triscore model register -n NAME -p FILE` adds one"
                .to_owned();
        }
        let mut rows = table(&["id", "framework", "size", "created", "tags"]);
        for m in &models {
            let tags = m.tags.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(" ");
            rows.add_row([
                m.id(),
                m.framework.name().to_owned(),
                size(m.size_bytes()),
                m.created_time.clone(),
                tags,
            ]);
        }
        text(&rows)
    })
}

/// Prints a model as the command line of Azure printed it; for people, without what is empty.
fn shown(model: &ModelRecord, out: &Output) -> Result<()> {
    out.result(&model.to_cli_json(), || {
        let mut rows = table(&[]);
        if let Value::Object(fields) = model.to_cli_json() {
            for (key, value) in fields {
                match value {
                    Value::String(text) if text.is_empty() => {}
                    Value::String(text) => drop(rows.add_row([key, text])),
                    other => drop(rows.add_row([key, other.to_string()])),
                }
            }
        }
        for file in &model.files {
            rows.add_row(["file".to_owned(), format!("{} ({})", file.path, size(file.size_bytes))]);
        }
        text(&rows)
    })
}
