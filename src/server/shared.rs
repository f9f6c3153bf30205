//! What every part of a server holds: its options, its queue, its counters, and what state it is in.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use axum::http::HeaderValue;
use tokio::sync::watch;

use super::admission::Admission;
use super::application::Application;
use super::connection::Connections;
use super::job::{Job, Slot};
use super::keys::Keys;
use super::metrics::{Gauges, Metrics};
use super::options::ServerOptions;
use super::queue::Queue;
use super::swagger::Swagger;
use crate::error::{ErrorKind, ScoreError};
use crate::scoring::{Health, Scorer};

/// Whether there is a scorer, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// No scorer yet.
    Loading,
    /// Scoring.
    Ready,
    /// There will be no scorer, and why.
    Failed(Arc<str>),
    /// The scorer lost its device, and how.
    Lost(Arc<str>),
}

/// How far the end is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Stage {
    /// Serving.
    Serve = 0,
    /// Serving, but not ready: whoever balances should turn away.
    Drain = 1,
    /// Taking in nothing new.
    Finish = 2,
    /// Closing whatever is open.
    Abort = 3,
    /// Over.
    Ended = 4,
}

/// What answers the scoring route.
pub(super) enum Served {
    Model(Loaded),
    Application(Hosted),
}

/// An application and what it says of itself.
pub(super) struct Hosted {
    pub(super) application: Arc<dyn Application>,
    /// The value of `x-triscore-device`.
    pub(super) device: HeaderValue,
}

/// A scorer and what was made from it once.
pub(super) struct Loaded {
    pub(super) scorer: Arc<dyn Scorer>,
    /// The value of `x-triscore-device`.
    pub(super) device: HeaderValue,
    pub(super) swagger: Swagger,
    pub(super) slots: Box<[Arc<Slot>]>,
}

pub(super) struct Shared {
    pub(super) options: ServerOptions,
    pub(super) queue: Queue<Job>,
    pub(super) admission: Arc<Admission>,
    pub(super) metrics: Metrics,
    pub(super) connections: Connections,
    served: OnceLock<Served>,
    pub(super) phase: watch::Sender<Phase>,
    /// The phase is `Lost`: for those who ask at every request, as is `stage_now`.
    lost: AtomicBool,
    pub(super) stage: watch::Sender<Stage>,
    stage_now: AtomicU8,
    /// Those of the options, until others are set.
    pub(super) keys: std::sync::RwLock<Option<Keys>>,
    /// That of the options, unless the end was asked for with another.
    pub(super) drain_ms: AtomicU64,
    pub(super) accepting: watch::Sender<Accepting>,
}

/// Whether connections are taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Accepting {
    Yes,
    /// Not for longer: another process takes them, on the same socket.
    NoMore,
    /// None is taken in any more.
    Over,
}

impl Shared {
    pub(super) fn new(options: ServerOptions) -> Self {
        Self {
            queue: Queue::new(options.max_queued),
            admission: Admission::new(options.max_in_flight, options.max_in_flight_bytes),
            metrics: Metrics::default(),
            connections: Connections::new(options.max_connections),
            served: OnceLock::new(),
            phase: watch::Sender::new(Phase::Loading),
            lost: AtomicBool::new(false),
            stage: watch::Sender::new(Stage::Serve),
            stage_now: AtomicU8::new(Stage::Serve as u8),
            keys: std::sync::RwLock::new(options.keys.clone()),
            drain_ms: AtomicU64::new(options.drain_ms),
            accepting: watch::Sender::new(Accepting::Yes),
            options,
        }
    }

    /// Whether the end has come that far.
    pub(super) fn is_past(&self, stage: Stage) -> bool {
        self.stage_now.load(Ordering::Acquire) >= stage as u8
    }

    /// Comes back once the end has come that far.
    pub(super) async fn reached(&self, stage: Stage) {
        let _ = self.stage.subscribe().wait_for(|s| *s >= stage).await;
    }

    /// Comes back once no more connections are to be taken in because another process takes them. What the
    /// channel lends is given back here: held any longer, it would keep its sender waiting.
    pub(super) async fn accepts_no_more(&self) {
        let _ = self.accepting.subscribe().wait_for(|now| *now != Accepting::Yes).await;
    }

    /// Goes on to that stage, never back.
    pub(super) fn advance(&self, to: Stage) {
        self.stage.send_if_modified(|stage| {
            let forward = *stage < to;
            if forward {
                *stage = to;
                self.stage_now.store(to as u8, Ordering::Release);
            }
            forward
        });
    }

    /// Notes what answers from now on; says no when something does already.
    pub(super) fn serve(&self, served: Served) -> Result<(), ScoreError> {
        let taken = || ScoreError::new(ErrorKind::Conflict, "the server has something that answers already");
        self.served.set(served).map_err(|_| taken())
    }

    /// What answers, if requests can be answered now.
    pub(super) fn served(&self) -> Result<&Served, ScoreError> {
        // The common case without a lock: loaded, and nothing has been noticed to be wrong.
        let refuse = |what: String| Err(ScoreError::new(ErrorKind::NotReady, what));
        match self.served.get() {
            Some(served) if !self.lost.load(Ordering::Acquire) => Ok(served),
            _ => match &*self.phase.borrow() {
                Phase::Failed(reason) => refuse(format!("The service failed to load: {reason}")),
                Phase::Lost(_) => refuse("The device was lost. The service must be restarted.".to_owned()),
                Phase::Loading | Phase::Ready => refuse("The service is loading.".to_owned()),
            },
        }
    }

    /// The value of `x-triscore-device`.
    pub(super) fn device(&self) -> Option<&HeaderValue> {
        match self.served.get()? {
            Served::Model(loaded) => Some(&loaded.device),
            Served::Application(hosted) => Some(&hosted.device),
        }
    }

    /// The model, if it is one that answers, however it is.
    pub(super) fn model(&self) -> Option<&Loaded> {
        match self.served.get()? {
            Served::Model(loaded) => Some(loaded),
            Served::Application(_) => None,
        }
    }

    /// The application, if it is one that answers.
    pub(super) fn application(&self) -> Option<&Hosted> {
        match self.served.get()? {
            Served::Application(hosted) => Some(hosted),
            Served::Model(_) => None,
        }
    }

    /// Why the service is not ready, or `None` when it is.
    pub(super) fn not_ready(&self) -> Option<String> {
        // Where another process goes on with it the service is well, and those who ask are to stay.
        if self.is_past(Stage::Drain) && *self.accepting.borrow() == Accepting::Yes {
            return Some("The service is shutting down.".to_owned());
        }
        self.check_health();
        match self.served() {
            Ok(Served::Model(_)) => None,
            Ok(Served::Application(hosted)) => hosted.application.not_ready(),
            Err(e) => Some(e.message().to_owned()),
        }
    }

    /// Asks what answers how it is, and notes it when its device is lost.
    pub(super) fn check_health(&self) {
        let health = match self.served.get() {
            Some(Served::Model(loaded)) => loaded.scorer.health(),
            Some(Served::Application(hosted)) => hosted.application.health(),
            None => return,
        };
        if let Health::Lost { reason } = health {
            self.lose(&reason);
        }
    }

    /// The device is lost: from now on the service is not ready.
    fn lose(&self, reason: &str) {
        let lost = self.phase.send_if_modified(|phase| {
            let news = !matches!(phase, Phase::Lost(_));
            if news {
                *phase = Phase::Lost(reason.into());
            }
            news
        });
        if lost {
            self.lost.store(true, Ordering::Release);
            tracing::error!(service = self.options.service_name, reason, "the device is lost");
            self.metrics.device_lost();
        }
    }

    /// The metrics as text.
    pub(super) fn metrics_text(&self) -> String {
        let (in_flight, in_flight_bytes) = self.admission.in_flight();
        self.metrics.text(&Gauges {
            service: &self.options.service_name,
            version: self.options.model_version.as_deref().unwrap_or_default(),
            queued: self.queue.len() + self.application().map_or(0, |hosted| hosted.application.queued()),
            in_flight,
            in_flight_bytes,
            connections: self.connections.len(),
            ready: self.not_ready().is_none(),
        })
    }
}
