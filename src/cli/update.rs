//! `triscore service update`: labels, or a new version in the place of the one that serves.

use std::path::PathBuf;

use serde_json::Value;
use triscore::deploy::DeploymentConfig;
use triscore::registry::{ServiceUpdate, Workspace};
use triscore::service::{self, Update, Updated};
use triscore::{Result, ScoreError};

use super::inference::Inference;
use super::named::Models;
use super::output::Output;
use super::overrides::Overrides;
use super::service_view::{Dots, settled, shown, wait};
use super::{Global, labels};

/// What `update` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The service's name.
    #[arg(short, long)]
    name: String,

    #[command(flatten)]
    models: Models,

    /// Another deployment file, in the place of the one that it has.
    #[arg(long = "dc", visible_alias = "deploy-config-file", value_name = "FILE")]
    deploy_config_file: Option<PathBuf>,

    /// The port that it has; an update keeps it.
    #[arg(short, long, visible_alias = "po")]
    port: Option<u16>,

    /// Do not wait until the new version serves.
    #[arg(long)]
    no_wait: bool,

    /// A tag to put.
    #[arg(long, visible_alias = "tag", value_name = "KEY=VALUE")]
    add_tag: Vec<String>,

    /// A tag to take away.
    #[arg(long, value_name = "KEY")]
    remove_tag: Vec<String>,

    /// A property to add; one that is there cannot be changed.
    #[arg(long, visible_alias = "property", value_name = "KEY=VALUE")]
    add_property: Vec<String>,

    /// What it is, in words.
    #[arg(long)]
    description: Option<String>,

    #[command(flatten)]
    overrides: Overrides,

    #[command(flatten)]
    inference: Inference,
}

/// Changes a service, and waits until the new version serves or will not.
pub(super) fn run(args: &Args, workspace: &Workspace, global: &Global, out: &Output) -> Result<()> {
    let models = args.models.all()?;
    let file = args.deploy_config_file.as_deref();
    let change = |present: &Value| -> Result<DeploymentConfig> {
        let config = match file {
            Some(_) => args.overrides.over_file(file)?,
            None => args.overrides.over(present.clone())?,
        };
        args.overrides.warn(&config, file, out);
        Ok(config)
    };
    let changes_config = file.is_some() || !args.overrides.is_empty();
    if let Some(port) = args.port {
        let has = workspace.show_service(&args.name)?.status.port;
        if has != Some(port) {
            let has = has.map_or("none".to_owned(), |p| p.to_string());
            let text = format!(
                "an update keeps the service's port ({has}), got {port}: `model deploy --overwrite` moves it"
            );
            return Err(ScoreError::bad_input(text).with_at("--port"));
        }
    }
    let update = Update {
        name: args.name.clone(),
        models: (!models.is_empty()).then_some(models),
        script: args.inference.prepare(global, out)?,
        config: if changes_config { Some(&change) } else { None },
        labels: ServiceUpdate {
            add_tags: labels("--add-tag", &args.add_tag)?,
            remove_tags: args.remove_tag.clone(),
            add_properties: labels("--add-property", &args.add_property)?,
            description: args.description.clone(),
        },
        program: super::own_program()?,
        onnxruntime: global.onnxruntime.clone(),
    };
    match service::update(workspace, &update)? {
        Updated::Labels(record) => shown(workspace, &record, out),
        Updated::Started(record) if args.no_wait => shown(workspace, &record, out),
        Updated::Started(record) => wait(workspace, &args.name, record.generation, out),
        Updated::Rolling(_) if args.no_wait => shown(workspace, &service::show(workspace, &args.name)?, out),
        Updated::Rolling(generation) => {
            let mut dots = Dots::new(out);
            let waited = service::wait_update(workspace, &args.name, generation, |e| dots.tick(e));
            dots.end();
            settled(workspace, &waited?, out)
        }
    }
}
