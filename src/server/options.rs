//! What a server is told before it starts. Every limit has a default that holds under abuse.

use std::time::Duration;

use super::keys::Keys;
use super::tls::Tls;
use crate::error::{Result, ScoreError};

/// How a server behaves. Make one with [`ServerOptions::new`], change what must be changed;
/// [`Server::bind`](super::Server::bind) checks all of it and lists everything that is wrong.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ServerOptions {
    /// The name in messages, in the API description and in answers of the Open Inference Protocol.
    pub service_name: String,
    /// The version in the API description.
    pub service_version: String,
    /// The version of the model, for answers of the Open Inference Protocol and metrics.
    pub model_version: Option<String>,
    /// Threads that score; `None` is one a lane of the scorer.
    pub scorer_threads: Option<usize>,
    /// Threads that speak HTTP.
    pub io_threads: usize,
    /// Requests that wait for a scorer thread; one more is answered 503.
    pub max_queued: usize,
    /// How long a request may wait for a scorer thread, in milliseconds; then it is answered 503.
    pub max_queue_wait_ms: u64,
    /// How long a request may take once its body is there, in milliseconds; then it is answered 504.
    pub scoring_timeout_ms: u64,
    /// Requests that are read, waiting or scored at once.
    pub max_in_flight: usize,
    /// Bytes of bodies that are read, waiting or scored at once.
    pub max_in_flight_bytes: usize,
    /// The largest body, in bytes; a larger one is answered 413.
    pub max_body_bytes: usize,
    /// Open connections; one more is answered 503 and closed.
    pub max_connections: usize,
    /// How long a client may take over the head of a request, in milliseconds.
    pub header_timeout_ms: u64,
    /// How long a client may take over a body, in milliseconds; then it is answered 408.
    pub body_timeout_ms: u64,
    /// How long a client may read nothing of its answer, in milliseconds.
    pub write_timeout_ms: u64,
    /// How long a connection may stay open between two requests, in milliseconds.
    pub idle_timeout_ms: u64,
    /// After a shutdown was asked for: how long to go on serving, not ready, so that balancers can turn
    /// away, in milliseconds.
    pub drain_ms: u64,
    /// After that: how long requests in flight may take to end, in milliseconds.
    pub grace_ms: u64,
    /// The keys that callers of `/score` and `/swagger.json` must show; `None` lets everybody in. Health and
    /// metrics ask for none.
    pub keys: Option<Keys>,
    /// Speaks TLS, and nothing else, at its port.
    pub tls: Option<Tls>,
    /// Serves everything under this path as well, as `/api/v1/service/<name>`.
    pub path_prefix: Option<String>,
    /// Origins whose pages may call; `*` is any.
    pub cors_origins: Vec<String>,
    /// Scores zeros before the service is ready, so that the first caller does not pay for it.
    pub warm_up: bool,
    /// Routes of the embedder, for paths that are none of the server's own. No key is asked there.
    pub routes: Option<axum::Router>,
}

impl ServerOptions {
    /// The defaults, for a service of that name.
    pub fn new(service_name: impl Into<String>) -> Self {
        Self {
            service_name: service_name.into(),
            service_version: "1.0".to_owned(),
            model_version: None,
            scorer_threads: None,
            io_threads: 2,
            max_queued: 512,
            max_queue_wait_ms: 500,
            scoring_timeout_ms: 60_000,
            max_in_flight: 1024,
            max_in_flight_bytes: 512 << 20,
            max_body_bytes: 100 << 20,
            max_connections: 4096,
            header_timeout_ms: 15_000,
            body_timeout_ms: 60_000,
            write_timeout_ms: 60_000,
            idle_timeout_ms: 75_000,
            drain_ms: 0,
            grace_ms: 30_000,
            keys: None,
            tls: None,
            path_prefix: None,
            cors_origins: Vec::new(),
            warm_up: true,
            routes: None,
        }
    }

    /// Whether a server can be run with them.
    ///
    /// # Errors
    /// `BadConfig` listing everything that is wrong.
    pub fn validate(&self) -> Result<()> {
        let mut wrong = Vec::new();
        let sizes = [
            ("io_threads", self.io_threads as u64),
            ("scorer_threads", self.scorer_threads.unwrap_or(1) as u64),
            ("max_queued", self.max_queued as u64),
            ("max_queue_wait_ms", self.max_queue_wait_ms),
            ("scoring_timeout_ms", self.scoring_timeout_ms),
            ("max_in_flight", self.max_in_flight as u64),
            ("max_in_flight_bytes", self.max_in_flight_bytes as u64),
            ("max_body_bytes", self.max_body_bytes as u64),
            ("max_connections", self.max_connections as u64),
            ("header_timeout_ms", self.header_timeout_ms),
            ("body_timeout_ms", self.body_timeout_ms),
            ("write_timeout_ms", self.write_timeout_ms),
            ("idle_timeout_ms", self.idle_timeout_ms),
        ];
        wrong.extend(
            sizes.iter().filter(|(_, n)| *n == 0).map(|(name, _)| format!("{name} must be at least 1")),
        );
        for (name, n) in
            [("io_threads", self.io_threads), ("scorer_threads", self.scorer_threads.unwrap_or(1))]
        {
            if n > 1024 {
                wrong.push(format!("{name} must be at most 1024, got {n}"));
            }
        }
        if self.max_body_bytes > self.max_in_flight_bytes {
            wrong.push(format!(
                "max_body_bytes ({}) must not exceed max_in_flight_bytes ({}): no such body could ever be admitted",
                self.max_body_bytes, self.max_in_flight_bytes
            ));
        }
        if let Some(prefix) = &self.path_prefix
            && (!prefix.starts_with('/') || prefix.ends_with('/') || prefix.contains(['?', '#', ' ']))
        {
            wrong.push(format!("path_prefix must begin with '/' and end without, got '{prefix}'"));
        }
        for origin in &self.cors_origins {
            if axum::http::HeaderValue::from_str(origin).is_err() {
                wrong.push(format!("cors_origins: '{}' is no origin", origin.escape_debug()));
            }
        }
        match wrong.is_empty() {
            true => Ok(()),
            false => Err(ScoreError::bad_config(wrong.join("; ")).with_at("server options")),
        }
    }

    /// How often the watchdog must look, so that no bound is overrun by much.
    pub(super) fn tick(&self) -> Duration {
        let bounds = [
            self.max_queue_wait_ms,
            self.scoring_timeout_ms,
            self.header_timeout_ms,
            self.write_timeout_ms,
            self.idle_timeout_ms,
        ];
        let shortest = bounds.into_iter().min().unwrap_or(1000);
        Duration::from_millis((shortest / 10).clamp(2, 50))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_is_wrong_is_listed() {
        assert!(ServerOptions::new("s").validate().is_ok());
        let mut options = ServerOptions::new("s");
        options.io_threads = 0;
        options.scorer_threads = Some(5000);
        options.max_body_bytes = usize::MAX;
        options.path_prefix = Some("api/".into());
        options.cors_origins = vec!["*".into(), "a\nb".into()];
        let e = options.validate().unwrap_err();
        assert_eq!(e.kind(), crate::ErrorKind::BadConfig);
        for part in ["io_threads", "at most 1024", "max_body_bytes", "path_prefix", "'a\\nb' is no origin"] {
            assert!(e.to_string().contains(part), "{part}: {e}");
        }
    }
}
