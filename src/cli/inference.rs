//! The flags that say what runs a model: an inference configuration, or its parts.

use std::path::PathBuf;

use triscore::{Result, ScoreError};

/// What `deploy` and `update` take about entry scripts and their environments.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Entry script and environment")]
pub(super) struct InferenceArgs {
    /// The inference configuration: JSON or YAML.
    #[arg(long = "inference-config-file", visible_alias = "ic", value_name = "FILE")]
    pub(super) inference_config_file: Option<PathBuf>,
    /// The script with init() and run().
    #[arg(long, visible_alias = "es", value_name = "FILE")]
    pub(super) entry_script: Option<PathBuf>,
    /// The folder that is shipped with the script.
    #[arg(long, visible_alias = "sd", value_name = "DIR")]
    pub(super) source_directory: Option<PathBuf>,
    /// A conda environment, as YAML.
    #[arg(long, visible_alias = "cf", value_name = "FILE")]
    pub(super) conda_file: Option<PathBuf>,
    /// The runtime: python or spark-py.
    #[arg(long, visible_alias = "rt", value_name = "NAME")]
    pub(super) runtime: Option<String>,
    /// Steps of a Dockerfile.
    #[arg(long, visible_alias = "ds", value_name = "FILE")]
    pub(super) extra_docker_file_steps: Option<PathBuf>,
    /// Whether the environment is for GPUs.
    #[arg(long, visible_alias = "eg", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub(super) enable_gpu: Option<String>,
    /// The version of CUDA.
    #[arg(long, visible_alias = "cv", value_name = "VERSION")]
    pub(super) cuda_version: Option<String>,
    /// A container image.
    #[arg(long, visible_alias = "bi", value_name = "IMAGE")]
    pub(super) base_image: Option<String>,
    /// Where that image is.
    #[arg(long, visible_alias = "ir", value_name = "REGISTRY")]
    pub(super) base_image_registry: Option<String>,
    /// A registered environment.
    #[arg(short = 'e', long, value_name = "NAME")]
    pub(super) environment_name: Option<String>,
    /// Its version.
    #[arg(long, visible_alias = "ev", value_name = "VERSION")]
    pub(super) environment_version: Option<String>,
    /// A folder that holds an environment.
    #[arg(long, visible_alias = "ed", value_name = "DIR")]
    pub(super) environment_directory: Option<PathBuf>,
}

impl InferenceArgs {
    /// The flags that were given.
    pub(super) fn given(&self) -> Vec<&'static str> {
        [
            ("--inference-config-file", self.inference_config_file.is_some()),
            ("--entry-script", self.entry_script.is_some()),
            ("--source-directory", self.source_directory.is_some()),
            ("--conda-file", self.conda_file.is_some()),
            ("--runtime", self.runtime.is_some()),
            ("--extra-docker-file-steps", self.extra_docker_file_steps.is_some()),
            ("--enable-gpu", self.enable_gpu.is_some()),
            ("--cuda-version", self.cuda_version.is_some()),
            ("--base-image", self.base_image.is_some()),
            ("--base-image-registry", self.base_image_registry.is_some()),
            ("--environment-name", self.environment_name.is_some()),
            ("--environment-version", self.environment_version.is_some()),
            ("--environment-directory", self.environment_directory.is_some()),
        ]
        .into_iter()
        .filter_map(|(flag, given)| given.then_some(flag))
        .collect()
    }

    /// Refuses them: what is asked for and not done is not ignored.
    pub(super) fn refuse(&self) -> Result<()> {
        match self.given().first() {
            Some(flag) => Err(ScoreError::unsupported(
                "entry scripts and environments are not served: leave it out to serve the model itself",
            )
            .with_at(*flag)),
            None => Ok(()),
        }
    }
}
