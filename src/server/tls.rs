//! TLS for the server's connections: rustls, with the certificate and the key that a deployment brings along.

use std::fmt;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::error::{Result, ScoreError};

/// What a server shows its clients, and proves it with.
#[derive(Clone)]
pub struct Tls {
    acceptor: TlsAcceptor,
}

impl Tls {
    /// From a certificate, followed by those that vouch for it, and its private key; both in PEM.
    ///
    /// # Errors
    /// `BadConfig` when either is missing, cannot be read, or does not go with the other.
    pub fn from_pem(certificates: &[u8], key: &[u8]) -> Result<Self> {
        let chain = CertificateDer::pem_slice_iter(certificates)
            .collect::<std::result::Result<Vec<_>, _>>()
            .map_err(|e| ScoreError::bad_config(format!("sslCertificate: no certificate in PEM: {e}")))?;
        if chain.is_empty() {
            let text =
                "sslCertificate: expected a certificate in PEM ('-----BEGIN CERTIFICATE-----'), got none";
            return Err(ScoreError::bad_config(text));
        }
        // Not the cause's own words: they must not repeat what is in the file.
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| {
            let text = "sslKey: expected an unencrypted private key in PEM ('-----BEGIN PRIVATE KEY-----'), got none";
            ScoreError::bad_config(text)
        })?;
        let unusable = |e: rustls::Error| {
            let text = format!("sslCertificate and sslKey: they cannot be used together: {e}");
            ScoreError::bad_config(text)
        };
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(unusable)?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(unusable)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)) })
    }

    /// Agrees with a client, within that time.
    pub(super) fn accept(
        &self,
        stream: TcpStream,
        within: Duration,
    ) -> impl Future<Output = io::Result<TlsStream<TcpStream>>> + use<> {
        let agreed = self.acceptor.accept(stream);
        async move { tokio::time::timeout(within, agreed).await? }
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}
