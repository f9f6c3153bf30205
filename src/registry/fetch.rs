//! Files of models, copied out and verified on the way.
//!
//! A copy, never a link: whoever gets it may write to it, and the registry's own stays as it was. Each
//! is hashed while it is copied and comes into its place only if it is what was registered.

use std::path::{Path, PathBuf};

use super::files::{self, TempFile};
use super::names::ModelRef;
use super::record::{ModelFile, ModelRecord};
use super::source;
use super::workspace::Workspace;
use crate::error::{ErrorKind, Result, ScoreError};

impl Workspace {
    /// Copies a model's file or folder into a folder (which is created) and gives its path there. Each
    /// file appears at once or not at all; without `overwrite` nothing that exists is touched.
    ///
    /// # Errors
    /// `Conflict` when a file exists and may not be overwritten, `Io` when a file of the registry is
    /// damaged (it is named), `NotFound` for the model.
    pub fn download(&self, model: &ModelRef, target_dir: &Path, overwrite: bool) -> Result<PathBuf> {
        let stay = self.keep_blobs()?;
        let model = self.show(model)?;
        std::fs::create_dir_all(target_dir)
            .map_err(|e| ScoreError::io("create the folder", target_dir, e))?;
        let places = places(&model, target_dir)?;
        for (_, place) in places.iter().filter(|_| !overwrite) {
            if place.symlink_metadata().is_ok() {
                return Err(files::exists(place));
            }
        }
        for (file, place) in &places {
            make_folders(target_dir, place)?;
            let temp = self.copy_out(&model.id(), file, place.parent().unwrap_or(target_dir))?;
            if overwrite { temp.replace(place)? } else { temp.place(place)? }
        }
        drop(stay);
        Ok(target_dir.join(model.top_name()))
    }

    /// Lays a model out for a service: copies its files to `dir/azureml-models/<name>/<version>/…` and
    /// gives the path of that version's folder. What was there before is replaced as a whole.
    ///
    /// # Errors
    /// `Io` when a file of the registry is damaged (it is named) or the folder cannot be written,
    /// `NotFound` for the model.
    pub fn materialise(&self, model: &ModelRef, dir: &Path) -> Result<PathBuf> {
        let stay = self.keep_blobs()?;
        let model = self.show(model)?;
        let staging = StagingDir::new(dir)?;
        for (file, place) in places(&model, &staging.0)? {
            make_folders(&staging.0, &place)?;
            self.copy_out(&model.id(), file, place.parent().unwrap_or(dir))?.replace(&place)?;
        }
        drop(stay);
        staging.settle(&version_dir(dir, &model.name, model.version))
    }

    /// Lays a file or folder that is not registered out for a service, as Azure does for local services:
    /// under its base name, cut to 30 characters, as version 0. Gives the path of that folder.
    ///
    /// # Errors
    /// As [`Workspace::register`] for what it cannot take.
    pub fn materialise_path(&self, path: &Path, dir: &Path) -> Result<PathBuf> {
        let tree = source::walk(path, None, &self.options().source_limits, &self.own_paths())?;
        let staging = StagingDir::new(dir)?;
        let top = tree.files.first().map_or("", |f| f.name.split('/').next().unwrap_or_default());
        let name: String = top.chars().take(30).collect();
        for file in &tree.files {
            let place = staging.0.join(&file.name);
            make_folders(&staging.0, &place)?;
            files::copy_hashed(&file.path, &place, 0o644, &mut |_| Ok(()))?;
        }
        staging.settle(&version_dir(dir, &name, 0))
    }

    /// Copies one file to a temporary name, and checks that it is what was registered.
    fn copy_out(&self, model_id: &str, file: &ModelFile, folder: &Path) -> Result<TempFile> {
        let blob = self.blob_path(&file.sha256)?;
        let damaged = |what: String| {
            ScoreError::new(
                ErrorKind::Io,
                format!(
                    "file '{}' of model '{model_id}' {what}; register the model again from its source",
                    file.path
                ),
            )
            .with_at(blob.display().to_string())
        };
        if blob.symlink_metadata().is_err() {
            return Err(damaged("is missing from the registry".to_owned()));
        }
        let temp = TempFile::name_in(folder);
        let copied = files::copy_hashed(&blob, temp.path(), 0o644, &mut |_| Ok(()))?;
        if copied.sha256 == file.sha256 {
            return Ok(temp);
        }
        Err(damaged(format!(
            "is damaged in the registry: expected {} bytes with SHA-256 {}, got {} bytes with {}",
            file.size_bytes, file.sha256, copied.size_bytes, copied.sha256
        )))
    }
}

/// `dir/azureml-models/<name>/<version>`, as Azure's containers have it.
fn version_dir(dir: &Path, name: &str, version: i64) -> PathBuf {
    dir.join("azureml-models").join(name).join(version.to_string())
}

/// Where each file of a model goes below a folder. The paths come from a database that anybody with
/// the right to may have written to, so they are checked once more.
fn places<'a>(model: &'a ModelRecord, dir: &Path) -> Result<Vec<(&'a ModelFile, PathBuf)>> {
    let place = |file: &'a ModelFile| match files::plain_relative(Path::new(&file.path)) {
        Some(path) => Ok((file, dir.join(path))),
        None => Err(ScoreError::new(
            ErrorKind::Io,
            format!("the registry is damaged: model '{}' holds a file '{}'", model.id(), file.path),
        )),
    };
    model.files.iter().map(place).collect()
}

/// Creates the folders between `dir` and a file. None of them may be a link that leads elsewhere.
fn make_folders(dir: &Path, place: &Path) -> Result<()> {
    let parent = place.parent().unwrap_or(dir);
    let mut folder = dir.to_owned();
    for part in parent.strip_prefix(dir).into_iter().flatten() {
        folder.push(part);
        match std::fs::create_dir(&folder) {
            Ok(()) => continue,
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(ScoreError::io("create the folder", &folder, e));
            }
            Err(_) => {}
        }
        if !folder.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
            let what = "is in the way: expected a folder, not a file or a link";
            return Err(ScoreError::conflict(what).with_at(folder.display().to_string()));
        }
    }
    Ok(())
}

/// A folder under a temporary name: gone when dropped, unless it was settled.
struct StagingDir(PathBuf);

impl StagingDir {
    fn new(dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir).map_err(|e| ScoreError::io("create the folder", dir, e))?;
        let path = dir.join(format!(".triscore-{}.part", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir(&path).map_err(|e| ScoreError::io("create the folder", &path, e))?;
        Ok(Self(path))
    }

    /// Moves the folder to its place; what is there is moved away first, and then removed.
    fn settle(self, target: &Path) -> Result<PathBuf> {
        let put = |e| ScoreError::io("put the model in place", target, e);
        let parent = target.parent().unwrap_or(target);
        std::fs::create_dir_all(parent).map_err(|e| ScoreError::io("create the folder", parent, e))?;
        let old = Self(self.0.with_extension("old"));
        match std::fs::rename(target, &old.0) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(put(e)),
            _ => {}
        }
        std::fs::rename(&self.0, target).map_err(put)?;
        Ok(target.to_owned())
    }
}

impl Drop for StagingDir {
    fn drop(&mut self) {
        // Most often it has been moved to its place, and there is nothing to remove.
        match std::fs::remove_dir_all(&self.0) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!("cannot remove '{}': {e}", self.0.display());
            }
            _ => {}
        }
    }
}
