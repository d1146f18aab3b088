//! Certificates of a small authority of our own.
use flannel_lite_core::certificate as core;
use napi::bindgen_prelude::*;
use napi_derive::napi;

use crate::value::reason;

/// What is to be certified.
#[napi(object)]
pub struct CertificateRequest {
    /// The subject's Common Name.
    pub common_name: String,
    /// Its Organization; none where empty.
    pub organization: String,
    /// Host names and IP addresses that a server answers under.
    pub names: Vec<String>,
    /// May prove a server.
    pub server: bool,
    /// May prove a client.
    pub client: bool,
    /// First second it holds, since 1970.
    pub not_before: f64,
    /// Last second it holds, since 1970.
    pub not_after: f64,
}

/// A certificate and its private key, both PEM.
#[napi(object)]
pub struct IssuedCertificate {
    /// The certificate.
    pub certificate: String,
    /// Its private key, PKCS #8.
    pub key: String,
}

/// A new authority.
#[napi]
pub fn issue_authority(
    common_name: String,
    not_before: f64,
    not_after: f64,
) -> Result<IssuedCertificate> {
    // A float beyond the range saturates, and is refused behind the border.
    core::issue_authority(&common_name, not_before as u64, not_after as u64)
        .map(mirror)
        .map_err(reason)
}

/// A certificate with a new key, signed by an authority that `issue_authority` made.
#[napi]
pub fn issue_certificate(
    authority_name: String,
    authority_key: String,
    request: CertificateRequest,
) -> Result<IssuedCertificate> {
    let request = core::Request {
        common_name: request.common_name,
        organization: request.organization,
        names: request.names,
        server: request.server,
        client: request.client,
        not_before: request.not_before as u64,
        not_after: request.not_after as u64,
    };
    core::issue(&authority_name, &authority_key, &request)
        .map(mirror)
        .map_err(reason)
}

fn mirror(issued: core::Issued) -> IssuedCertificate {
    IssuedCertificate {
        certificate: issued.certificate,
        key: issued.key,
    }
}
