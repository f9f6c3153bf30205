//! `triscore model package`: a service as a folder from which docker builds an image.

use std::path::PathBuf;

use serde_json::json;
use triscore::deploy::DeploymentConfig;
use triscore::service::{self, Package};
use triscore::{BackendKind, Result, ScoreError};

use super::Global;
use super::inference::Inference;
use super::named::Models;
use super::output::Output;

/// What `package` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    models: Models,

    /// The deployment file: JSON or YAML; its keys are left out of the image.
    #[arg(long = "dc", visible_alias = "deploy-config-file", value_name = "FILE")]
    deploy_config_file: Option<PathBuf>,

    /// The folder to write. Images are built from it with docker, which need not be on this machine.
    #[arg(long, value_name = "DIR")]
    output_path: Option<PathBuf>,

    /// Replace what an earlier package wrote there.
    #[arg(long)]
    overwrite: bool,

    /// Accepted, as it was; there is nothing to wait for.
    #[arg(long)]
    no_wait: bool,

    // Last: its heading would stand over what follows.
    #[command(flatten)]
    inference: Inference,
}

/// Writes the folder.
pub(super) fn run(args: &Args, global: &Global, out: &Output) -> Result<()> {
    let Some(output_path) = args.output_path.clone() else {
        return Err(ScoreError::unsupported(
            "images are built by docker, not by triscore: give --output-path DIR, and run the command in the \
             README.md that is written there on a machine with docker",
        ));
    };
    let models = args.models.at_least_one("packaged")?;
    let Some(inference) = args.inference.resolve(out)? else {
        return Err(ScoreError::bad_input("need to specify entry_script: give --ic FILE, or --es FILE"));
    };
    let deployment = args.deploy_config_file.as_ref().map(DeploymentConfig::read).transpose()?;
    let package = Package {
        models,
        inference,
        deployment,
        output_path,
        overwrite: args.overwrite,
        program: super::own_program()?,
        onnxruntime: onnxruntime(global)?,
    };
    let packaged = service::package(&global.workspace()?, &package)?;
    for note in &packaged.notes {
        out.note(&format!("note: {note}"));
    }
    let notes = packaged.notes.iter().map(ToString::to_string).collect::<Vec<_>>();
    let json = json!({
        "path": packaged.folder,
        "files": packaged.files,
        "models": packaged.models,
        "baseImage": packaged.base_image,
        "pinned": packaged.pinned,
        "notes": notes,
    });
    out.result(&json, || {
        let folder = packaged.folder.display();
        format!(
            "wrote {folder} ({} files)\n{folder}/README.md says how docker builds and runs it",
            packaged.files.len()
        )
    })
}

/// ONNX Runtime's library as the CPU backend finds it. One that was named must be there; else a package can do
/// without.
fn onnxruntime(global: &Global) -> Result<Option<PathBuf>> {
    let cpu = global.backends().into_iter().find(|backend| backend.kind() == BackendKind::Cpu);
    let devices = match cpu.map(|cpu| cpu.probe()) {
        Some(Err(e)) if global.onnxruntime.is_some() => return Err(e),
        Some(Ok(devices)) => devices,
        _ => return Ok(None),
    };
    let facts = devices.into_iter().flat_map(|device| device.facts);
    Ok(facts.into_iter().find(|(name, _)| *name == "library").map(|(_, path)| PathBuf::from(path)))
}
