//! The liveness probe of a deployment file: whether the host still answers.
//!
//! A process can be there and do nothing any more: stopped, out of threads, stuck in a driver. So it is asked
//! for its health again and again, as Kubernetes asked a container, and one that does not answer so many times in
//! a row is ended, to be started anew.
//!
//! Where the file says nothing about probes, an answer is an answer, also one that says "not ready": a model
//! that takes long to load must not be killed for it by a rule that nobody wrote. Where it does, only good answers
//! count, once the initial delay is over.

use std::time::Duration;

use super::client::{self, Endpoint};
use super::{layout, observe};
use crate::deploy::{DeploymentConfig, LivenessProbe};
use crate::error::{Result, ScoreError};
use crate::registry::Workspace;

/// What is asked, how often, and what counts.
#[derive(Debug)]
pub(super) struct Probe {
    to: Endpoint,
    liveness: LivenessProbe,
    is_stated: bool,
}

impl Probe {
    /// The probe of the version of a service that serves.
    ///
    /// # Errors
    /// `NotFound`, `Io` or `BadConfig`: somebody has been at the service's files.
    pub(super) fn of(workspace: &Workspace, name: &str) -> Result<Self> {
        let record = workspace.show_service(name)?;
        let (_, config) = layout::read(&layout::folder(workspace, name, record.generation)?)?;
        let to = observe::endpoint(&record)?;
        let to = to.ok_or_else(|| ScoreError::internal("a service that serves has no port"))?;
        Ok(Self::new(to, &config))
    }

    fn new(to: Endpoint, config: &DeploymentConfig) -> Self {
        Self { to, liveness: config.liveness, is_stated: config.states("livenessProbeRequirements") }
    }

    /// Comes back when the host counts as dead, with what it did wrong.
    pub(super) async fn failed(self) -> String {
        let Self { to, liveness, is_stated } = self;
        let seconds = |n: u32| Duration::from_secs(n.into());
        tokio::time::sleep(seconds(liveness.initial_delay_s)).await;
        let mut failures = 0;
        loop {
            let (to, timeout) = (to.clone(), seconds(liveness.timeout_s.max(1)));
            // An error of the thread is none of the host's.
            let asked = tokio::task::spawn_blocking(move || client::health(&to, timeout)).await;
            let wrong = match asked {
                Ok(Ok(answer)) if is_stated && !(200..400).contains(&answer.status) => {
                    Some(format!("it answers {}", answer.status))
                }
                Ok(Err(e)) => Some(e.message().to_owned()),
                _ => None,
            };
            failures = if wrong.is_some() { failures + 1 } else { 0 };
            match wrong {
                Some(wrong) if failures >= liveness.failure_threshold.max(1) => {
                    return format!("the liveness probe failed {failures} times in a row: {wrong}");
                }
                _ => tokio::time::sleep(seconds(liveness.period_s.max(1))).await,
            }
        }
    }
}
