//! The texts of a package: its Dockerfile and its README.

use std::fmt::Write;

use super::APP_ROOT;
use crate::deploy::{ImageSpec, InferenceConfig, Warning};

/// What an image is built from.
#[derive(Debug)]
pub(super) struct Image {
    begin: Begin,
    extra_steps: Option<String>,
}

#[derive(Debug)]
enum Begin {
    From(String),
    Dockerfile(String),
}

impl Image {
    /// The image that a configuration asks for, or else Python's own.
    pub(super) fn of(spec: &ImageSpec, python_version: &str, notes: &mut Vec<Warning>) -> Self {
        let slim = || format!("python:{python_version}-slim");
        let mut note = |message: String| notes.push(Warning { key: "docker.baseImage".to_owned(), message });
        let begin = match (&spec.dockerfile, &spec.base) {
            (Some(text), _) => Begin::Dockerfile(text.trim_end().to_owned()),
            // Those images are as old as the files that name them: their C library does not run this program.
            (None, Some(base)) if base.starts_with("mcr.microsoft.com/azureml/") => {
                note(format!(
                    "{base} is replaced by {}: Azure ML's own images bring what triscore takes the place of",
                    slim()
                ));
                Begin::From(slim())
            }
            (None, Some(base)) => {
                note(format!("{base} must bring Python 3.8 or newer with pip, as python3"));
                Begin::From(base.clone())
            }
            (None, None) => Begin::From(slim()),
        };
        Self { begin, extra_steps: spec.extra_steps.clone() }
    }

    /// The image that it begins from, where it is known.
    pub(super) fn base(&self) -> Option<&str> {
        match &self.begin {
            Begin::From(image) => Some(image),
            Begin::Dockerfile(_) => None,
        }
    }

    pub(super) fn dockerfile(&self, variables: &[(&str, String)]) -> String {
        let mut out =
            format!("# Written by triscore {}; README.md says how to build it.\n", env!("CARGO_PKG_VERSION"));
        match &self.begin {
            Begin::From(image) => out.push_str(&format!("FROM {image}\n\n")),
            Begin::Dockerfile(text) => out.push_str(&format!("{text}\n\n")),
        }
        if let Some(steps) = &self.extra_steps {
            out.push_str(&format!("# From extraDockerfileSteps.\n{}\n\n", steps.trim_end()));
        }
        out.push_str(
            "# The packages first: they change least.\n\
             COPY requirements.txt /opt/triscore/requirements.txt\n\
             RUN python3 -m pip install --no-cache-dir --disable-pip-version-check -r /opt/triscore/requirements.txt\n\n\
             COPY bin/ /usr/local/bin/\n\
             COPY lib/ /usr/local/lib/triscore/\n\
             COPY config/ /opt/triscore/\n",
        );
        let _ = writeln!(out, "COPY azureml-models/ {APP_ROOT}/azureml-models/\nCOPY app/ {APP_ROOT}/\n");
        for (name, value) in variables.iter().filter(|(_, value)| !value.is_empty()) {
            let _ = writeln!(out, "ENV {name}={}", quoted(value));
        }
        let _ = write!(
            out,
            "WORKDIR {APP_ROOT}\nEXPOSE 5001\nCMD [\"triscore\", \"serve\", \"--ic\", \"/opt/triscore/inferenceconfig.json\", \
             \"--dc\", \"/opt/triscore/deploymentconfig.json\", \"--port\", \"5001\", \"--address\", \"0.0.0.0\"]\n"
        );
        out
    }
}

/// A value in a Dockerfile's `ENV`.
fn quoted(text: &str) -> String {
    let escaped = text.chars().flat_map(|c| {
        let escape = matches!(c, '"' | '\\' | '$').then_some('\\');
        escape.into_iter().chain([c])
    });
    format!("\"{}\"", escaped.collect::<String>())
}

pub(super) fn readme(
    models: &[String],
    inference: &InferenceConfig,
    python_version: &str,
    pinned: bool,
    notes: &[Warning],
) -> String {
    let name = "triscore-service";
    let gpus = if inference.environment.image.gpu { " --gpus all" } else { "" };
    let packages = match pinned {
        true => "every package with the version that was installed where this was written",
        false => "the packages as the configuration lists them",
    };
    let mut out = format!(
        "# A packaged service\n\n\
         `{entry}` with {models}, for Python {python_version}. Build and run it with docker:\n\n\
         ```sh\ndocker build -t {name} . && docker run --rm -p 5001:5001{gpus} {name}\n```\n\n\
         Then `POST http://localhost:5001/score` scores, and `GET http://localhost:5001/` tells whether it is well.\n\n\
         | what | where in the image |\n|---|---|\n\
         | `app/` the script | `{APP_ROOT}/` |\n\
         | `azureml-models/` the models | `{APP_ROOT}/azureml-models/` |\n\
         | `requirements.txt` {packages} | installed |\n\
         | `config/` how it is served | `/opt/triscore/` |\n\
         | `bin/triscore` the server | `/usr/local/bin/` |\n\
         | `lib/` ONNX Runtime's library | `/usr/local/lib/triscore/` |\n\n\
         It was written without docker, and has not been built yet.\n",
        entry = inference.azureml_entry_script(),
        models = models.join(", "),
    );
    if let Some(version) = c_library() {
        out.push_str(&format!(
            "\n`bin/triscore` is the program that wrote this folder, on a machine with glibc {version} and the \
             processor type {}: an image with an older C library may not run it.\n",
            std::env::consts::ARCH
        ));
    }
    if !notes.is_empty() {
        out.push_str("\n## Good to know\n\n");
        notes.iter().for_each(|note| out.push_str(&format!("- {note}\n")));
    }
    out
}

/// The version of this machine's C library.
fn c_library() -> Option<String> {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: takes nothing, and gives a text that is part of the library and lasts as long as it.
        let version = unsafe { std::ffi::CStr::from_ptr(libc::gnu_get_libc_version()) };
        Some(version.to_string_lossy().into_owned())
    }
    #[cfg(not(target_env = "gnu"))]
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_begin_as_they_are_asked_to() {
        let spec = |base: Option<&str>, dockerfile: Option<&str>| {
            let mut spec = ImageSpec::default();
            (spec.base, spec.dockerfile) = (base.map(str::to_owned), dockerfile.map(str::to_owned));
            spec
        };
        for (spec, first, base, said) in [
            (spec(None, None), "FROM python:3.9-slim", Some("python:3.9-slim"), 0),
            (spec(Some("reg.io/own:1"), None), "FROM reg.io/own:1", Some("reg.io/own:1"), 1),
            (
                spec(Some("mcr.microsoft.com/azureml/openmpi3.1.2-ubuntu18.04"), None),
                "FROM python:3.9-slim",
                Some("python:3.9-slim"),
                1,
            ),
            (spec(None, Some("FROM x\nRUN y\n")), "FROM x", None, 0),
        ] {
            let mut notes = Vec::new();
            let image = Image::of(&spec, "3.9", &mut notes);
            let text = image.dockerfile(&[("A", "b \"$c\"".to_owned()), ("EMPTY", String::new())]);
            assert_eq!((text.lines().nth(1), image.base(), notes.len()), (Some(first), base, said), "{text}");
            assert!(text.contains("ENV A=\"b \\\"\\$c\\\"\"\n") && !text.contains("EMPTY"), "{text}");
        }
        let steps =
            ImageSpec { extra_steps: Some("RUN apt-get update\n\n".to_owned()), ..ImageSpec::default() };
        let text = Image::of(&steps, "3.9", &mut Vec::new()).dockerfile(&[]);
        assert!(text.contains("RUN apt-get update\n\n# The packages first"), "{text}");
    }
}
