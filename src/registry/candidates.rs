//! The next version of a service, beside the one that serves.
//!
//! An update must leave either the old version or the new one, whoever is killed in the middle of it. So
//! the new one stands in a table of its own, with a generation of its own, and takes the service's place in
//! one transaction. It goes through three stages ([`CandidateStage`]): a command lays its files out, offers
//! it, and the supervisor takes it on. Up to the offer it is the command's, from then on the supervisor's:
//! whoever finds one whose owner is gone drops it.

use std::os::unix::ffi::OsStrExt;

use rusqlite::{OptionalExtension, Transaction, named_params};
use serde_json::{Value, json};

use super::clock;
use super::db::Db;
use super::fault::Told;
use super::keys::{Secret, ServiceKeys};
use super::models::{from_json, to_json};
use super::service::{
    CandidateMark, CandidateStage, FailedUpdate, Keys, ServiceRecord, ServiceSpec, ServiceStatus,
};
use super::services::{
    check_generation, check_model, check_spec, find_service, keys_of, kind_named, next_generation, put_keys,
    spec_of, start_time, without_keys,
};
use super::workspace::Workspace;
use crate::error::{ErrorKind, Result, ScoreError};

/// The next version of a service.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// The generation that it will be.
    pub generation: i64,
    /// How far it is.
    pub stage: CandidateStage,
    /// What is asked for.
    pub spec: ServiceSpec,
}

impl Workspace {
    /// Writes the next version of a service down, in stage [`Preparing`](CandidateStage::Preparing). How the
    /// last update failed is forgotten.
    ///
    /// # Errors
    /// `BadInput` when labels break a rule, `NotFound` when there is no such service or model, `Conflict` when
    /// it has a candidate already.
    pub fn put_candidate(&self, spec: &ServiceSpec, keys: Keys) -> Result<Candidate> {
        check_spec(spec)?;
        self.db.write(|tx| {
            find_service(tx, &spec.name)?;
            if let Some(mark) = mark(tx, &spec.name)? {
                return Err(in_progress(&spec.name, mark.generation).into());
            }
            for id in &spec.model_ids {
                check_model(tx, id)?;
            }
            let spec = without_keys(spec);
            let candidate =
                Candidate { generation: next_generation(tx)?, stage: CandidateStage::Preparing, spec };
            let keys = match keys {
                Keys::Set(keys) => Some(keys),
                Keys::KeepOrGenerate => None,
            };
            insert(tx, &candidate, keys.as_ref())?;
            tx.execute("UPDATE services SET failed_update = NULL WHERE name = ?", [&candidate.spec.name])?;
            Ok(candidate)
        })
    }

    /// The candidate of a service.
    ///
    /// # Errors
    /// `Conflict` when another process held the workspace for too long; `Io` when it is damaged.
    pub fn candidate(&self, name: &str) -> Result<Option<Candidate>> {
        self.db.read(|tx| find(tx, name))
    }

    /// Offers a candidate whose files are laid out to the service's supervisor.
    ///
    /// # Errors
    /// `Conflict` when it is not in preparation any more.
    pub fn offer_candidate(&self, name: &str, generation: i64) -> Result<()> {
        self.db.write(|tx| {
            let changed = tx.execute(
                "UPDATE service_candidates SET stage = ? WHERE service = ? AND generation = ? AND stage = ?",
                (CandidateStage::Waiting.name(), name, generation, CandidateStage::Preparing.name()),
            )?;
            if changed == 1 { Ok(()) } else { Err(given_up(name, generation).into()) }
        })
    }

    /// Takes the candidate on that waits beside the version `serving`, if one does.
    ///
    /// # Errors
    /// `Conflict` when the service has been deployed anew since, `NotFound` when it is gone.
    pub fn claim_candidate(&self, name: &str, serving: i64) -> Result<Option<Candidate>> {
        self.db.write(|tx| {
            check_generation(tx, name, serving)?;
            let waiting = find(tx, name)?.filter(|c| c.stage == CandidateStage::Waiting);
            let Some(mut candidate) = waiting else { return Ok(None) };
            candidate.stage = CandidateStage::Starting;
            tx.execute(
                "UPDATE service_candidates SET stage = ? WHERE service = ?",
                (candidate.stage.name(), name),
            )?;
            Ok(Some(candidate))
        })
    }

    /// Puts a candidate in its service's place: from now on this is the service, and stands like that. The
    /// service's first time stays, and its keys where the candidate brings none.
    ///
    /// # Errors
    /// `Conflict` when it is no candidate any more.
    pub fn promote_candidate(
        &self,
        name: &str,
        generation: i64,
        status: &ServiceStatus,
    ) -> Result<ServiceRecord> {
        self.db.write(|tx| {
            let candidate = find(tx, name)?.filter(|c| c.generation == generation);
            let Some(candidate) = candidate else { return Err(given_up(name, generation).into()) };
            let keys = keys_of_candidate(tx, name, generation)?;
            let spec = &candidate.spec;
            tx.execute(
                "UPDATE services SET generation = :generation, compute_type = :compute_type,
                     description = :description, tags = :tags, properties = :properties,
                     deployment_config = :deployment_config, source_dir = :source_dir, state = :state,
                     reason = :reason, error_kind = :kind, port = :port, pid = :pid,
                     pid_start_time = :pid_start_time, device = :device, failed_update = NULL,
                     updated_time = :updated
                 WHERE name = :name",
                named_params! {
                    ":name": name,
                    ":generation": generation,
                    ":compute_type": spec.compute_type,
                    ":description": spec.description,
                    ":tags": to_json(&spec.tags)?,
                    ":properties": to_json(&spec.properties)?,
                    ":deployment_config": to_json(&spec.deployment_config)?,
                    ":source_dir": spec.source_dir.as_os_str().as_bytes(),
                    ":state": status.state.name(),
                    ":reason": status.reason,
                    ":kind": status.error_kind.map(|k| k.row().name),
                    ":port": status.port,
                    ":pid": status.process.map(|p| p.pid),
                    ":pid_start_time": start_time(status.process),
                    ":device": status.device,
                    ":updated": clock::now(),
                },
            )?;
            tx.execute("DELETE FROM service_models WHERE service = ?", [name])?;
            tx.execute(
                "INSERT INTO service_models (service, place, model_id)
                 SELECT service, place, model_id FROM candidate_models WHERE service = ?",
                [name],
            )?;
            if let Some(keys) = keys {
                put_keys(tx, name, &keys)?;
            }
            tx.execute("DELETE FROM service_candidates WHERE service = ?", [name])?;
            find_service(tx, name)
        })
    }

    /// Gives a candidate up, and notes why: the version that serves stays.
    ///
    /// # Errors
    /// `Conflict` when it is no candidate any more.
    pub fn fail_candidate(&self, name: &str, generation: i64, e: &ScoreError) -> Result<()> {
        self.db.write(|tx| {
            let sql = "DELETE FROM service_candidates WHERE service = ? AND generation = ?";
            if tx.execute(sql, (name, generation))? == 0 {
                return Err(given_up(name, generation).into());
            }
            let why = json!({ "generation": generation, "kind": e.row().name, "reason": e.to_string() })
                .to_string();
            tx.execute(
                "UPDATE services SET failed_update = ?, updated_time = ? WHERE name = ?",
                (why, clock::now(), name),
            )?;
            Ok(())
        })
    }

    /// Drops a candidate whose owner is gone, without a word: nobody waits for it. Gives whether it was there, and
    /// no further than it was seen to be.
    ///
    /// # Errors
    /// `Conflict` when another process held the workspace for too long.
    pub fn drop_candidate(&self, name: &str, seen: CandidateMark) -> Result<bool> {
        self.db.write(|tx| {
            let dropped = tx.execute(
                "DELETE FROM service_candidates WHERE service = ? AND generation = ? AND stage = ?",
                (name, seen.generation, seen.stage.name()),
            )?;
            Ok(dropped == 1)
        })
    }

    /// The keys of one version of a service: its candidate may bring some of its own.
    ///
    /// # Errors
    /// As [`Workspace::show_service`].
    pub fn service_keys_of(&self, name: &str, generation: i64) -> Result<ServiceKeys> {
        self.db.read(|tx| {
            find_service(tx, name)?;
            let own = keys_of_candidate(tx, name, generation)?;
            let keys = own.map_or_else(|| keys_of(tx, name), |keys| Ok(Some(keys)))?;
            keys.ok_or_else(|| Db::damaged(format!("service '{name}' has no keys")))
        })
    }
}

pub(super) fn in_progress(name: &str, generation: i64) -> ScoreError {
    ScoreError::conflict(format!(
        "service '{name}' is being updated (to generation {generation}); try again when it is done"
    ))
}

fn given_up(name: &str, generation: i64) -> ScoreError {
    ScoreError::conflict(format!("the update of service '{name}' to generation {generation} was given up"))
}

/// That a service has a candidate, and how far it is.
pub(super) fn mark(tx: &Transaction<'_>, name: &str) -> Told<Option<CandidateMark>> {
    let found: Option<(i64, String)> = tx
        .prepare_cached("SELECT generation, stage FROM service_candidates WHERE service = ?")?
        .query_row([name], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((generation, stage)) = found else { return Ok(None) };
    Ok(Some(CandidateMark { generation, stage: stage_named(&stage)? }))
}

fn stage_named(name: &str) -> Told<CandidateStage> {
    let found = CandidateStage::ALL.into_iter().find(|stage| stage.name() == name);
    found.ok_or_else(|| Db::damaged(format!("unknown stage of an update: '{}'", name.escape_debug())))
}

fn find(tx: &Transaction<'_>, name: &str) -> Told<Option<Candidate>> {
    let mut models = tx.prepare("SELECT model_id FROM candidate_models WHERE service = ? ORDER BY place")?;
    let model_ids = models.query_map([name], |row| row.get(0))?.collect::<std::result::Result<_, _>>()?;
    let mut statement = tx.prepare("SELECT * FROM service_candidates WHERE service = ?")?;
    let mut rows = statement.query([name])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    Ok(Some(Candidate {
        generation: row.get("generation")?,
        stage: stage_named(&row.get::<_, String>("stage")?)?,
        spec: spec_of(row, name.to_owned(), model_ids)?,
    }))
}

fn insert(tx: &Transaction<'_>, candidate: &Candidate, keys: Option<&ServiceKeys>) -> Told<()> {
    let Candidate { generation, stage, spec } = candidate;
    tx.execute(
        "INSERT INTO service_candidates (service, generation, stage, compute_type, description, tags,
             properties, deployment_config, source_dir, primary_key, secondary_key)
         VALUES (:name, :generation, :stage, :compute_type, :description, :tags,
             :properties, :deployment_config, :source_dir, :primary, :secondary)",
        named_params! {
            ":name": spec.name,
            ":generation": generation,
            ":stage": stage.name(),
            ":compute_type": spec.compute_type,
            ":description": spec.description,
            ":tags": to_json(&spec.tags)?,
            ":properties": to_json(&spec.properties)?,
            ":deployment_config": to_json(&spec.deployment_config)?,
            ":source_dir": spec.source_dir.as_os_str().as_bytes(),
            ":primary": keys.map(|k| k.primary.expose()),
            ":secondary": keys.map(|k| k.secondary.expose()),
        },
    )?;
    let mut statement =
        tx.prepare("INSERT INTO candidate_models (service, place, model_id) VALUES (?, ?, ?)")?;
    for (place, id) in spec.model_ids.iter().enumerate() {
        statement.execute((&spec.name, i64::try_from(place).unwrap_or(i64::MAX), id))?;
    }
    Ok(())
}

fn keys_of_candidate(tx: &Transaction<'_>, name: &str, generation: i64) -> Told<Option<ServiceKeys>> {
    let found: Option<(Option<String>, Option<String>)> = tx
        .query_row(
            "SELECT primary_key, secondary_key FROM service_candidates WHERE service = ? AND generation = ?",
            (name, generation),
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .optional()?;
    match found {
        Some((Some(primary), Some(secondary))) => {
            Ok(Some(ServiceKeys { primary: Secret::new(primary)?, secondary: Secret::new(secondary)? }))
        }
        _ => Ok(None),
    }
}

/// How an update failed, as it is stored.
pub(super) fn failed_from_json(json: &str) -> Told<FailedUpdate> {
    let value: Value = from_json(json)?;
    let text = |key: &str| value.get(key).and_then(Value::as_str);
    Ok(FailedUpdate {
        generation: value.get("generation").and_then(Value::as_i64).unwrap_or_default(),
        kind: text("kind").and_then(kind_named).unwrap_or(ErrorKind::Internal),
        reason: text("reason").unwrap_or_default().to_owned(),
    })
}
