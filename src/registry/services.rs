//! Services: written down when a deployment begins, and kept up to date by whoever runs it.
//!
//! A deployment has a number, its generation. Who reports how a service stands gives the number that
//! it was deployed under, and is refused when the service has been deployed anew since: the last
//! words of an old process do not overwrite the state of the new one.

use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use rusqlite::{OptionalExtension, Row, Transaction, named_params};

use super::candidates;
use super::clock;
use super::db::Db;
use super::fault::Told;
use super::keys::{KeyKind, Secret, ServiceKeys};
use super::models::{find, from_json, to_json};
use super::names::{ModelRef, service_name_fault, suggestion};
use super::process::ProcessStamp;
use super::record::label_faults;
use super::service::{
    Keys, ServiceFilter, ServiceRecord, ServiceSpec, ServiceState, ServiceStatus, ServiceUpdate,
};
use super::workspace::Workspace;
use crate::error::{ErrorKind, Result, ScoreError};

impl Workspace {
    /// Writes a new service down, in state [`Transitioning`](ServiceState::Transitioning).
    ///
    /// # Errors
    /// `BadInput` when its name or labels break a rule, `Conflict` when there is one of that name,
    /// `NotFound` when a model is not registered.
    pub fn insert_service(&self, spec: &ServiceSpec, keys: Keys) -> Result<ServiceRecord> {
        self.put_service(spec, keys, false)
    }

    /// Writes a service down, over one of its name. That one's first time and (unless others are given)
    /// keys stay; its generation ends.
    ///
    /// # Errors
    /// As [`Workspace::insert_service`], but for the name that is taken.
    pub fn replace_service(&self, spec: &ServiceSpec, keys: Keys) -> Result<ServiceRecord> {
        self.put_service(spec, keys, true)
    }

    fn put_service(&self, spec: &ServiceSpec, keys: Keys, replace: bool) -> Result<ServiceRecord> {
        check_spec(spec)?;
        self.db.write(|tx| {
            let old: Option<String> = tx
                .query_row("SELECT created_time FROM services WHERE name = ?", [&spec.name], |row| row.get(0))
                .optional()?;
            if old.is_some() && !replace {
                let message =
                    format!("service '{}' exists already; ask for overwriting to replace it", spec.name);
                return Err(ScoreError::conflict(message).into());
            }
            // In the same transaction, so that no model is deleted in between.
            for id in &spec.model_ids {
                check_model(tx, id)?;
            }
            let keys = match keys {
                Keys::Set(keys) => keys,
                Keys::KeepOrGenerate => keys_of(tx, &spec.name)?.unwrap_or_else(ServiceKeys::generate),
            };
            tx.execute("DELETE FROM services WHERE name = ?", [&spec.name])?;
            let now = clock::now();
            let spec = without_keys(spec);
            let service = ServiceRecord {
                spec,
                status: ServiceStatus::new(ServiceState::Transitioning),
                generation: next_generation(tx)?,
                created_time: old.unwrap_or_else(|| now.clone()),
                updated_time: now,
                candidate: None,
                failed_update: None,
            };
            insert(tx, &service)?;
            put_keys(tx, &service.spec.name, &keys)?;
            Ok(service)
        })
    }

    /// Says how a service stands.
    ///
    /// # Errors
    /// `Conflict` when it has been deployed anew since that generation, `NotFound` when it is gone.
    pub fn set_service_status(&self, name: &str, generation: i64, status: &ServiceStatus) -> Result<()> {
        self.db.write(|tx| {
            check_generation(tx, name, generation)?;
            tx.execute(
                "UPDATE services SET state = :state, reason = :reason, port = :port, pid = :pid,
                     pid_start_time = :pid_start_time, device = :device, error_kind = :kind, updated_time = :updated
                 WHERE name = :name",
                named_params! {
                    ":name": name,
                    ":state": status.state.name(),
                    ":reason": status.reason,
                    ":port": status.port,
                    ":pid": status.process.map(|p| p.pid),
                    ":pid_start_time": start_time(status.process),
                    ":device": status.device,
                    ":kind": status.error_kind.map(|k| k.row().name),
                    ":updated": clock::now(),
                },
            )?;
            Ok(())
        })
    }

    /// Says that a service is now in that state, and why; what else is known of it stays.
    ///
    /// # Errors
    /// As [`Workspace::set_service_status`].
    pub fn set_service_state(
        &self,
        name: &str,
        generation: i64,
        state: ServiceState,
        reason: Option<&str>,
    ) -> Result<()> {
        self.db.write(|tx| {
            check_generation(tx, name, generation)?;
            tx.execute(
                "UPDATE services SET state = ?, reason = ?, error_kind = NULL, updated_time = ? WHERE name = ?",
                (state.name(), reason, clock::now(), name),
            )?;
            Ok(())
        })
    }

    /// Says that a service is now in that state because of an error; what else is known of it stays.
    ///
    /// # Errors
    /// As [`Workspace::set_service_status`].
    pub fn fail_service(
        &self,
        name: &str,
        generation: i64,
        state: ServiceState,
        e: &ScoreError,
    ) -> Result<()> {
        self.db.write(|tx| {
            check_generation(tx, name, generation)?;
            tx.execute(
                "UPDATE services SET state = ?, reason = ?, error_kind = ?, updated_time = ? WHERE name = ?",
                (state.name(), e.to_string(), e.row().name, clock::now(), name),
            )?;
            Ok(())
        })
    }

    /// Says which process runs a service, once: that process itself does, before it does anything else. So
    /// whoever started it may die at any moment, and either everybody knows the process or it ends.
    ///
    /// # Errors
    /// `Conflict` when the service has been deployed anew since that generation, has a process already, or
    /// is not waiting for one any more; `NotFound` when it is gone.
    pub fn claim_service(&self, name: &str, generation: i64, process: ProcessStamp) -> Result<()> {
        self.db.write(|tx| {
            check_generation(tx, name, generation)?;
            let status = find_service(tx, name)?.status;
            if status.state != ServiceState::Transitioning || status.process.is_some() {
                let message = format!("service '{name}' is {} and waits for no process", status.state);
                return Err(ScoreError::conflict(message).into());
            }
            tx.execute(
                "UPDATE services SET pid = ?, pid_start_time = ?, updated_time = ? WHERE name = ?",
                (process.pid, start_time(Some(process)), clock::now(), name),
            )?;
            Ok(())
        })
    }

    /// Says that a service is in another state than was seen, unless it has changed since; gives it as it is
    /// then.
    ///
    /// # Errors
    /// As [`Workspace::show_service`].
    pub fn correct_service(
        &self,
        seen: &ServiceRecord,
        state: ServiceState,
        reason: &str,
    ) -> Result<ServiceRecord> {
        self.db.write(|tx| {
            let mut now = find_service(tx, &seen.spec.name)?;
            if now.generation == seen.generation && now.status == seen.status {
                now.status.state = state;
                now.status.reason = Some(reason.to_owned());
                now.updated_time = clock::now();
                now.status.error_kind = None;
                tx.execute(
                    "UPDATE services SET state = ?, reason = ?, error_kind = NULL, updated_time = ? WHERE name = ?",
                    (state.name(), reason, &now.updated_time, &seen.spec.name),
                )?;
            }
            Ok(now)
        })
    }

    /// Changes what may be changed about a service without deploying it anew.
    ///
    /// # Errors
    /// `BadInput` when nothing is to be changed or a rule is broken, `Conflict` when a property is there
    /// already, `NotFound`.
    pub fn update_service(&self, name: &str, update: &ServiceUpdate) -> Result<ServiceRecord> {
        if *update == ServiceUpdate::default() {
            return Err(ScoreError::bad_input("No parameters provided to update."));
        }
        self.db.write(|tx| {
            let mut service = find_service(tx, name)?;
            // What takes its place would bring the old labels back.
            if let Some(candidate) = service.candidate {
                return Err(candidates::in_progress(name, candidate.generation).into());
            }
            update.apply(&mut service.spec)?;
            service.updated_time = clock::now();
            tx.execute(
                "UPDATE services SET tags = ?, properties = ?, description = ?, updated_time = ? WHERE name = ?",
                (
                    to_json(&service.spec.tags)?,
                    to_json(&service.spec.properties)?,
                    &service.spec.description,
                    &service.updated_time,
                    name,
                ),
            )?;
            Ok(service)
        })
    }

    /// One service.
    ///
    /// # Errors
    /// `NotFound` with the names there are; `Conflict` when another process held the workspace for too
    /// long.
    pub fn show_service(&self, name: &str) -> Result<ServiceRecord> {
        self.db.read(|tx| find_service(tx, name))
    }

    /// The services that fit the filter, by name.
    ///
    /// # Errors
    /// `Conflict` when another process held the workspace for too long; `Io` when it is damaged.
    pub fn list_services(&self, filter: &ServiceFilter) -> Result<Vec<ServiceRecord>> {
        self.db.read(|tx| {
            let mut statement = tx.prepare("SELECT * FROM services ORDER BY name")?;
            let mut rows = statement.query([])?;
            let mut services = Vec::new();
            while let Some(row) = rows.next()? {
                let service = from_row(tx, row)?;
                if filter.fits(&service.spec) {
                    services.push(service);
                }
            }
            Ok(services)
        })
    }

    /// Strikes a service out, and its keys. Its process and its files are the caller's to end first.
    ///
    /// # Errors
    /// As [`Workspace::show_service`].
    pub fn delete_service(&self, name: &str) -> Result<ServiceRecord> {
        self.db.write(|tx| {
            let service = find_service(tx, name)?;
            tx.execute("DELETE FROM services WHERE name = ?", [name])?;
            Ok(service)
        })
    }

    /// The keys of a service.
    ///
    /// # Errors
    /// As [`Workspace::show_service`].
    pub fn service_keys(&self, name: &str) -> Result<ServiceKeys> {
        self.db.read(|tx| {
            find_service(tx, name)?;
            keys_of(tx, name)?.ok_or_else(|| Db::damaged(format!("service '{name}' has no keys")))
        })
    }

    /// Changes one key of a service, to the one given or a new one; gives both as they are then.
    ///
    /// # Errors
    /// As [`Workspace::show_service`].
    pub fn regenerate_service_key(
        &self,
        name: &str,
        which: KeyKind,
        key: Option<Secret>,
    ) -> Result<ServiceKeys> {
        self.db.write(|tx| {
            find_service(tx, name)?;
            let key = key.unwrap_or_else(Secret::generate);
            let mut keys = keys_of(tx, name)?.unwrap_or_else(ServiceKeys::generate);
            match which {
                KeyKind::Primary => keys.primary = key,
                KeyKind::Secondary => keys.secondary = key,
            }
            put_keys(tx, name, &keys)?;
            // A candidate that brings keys of its own must not bring the old one back.
            let column = match which {
                KeyKind::Primary => "primary_key",
                KeyKind::Secondary => "secondary_key",
            };
            let changed = match which {
                KeyKind::Primary => keys.primary.expose(),
                KeyKind::Secondary => keys.secondary.expose(),
            };
            let sql = format!(
                "UPDATE service_candidates SET {column} = ? WHERE service = ? AND {column} IS NOT NULL"
            );
            tx.execute(&sql, (changed, name))?;
            Ok(keys)
        })
    }
}

/// The rules for names and labels.
pub(super) fn check_spec(spec: &ServiceSpec) -> Result<()> {
    let mut faults = Vec::from_iter(service_name_fault(&spec.name));
    faults.extend(label_faults("tag", &spec.tags));
    faults.extend(label_faults("property", &spec.properties));
    match faults.is_empty() {
        true => Ok(()),
        false => Err(ScoreError::bad_input(faults.join("\n"))),
    }
}

/// The keys stand in a table of their own, and in no record.
pub(super) fn without_keys(spec: &ServiceSpec) -> ServiceSpec {
    let mut spec = spec.clone();
    if let Some(config) = spec.deployment_config.as_object_mut() {
        config.retain(|key, _| key != "keys");
    }
    spec
}

pub(super) fn next_generation(tx: &Transaction<'_>) -> Told<i64> {
    let sql = "UPDATE generations SET last = last + 1 RETURNING last";
    Ok(tx.query_row(sql, [], |row| row.get(0))?)
}

/// A model that a service names must be registered, unless it is a local path (version 0).
pub(super) fn check_model(tx: &Transaction<'_>, id: &str) -> Told<()> {
    if id.rsplit_once(':').is_some_and(|(name, version)| !name.is_empty() && version == "0") {
        return Ok(());
    }
    let model: ModelRef = id.parse()?;
    if model.version().is_none() {
        return Err(ScoreError::bad_input(format!("model '{model}' of a service needs its version")).into());
    }
    find(tx, &model).map(|_| ())
}

pub(super) fn check_generation(tx: &Transaction<'_>, name: &str, generation: i64) -> Told<()> {
    let now: Option<i64> = tx
        .query_row("SELECT generation FROM services WHERE name = ?", [name], |row| row.get(0))
        .optional()?;
    match now {
        Some(now) if now == generation => Ok(()),
        Some(now) => Err(ScoreError::conflict(format!(
            "service '{name}' has been deployed anew (generation {now}; this is {generation})"
        ))
        .into()),
        None => Err(not_found(tx, name)?.into()),
    }
}

fn not_found(tx: &Transaction<'_>, name: &str) -> Told<ScoreError> {
    let mut statement = tx.prepare("SELECT name FROM services ORDER BY name")?;
    let names: Vec<String> = statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    let hint = suggestion(name, names.iter().map(String::as_str));
    Ok(ScoreError::not_found(format!("there is no service '{}'; {hint}", name.escape_debug())))
}

pub(super) fn find_service(tx: &Transaction<'_>, name: &str) -> Told<ServiceRecord> {
    let mut statement = tx.prepare("SELECT * FROM services WHERE name = ?")?;
    let mut rows = statement.query([name])?;
    match rows.next()? {
        Some(row) => from_row(tx, row),
        None => Err(not_found(tx, name)?.into()),
    }
}

fn from_row(tx: &Transaction<'_>, row: &Row<'_>) -> Told<ServiceRecord> {
    let name: String = row.get("name")?;
    let candidate = candidates::mark(tx, &name)?;
    let failed_update = match row.get::<_, Option<String>>("failed_update")? {
        Some(json) => Some(candidates::failed_from_json(&json)?),
        None => None,
    };
    let mut statement =
        tx.prepare_cached("SELECT model_id FROM service_models WHERE service = ? ORDER BY place")?;
    let model_ids = statement.query_map([&name], |row| row.get(0))?.collect::<Result<_, _>>()?;
    let started: Option<i64> = row.get("pid_start_time")?;
    let process = row
        .get::<_, Option<u32>>("pid")?
        .map(|pid| ProcessStamp { pid, start_time: started.and_then(|t| u64::try_from(t).ok()) });
    Ok(ServiceRecord {
        spec: spec_of(row, name, model_ids)?,
        status: ServiceStatus {
            state: row.get::<_, String>("state")?.parse().map_err(Db::damaged)?,
            reason: row.get("reason")?,
            port: row.get("port")?,
            process,
            device: row.get("device")?,
            error_kind: row.get::<_, Option<String>>("error_kind")?.as_deref().and_then(kind_named),
        },
        generation: row.get("generation")?,
        created_time: row.get("created_time")?,
        updated_time: row.get("updated_time")?,
        candidate,
        failed_update,
    })
}

/// What a row says a service is: of a service, or of a candidate for one.
pub(super) fn spec_of(row: &Row<'_>, name: String, model_ids: Vec<String>) -> Told<ServiceSpec> {
    Ok(ServiceSpec {
        name,
        model_ids,
        compute_type: row.get("compute_type")?,
        description: row.get("description")?,
        tags: from_json(&row.get::<_, String>("tags")?)?,
        properties: from_json(&row.get::<_, String>("properties")?)?,
        deployment_config: from_json(&row.get::<_, String>("deployment_config")?)?,
        source_dir: PathBuf::from(std::ffi::OsString::from_vec(row.get("source_dir")?)),
    })
}

/// The kind of error that has this name; `None` for one of a later version of this program.
pub(super) fn kind_named(name: &str) -> Option<ErrorKind> {
    ErrorKind::ALL.into_iter().find(|kind| kind.row().name == name)
}

fn insert(tx: &Transaction<'_>, service: &ServiceRecord) -> Told<()> {
    let ServiceRecord { spec, status, generation, created_time, updated_time, .. } = service;
    tx.execute(
        "INSERT INTO services (name, generation, compute_type, state, description, tags, properties,
             deployment_config, source_dir, created_time, updated_time)
         VALUES (:name, :generation, :compute_type, :state, :description, :tags, :properties,
             :deployment_config, :source_dir, :created, :updated)",
        named_params! {
            ":name": spec.name,
            ":generation": generation,
            ":compute_type": spec.compute_type,
            ":state": status.state.name(),
            ":description": spec.description,
            ":tags": to_json(&spec.tags)?,
            ":properties": to_json(&spec.properties)?,
            ":deployment_config": to_json(&spec.deployment_config)?,
            ":source_dir": spec.source_dir.as_os_str().as_bytes(),
            ":created": created_time,
            ":updated": updated_time,
        },
    )?;
    let mut statement =
        tx.prepare("INSERT INTO service_models (service, place, model_id) VALUES (?, ?, ?)")?;
    for (place, id) in spec.model_ids.iter().enumerate() {
        statement.execute((&spec.name, i64::try_from(place).unwrap_or(i64::MAX), id))?;
    }
    Ok(())
}

pub(super) fn keys_of(tx: &Transaction<'_>, name: &str) -> Told<Option<ServiceKeys>> {
    let read = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?));
    let keys: Option<(String, String)> = tx
        .query_row("SELECT primary_key, secondary_key FROM service_keys WHERE service = ?", [name], read)
        .optional()?;
    let Some((primary, secondary)) = keys else { return Ok(None) };
    Ok(Some(ServiceKeys { primary: Secret::new(primary)?, secondary: Secret::new(secondary)? }))
}

pub(super) fn put_keys(tx: &Transaction<'_>, name: &str, keys: &ServiceKeys) -> Told<()> {
    tx.execute(
        "INSERT OR REPLACE INTO service_keys (service, primary_key, secondary_key) VALUES (?, ?, ?)",
        (name, keys.primary.expose(), keys.secondary.expose()),
    )?;
    Ok(())
}

/// SQLite counts with a sign; no machine has been up for long enough to tell.
pub(super) fn start_time(process: Option<ProcessStamp>) -> Option<i64> {
    process.and_then(|p| p.start_time).and_then(|t| i64::try_from(t).ok())
}
