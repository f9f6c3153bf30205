//! Commands speak TLS to their own service and trust exactly the certificate that it was deployed with:
//! whoever signed it, whatever name is in it, and whether or not its time is over. Nothing else would show
//! that the process behind the port is the one that was meant.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};

use crate::error::{Result, ScoreError};

/// How to speak to the service that has this certificate, and to nobody else.
///
/// # Errors
/// `NotFound` or `BadConfig` when the file holds no certificate.
pub(super) fn trusting(certificate: &Path) -> Result<Arc<ClientConfig>> {
    let at = |e: ScoreError| e.with_at(certificate.display().to_string());
    let pem = std::fs::read(certificate).map_err(|e| ScoreError::io("read", certificate, e))?;
    // The first one is the service's own; those after it say who signed it.
    let own = CertificateDer::from_pem_slice(&pem)
        .map_err(|e| at(ScoreError::bad_config(format!("holds no certificate in PEM: {e}"))))?;
    let provider = Arc::new(ring::default_provider());
    let verifier = Pinned { own, algorithms: provider.signature_verification_algorithms };
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| ScoreError::internal(format!("cannot speak TLS: {e}")))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Trusts one certificate.
#[derive(Debug)]
struct Pinned {
    own: CertificateDer<'static>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, Error> {
        match shown.as_ref() == self.own.as_ref() {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(Error::General("it shows another certificate than it was deployed with".to_owned())),
        }
    }

    // That it has the certificate's key is checked as ever.
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
