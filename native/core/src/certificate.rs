//! X.509 certificates of a small authority of our own: ECDSA on P-256, SHA-256 (RFC 5280, RFC 5480).
use std::net::IpAddr;
use std::time::Duration;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};

/// The last second that a certificate can name: the end of the year 9999 (RFC 5280 §4.1.2.5).
const SECONDS_MAX: u64 = 253_402_300_799;

/// What is to be certified.
#[derive(Clone, Debug, Default)]
pub struct Request {
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
    pub not_before: u64,
    /// Last second it holds, since 1970.
    pub not_after: u64,
}

/// A certificate and its private key, both PEM; the key is PKCS #8.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The certificate.
    pub certificate: String,
    /// Its private key.
    pub key: String,
}

/// Why nothing was issued.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// The time is none that a certificate can name, or it ends before it begins.
    #[error("EINVAL: issue a certificate: its time is impossible")]
    Time,
    /// Neither an IP address nor a host name in ASCII.
    #[error("EINVAL: issue a certificate: {0:?} is neither an IP address nor a host name")]
    Name(String),
    /// The authority's key is no PEM of a PKCS #8 key that can sign. Its content is not told.
    #[error("EINVAL: issue a certificate: the authority's key cannot be read")]
    AuthorityKey,
    /// What the library said.
    #[error("EIO: issue a certificate: {0}")]
    Failed(String),
}

/// A new authority, which signs others' certificates but no further authority's.
pub fn issue_authority(
    common_name: &str,
    not_before: u64,
    not_after: u64,
) -> Result<Issued, Refusal> {
    let mut params = authority(common_name);
    set_time(&mut params, not_before, not_after)?;
    let key = KeyPair::generate().map_err(failed)?;
    let certificate = params.self_signed(&key).map_err(failed)?;
    Ok(issued(&certificate, &key))
}

/// A certificate with a new key, signed by the authority of that Common Name and PEM key, as
/// [`issue_authority`] made it.
pub fn issue(
    authority_name: &str,
    authority_key: &str,
    request: &Request,
) -> Result<Issued, Refusal> {
    let mut params = CertificateParams::default();
    params.distinguished_name = subject(&request.common_name, &request.organization);
    params.subject_alt_names = request
        .names
        .iter()
        .map(|name| alternative_name(name))
        .collect::<Result<_, _>>()?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = [
        (request.server, ExtendedKeyUsagePurpose::ServerAuth),
        (request.client, ExtendedKeyUsagePurpose::ClientAuth),
    ]
    .into_iter()
    .filter_map(|(wanted, purpose)| wanted.then_some(purpose))
    .collect();
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    set_time(&mut params, request.not_before, request.not_after)?;

    let signing_key = KeyPair::from_pem(authority_key).map_err(|_| Refusal::AuthorityKey)?;
    let issuer = Issuer::new(authority(authority_name), signing_key);
    let key = KeyPair::generate().map_err(failed)?;
    let certificate = params.signed_by(&key, &issuer).map_err(failed)?;
    Ok(issued(&certificate, &key))
}

fn authority(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = subject(common_name, "");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn subject(common_name: &str, organization: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    if !organization.is_empty() {
        name.push(DnType::OrganizationName, organization);
    }
    name
}

fn alternative_name(name: &str) -> Result<SanType, Refusal> {
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    let refused = || Refusal::Name(name.to_owned());
    let is_host_character = |byte: u8| byte.is_ascii_alphanumeric() || b".-_*".contains(&byte);
    if name.is_empty() || name.len() > 253 || !name.bytes().all(is_host_character) {
        return Err(refused());
    }
    Ok(SanType::DnsName(name.try_into().map_err(|_| refused())?))
}

fn set_time(
    params: &mut CertificateParams,
    not_before: u64,
    not_after: u64,
) -> Result<(), Refusal> {
    if not_before >= not_after || not_after > SECONDS_MAX {
        return Err(Refusal::Time);
    }
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(not_before);
    params.not_after = epoch + Duration::from_secs(not_after);
    Ok(())
}

fn issued(certificate: &Certificate, key: &KeyPair) -> Issued {
    Issued {
        certificate: certificate.pem(),
        key: key.serialize_pem(),
    }
}

fn failed(error: rcgen::Error) -> Refusal {
    Refusal::Failed(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request {
        Request {
            common_name: "host".to_owned(),
            names: vec!["192.0.2.1".to_owned(), "2001:db8::1".to_owned()],
            server: true,
            not_before: 1_000_000,
            not_after: 2_000_000,
            ..Request::default()
        }
    }

    #[test]
    fn an_authority_signs() {
        let authority = issue_authority("our CA", 1, 2).unwrap();
        let one = issue("our CA", &authority.key, &request()).unwrap();
        let two = issue("our CA", &authority.key, &request()).unwrap();
        assert!(one.certificate.starts_with("-----BEGIN CERTIFICATE-----"));
        assert!(one.key.starts_with("-----BEGIN PRIVATE KEY-----"));
        assert_ne!(one.key, two.key);
    }

    #[test]
    fn what_cannot_be_certified_is_refused_by_name() {
        let authority = issue_authority("our CA", 1, 2).unwrap();
        let named = |name: &str| Request {
            names: vec![name.to_owned()],
            ..request()
        };
        for name in ["", "a b", "h\u{f6}st", "a\0b", "10.0.0.0/8"] {
            assert_eq!(
                issue("our CA", &authority.key, &named(name)).unwrap_err(),
                Refusal::Name(name.to_owned())
            );
        }
        assert_eq!(
            issue_authority("x", 2, u64::MAX).unwrap_err(),
            Refusal::Time
        );
        assert_eq!(issue_authority("x", 2, 2).unwrap_err(), Refusal::Time);
        for key in ["", "-----BEGIN PRIVATE KEY-----", &authority.certificate] {
            assert_eq!(
                issue("our CA", key, &request()).unwrap_err(),
                Refusal::AuthorityKey
            );
        }
    }
}
