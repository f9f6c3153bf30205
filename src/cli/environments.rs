//! `triscore environment …`: the Python environments that entry scripts were deployed with.

use serde_json::json;
use triscore::service::environments_in_use;
use triscore::{Result, environment};

use super::Global;
use super::output::{Output, table, text};

/// What can be done with environments. Deployments make them.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List them, and whether a service needs them.
    List,
    /// Remove those that no service needs.
    Prune,
}

pub(super) fn run(command: &Command, global: &Global, out: &Output) -> Result<()> {
    let workspace = global.workspace()?;
    let used = environments_in_use(&workspace)?;
    match command {
        Command::List => {
            let kept = environment::list(workspace.root())?;
            let json = kept.iter().map(|e| {
                json!({
                    "hash": e.hash, "pythonVersion": e.python_version, "folder": e.folder,
                    "inUse": used.contains(&e.hash),
                })
            });
            out.result(&json.collect(), || {
                if kept.is_empty() {
                    return "no environments are kept; a deployment with an entry script makes one"
                        .to_owned();
                }
                let mut rows = table(&["hash", "python", "in use", "folder"]);
                for e in &kept {
                    let version = e.python_version.as_deref().unwrap_or("not finished");
                    let in_use = if used.contains(&e.hash) { "yes" } else { "no" };
                    rows.add_row([&e.hash, version, in_use, &e.folder.display().to_string()]);
                }
                text(&rows)
            })
        }
        Command::Prune => {
            let removed = environment::remove_unused(workspace.root(), &used)?;
            out.result(&json!({ "removed": removed }), || match removed.as_slice() {
                [] => "nothing to remove".to_owned(),
                some => format!("removed {}", some.join(", ")),
            })
        }
    }
}
