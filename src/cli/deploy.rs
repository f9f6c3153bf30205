//! `triscore model deploy`: a model and a deployment file become a service.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use triscore::deploy::DeploymentConfig;
use triscore::registry::{ModelMetadata, ModelRef};
use triscore::service::{self, Deployment};
use triscore::{Result, ScoreError};

use super::inference::Inference;
use super::output::Output;
use super::overrides::Overrides;
use super::{Global, labels, services};

/// What `deploy` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The service's name: 3 to 32 lower-case letters, digits and dashes.
    #[arg(short, long)]
    name: String,

    /// The model: `name:version`, or a name for its latest version.
    #[arg(short, long, value_name = "ID")]
    model: Vec<String>,

    /// A file that names the model, written by `model register -t`.
    #[arg(short = 'f', long, value_name = "FILE")]
    model_metadata_file: Vec<PathBuf>,

    /// The deployment file: JSON or YAML, for local, aci or aks.
    #[arg(long = "dc", visible_alias = "deploy-config-file", value_name = "FILE")]
    deploy_config_file: Option<PathBuf>,

    /// The port, instead of the file's.
    #[arg(short, long, visible_alias = "po")]
    port: Option<u16>,

    /// The address to listen on; 0.0.0.0 opens the service to other machines.
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    address: IpAddr,

    /// Replace a service of that name.
    #[arg(long)]
    overwrite: bool,

    /// Do not wait until the service is healthy.
    #[arg(long)]
    no_wait: bool,

    /// What it is, in words.
    #[arg(long)]
    description: Option<String>,

    /// A label that may change.
    #[arg(long, value_name = "KEY=VALUE")]
    tag: Vec<String>,

    /// A label that never changes.
    #[arg(long, value_name = "KEY=VALUE")]
    property: Vec<String>,

    #[command(flatten)]
    overrides: Overrides,

    #[command(flatten)]
    inference: Inference,
}

/// Deploys, and waits until the service is healthy or will not be.
pub(super) fn run(args: &Args, global: &Global, out: &Output) -> Result<()> {
    args.inference.refuse(out)?;
    let config = args.overrides.over_file(args.deploy_config_file.as_deref())?;
    warn(&config, args.deploy_config_file.as_deref(), &args.overrides, out);
    let models = models(&args.model, &args.model_metadata_file)?;
    if models.is_empty() {
        return Err(ScoreError::bad_input(
            "Error, need to specify either --model or --model-metadata-file for model(s) to be deployed.",
        ));
    }
    let workspace = global.workspace()?;
    let deployment = Deployment {
        name: args.name.clone(),
        models,
        config,
        description: args.description.clone(),
        tags: labels("--tag", &args.tag)?,
        properties: labels("--property", &args.property)?,
        overwrite: args.overwrite,
        port: args.port,
        address: args.address,
        program: program()?,
        onnxruntime: global.onnxruntime.clone(),
    };
    let record = service::deploy(&workspace, &deployment)?;
    if args.no_wait {
        return services::shown(&workspace, &record, out);
    }
    services::wait(&workspace, &args.name, record.generation, out)
}

/// The models that `-m` and `-f` name.
pub(super) fn models(ids: &[String], metadata_files: &[PathBuf]) -> Result<Vec<ModelRef>> {
    let mut models = ids.iter().map(|m| m.parse::<ModelRef>()).collect::<Result<Vec<_>>>()?;
    for file in metadata_files {
        models.push(ModelMetadata::read(file)?.model()?);
    }
    Ok(models)
}

/// Says what the author of a deployment file, or of its flags, should know.
pub(super) fn warn(config: &DeploymentConfig, file: Option<&Path>, overrides: &Overrides, out: &Output) {
    for warning in &config.warnings {
        match file.filter(|_| !warning.key.starts_with("--")) {
            Some(file) => out.note(&format!("warning: {}: {warning}", file.display())),
            None => out.note(&format!("warning: {warning}")),
        }
    }
    for idle in overrides.idle() {
        out.note(&format!("warning: {idle}"));
    }
}

/// The program that runs services: this one.
pub(super) fn program() -> Result<PathBuf> {
    std::env::current_exe()
        .map_err(|e| ScoreError::internal(format!("cannot find this program's own file: {e}")).with_source(e))
}
