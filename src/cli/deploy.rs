//! `triscore model deploy`: a model and a deployment file become a service.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use triscore::Result;
use triscore::service::{self, Deployment};

use super::inference::Inference;
use super::named::Models;
use super::output::Output;
use super::overrides::Overrides;
use super::{Global, labels, service_view};

/// What `deploy` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The service's name: 3 to 32 lower-case letters, digits and dashes.
    #[arg(short, long)]
    name: String,

    #[command(flatten)]
    models: Models,

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
    let config = args.overrides.over_file(args.deploy_config_file.as_deref())?;
    args.overrides.warn(&config, args.deploy_config_file.as_deref(), out);
    let models = match args.inference.is_given() {
        // An entry script may do without a model.
        true => args.models.all()?,
        false => args.models.at_least_one("deployed")?,
    };
    let script = args.inference.prepare(global, out)?;
    let workspace = global.workspace()?;
    let deployment = Deployment {
        name: args.name.clone(),
        models,
        script,
        config,
        description: args.description.clone(),
        tags: labels("--tag", &args.tag)?,
        properties: labels("--property", &args.property)?,
        overwrite: args.overwrite,
        port: args.port,
        address: args.address,
        program: super::own_program()?,
        onnxruntime: global.onnxruntime.clone(),
    };
    let record = service::deploy(&workspace, &deployment)?;
    if args.no_wait {
        return service_view::shown(&workspace, &record, out);
    }
    service_view::wait(&workspace, &args.name, record.generation, out)
}
