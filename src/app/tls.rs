//! The TLS configs for callers and for upstreams. For callers: TLS 1.3, with X25519MLKEM768 first.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::TlsConnector;

use crate::proxy::settings::Tls;

/// The certificate chain of the file, leaf first.
fn chain(tls: &Tls) -> Result<Vec<CertificateDer<'static>>, String> {
    let shown = tls.cert.display();
    let pem = std::fs::read(&tls.cert).map_err(|error| format!("{shown}: {error}"))?;
    CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("{shown}: {error}"))
}

/// The validity of a certificate, in seconds since 1970 (RFC 5280 section 4.1.2.5).
pub(super) struct Validity {
    pub(super) not_before: i64,
    pub(super) not_after: i64,
}

/// The validity of the first certificate of the chain.
pub(super) fn validity(tls: &Tls) -> Result<Validity, String> {
    // Callers see the first certificate. Its validity decides whether they accept the connection.
    let chain = chain(tls)?;
    let Some(first) = chain.first() else {
        return Err(format!("{}: no certificate", tls.cert.display()));
    };
    let (_, certificate) = x509_parser::parse_x509_certificate(first)
        .map_err(|error| format!("{}: {error}", tls.cert.display()))?;
    let validity = certificate.validity();
    Ok(Validity {
        not_before: validity.not_before.timestamp(),
        not_after: validity.not_after.timestamp(),
    })
}

/// The cryptography of every TLS config: aws-lc-rs.
fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// The config for callers.
pub(super) fn server(tls: &Tls) -> Result<Arc<ServerConfig>, String> {
    let chain = chain(tls)?;
    let key = tls.key.load().map_err(|fault| fault.to_string())?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
        .map_err(|error| format!("the private key: {error}"))?;
    let builder = ServerConfig::builder_with_provider(provider())
        // TLS 1.3 only: the hybrid key exchange X25519MLKEM768 does not exist in older versions.
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| error.to_string())?;
    let mut config = builder
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| error.to_string())?;
    // In order of preference (ALPN, RFC 7301).
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// A connector to `host`. Its certificate must be signed by a CA of the file `ca`, or of the system
/// without `ca`.
pub(super) fn client(
    host: &str,
    ca: Option<&Path>,
) -> Result<(TlsConnector, ServerName<'static>), String> {
    let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
    Ok((connector(ca)?, name))
}

/// A connector to servers whose certificate is signed by a CA of the file `ca`, or of the system
/// without `ca`.
pub(super) fn connector(ca: Option<&Path>) -> Result<TlsConnector, String> {
    let mut roots = RootCertStore::empty();
    match ca {
        // Only the CAs of the file are trusted. The system's CAs could also issue a certificate for
        // the name.
        Some(path) => {
            let shown = path.display();
            let pem = std::fs::read(path).map_err(|error| format!("{shown}: {error}"))?;
            for certificate in CertificateDer::pem_slice_iter(&pem) {
                let certificate = certificate.map_err(|error| format!("{shown}: {error}"))?;
                roots.add(certificate).map_err(|error| format!("{shown}: {error}"))?;
            }
            // The parser ignores text outside PEM blocks, so a wrong file would parse as empty.
            if roots.is_empty() {
                return Err(format!("{shown}: no certificate in PEM form"));
            }
        }
        None => {
            let (added, _) =
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            // An empty set of CAs would refuse every server without a clear reason.
            if added == 0 {
                return Err(
                    "the system has no CA certificates; name one with tls = { ca = … }".to_owned()
                );
            }
        }
    }
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    // The gateway speaks HTTP/1.1 to upstreams, so it offers no HTTP/2.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}
