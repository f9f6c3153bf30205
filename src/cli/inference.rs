//! The arguments that say which script answers, and with which Python: the file, and the flags over it, under
//! the names that they had.

use std::path::PathBuf;

use triscore::deploy::{InferenceConfig, InferenceOverrides};
use triscore::{Result, ScoreError};

use super::output::Output;

/// The script and its environment.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Entry script and environment")]
pub(super) struct Inference {
    /// The inference configuration: JSON or YAML; the flags below win over it.
    #[arg(long = "ic", visible_alias = "inference-config-file", value_name = "FILE")]
    inference_config_file: Option<PathBuf>,

    /// The script with init() and run(), relative to --source-directory.
    #[arg(long = "es", visible_alias = "entry-script", value_name = "FILE")]
    entry_script: Option<String>,

    /// The script's folder, which comes along whole.
    #[arg(long = "sd", visible_alias = "source-directory", value_name = "DIR")]
    source_directory: Option<String>,

    /// A folder with azureml_environment.json or conda_dependencies.yml.
    #[arg(long = "ed", visible_alias = "environment-directory", value_name = "DIR")]
    environment_directory: Option<PathBuf>,

    /// A registered environment; there are none here, so it is refused with what to do instead.
    #[arg(short = 'e', long, value_name = "NAME")]
    environment_name: Option<String>,

    /// Its version.
    #[arg(long = "ev", visible_alias = "environment-version", value_name = "VERSION")]
    environment_version: Option<String>,

    /// A conda file, relative to --source-directory.
    #[arg(long = "cf", visible_alias = "conda-file", value_name = "FILE")]
    conda_file: Option<String>,

    /// python or spark-py.
    #[arg(long = "rt", visible_alias = "runtime", value_name = "NAME")]
    runtime: Option<String>,

    /// A file with lines for a Dockerfile, relative to --source-directory.
    #[arg(long = "ds", visible_alias = "extra-docker-file-steps", value_name = "FILE")]
    extra_dockerfile_steps: Option<String>,

    /// The image is to bring CUDA along.
    #[arg(long = "eg", visible_alias = "enable-gpu", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    enable_gpu: Option<bool>,

    /// Which CUDA.
    #[arg(long = "cv", visible_alias = "cuda-version", value_name = "VERSION")]
    cuda_version: Option<String>,

    /// The image to build on.
    #[arg(long = "bi", visible_alias = "base-image", value_name = "IMAGE")]
    base_image: Option<String>,

    /// The registry of that image.
    #[arg(long = "ir", visible_alias = "base-image-registry", value_name = "ADDRESS")]
    base_image_registry: Option<String>,
}

impl Inference {
    /// Refuses them: what is asked for and not done is not ignored.
    pub(super) fn refuse(&self, out: &Output) -> Result<()> {
        match self.resolve(out)? {
            Some(_) => Err(ScoreError::unsupported(
                "entry scripts are not served: leave it out to serve the model itself",
            )),
            None => Ok(()),
        }
    }

    /// The configuration, its warnings printed; `None` where no argument says anything.
    ///
    /// # Errors
    /// As [`InferenceConfig::resolve`].
    pub(super) fn resolve(&self, out: &Output) -> Result<Option<InferenceConfig>> {
        let overrides = self.overrides();
        if self.inference_config_file.is_none() && overrides == InferenceOverrides::default() {
            return Ok(None);
        }
        let config = InferenceConfig::resolve(self.inference_config_file.as_deref(), &overrides)?;
        let file = self.inference_config_file.as_ref().map(|f| format!("{}: ", f.display()));
        for warning in config.warnings.iter().chain(&config.environment.notes) {
            out.note(&format!("warning: {}{warning}", file.as_deref().unwrap_or_default()));
        }
        Ok(Some(config))
    }

    fn overrides(&self) -> InferenceOverrides {
        let Self {
            inference_config_file: _,
            entry_script,
            source_directory,
            environment_directory,
            environment_name,
            environment_version,
            conda_file,
            runtime,
            extra_dockerfile_steps,
            enable_gpu,
            cuda_version,
            base_image,
            base_image_registry,
        } = self.clone();
        InferenceOverrides {
            entry_script,
            source_directory,
            conda_file,
            runtime,
            extra_dockerfile_steps,
            enable_gpu,
            cuda_version,
            base_image,
            base_image_registry,
            environment_name,
            environment_version,
            environment_directory,
        }
    }
}
