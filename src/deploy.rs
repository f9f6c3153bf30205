//! Deployment files, and the adapter that picks a backend from them.
