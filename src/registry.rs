//! Registered models and services.
