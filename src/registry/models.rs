//! Models: registered, listed, shown, changed, deleted.

use rusqlite::{OptionalExtension, Row, Transaction, named_params};

use super::blobs::Progress;
use super::clock;
use super::db::Db;
use super::fault::Told;
use super::names::{Framework, ModelRef, model_name_fault, suggestion};
use super::record::{
    Labels, ModelFile, ModelRecord, Resources, add_properties, change_tags, label_faults, labels_match,
};
use super::runs::RunSource;
use super::source;
use super::workspace::Workspace;
use crate::error::{Result, ScoreError};

/// A model to be registered. Its version is given to it.
#[derive(Debug, Clone, PartialEq)]
pub struct NewModel {
    /// The name.
    pub name: String,
    /// Where its files are.
    pub source: ModelSource,
    /// What it is, in words.
    pub description: Option<String>,
    /// Labels that may change.
    pub tags: Labels,
    /// Labels that never change.
    pub properties: Labels,
    /// What it was made with; [`Framework::Custom`] where nothing is said.
    pub framework: Option<Framework>,
    /// Which version of that; illegal without a framework.
    pub framework_version: Option<String>,
    /// What a service that runs it needs, where its configuration does not say.
    pub resources: Resources,
    /// A dataset of inputs, by id.
    pub sample_input_dataset_id: Option<String>,
    /// A dataset of outputs, by id.
    pub sample_output_dataset_id: Option<String>,
    /// The experiment that it came out of, for files that are not in a run's folder.
    pub experiment_name: Option<String>,
    /// The training run that it came out of, for files that are not in a run's folder.
    pub run_id: Option<String>,
}

/// Where the files of a model are.
#[derive(Debug, Clone, PartialEq)]
pub enum ModelSource {
    /// A file, or a folder with all that is below it.
    Path(std::path::PathBuf),
    /// The outputs of a training run.
    Run(RunSource),
}

impl NewModel {
    /// A model of that name with those files, and nothing else said about it.
    pub fn new(name: impl Into<String>, source: ModelSource) -> Self {
        Self {
            name: name.into(),
            source,
            description: None,
            tags: Labels::new(),
            properties: Labels::new(),
            framework: None,
            framework_version: None,
            resources: Resources::default(),
            sample_input_dataset_id: None,
            sample_output_dataset_id: None,
            experiment_name: None,
            run_id: None,
        }
    }

    /// A model of that name from a file or folder.
    pub fn from_path(name: impl Into<String>, path: impl Into<std::path::PathBuf>) -> Self {
        Self::new(name, ModelSource::Path(path.into()))
    }

    /// Everything that is wrong with it, in one message.
    fn check(&self) -> Result<()> {
        let mut faults = self.resources.faults();
        faults.extend(model_name_fault(&self.name));
        faults.extend(label_faults("tag", &self.tags));
        faults.extend(label_faults("property", &self.properties));
        if self.framework.is_none() && self.framework_version.is_some() {
            faults.push("a framework version needs a framework".to_owned());
        }
        match faults.is_empty() {
            true => Ok(()),
            false => Err(ScoreError::bad_input(faults.join("\n"))),
        }
    }
}

/// Which models to list; every part that is given must fit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModelFilter {
    /// Of that name.
    pub name: Option<String>,
    /// With these tags, each `key` or `key=value`.
    pub tags: Vec<String>,
    /// With these properties, each `key` or `key=value`.
    pub properties: Vec<String>,
    /// Out of that training run.
    pub run_id: Option<String>,
    /// Made with that.
    pub framework: Option<Framework>,
    /// Only the latest version of each name (which must fit the rest too).
    pub latest: bool,
}

/// What to change about a model; what is not given stays.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ModelUpdate {
    /// Tags to put, over those that are there.
    pub add_tags: Labels,
    /// Tags to take away, by key.
    pub remove_tags: Vec<String>,
    /// Properties to add, none of which may be there.
    pub add_properties: Labels,
    /// A new description.
    pub description: Option<String>,
    /// New requirements, one by one.
    pub resources: Resources,
    /// Another dataset of inputs.
    pub sample_input_dataset_id: Option<String>,
    /// Another dataset of outputs.
    pub sample_output_dataset_id: Option<String>,
}

impl ModelUpdate {
    fn check(&self) -> Result<()> {
        if *self == Self::default() {
            return Err(ScoreError::bad_input("No parameters provided to update."));
        }
        let mut faults = self.resources.faults();
        faults.extend(label_faults("tag", &self.add_tags));
        faults.extend(label_faults("property", &self.add_properties));
        match faults.is_empty() {
            true => Ok(()),
            false => Err(ScoreError::bad_input(faults.join("\n"))),
        }
    }

    fn apply(&self, model: &mut ModelRecord) -> Result<()> {
        change_tags(&mut model.tags, &self.add_tags, &self.remove_tags)?;
        add_properties(&mut model.properties, &self.add_properties)?;
        fn put<T: Clone>(old: &mut Option<T>, new: &Option<T>) {
            if new.is_some() {
                old.clone_from(new);
            }
        }
        put(&mut model.description, &self.description);
        put(&mut model.resources.cpu, &self.resources.cpu);
        put(&mut model.resources.memory_gb, &self.resources.memory_gb);
        put(&mut model.resources.gpu, &self.resources.gpu);
        put(&mut model.resources.fpga, &self.resources.fpga);
        put(&mut model.sample_input_dataset_id, &self.sample_input_dataset_id);
        put(&mut model.sample_output_dataset_id, &self.sample_output_dataset_id);
        model.modified_time = clock::now();
        Ok(())
    }
}

impl Workspace {
    /// Registers a model: copies its files in and gives it the next version of its name.
    ///
    /// # Errors
    /// - `BadInput`: its name, numbers or labels break a rule (all are named), or its files cannot be
    ///   taken (links, pipes, nothing there).
    /// - `TooLarge`: more than [`WorkspaceOptions::source_limits`](super::WorkspaceOptions::source_limits).
    /// - `NotFound`: no such file, experiment or run.
    /// - `Conflict`: another process held the workspace for too long.
    /// - `Io`: a file cannot be read, or the workspace not be written.
    pub fn register(&self, model: &NewModel) -> Result<ModelRecord> {
        self.register_with(model, &mut |_| {})
    }

    /// As [`Workspace::register`], telling how far it has come.
    ///
    /// # Errors
    /// As [`Workspace::register`].
    pub fn register_with(
        &self,
        model: &NewModel,
        progress: &mut dyn FnMut(&Progress<'_>),
    ) -> Result<ModelRecord> {
        model.check()?;
        let (limits, own) = (&self.options().source_limits, self.own_paths());
        let (mut experiment_name, mut run_id) = (model.experiment_name.clone(), model.run_id.clone());
        let tree = match &model.source {
            ModelSource::Path(path) => source::walk(path, None, limits, &own)?,
            ModelSource::Run(run) => {
                let run = run.resolve()?;
                for (what, given, found) in
                    [("experiment", &experiment_name, &run.experiment_name), ("run", &run_id, &run.run_id)]
                {
                    if given.as_ref().is_some_and(|given| given != found) {
                        let given = given.as_deref().unwrap_or_default();
                        return Err(ScoreError::bad_input(format!(
                            "the model is said to be of {what} '{given}', and its files are of {what} '{found}'"
                        )));
                    }
                }
                let tree = source::walk(&run.path, run.top.as_deref(), limits, &own)?;
                (experiment_name, run_id) = (Some(run.experiment_name), Some(run.run_id));
                tree
            }
        };
        let staging = self.stage()?;
        let files = self.take_in(&staging, &tree, progress)?;
        let now = clock::now();
        let mut record = ModelRecord {
            name: model.name.clone(),
            version: 0, // given below
            description: model.description.clone(),
            tags: model.tags.clone(),
            properties: model.properties.clone(),
            framework: model.framework.unwrap_or_default(),
            framework_version: model.framework_version.clone(),
            resources: model.resources,
            sample_input_dataset_id: model.sample_input_dataset_id.clone(),
            sample_output_dataset_id: model.sample_output_dataset_id.clone(),
            experiment_name,
            run_id,
            created_time: now.clone(),
            modified_time: now,
            files,
        };
        self.db.write(|tx| {
            record.version = next_version(tx, &record.name)?;
            insert(tx, &record)
        })?;
        drop(staging); // only now may anybody collect blobs
        Ok(record)
    }

    /// The models that fit the filter, newest first.
    ///
    /// # Errors
    /// `Conflict` when another process held the workspace for too long; `Io` when it is damaged.
    pub fn list(&self, filter: &ModelFilter) -> Result<Vec<ModelRecord>> {
        self.db.read(|tx| {
            let mut statement = tx.prepare(&format!("SELECT {COLUMNS} FROM models ORDER BY seq DESC"))?;
            let mut rows = statement.query([])?;
            let mut latest = std::collections::HashSet::new();
            let mut models = Vec::new();
            while let Some(row) = rows.next()? {
                let (seq, model) = from_row(row)?;
                // Newest first, so the first of a name is the latest.
                let is_latest = latest.insert(model.name.clone());
                let fits = filter.name.as_ref().is_none_or(|name| *name == model.name)
                    && (is_latest || !filter.latest)
                    && (filter.run_id.is_none() || filter.run_id == model.run_id)
                    && filter.framework.is_none_or(|f| f == model.framework)
                    && labels_match(&model.tags, &filter.tags)
                    && labels_match(&model.properties, &filter.properties);
                if fits {
                    models.push(ModelRecord { files: files_of(tx, seq)?, ..model });
                }
            }
            Ok(models)
        })
    }

    /// One model.
    ///
    /// # Errors
    /// `NotFound` with the names or versions there are; else as [`Workspace::list`].
    pub fn show(&self, model: &ModelRef) -> Result<ModelRecord> {
        self.db.read(|tx| Ok(find(tx, model)?.1))
    }

    /// Changes what may be changed about a model.
    ///
    /// # Errors
    /// `BadInput` when nothing is to be changed or a rule is broken, `Conflict` when a property is there
    /// already; else as [`Workspace::show`].
    pub fn update(&self, model: &ModelRef, update: &ModelUpdate) -> Result<ModelRecord> {
        update.check()?;
        self.db.write(|tx| {
            let (seq, mut model) = find(tx, model)?;
            update.apply(&mut model)?;
            tx.execute(
                "UPDATE models SET description = :description, tags = :tags, properties = :properties, cpu = :cpu,
                     memory_gb = :memory_gb, gpu = :gpu, fpga = :fpga, sample_input_dataset_id = :sample_in,
                     sample_output_dataset_id = :sample_out, modified_time = :modified WHERE seq = :seq",
                named_params! {
                    ":seq": seq,
                    ":description": model.description,
                    ":tags": to_json(&model.tags)?,
                    ":properties": to_json(&model.properties)?,
                    ":cpu": model.resources.cpu,
                    ":memory_gb": model.resources.memory_gb,
                    ":gpu": model.resources.gpu,
                    ":fpga": model.resources.fpga,
                    ":sample_in": model.sample_input_dataset_id,
                    ":sample_out": model.sample_output_dataset_id,
                    ":modified": model.modified_time,
                },
            )?;
            Ok(model)
        })
    }

    /// Deletes one version of a model. Its number is not given again.
    ///
    /// # Errors
    /// `BadInput` when no version is given, `Conflict` naming the services that use it; else as
    /// [`Workspace::show`].
    pub fn delete(&self, model: &ModelRef) -> Result<ModelRecord> {
        if model.version().is_none() {
            let name = model.name();
            return Err(ScoreError::bad_input(format!(
                "say which version of model '{name}' to delete: '{name}:<version>'"
            )));
        }
        let deleted = self.db.write(|tx| {
            let (seq, model) = find(tx, model)?;
            let mut statement = tx.prepare(
                "SELECT service FROM service_models WHERE model_id = ?1
                     UNION SELECT service FROM candidate_models WHERE model_id = ?1 ORDER BY service",
            )?;
            let users: Vec<String> =
                statement.query_map([model.id()], |row| row.get(0))?.collect::<Result<_, _>>()?;
            if !users.is_empty() {
                return Err(ScoreError::conflict(format!(
                    "model '{}' is used by the services '{}'; delete them first",
                    model.id(),
                    users.join("', '")
                ))
                .into());
            }
            tx.execute("DELETE FROM models WHERE seq = ?", [seq])?;
            Ok(model)
        })?;
        // The model is gone either way; what stays of its files is collected another time.
        if let Err(e) = self.gc() {
            tracing::warn!("cannot remove the files of model '{}': {e}", deleted.id());
        }
        Ok(deleted)
    }
}

const COLUMNS: &str = "seq, name, version, description, tags, properties, framework, framework_version, cpu, \
     memory_gb, gpu, fpga, sample_input_dataset_id, sample_output_dataset_id, experiment_name, run_id, \
     created_time, modified_time";

fn next_version(tx: &Transaction<'_>, name: &str) -> Told<i64> {
    let last: Option<i64> = tx
        .query_row("SELECT last_version FROM model_names WHERE name = ?", [name], |row| row.get(0))
        .optional()?;
    let version = last.unwrap_or(0).checked_add(1).ok_or_else(|| {
        ScoreError::conflict(format!("model '{name}' has used up its version numbers; take another name"))
    })?;
    tx.execute(
        "INSERT INTO model_names (name, last_version) VALUES (?, ?)
         ON CONFLICT (name) DO UPDATE SET last_version = excluded.last_version",
        (name, version),
    )?;
    Ok(version)
}

fn insert(tx: &Transaction<'_>, model: &ModelRecord) -> Told<()> {
    tx.execute(
        "INSERT INTO models (name, version, description, tags, properties, framework, framework_version, cpu,
             memory_gb, gpu, fpga, sample_input_dataset_id, sample_output_dataset_id, experiment_name, run_id,
             created_time, modified_time)
         VALUES (:name, :version, :description, :tags, :properties, :framework, :framework_version, :cpu,
             :memory_gb, :gpu, :fpga, :sample_in, :sample_out, :experiment_name, :run_id, :created, :modified)",
        named_params! {
            ":name": model.name,
            ":version": model.version,
            ":description": model.description,
            ":tags": to_json(&model.tags)?,
            ":properties": to_json(&model.properties)?,
            ":framework": model.framework.name(),
            ":framework_version": model.framework_version,
            ":cpu": model.resources.cpu,
            ":memory_gb": model.resources.memory_gb,
            ":gpu": model.resources.gpu,
            ":fpga": model.resources.fpga,
            ":sample_in": model.sample_input_dataset_id,
            ":sample_out": model.sample_output_dataset_id,
            ":experiment_name": model.experiment_name,
            ":run_id": model.run_id,
            ":created": model.created_time,
            ":modified": model.modified_time,
        },
    )?;
    let seq = tx.last_insert_rowid();
    let mut statement =
        tx.prepare("INSERT INTO model_files (model, path, size_bytes, sha256) VALUES (?, ?, ?, ?)")?;
    for file in &model.files {
        let size_bytes = i64::try_from(file.size_bytes).unwrap_or(i64::MAX);
        statement.execute((seq, &file.path, size_bytes, &file.sha256))?;
    }
    Ok(())
}

/// Finds a model, or says what there is instead.
pub(super) fn find(tx: &Transaction<'_>, wanted: &ModelRef) -> Told<(i64, ModelRecord)> {
    let mut statement = tx.prepare(&format!(
        "SELECT {COLUMNS} FROM models WHERE name = ?1 AND (?2 IS NULL OR version = ?2) ORDER BY version DESC LIMIT 1"
    ))?;
    let mut rows = statement.query((wanted.name(), wanted.version()))?;
    if let Some(row) = rows.next()? {
        let (seq, model) = from_row(row)?;
        return Ok((seq, ModelRecord { files: files_of(tx, seq)?, ..model }));
    }
    let mut statement = tx.prepare("SELECT version FROM models WHERE name = ? ORDER BY version DESC")?;
    let versions: Vec<i64> =
        statement.query_map([wanted.name()], |row| row.get(0))?.collect::<Result<_, _>>()?;
    if !versions.is_empty() {
        let list = versions.iter().take(8).map(i64::to_string).collect::<Vec<_>>().join(", ");
        let more =
            if versions.len() > 8 { format!(" and {} older", versions.len() - 8) } else { String::new() };
        let message =
            format!("model '{wanted}' is not registered; '{}' has version {list}{more}", wanted.name());
        return Err(ScoreError::not_found(message).into());
    }
    let mut statement = tx.prepare("SELECT DISTINCT name FROM models ORDER BY name")?;
    let names: Vec<String> = statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    let hint = suggestion(wanted.name(), names.iter().map(String::as_str));
    Err(ScoreError::not_found(format!("model '{wanted}' is not registered; {hint}")).into())
}

/// A model without its files, and its row.
fn from_row(row: &Row<'_>) -> Told<(i64, ModelRecord)> {
    let framework: String = row.get("framework")?;
    let model = ModelRecord {
        name: row.get("name")?,
        version: row.get("version")?,
        description: row.get("description")?,
        tags: from_json(&row.get::<_, String>("tags")?)?,
        properties: from_json(&row.get::<_, String>("properties")?)?,
        framework: framework.parse().map_err(Db::damaged)?,
        framework_version: row.get("framework_version")?,
        resources: Resources {
            cpu: row.get("cpu")?,
            memory_gb: row.get("memory_gb")?,
            gpu: row.get("gpu")?,
            fpga: row.get("fpga")?,
        },
        sample_input_dataset_id: row.get("sample_input_dataset_id")?,
        sample_output_dataset_id: row.get("sample_output_dataset_id")?,
        experiment_name: row.get("experiment_name")?,
        run_id: row.get("run_id")?,
        created_time: row.get("created_time")?,
        modified_time: row.get("modified_time")?,
        files: Vec::new(),
    };
    Ok((row.get("seq")?, model))
}

fn files_of(tx: &Transaction<'_>, seq: i64) -> Told<Vec<ModelFile>> {
    let mut statement =
        tx.prepare_cached("SELECT path, size_bytes, sha256 FROM model_files WHERE model = ? ORDER BY path")?;
    let rows = statement.query_map([seq], |row| {
        let size_bytes = u64::try_from(row.get::<_, i64>(1)?).unwrap_or(0);
        Ok(ModelFile { path: row.get(0)?, size_bytes, sha256: row.get(2)? })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// How labels and the like are stored.
pub(super) fn to_json(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|e| ScoreError::internal(format!("cannot store a value: {e}")))
}

/// What [`to_json`] stored.
pub(super) fn from_json<T: serde::de::DeserializeOwned>(text: &str) -> Told<T> {
    serde_json::from_str(text).map_err(Db::damaged)
}
