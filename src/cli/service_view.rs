//! How a deployed service is shown, and waited for: for people, and for programs.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use serde_json::{Value, json};
use triscore::registry::{ServiceRecord, ServiceState, Workspace};
use triscore::service;
use triscore::{ErrorKind, Result, ScoreError};

use super::output::{Output, table, text};

/// A service as Azure's tools wrote it, with what they had no word for behind it.
pub(super) fn to_json(workspace: &Workspace, record: &ServiceRecord) -> Value {
    let (spec, status) = (&record.spec, &record.status);
    json!({
        "name": spec.name,
        "computeType": spec.compute_type,
        "state": state(record),
        "error": error(record),
        "scoringUri": service::scoring_uri(record),
        "swaggerUri": service::swagger_uri(record),
        "port": status.port,
        "models": spec.model_ids,
        "description": spec.description,
        "tags": spec.tags,
        "properties": spec.properties,
        "createdTime": record.created_time,
        "updatedTime": record.updated_time,
        "deploymentConfig": spec.deployment_config,
        "device": status.device,
        "pid": status.process.filter(|p| p.is_alive()).map(|p| p.pid),
        "log": service::log_path(workspace, &spec.name).ok(),
        "updating": record.candidate.is_some(),
    })
}

/// What is wrong with a service: with the one that serves, and with the update that was to replace it.
fn error(record: &ServiceRecord) -> Option<String> {
    let failed = record.failed_update.as_ref();
    let failed =
        failed.map(|f| format!("the last update failed and the previous version serves on: {}", f.reason));
    match (record.status.reason.clone(), failed) {
        (Some(reason), Some(failed)) => Some(format!("{reason}; {failed}")),
        (reason, failed) => reason.or(failed),
    }
}

/// Local services spell their states in lower case, as they always did.
pub(super) fn state(record: &ServiceRecord) -> &'static str {
    match record.spec.compute_type.eq_ignore_ascii_case("local") {
        true => record.status.state.local_name(),
        false => record.status.state.name(),
    }
}

/// Dots that show a person that something is waited for.
pub(super) struct Dots {
    shown: bool,
    told: u128,
}

impl Dots {
    pub(super) fn new(out: &Output) -> Self {
        Self { shown: std::io::stderr().is_terminal() && !out.is_json(), told: 0 }
    }

    pub(super) fn tick(&mut self, elapsed: Duration) {
        if self.shown && elapsed.as_millis() / 500 > self.told {
            self.told = elapsed.as_millis() / 500;
            let _ = write!(std::io::stderr(), ".");
            let _ = std::io::stderr().flush();
        }
    }

    pub(super) fn end(self) {
        if self.told > 0 {
            let _ = writeln!(std::io::stderr());
        }
    }
}

/// Waits for a service to settle, with dots, and prints how it did.
///
/// # Errors
/// `Unavailable` or `Internal` with the reason, when it did not become healthy.
pub(super) fn wait(workspace: &Workspace, name: &str, generation: i64, out: &Output) -> Result<()> {
    let mut dots = Dots::new(out);
    let waited = service::wait(workspace, name, generation, |_, elapsed| dots.tick(elapsed));
    dots.end();
    let record = waited?;
    settled(workspace, &record, out)?;
    let reason = record.status.reason.clone().unwrap_or_else(|| "no reason was given".to_owned());
    let kind = match record.status.state {
        ServiceState::Healthy => return Ok(()),
        // Services that failed before kinds were kept have none.
        ServiceState::Unschedulable => record.status.error_kind.unwrap_or(ErrorKind::Unavailable),
        _ => record.status.error_kind.unwrap_or(ErrorKind::Internal),
    };
    Err(ScoreError::new(kind, format!("{}: {reason}", record.status.state))
        .with_at(format!("service '{name}'")))
}

/// Prints what became of a deployment: all of it for programs, a line for people.
pub(super) fn settled(workspace: &Workspace, record: &ServiceRecord, out: &Output) -> Result<()> {
    if record.status.state != ServiceState::Healthy && !out.is_json() {
        return Ok(()); // The error that follows says more.
    }
    let name = &record.spec.name;
    let device = record.status.device.as_deref().unwrap_or("an unknown device");
    let uri = service::scoring_uri(record).unwrap_or_default();
    out.result(&to_json(workspace, record), || {
        format!("service '{name}' is {} at {uri} on {device}", state(record))
    })
}

/// Prints a service.
pub(super) fn shown(workspace: &Workspace, record: &ServiceRecord, out: &Output) -> Result<()> {
    let json = to_json(workspace, record);
    out.result(&json, || {
        let mut rows = table(&[]);
        let Value::Object(fields) = &json else { return String::new() };
        for (key, value) in fields {
            let shown = match value {
                Value::Null => continue,
                Value::Object(map) if map.is_empty() => continue,
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            rows.add_row([key.clone(), shown]);
        }
        text(&rows)
    })
}
