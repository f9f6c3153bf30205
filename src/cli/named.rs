//! The models that a command is about, named as `az ml` had it.

use std::path::PathBuf;

use triscore::registry::{ModelMetadata, ModelRef};
use triscore::{Result, ScoreError};

/// The arguments that name them.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Models {
    /// The model: `name:version`, or a name for its latest version.
    #[arg(short, long, value_name = "ID")]
    model: Vec<String>,

    /// A file that names the model, written by `model register -t`.
    #[arg(short = 'f', long, value_name = "FILE")]
    model_metadata_file: Vec<PathBuf>,
}

impl Models {
    /// All of them, those of files last.
    ///
    /// # Errors
    /// `BadInput` for what is no model's name; as [`ModelMetadata::read`].
    pub(super) fn all(&self) -> Result<Vec<ModelRef>> {
        let mut models = self.model.iter().map(|m| m.parse::<ModelRef>()).collect::<Result<Vec<_>>>()?;
        for file in &self.model_metadata_file {
            models.push(ModelMetadata::read(file)?.model()?);
        }
        Ok(models)
    }

    /// As [`all`](Self::all), where a command cannot do without; `done` is what it does to them.
    ///
    /// # Errors
    /// As [`all`](Self::all); `BadInput` in az's words when there is none.
    pub(super) fn at_least_one(&self, done: &str) -> Result<Vec<ModelRef>> {
        let models = self.all()?;
        match models.is_empty() {
            false => Ok(models),
            true => Err(ScoreError::bad_input(format!(
                "Error, need to specify either --model or --model-metadata-file for model(s) to be {done}."
            ))),
        }
    }
}
