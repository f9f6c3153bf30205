//! A registered model as it is told to the outside.
//!
//! Two JSON forms: [`ModelRecord::to_cli_json`] is, key for key, what `az ml model register` printed,
//! so that scripts around it go on working; [`ModelRecord::to_json`] says everything.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::names::Framework;
use crate::error::{Result, ScoreError};

/// Tags or properties. Sorted, so that they print the same every time.
pub type Labels = BTreeMap<String, String>;

/// One registered version of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelRecord {
    /// The name.
    pub name: String,
    /// The version, counted from 1 for every name.
    pub version: i64,
    /// What it is, in words.
    pub description: Option<String>,
    /// Labels that may change.
    pub tags: Labels,
    /// Labels that may be added, and never change.
    pub properties: Labels,
    /// What it was made with.
    pub framework: Framework,
    /// Which version of that.
    pub framework_version: Option<String>,
    /// What a service that runs it needs, where its configuration does not say.
    pub resources: Resources,
    /// A dataset of inputs, by id.
    pub sample_input_dataset_id: Option<String>,
    /// A dataset of outputs, by id.
    pub sample_output_dataset_id: Option<String>,
    /// The experiment that it came out of.
    pub experiment_name: Option<String>,
    /// The training run that it came out of.
    pub run_id: Option<String>,
    /// When it was registered: ISO 8601, UTC.
    pub created_time: String,
    /// When anything of it changed last: ISO 8601, UTC.
    pub modified_time: String,
    /// Its files, sorted by path.
    pub files: Vec<ModelFile>,
}

/// One file of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFile {
    /// Its path in the model, with `/` between parts: the base name of a registered file, or the name of
    /// a registered folder and the path within.
    pub path: String,
    /// Its size.
    pub size_bytes: u64,
    /// The SHA-256 of its content, in lower-case hexadecimal.
    pub sha256: String,
}

/// What a service needs to run a model; each is more than zero where it is given.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Resources {
    /// Cores; parts of one count.
    pub cpu: Option<f64>,
    /// Memory, in GB.
    pub memory_gb: Option<f64>,
    /// GPUs.
    pub gpu: Option<u32>,
    /// FPGAs.
    pub fpga: Option<u32>,
}

impl Resources {
    /// What is wrong with them.
    pub(super) fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for (what, value) in [("cpu", self.cpu), ("memoryInGB", self.memory_gb)] {
            if let Some(v) = value.filter(|v| !(v.is_finite() && *v > 0.0)) {
                faults.push(format!("{what} must be more than 0, got {v}"));
            }
        }
        for (what, value) in [("gpu", self.gpu), ("fpga", self.fpga)] {
            if value == Some(0) {
                faults.push(format!("{what} must be more than 0, got 0"));
            }
        }
        faults
    }
}

impl ModelRecord {
    /// `name:version`.
    pub fn id(&self) -> String {
        format!("{}:{}", self.name, self.version)
    }

    /// The first part of every path: the file or folder that was registered.
    pub fn top_name(&self) -> &str {
        self.files.first().map_or("", |f| f.path.split('/').next().unwrap_or_default())
    }

    /// The size of all files together.
    pub fn size_bytes(&self) -> u64 {
        self.files.iter().fold(0, |sum, f| sum.saturating_add(f.size_bytes))
    }

    /// What `az ml model register` and `show` print: nothing and empty maps are `""`.
    pub fn to_cli_json(&self) -> Value {
        json!({
            "cpu": or_empty(self.resources.cpu),
            "createdTime": self.created_time,
            "description": or_empty(self.description.as_deref()),
            "experimentName": or_empty(self.experiment_name.as_deref()),
            "framework": self.framework.name(),
            "frameworkVersion": or_empty(self.framework_version.as_deref()),
            "gpu": or_empty(self.resources.gpu),
            "id": self.id(),
            "memoryInGB": or_empty(self.resources.memory_gb),
            "name": self.name,
            "properties": labels_or_empty(&self.properties),
            "runId": or_empty(self.run_id.as_deref()),
            "sampleInputDatasetId": or_empty(self.sample_input_dataset_id.as_deref()),
            "sampleOutputDatasetId": or_empty(self.sample_output_dataset_id.as_deref()),
            "tags": labels_or_empty(&self.tags),
            "version": self.version,
        })
    }

    /// Everything that is known of it; nothing is `null`.
    pub fn to_json(&self) -> Value {
        let file = |f: &ModelFile| json!({ "path": f.path, "sizeBytes": f.size_bytes, "sha256": f.sha256 });
        json!({
            "id": self.id(),
            "name": self.name,
            "version": self.version,
            "description": self.description,
            "tags": self.tags,
            "properties": self.properties,
            "framework": self.framework.name(),
            "frameworkVersion": self.framework_version,
            "cpu": self.resources.cpu,
            "memoryInGB": self.resources.memory_gb,
            "gpu": self.resources.gpu,
            "fpga": self.resources.fpga,
            "sampleInputDatasetId": self.sample_input_dataset_id,
            "sampleOutputDatasetId": self.sample_output_dataset_id,
            "experimentName": self.experiment_name,
            "runId": self.run_id,
            "createdTime": self.created_time,
            "modifiedTime": self.modified_time,
            "sizeBytes": self.size_bytes(),
            "files": self.files.iter().map(file).collect::<Vec<_>>(),
        })
    }
}

fn or_empty(value: Option<impl Into<Value>>) -> Value {
    value.map_or_else(|| Value::from(""), Into::into)
}

fn labels_or_empty(labels: &Labels) -> Value {
    match labels.is_empty() {
        true => Value::from(""),
        false => {
            Value::Object(labels.iter().map(|(k, v)| (k.clone(), v.as_str().into())).collect::<Map<_, _>>())
        }
    }
}

/// What is wrong with the keys of these labels.
pub(super) fn label_faults(what: &str, labels: &Labels) -> Option<String> {
    labels.keys().any(String::is_empty).then(|| format!("a {what} needs a key before its '='"))
}

/// Changes tags: some are put, others taken away. A tag that is not there is not missed, as in Azure.
pub(super) fn change_tags(tags: &mut Labels, add: &Labels, remove: &[String]) -> Result<()> {
    if let Some(key) = remove.iter().find(|key| add.contains_key(*key)) {
        return Err(ScoreError::bad_input(format!("tag '{key}' is to be added and removed at once")));
    }
    for key in remove {
        if tags.remove(key).is_none() {
            tracing::warn!("tag '{key}' is not there to be removed");
        }
    }
    tags.extend(add.iter().map(|(k, v)| (k.clone(), v.clone())));
    Ok(())
}

/// Adds properties, none of which may be there already.
pub(super) fn add_properties(properties: &mut Labels, add: &Labels) -> Result<()> {
    let taken: Vec<&str> =
        add.keys().filter(|key| properties.contains_key(*key)).map(String::as_str).collect();
    if !taken.is_empty() {
        return Err(ScoreError::conflict(format!(
            "properties are immutable, the following keys cannot be added/modified: {}",
            taken.join(", ")
        )));
    }
    properties.extend(add.iter().map(|(k, v)| (k.clone(), v.clone())));
    Ok(())
}

/// Whether labels answer to every one of these filters, each `key` or `key=value`.
pub(super) fn labels_match(labels: &Labels, filters: &[String]) -> bool {
    filters.iter().all(|filter| match filter.split_once('=') {
        Some((key, value)) => labels.get(key).is_some_and(|v| v == value),
        None => labels.contains_key(filter),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn record() -> ModelRecord {
        let created = "2020-12-13T18:32:55.719758+00:00".to_owned();
        ModelRecord {
            name: "skl-knn-us-states-geo".into(),
            version: 1,
            description: None,
            tags: labels(&[("author", "chris")]),
            properties: Labels::new(),
            framework: Framework::ScikitLearn,
            framework_version: Some("0.22.2.post1".into()),
            resources: Resources::default(),
            sample_input_dataset_id: None,
            sample_output_dataset_id: None,
            experiment_name: Some("skl-knn-us-states-geo".into()),
            run_id: Some("skl-knn-us-states-geo_1607883224_23b1eb2d".into()),
            modified_time: created.clone(),
            created_time: created,
            files: vec![ModelFile { path: "m/a".into(), size_bytes: 3, sha256: "ab".into() }],
        }
    }

    #[test]
    fn the_cli_form_is_azures() {
        let expected = r#"{
  "cpu": "",
  "createdTime": "2020-12-13T18:32:55.719758+00:00",
  "description": "",
  "experimentName": "skl-knn-us-states-geo",
  "framework": "ScikitLearn",
  "frameworkVersion": "0.22.2.post1",
  "gpu": "",
  "id": "skl-knn-us-states-geo:1",
  "memoryInGB": "",
  "name": "skl-knn-us-states-geo",
  "properties": "",
  "runId": "skl-knn-us-states-geo_1607883224_23b1eb2d",
  "sampleInputDatasetId": "",
  "sampleOutputDatasetId": "",
  "tags": {
    "author": "chris"
  },
  "version": 1
}"#;
        assert_eq!(serde_json::to_string_pretty(&record().to_cli_json()).unwrap(), expected);
    }

    #[test]
    fn the_full_form_holds_the_files() {
        let model = record();
        let json = model.to_json();
        assert_eq!(json["files"], json!([{ "path": "m/a", "sizeBytes": 3, "sha256": "ab" }]));
        assert_eq!((json["cpu"].clone(), json["sizeBytes"].clone()), (Value::Null, json!(3)));
        assert_eq!(model.top_name(), "m");
    }

    #[test]
    fn resources_are_more_than_nothing() {
        let faults = |r: Resources| r.faults().len();
        let some = |v| Resources { cpu: Some(v), memory_gb: Some(v), ..Resources::default() };
        for (resources, count) in [
            (Resources::default(), 0),
            (some(0.1), 0),
            (some(0.0), 2),
            (some(-1.0), 2),
            (some(f64::NAN), 2),
            (some(f64::INFINITY), 2),
            (Resources { gpu: Some(0), fpga: Some(0), ..some(1.0) }, 2),
            (Resources { gpu: Some(1), fpga: Some(2), ..some(1.0) }, 0),
        ] {
            assert_eq!(faults(resources), count, "{resources:?}");
        }
    }

    #[test]
    fn tags_change_and_properties_do_not() {
        let mut tags = labels(&[("a", "1"), ("b", "2")]);
        change_tags(&mut tags, &labels(&[("a", "3"), ("c", "")]), &["b".into(), "none".into()]).unwrap();
        assert_eq!(tags, labels(&[("a", "3"), ("c", "")]));
        assert!(change_tags(&mut tags, &labels(&[("x", "")]), &["x".into()]).is_err());

        let mut properties = labels(&[("a", "1"), ("b", "2")]);
        add_properties(&mut properties, &labels(&[("c", "3")])).unwrap();
        let e = add_properties(&mut properties, &labels(&[("a", "1"), ("c", "4"), ("d", "5")])).unwrap_err();
        assert!(e.message().ends_with("the following keys cannot be added/modified: a, c"), "{e}");
        assert_eq!(properties, labels(&[("a", "1"), ("b", "2"), ("c", "3")]), "nothing is added by halves");
    }

    #[test]
    fn filters() {
        let labels = labels(&[("stage", "prod"), ("url", "a=b")]);
        for (filters, fits) in [
            (vec![], true),
            (vec!["stage"], true),
            (vec!["stage=prod", "url=a=b"], true),
            (vec!["stage=test"], false),
            (vec!["stage", "none"], false),
            (vec!["stage="], false),
        ] {
            let filters: Vec<String> = filters.into_iter().map(str::to_owned).collect();
            assert_eq!(labels_match(&labels, &filters), fits, "{filters:?}");
        }
    }
}
