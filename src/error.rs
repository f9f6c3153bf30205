//! One error type for the whole crate, and the one table that says what an error means.
//!
//! A caller has four questions about a failed score: what HTTP status is it, what exit code, may I
//! try again, and is the device still good? The answers hang on the *kind* of the error alone, so they
//! stand in one table ([`ErrorKind::row`]) and nowhere else: a server, a program and a retry loop
//! that read the same table cannot disagree.
//!
//! The message is written for the person who has to act on it: what, where ([`ScoreError::at`]),
//! expected, got, and what to do.

use std::error::Error as StdError;
use std::fmt;

/// What a fallible operation of this crate returns.
pub type Result<T, E = ScoreError> = std::result::Result<T, E>;

/// An error with its kind, its message, the place where it happened, and what caused it.
///
/// It is one pointer wide, so that `Result<T>` stays small on the hot path.
pub struct ScoreError {
    inner: Box<Inner>,
}

struct Inner {
    kind: ErrorKind,
    message: String,
    at: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// What went wrong, as coarse as a caller needs it to decide what to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A configuration file or an option does not say something that can be done.
    BadConfig,
    /// A request or a tensor does not fit the model: shape, dtype, name or text.
    BadInput,
    /// A model file is malformed, over a limit, or uses what cannot be run.
    BadModel,
    /// The caller cancelled the call.
    Cancelled,
    /// Somebody else holds what is needed, or the thing exists already.
    Conflict,
    /// The deadline of the call passed before it was done.
    DeadlineExceeded,
    /// The device is gone until it is rebuilt; sticky.
    DeviceLost,
    /// A bug or an unforeseen failure below; the caller did nothing wrong.
    Internal,
    /// Reading or writing files or sockets failed.
    Io,
    /// A model, service, file or tensor of that name does not exist.
    NotFound,
    /// The service is loading, warming up, or shutting down.
    NotReady,
    /// Host or device memory ran out, or a memory bound was met.
    OutOfMemory,
    /// The queue is full, or waiting in it took too long.
    Overloaded,
    /// The request is larger than the limit.
    TooLarge,
    /// The key is missing or wrong.
    Unauthorized,
    /// The device, driver or library that was asked for is not there.
    Unavailable,
    /// What was asked for is understood, and not supported here.
    Unsupported,
}

/// What a kind of error means to the four who ask: see [`ErrorKind::row`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrorRow {
    /// The kind that the row is about.
    pub kind: ErrorKind,
    /// A stable name for machines: in `--json` output, logs and metrics.
    pub name: &'static str,
    /// HTTP status of a response that carries it.
    pub http_status: u16,
    /// Exit code of the program (those of BSD's `sysexits.h` where one fits).
    pub exit_code: u8,
    /// Whether the same call may succeed later, with nothing changed by the caller.
    pub retryable: bool,
    /// Whether the scorer that returned it must not be used again.
    pub fatal_to_device: bool,
}

const fn row(
    kind: ErrorKind,
    name: &'static str,
    http_status: u16,
    exit_code: u8,
    retryable: bool,
    fatal_to_device: bool,
) -> ErrorRow {
    ErrorRow { kind, name, http_status, exit_code, retryable, fatal_to_device }
}

impl ErrorKind {
    /// Every kind, in the order of the table in the documentation.
    pub const ALL: [ErrorKind; 17] = [
        ErrorKind::BadConfig,
        ErrorKind::BadInput,
        ErrorKind::BadModel,
        ErrorKind::Cancelled,
        ErrorKind::Conflict,
        ErrorKind::DeadlineExceeded,
        ErrorKind::DeviceLost,
        ErrorKind::Internal,
        ErrorKind::Io,
        ErrorKind::NotFound,
        ErrorKind::NotReady,
        ErrorKind::OutOfMemory,
        ErrorKind::Overloaded,
        ErrorKind::TooLarge,
        ErrorKind::Unauthorized,
        ErrorKind::Unavailable,
        ErrorKind::Unsupported,
    ];

    /// The table: what this kind means to a server, a program, a retry loop and a health check.
    pub const fn row(self) -> ErrorRow {
        match self {
            //                                                               http exit retry fatal
            Self::BadConfig => row(self, "bad_config", 400, 78, false, false),
            Self::BadInput => row(self, "bad_input", 400, 65, false, false),
            Self::BadModel => row(self, "bad_model", 422, 65, false, false),
            Self::Cancelled => row(self, "cancelled", 499, 130, true, false),
            Self::Conflict => row(self, "conflict", 409, 73, false, false),
            Self::DeadlineExceeded => row(self, "deadline_exceeded", 504, 75, true, false),
            Self::DeviceLost => row(self, "device_lost", 503, 72, false, true),
            Self::Internal => row(self, "internal", 500, 70, false, false),
            Self::Io => row(self, "io", 500, 74, false, false),
            Self::NotFound => row(self, "not_found", 404, 66, false, false),
            Self::NotReady => row(self, "not_ready", 503, 75, true, false),
            Self::OutOfMemory => row(self, "out_of_memory", 507, 71, true, false),
            Self::Overloaded => row(self, "overloaded", 503, 75, true, false),
            Self::TooLarge => row(self, "too_large", 413, 65, false, false),
            Self::Unauthorized => row(self, "unauthorized", 401, 77, false, false),
            Self::Unavailable => row(self, "unavailable", 503, 69, false, false),
            Self::Unsupported => row(self, "unsupported", 501, 69, false, false),
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.row().name)
    }
}

impl ScoreError {
    /// An error of this kind; the message says what, expected, got, and what to do.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { inner: Box::new(Inner { kind, message: message.into(), at: None, source: None }) }
    }

    /// The same error with the place where it happened: a file, a key in it, a tensor, a node.
    /// A place given earlier is the more precise one; the new one is put before it.
    #[must_use]
    pub fn with_at(mut self, place: impl Into<String>) -> Self {
        let place = place.into();
        self.inner.at = Some(match self.inner.at.take() {
            Some(inner) => format!("{place}: {inner}"),
            None => place,
        });
        self
    }

    /// The same error with what caused it.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.inner.source = Some(source.into());
        self
    }

    /// What went wrong, coarsely; the key into the table.
    pub fn kind(&self) -> ErrorKind {
        self.inner.kind
    }

    /// Where it went wrong, if that is known.
    pub fn at(&self) -> Option<&str> {
        self.inner.at.as_deref()
    }

    /// The message alone, without the place.
    pub fn message(&self) -> &str {
        &self.inner.message
    }

    /// The row of the table for this error's kind.
    pub fn row(&self) -> ErrorRow {
        self.inner.kind.row()
    }
}

macro_rules! shorthands {
    ($($(#[$doc:meta])* $name:ident => $kind:ident;)*) => {
        impl ScoreError {
            $($(#[$doc])* pub fn $name(message: impl Into<String>) -> Self {
                Self::new(ErrorKind::$kind, message)
            })*
        }
    };
}

shorthands! {
    /// [`ErrorKind::BadConfig`] with a message.
    bad_config => BadConfig;
    /// [`ErrorKind::BadInput`] with a message.
    bad_input => BadInput;
    /// [`ErrorKind::BadModel`] with a message.
    bad_model => BadModel;
    /// [`ErrorKind::Conflict`] with a message.
    conflict => Conflict;
    /// [`ErrorKind::DeviceLost`] with a message.
    device_lost => DeviceLost;
    /// [`ErrorKind::Internal`] with a message.
    internal => Internal;
    /// [`ErrorKind::NotFound`] with a message.
    not_found => NotFound;
    /// [`ErrorKind::OutOfMemory`] with a message.
    out_of_memory => OutOfMemory;
    /// [`ErrorKind::Unavailable`] with a message.
    unavailable => Unavailable;
    /// [`ErrorKind::Unsupported`] with a message.
    unsupported => Unsupported;
}

impl ScoreError {
    /// [`ErrorKind::Io`] (or [`ErrorKind::NotFound`]) for a failed file operation: what was tried, on
    /// what, and the system's reason.
    pub fn io(doing: &str, path: &std::path::Path, source: std::io::Error) -> Self {
        let kind = match source.kind() {
            std::io::ErrorKind::NotFound => ErrorKind::NotFound,
            _ => ErrorKind::Io,
        };
        Self::new(kind, format!("cannot {doing}: {source}"))
            .with_at(path.display().to_string())
            .with_source(source)
    }
}

impl fmt::Display for ScoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.inner.at {
            Some(at) => write!(f, "{at}: {}", self.inner.message),
            None => f.write_str(&self.inner.message),
        }
    }
}

impl fmt::Debug for ScoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("ScoreError");
        out.field("kind", &self.inner.kind).field("message", &self.inner.message);
        if let Some(at) = &self.inner.at {
            out.field("at", at);
        }
        if let Some(source) = &self.inner.source {
            out.field("source", source);
        }
        out.finish()
    }
}

impl StdError for ScoreError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.inner.source.as_deref().map(|s| s as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_consistent() {
        let mut names = std::collections::HashSet::new();
        for kind in ErrorKind::ALL {
            let row = kind.row();
            assert_eq!(row.kind, kind);
            assert!(names.insert(row.name), "{} stands twice", row.name);
            assert!((400..600).contains(&row.http_status), "{row:?}");
            assert_ne!(row.exit_code, 0, "{row:?}");
            // A supervisor starts again what lost its device, and nothing else that says why it ended.
            let is_lost = row.exit_code == ErrorKind::DeviceLost.row().exit_code;
            assert_eq!(is_lost, row.fatal_to_device, "{row:?}");
            // What may succeed on a second try is never the caller's own mistake.
            assert!(!row.retryable || row.http_status >= 499, "{row:?}");
        }
        assert_eq!(names.len(), ErrorKind::ALL.len());
    }

    #[test]
    fn places_nest_from_outside_in() {
        let e = ScoreError::bad_input("expected f32, got i64").with_at("input 'x'").with_at("model digits:1");
        assert_eq!(e.to_string(), "model digits:1: input 'x': expected f32, got i64");
        assert_eq!(e.at(), Some("model digits:1: input 'x'"));
        assert_eq!(e.message(), "expected f32, got i64");
    }

    #[test]
    fn a_missing_file_is_not_found() {
        let gone = std::io::Error::from(std::io::ErrorKind::NotFound);
        let e = ScoreError::io("open the model", std::path::Path::new("m.onnx"), gone);
        assert_eq!(e.kind(), ErrorKind::NotFound);
        assert!(e.to_string().starts_with("m.onnx: cannot open the model"), "{e}");
    }
}
