//! Loading a model as its deployment file says, and serving it until told to stop: in the foreground
//! for `triscore serve`, in a background process for a deployed service.

use std::fmt;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::deploy::{Adapter, DeploymentConfig, Selection};
use crate::error::{ErrorKind, Result, ScoreError};
use crate::model::Model;
use crate::scoring::Backend;
use crate::server::{Accept, Keys, Server, ServerHandle, ServerOptions};

/// What to serve, and how.
#[derive(Debug)]
pub struct Host {
    /// The service's name.
    pub name: String,
    /// The model's version, if it is a registered one.
    pub model_version: Option<String>,
    /// An `.onnx` file, or a folder that holds one.
    pub model: PathBuf,
    /// What the deployment file says.
    pub config: DeploymentConfig,
    /// Who may call; must be given where the file asks for keys.
    pub keys: KeySource,
    /// Where to listen.
    pub listen: Listen,
    /// What there is to score on.
    pub backends: Vec<Arc<dyn Backend>>,
}

/// Where the keys of a service come from.
#[derive(Clone)]
pub enum KeySource {
    /// These, for as long as it runs; `None` lets everybody in.
    Fixed(Option<Keys>),
    /// Asked for at the start, and anew on SIGHUP, which then does not end the process.
    Reread(Arc<dyn Fn() -> Result<Option<Keys>> + Send + Sync>),
}

impl fmt::Debug for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fixed(Some(_)) => "Fixed(hidden)",
            Self::Fixed(None) => "Fixed(None)",
            Self::Reread(_) => "Reread",
        })
    }
}

/// Where a service listens.
#[derive(Debug)]
pub enum Listen {
    /// At this address; port 0 takes a free one.
    At(SocketAddr),
    /// On a socket that somebody else has bound, and from then on. Once it is told that another process takes the
    /// connections there, it takes no more, and says so.
    On(TcpListener, Accept, OnRetired),
}

/// What is done once a host takes no more connections in.
pub struct OnRetired(pub Box<dyn FnOnce() + Send>);

impl fmt::Debug for OnRetired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnRetired(…)")
    }
}

/// How long a host that is replaced serves on, telling its callers to connect anew: in milliseconds.
const DRAIN_MS: u64 = 1000;

/// What happens while a service is hosted, in this order.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// It listens there, and answers 503 until it is ready.
    Listening(SocketAddr),
    /// It scores: the first caller will be answered.
    Ready(&'a Selection),
    /// It is told to end, and ends what is in flight first.
    Stopping,
}

impl Host {
    /// Serves until SIGTERM or SIGINT (a second one ends at once), or until the device is lost. SIGUSR1 says that
    /// another process serves on the same socket from now on: it drains first. Told to stop while the model
    /// is loading, it comes back at once, and the load goes on in a thread of its own until the process ends.
    ///
    /// # Errors
    /// - `BadConfig`, `Unsupported`: the deployment file asks for what cannot be served.
    /// - `Unavailable`: the devices, cores or memory that it asks for are not there.
    /// - `Conflict`: the port is in use.
    /// - `BadModel`, `NotFound`, `OutOfMemory`, …: the model cannot be loaded.
    /// - `DeviceLost`: it served, and the device went away; another process may have more luck.
    pub fn run(mut self, mut on: impl FnMut(Event<'_>)) -> Result<()> {
        // First of all: neither a stop during the load nor keys that change meanwhile must be lost.
        let signals = Signals::new(&self.keys)?;
        let keys = match &self.keys {
            KeySource::Fixed(keys) => keys.clone(),
            KeySource::Reread(read) => read()?,
        };
        self.check(keys.is_some())?;
        let options = self.options(keys);
        let (server, retired) =
            match std::mem::replace(&mut self.listen, Listen::At(([0, 0, 0, 0], 0).into())) {
                Listen::At(address) => (Server::bind(address, options)?, None),
                Listen::On(listener, accept, retired) => {
                    (Server::from_listener(listener, options, accept)?, Some(retired))
                }
            };
        let handle = server.handle();
        let outcome = Arc::new(Mutex::new(None));
        signals.watch(handle.clone(), self.keys.clone(), retired, outcome.clone())?;
        on(Event::Listening(server.local_addr()));
        match self.load_unless_stopped(&handle)? {
            Some(Ok(selection)) => on(Event::Ready(&selection)),
            Some(Err(e)) => {
                handle.failed(e.to_string());
                return Err(e);
            }
            None => {}
        }
        let ended = server.join();
        on(Event::Stopping);
        match outcome.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(lost) => Err(ScoreError::device_lost(lost)),
            None => ended,
        }
    }

    /// What the file asks for and this server does not do: refused, not ignored.
    fn check(&self, has_keys: bool) -> Result<()> {
        for warning in &self.config.warnings {
            tracing::warn!("{warning}");
        }
        refuse_unserved(&self.config)?;
        if self.config.auth.is_required() && !has_keys {
            return Err(ScoreError::bad_config(
                "authEnabled asks for keys and there are none: give keys.primaryKey, or deploy with \
                 `triscore model deploy`, which makes some",
            ));
        }
        Ok(())
    }

    fn options(&self, keys: Option<Keys>) -> ServerOptions {
        let (config, timeouts) = (&self.config, &self.config.timeouts);
        let mut options = ServerOptions::new(&self.name);
        options.model_version.clone_from(&self.model_version);
        options.scoring_timeout_ms = timeouts.scoring_timeout_ms.into();
        options.max_queue_wait_ms = timeouts.max_queue_wait_ms.into();
        options.warm_up = config.triscore.warm_up;
        options.path_prefix = Some(format!("/api/v1/service/{}", self.name));
        if config.states("maxConcurrentRequestsPerContainer") {
            let limit = timeouts.max_concurrent_requests_per_container;
            options.scorer_threads = usize::try_from(limit).ok();
        }
        if config.auth.is_required() {
            options.keys = keys;
        }
        options
    }

    /// Loads, on a thread of its own: a load can take minutes, and who is told to stop does not wait for it.
    /// `None` when the server has ended first.
    fn load_unless_stopped(self, handle: &ServerHandle) -> Result<Option<Result<Selection>>> {
        let failed =
            |e: std::io::Error| ScoreError::internal(format!("cannot load on a thread: {e}")).with_source(e);
        let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(failed)?;
        let (tell, told) = tokio::sync::oneshot::channel();
        let loader = handle.clone();
        let load = move || drop(tell.send(self.load(&loader)));
        std::thread::Builder::new().name("triscore-load".to_owned()).spawn(load).map_err(failed)?;
        runtime.block_on(async {
            tokio::select! {
                biased;
                loaded = told => match loaded {
                    Ok(loaded) => Ok(Some(loaded)),
                    Err(_) => Err(ScoreError::internal("the load of the model panicked; the log says where")),
                },
                () = handle.ended() => Ok(None),
            }
        })
    }

    fn load(&self, handle: &ServerHandle) -> Result<Selection> {
        let start = std::time::Instant::now();
        let model = Model::open(&self.model)?;
        let compiled = Adapter::new(self.backends.clone()).compile(&self.config, &model)?;
        // The scorer has what it needs; a large model's bytes need not stay twice.
        drop(model);
        let selection = compiled.selection;
        if let Some(reason) = &selection.fell_back {
            tracing::warn!("not on the device that was asked for first: {reason}");
        }
        handle.ready(compiled.scorer)?;
        tracing::info!(
            service = self.name,
            device = %selection,
            load_ms = start.elapsed().as_millis() as u64,
            "serving"
        );
        Ok(selection)
    }
}

/// Refuses a deployment file that asks for what this server does not do: known before anything is started.
pub(super) fn refuse_unserved(config: &DeploymentConfig) -> Result<()> {
    if config.ssl.enabled {
        return Err(ScoreError::unsupported(
            "sslEnabled: this server speaks plain HTTP only: put a proxy that speaks TLS before it and \
             set sslEnabled to false",
        ));
    }
    Ok(())
}

/// The signals that a host listens to. Made before anything else: what comes before is lost.
struct Signals {
    runtime: tokio::runtime::Runtime,
    terminate: Signal,
    interrupt: Signal,
    retire: Signal,
    reread: Option<Signal>,
}

impl Signals {
    fn new(keys: &KeySource) -> Result<Self> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(unwatchable)?;
        let _entered = runtime.enter();
        let on = |kind| signal(kind).map_err(unwatchable);
        let reread = match keys {
            KeySource::Reread(_) => Some(on(SignalKind::hangup())?),
            // In the foreground a closed terminal is the end.
            KeySource::Fixed(_) => None,
        };
        let (terminate, interrupt) = (on(SignalKind::terminate())?, on(SignalKind::interrupt())?);
        let retire = on(SignalKind::user_defined1())?;
        drop(_entered);
        Ok(Self { runtime, terminate, interrupt, retire, reread })
    }

    /// Hands signals and a lost device to the server, from a thread of its own.
    fn watch(
        self,
        handle: ServerHandle,
        keys: KeySource,
        mut retired: Option<OnRetired>,
        outcome: Arc<Mutex<Option<String>>>,
    ) -> Result<()> {
        let Self { runtime, mut terminate, mut interrupt, mut retire, mut reread } = self;
        let run = move || {
            runtime.block_on(async move {
                loop {
                    let hangup = async {
                        match &mut reread {
                            Some(signal) => drop(signal.recv().await),
                            None => std::future::pending().await,
                        }
                    };
                    tokio::select! {
                        _ = terminate.recv() => handle.shutdown(),
                        _ = interrupt.recv() => handle.shutdown(),
                        _ = retire.recv() => {
                            handle.retire(DRAIN_MS);
                            handle.retired().await;
                            if let Some(OnRetired(tell)) = retired.take() {
                                tell();
                            }
                        }
                        () = hangup => keys.hand_to(&handle),
                        reason = handle.wait_lost() => {
                            *outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason);
                            handle.shutdown();
                            return;
                        }
                        () = handle.ended() => return,
                    }
                }
            });
        };
        let thread = std::thread::Builder::new().name("triscore-signals".to_owned()).spawn(run);
        thread.map(drop).map_err(unwatchable)
    }
}

impl KeySource {
    /// Reads the keys anew, and has the server ask for them. Where they cannot be read, the old ones stay.
    fn hand_to(&self, handle: &ServerHandle) {
        let Self::Reread(read) = self else { return };
        match read() {
            Ok(keys) => {
                handle.set_keys(keys);
                tracing::info!("the keys were read anew");
            }
            Err(e) => tracing::error!("the keys stay as they were; they cannot be read anew: {e}"),
        }
    }
}

fn unwatchable(e: std::io::Error) -> ScoreError {
    ScoreError::internal(format!("cannot watch for signals: {e}")).with_source(e)
}

/// The state that an error of [`Host::run`] means: what is not there may come, the rest will not mend itself.
pub(super) fn state_of(e: &ScoreError) -> crate::registry::ServiceState {
    match e.kind() {
        ErrorKind::Unavailable => crate::registry::ServiceState::Unschedulable,
        _ => crate::registry::ServiceState::Failed,
    }
}
