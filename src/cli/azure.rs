//! What every command of `az ml` took besides, so that a script for it runs unchanged.

use clap::ValueEnum;
use triscore::{Result, ScoreError};

use super::output::Output;

/// The flags that all of `az ml`'s commands took.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "As az had them")]
pub(super) struct AzureArgs {
    /// Means nothing here: there are no resource groups.
    #[arg(short = 'g', long, global = true, value_name = "NAME")]
    resource_group: Option<String>,
    /// Means nothing here: the workspace is the folder that --home names.
    #[arg(short = 'w', long, global = true, value_name = "NAME")]
    workspace_name: Option<String>,
    /// Means nothing here: there are no subscriptions.
    #[arg(long, global = true, value_name = "ID")]
    subscription_id: Option<String>,
    /// Means nothing here: run configurations are not read.
    #[arg(long, global = true, value_name = "DIR")]
    path: Option<String>,
    /// Means nothing here: $TRISCORE_LOG says how much is logged.
    #[arg(short = 'v', global = true)]
    verbosity: bool,
    /// How results look.
    #[arg(short = 'o', long, global = true, value_enum, value_name = "FORM")]
    output: Option<Form>,
    /// Means nothing here: the whole result is printed; `jq` picks from it.
    #[arg(long, global = true, value_name = "JMESPATH")]
    query: Option<String>,
}

/// The forms of az's results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// JSON, as --json.
    Json,
    /// JSON in colours; here without.
    Jsonc,
    /// For people, as without it.
    Table,
    /// Not printed here.
    Tsv,
}

impl AzureArgs {
    /// Whether results are to be JSON.
    pub(super) fn is_json(&self) -> bool {
        matches!(self.output, Some(Form::Json | Form::Jsonc))
    }

    /// Says once what was given and has no meaning; refuses what would look like another result.
    ///
    /// # Errors
    /// `BadInput` for the form that is not printed.
    pub(super) fn note(&self, out: &Output) -> Result<()> {
        if self.output == Some(Form::Tsv) {
            let text = "tsv is not printed here: take '-o json' and pick with `jq -r`, or '-o table'";
            return Err(ScoreError::bad_input(text).with_at("--output"));
        }
        let given = [
            ("--resource-group", self.resource_group.is_some()),
            ("--workspace-name", self.workspace_name.is_some()),
            ("--subscription-id", self.subscription_id.is_some()),
            ("--path", self.path.is_some()),
            ("-v", self.verbosity),
            ("--query", self.query.is_some()),
        ];
        let idle = given.iter().filter_map(|(flag, given)| given.then_some(*flag)).collect::<Vec<_>>();
        if !idle.is_empty() {
            let (verb, flags) = (if idle.len() == 1 { "has" } else { "have" }, idle.join(", "));
            out.note(&format!(
                "note: {flags} {verb} no meaning here: there is no Azure; the workspace is a folder"
            ));
        }
        Ok(())
    }
}
