//! TLS by files: a chain of certificates and its key, in PEM, read at the start and again when told.
//!
//! What can be wrong with them is said before the first client meets it. What is not here: how to get
//! a certificate, and certificates of clients.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::InconsistentKeys;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::replies::{rfc3339, unix_seconds};

/// A certificate and its key, by the files they are in.
#[derive(Debug)]
pub struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    current: RwLock<Arc<rustls::ServerConfig>>,
}

/// Why a pair of files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{} cannot be read: {source}", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{} is not PEM as it should be: {source}", path.display())]
    NotPem { path: PathBuf, source: pem::Error },
    #[error(
        "{} has no certificate in it: it must be PEM, this server's own certificate first and then \
         those it was signed with",
        path.display()
    )]
    NoCertificate { path: PathBuf },
    #[error("{} has no private key in it: it must be PEM, and not encrypted", path.display())]
    NoKey { path: PathBuf },
    #[error("{} is no certificate of X.509", path.display())]
    NotACertificate { path: PathBuf },
    #[error("the certificate in {} ended on {ended}: renew it", path.display())]
    Expired { path: PathBuf, ended: String },
    #[error("the certificate in {} begins on {begins}: is the clock right?", path.display())]
    NotYet { path: PathBuf, begins: String },
    #[error(
        "the key in {} is not that of the certificate in {}: both must be of one pair",
        key.display(),
        certificate.display()
    )]
    Mismatch { certificate: PathBuf, key: PathBuf },
    #[error("{} and {} cannot be used: {source}", certificate.display(), key.display())]
    Unusable { certificate: PathBuf, key: PathBuf, source: rustls::Error },
}

impl Tls {
    /// Reads both files.
    ///
    /// # Errors
    /// [`TlsError`] with what is wrong, and with which of them.
    pub fn open(certificate: PathBuf, key: PathBuf) -> Result<Self, TlsError> {
        let current = RwLock::new(Arc::new(read(&certificate, &key)?));
        Ok(Self { certificate, key, current })
    }

    /// Reads both files again, for the connections that come from now on.
    ///
    /// # Errors
    /// As [`Tls::open`]; what was read before stays in use.
    pub fn reload(&self) -> Result<(), TlsError> {
        let fresh = Arc::new(read(&self.certificate, &self.key)?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    pub(crate) fn current(&self) -> Arc<rustls::ServerConfig> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }
}

fn read(certificate: &Path, key: &Path) -> Result<rustls::ServerConfig, TlsError> {
    let bytes = |path: &Path| {
        std::fs::read(path).map_err(|source| TlsError::Unreadable { path: path.to_owned(), source })
    };
    let not_pem = |source| TlsError::NotPem { path: certificate.to_owned(), source };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&bytes(certificate)?)
        .collect::<Result<_, _>>()
        .map_err(not_pem)?;
    let path = || certificate.to_owned();
    let own = chain.first().ok_or_else(|| TlsError::NoCertificate { path: path() })?;
    let (begins_s, ends_s) =
        validity(own).ok_or_else(|| TlsError::NotACertificate { path: path() })?;
    let now_s = unix_seconds().cast_signed();
    let day = |at_s: i64| rfc3339(at_s.max(0).cast_unsigned());
    if now_s > ends_s {
        return Err(TlsError::Expired { path: path(), ended: day(ends_s) });
    }
    if now_s < begins_s {
        return Err(TlsError::NotYet { path: path(), begins: day(begins_s) });
    }
    let secret = PrivateKeyDer::from_pem_slice(&bytes(key)?).map_err(|error| match error {
        pem::Error::NoItemsFound => TlsError::NoKey { path: key.to_owned() },
        source => TlsError::NotPem { path: key.to_owned(), source },
    })?;
    let unusable = |source| match source {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            TlsError::Mismatch { certificate: certificate.to_owned(), key: key.to_owned() }
        }
        source => {
            let (certificate, key) = (certificate.to_owned(), key.to_owned());
            TlsError::Unusable { certificate, key, source }
        }
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_no_client_auth()
        .with_single_cert(chain.clone(), secret)
        .map_err(unusable)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// From when to when a certificate is valid, in Unix seconds (RFC 5280, section 4.1).
fn validity(certificate: &[u8]) -> Option<(i64, i64)> {
    let (SEQUENCE, certificate, _) = element(certificate)? else { return None };
    let (SEQUENCE, mut rest, _) = element(certificate)? else { return None };
    // The version is there or not; then a number, an algorithm and an issuer.
    if let (VERSION, _, after) = element(rest)? {
        rest = after;
    }
    for _ in 0..3 {
        rest = element(rest)?.2;
    }
    let (SEQUENCE, times, _) = element(rest)? else { return None };
    let (begins_tag, begins, rest) = element(times)?;
    let (ends_tag, ends, _) = element(rest)?;
    Some((time(begins_tag, begins)?, time(ends_tag, ends)?))
}

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// A tag of DER, what is in it, and what follows.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
        let length = bytes.iter().try_fold(0_usize, |length, byte| {
            length.checked_mul(256)?.checked_add(usize::from(*byte))
        })?;
        (length, rest)
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ` in Unix seconds.
fn time(tag: u8, text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let number = |range: std::ops::Range<usize>| text.get(range)?.parse::<i64>().ok();
    let (year, rest) = match tag {
        UTC_TIME => {
            let year = number(0..2)?;
            (if year < 50 { 2000 + year } else { 1900 + year }, 2)
        }
        GENERALIZED_TIME => (number(0..4)?, 4),
        _ => return None,
    };
    let part = |idx: usize| number(rest + 2 * idx..rest + 2 * idx + 2);
    let [month, day, hour, minute, second] = [part(0)?, part(1)?, part(2)?, part(3)?, part(4)?];
    // The day number of a civil date, after Hinnant's `days_from_civil`.
    let shifted_year = year - i64::from(month <= 2);
    let era = shifted_year.div_euclid(400);
    let year_of_era = shifted_year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = era * 146_097 + day_of_era - 719_468;
    Some(days * 86_400 + hour * 3_600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_certificates_are_read() {
        assert_eq!(time(UTC_TIME, b"700101000000Z"), Some(0));
        assert_eq!(time(UTC_TIME, b"000229123456Z"), Some(951_827_696));
        assert_eq!(time(GENERALIZED_TIME, b"21000228235959Z"), Some(4_107_542_399));
        for wrong in [&b"700101000000"[..], b"7001Z", b"70010100000xZ", b"\xffZ"] {
            assert_eq!(time(UTC_TIME, wrong), None);
        }
    }

    #[test]
    fn what_is_no_certificate_has_no_validity() {
        for wrong in [&b""[..], b"\x30", b"\x30\x84\xff\xff\xff\xff", b"\x30\x02\x30\x00", b"x"] {
            assert_eq!(validity(wrong), None);
        }
    }
}
