//! Keys and tokens of a service that runs.
//!
//! A key changes in the registry first. Then the supervisor is told to look, its host reads the keys anew,
//! and the command asks the service with the new key until that is let in: when it comes back, callers
//! may use it.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::{client, end, layout, observe};
use crate::error::{ErrorKind, Result, ScoreError};
use crate::registry::{KeyKind, ProcessStamp, Secret, ServiceKeys, ServiceRecord, ServiceState, Workspace};
use crate::server::tokens;

/// How long a service may take to ask for its new keys.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a token is good for.
const LIFETIME_S: u64 = 12 * 3600;

/// A token for callers of one service.
#[derive(Clone)]
pub struct AccessToken {
    /// What callers send, as `Authorization: Bearer <token>`.
    pub access_token: String,
    /// When to fetch another, in seconds since 1970.
    pub refresh_after: u64,
    /// When it is not let in any more, in seconds since 1970.
    pub expiry_on: u64,
}

impl AccessToken {
    /// As Azure answered: `accessToken`, `tokenType`, `refreshAfter`, `expiryOn`.
    pub fn to_json(&self) -> Value {
        json!({
            "accessToken": self.access_token,
            "tokenType": "Bearer",
            "refreshAfter": self.refresh_after,
            "expiryOn": self.expiry_on,
        })
    }
}

impl std::fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AccessToken(hidden, until {})", self.expiry_on)
    }
}

/// Changes one key of a service, to the one given or a new one, and waits until the service asks for it. A new
/// primary key ends every token that was made of the old one.
///
/// # Errors
/// `NotFound`; `Conflict` when another command is at work on it; `DeadlineExceeded` when the key is changed and
/// the service does not ask for it.
pub fn regenerate_key(
    workspace: &Workspace,
    name: &str,
    which: KeyKind,
    key: Option<Secret>,
) -> Result<ServiceKeys> {
    let _operation = workspace.begin_operation(name, "changing a key of")?;
    let keys = workspace.regenerate_service_key(name, which, key)?;
    let record = workspace.show_service(name)?;
    let Some(supervisor) = record.status.process.filter(ProcessStamp::is_alive) else { return Ok(keys) };
    end::signal(supervisor.pid, libc::SIGHUP);
    let changed = match which {
        KeyKind::Primary => &keys.primary,
        KeyKind::Secondary => &keys.secondary,
    };
    let since = Instant::now();
    while !is_let_in(workspace, name, changed)? {
        if since.elapsed() > PATIENCE {
            let text = "the key is changed, and the service does not ask for it yet: see its log";
            return Err(
                ScoreError::new(ErrorKind::DeadlineExceeded, text).with_at(format!("service '{name}'"))
            );
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(keys)
}

/// Whether the service lets in who shows this key; one that does not serve asks for it once it does.
fn is_let_in(workspace: &Workspace, name: &str, key: &Secret) -> Result<bool> {
    let record = workspace.show_service(name)?;
    let serves = matches!(record.status.state, ServiceState::Healthy | ServiceState::Unhealthy);
    let alive = record.status.process.is_some_and(|p| p.is_alive());
    let Some(to) = observe::endpoint(&record)?.filter(|_| serves && alive) else { return Ok(true) };
    let shown = match takes_tokens(workspace, &record) {
        // Made of the primary key: the secondary one makes none, and opens nothing.
        true => token_of(&workspace.service_keys(name)?.primary, name).access_token,
        false => key.expose().to_owned(),
    };
    Ok(client::swagger(&to, &shown, Duration::from_secs(2)).is_ok_and(|answer| answer.status == 200))
}

/// What a caller of the service must show: a key, or a token made of it.
///
/// # Errors
/// As [`Workspace::service_keys`].
pub fn credential(workspace: &Workspace, record: &ServiceRecord) -> Result<String> {
    let name = &record.spec.name;
    let primary = workspace.service_keys(name)?.primary;
    Ok(match takes_tokens(workspace, record) {
        true => token_of(&primary, name).access_token,
        false => primary.expose().to_owned(),
    })
}

/// A token for callers of a service.
///
/// # Errors
/// `NotFound`; `BadInput` when the service takes no tokens: what to set.
pub fn access_token(workspace: &Workspace, name: &str) -> Result<AccessToken> {
    let record = workspace.show_service(name)?;
    if !takes_tokens(workspace, &record) {
        let text = "it takes no tokens: deploy it with \"tokenAuthEnabled\": true (computeType aks), or \
                    `triscore service update --token-auth-enabled true --auth-enabled false`";
        return Err(ScoreError::bad_input(text).with_at(format!("service '{name}'")));
    }
    Ok(token_of(&workspace.service_keys(name)?.primary, name))
}

fn takes_tokens(workspace: &Workspace, record: &ServiceRecord) -> bool {
    let folder = layout::folder(workspace, &record.spec.name, record.generation);
    folder.and_then(|folder| layout::read(&folder)).is_ok_and(|(_, config)| config.auth.token)
}

fn token_of(key: &Secret, name: &str) -> AccessToken {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let expiry_on = now + LIFETIME_S;
    AccessToken {
        access_token: tokens::sign(key.expose(), name, now, expiry_on),
        // As Azure had it: well before the end, so that a clock that is off does no harm.
        refresh_after: now + LIFETIME_S * 45 / 100,
        expiry_on,
    }
}
