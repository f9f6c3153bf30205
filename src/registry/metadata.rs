//! The small file that hands a model from one command to the next: what `az ml model register
//! --output-metadata-file` wrote and `az ml model deploy --model-metadata-file` read.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::files;
use super::names::ModelRef;
use crate::error::{Result, ScoreError};

/// Such a file is a hundred bytes or two.
const LIMIT_BYTES: u64 = 1 << 20;

/// What such a file holds. Other keys are passed over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelMetadata {
    /// `name:version`.
    pub model_id: String,
    /// The workspace it was registered in, as Azure names it; nothing here hangs on it.
    #[serde(default)]
    pub workspace_name: Option<String>,
    /// The resource group of that workspace.
    #[serde(default)]
    pub resource_group_name: Option<String>,
}

impl ModelMetadata {
    /// Reads such a file, Azure's or ours.
    ///
    /// # Errors
    /// `BadConfig` when it is not such a file; `NotFound`, `Io` or `TooLarge` when it cannot be read.
    pub fn read(path: &Path) -> Result<Self> {
        let text = files::read_text(path, LIMIT_BYTES)?;
        let bad = |what: String| {
            ScoreError::bad_config(format!(
                "{what}; expected a JSON object with \"modelId\": \"name:version\""
            ))
            .with_at(path.display().to_string())
        };
        let metadata: Self =
            files::json_object(&text).map_err(|e| bad(format!("is not model metadata: {e}")))?;
        match metadata.model_id.parse::<ModelRef>() {
            Ok(model) if model.version().is_some() => Ok(metadata),
            Ok(model) => Err(bad(format!("modelId '{model}' names no version"))),
            Err(e) => Err(bad(e.message().to_owned())),
        }
    }

    /// Writes such a file, over one that may be there.
    ///
    /// # Errors
    /// `Io` when it cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut text = serde_json::to_string_pretty(self)
            .map_err(|e| ScoreError::internal(format!("cannot write model metadata: {e}")))?;
        text.push('\n');
        files::write_whole(path, text.as_bytes())
    }

    /// The model that it names.
    ///
    /// # Errors
    /// `BadInput` when [`model_id`](Self::model_id) is not a model id.
    pub fn model(&self) -> Result<ModelRef> {
        self.model_id.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn written_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("meta.json");
        let metadata = ModelMetadata {
            model_id: "bidaf_onnx:2".into(),
            workspace_name: Some("local".into()),
            resource_group_name: None,
        };
        metadata.write(&path).unwrap();
        assert_eq!(ModelMetadata::read(&path).unwrap(), metadata);
        let json: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        assert_eq!(
            json,
            serde_json::json!({"modelId": "bidaf_onnx:2", "workspaceName": "local", "resourceGroupName": null})
        );
    }

    #[test]
    fn read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("meta.json");
        for (text, expected) in [
            (r#"{"modelId": "m:1"}"#, Some("m:1")),
            ("\u{feff}{\"modelId\": \"m:1\", \"other\": [1]}", Some("m:1")),
            (r#"{"modelId": "m"}"#, None),
            (r#"{"modelId": 1}"#, None),
            (r#"{"modelid": "m:1"}"#, None),
            (r#"["m:1"]"#, None),
            ("modelId: m:1", None),
            ("", None),
        ] {
            std::fs::write(&path, text).unwrap();
            match (ModelMetadata::read(&path), expected) {
                (Ok(got), Some(id)) => assert_eq!(got.model().unwrap().to_string(), id),
                (Err(e), None) => {
                    assert!(e.kind() == ErrorKind::BadConfig && e.message().contains("modelId"), "{e}")
                }
                (got, _) => panic!("{text}: {got:?}"),
            }
        }
        assert_eq!(ModelMetadata::read(&dir.path().join("gone")).unwrap_err().kind(), ErrorKind::NotFound);
    }
}
