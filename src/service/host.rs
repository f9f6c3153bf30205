//! Loading a model, or an entry script, as its deployment file says, and serving it until told to stop: in the
//! foreground for `triscore serve`, in a background process for a deployed service.

use std::fmt;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::config_file;
use super::scripted::{ScriptService, max_queue_wait_ms};
use crate::deploy::{self, Adapter, DeploymentConfig, Selection};
use crate::error::{ErrorKind, Result, ScoreError};
use crate::model::Model;
use crate::scoring::Backend;
use crate::script::Pool;
use crate::server::{Accept, Keys, Server, ServerHandle, ServerOptions, Tls};

/// What to serve, and how.
#[derive(Debug)]
pub struct Host {
    /// The service's name.
    pub name: String,
    /// What answers.
    pub served: Served,
    /// What the deployment file says.
    pub config: DeploymentConfig,
    /// Who may call; must be given where the file asks for keys.
    pub keys: KeySource,
    /// Where to listen.
    pub listen: Listen,
    /// What there is to score on.
    pub backends: Vec<Arc<dyn Backend>>,
}

/// What answers a service's requests.
#[derive(Debug)]
pub enum Served {
    /// A model, by itself.
    Model {
        /// An `.onnx` file, or a folder that holds one.
        path: PathBuf,
        /// Its version, if it is a registered one.
        version: Option<String>,
    },
    /// An entry script.
    Script(Box<ScriptService>),
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
    /// - `BadConfig`: the entry script does not start, in its own words.
    /// - `DeviceLost`: it served, and the device went away; another process may have more luck.
    pub fn run(mut self, mut on: impl FnMut(Event<'_>)) -> Result<()> {
        // First of all: neither a stop during the load nor keys that change meanwhile must be lost.
        let signals = Signals::new(&self.keys)?;
        let keys = match &self.keys {
            KeySource::Fixed(keys) => keys.clone(),
            KeySource::Reread(read) => read()?,
        };
        self.check(keys.is_some())?;
        if let Served::Script(script) = &mut self.served {
            config_file::merge(&mut script.inference, &script.app_root)?;
        }
        let options = self.options(keys)?;
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
        let is_script = matches!(self.served, Served::Script(_));
        let mut workers = None;
        match self.load_unless_stopped(&handle)? {
            Some(Ok(loaded)) => {
                workers = loaded.workers;
                on(Event::Ready(&loaded.selection));
            }
            Some(Err(e)) => {
                handle.failed(match is_script {
                    // Its traceback is for its author, not for who calls the service.
                    true => e.message().lines().next().unwrap_or_default().to_owned(),
                    false => e.to_string(),
                });
                return Err(e);
            }
            None => {}
        }
        let ended = server.join();
        on(Event::Stopping);
        if let Some(workers) = workers {
            workers.shutdown();
        }
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
        if self.config.auth.is_required() && !has_keys {
            return Err(ScoreError::bad_config(
                "authEnabled asks for keys and there are none: give keys.primaryKey, or deploy with \
                 `triscore model deploy`, which makes some",
            ));
        }
        Ok(())
    }

    fn options(&self, keys: Option<Keys>) -> Result<ServerOptions> {
        let (config, timeouts) = (&self.config, &self.config.timeouts);
        let mut options = ServerOptions::new(&self.name);
        options.scoring_timeout_ms = timeouts.scoring_timeout_ms.into();
        options.path_prefix = Some(format!("/api/v1/service/{}", self.name));
        match &self.served {
            Served::Model { version, .. } => options.model_version.clone_from(version),
            Served::Script(script) => {
                options.scoring_timeout_ms = script.scoring_timeout_ms(config)?;
                options.cors_origins = script.cors_origins();
                options.path_prefix = script.path_prefix().or(options.path_prefix);
            }
        }
        options.max_queue_wait_ms = max_queue_wait_ms(config, options.scoring_timeout_ms);
        options.warm_up = config.triscore.warm_up;
        if config.states("maxConcurrentRequestsPerContainer") {
            let limit = timeouts.max_concurrent_requests_per_container;
            options.scorer_threads = usize::try_from(limit).ok();
        }
        if config.auth.is_required() {
            options.keys = keys;
        }
        if let (true, Some(certificate), Some(key)) =
            (config.ssl.enabled, &config.ssl.certificate, &config.ssl.key)
        {
            let read = |path: &PathBuf| deploy::read_small_file(path, "read the PEM file");
            options.tls = Some(Tls::from_pem(&read(certificate)?, &read(key)?)?);
        }
        Ok(options)
    }

    /// Loads, on a thread of its own: a load can take minutes, and who is told to stop does not wait for it.
    /// `None` when the server has ended first.
    fn load_unless_stopped(self, handle: &ServerHandle) -> Result<Option<Result<Loaded>>> {
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

    fn load(&self, handle: &ServerHandle) -> Result<Loaded> {
        let start = std::time::Instant::now();
        let adapter = Adapter::new(self.backends.clone());
        let fell_back = |selection: &Selection| {
            if let Some(reason) = &selection.fell_back {
                tracing::warn!("not on the device that was asked for first: {reason}");
            }
        };
        let (selection, workers) = match &self.served {
            Served::Model { path, .. } => {
                let model = Model::open(path)?;
                let compiled = adapter.compile(&self.config, &model)?;
                // The scorer has what it needs; a large model's bytes need not stay twice.
                drop(model);
                fell_back(&compiled.selection);
                handle.ready(compiled.scorer)?;
                (compiled.selection, None)
            }
            Served::Script(script) => {
                // Whatever the script does with it, a device that was asked for is there, or nothing starts.
                let selection = adapter.select(&self.config)?;
                fell_back(&selection);
                let workers = script.start(&self.name, &self.config, adapter)?;
                handle.ready_with(workers.clone())?;
                (selection, Some(workers))
            }
        };
        tracing::info!(
            service = self.name,
            device = %selection,
            load_ms = start.elapsed().as_millis() as u64,
            "serving"
        );
        Ok(Loaded { selection, workers })
    }
}

/// What was loaded: where it runs, and a script's workers, which end after the server.
struct Loaded {
    selection: Selection,
    workers: Option<Arc<Pool>>,
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
