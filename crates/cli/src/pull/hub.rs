//! Files of a Hugging Face-compatible hub.
//!
//! One GET of `ENDPOINT/REPO/resolve/REVISION/FILE` with its redirects followed by hand, because
//! the first answer says the file's SHA-256 and only hosts of the hub may see the token. The hub's
//! own client crate does far more (uploads, listings, chunked transfers) and brings ten times as
//! many crates.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use ureq::http::{HeaderMap, Response, header};
use ureq::tls::{RootCerts, TlsConfig, TlsProvider};
use ureq::{Agent, Body, Proxy};

use super::catalog::HubFile;
use super::checksum::{Sha256, read_pieces};
use super::error::PullError;
use super::paths::HubSettings;
use super::progress::Progress;
use super::store::{Expected, LockedFolder, Part};

const MAX_REDIRECTS: u32 = 8;
/// How often a broken connection is made again while each brings something.
const MAX_CONNECTIONS: u32 = 8;

/// The path of the file in the hub cache, if some hub client has downloaded it already.
pub(super) fn cached(hub: &HubSettings, file: &HubFile) -> Option<PathBuf> {
    let folder = format!("models--{}", file.repository.replace('/', "--"));
    let repository = hub.cache.as_ref()?.join(folder);
    let commit = std::fs::read_to_string(repository.join("refs").join(&file.revision)).ok()?;
    let path = repository.join("snapshots").join(commit.trim()).join(&file.file);
    path.is_file().then_some(path)
}

/// The address of a file.
pub(super) fn url(endpoint: &str, file: &HubFile) -> String {
    let HubFile { repository, file, revision } = file;
    format!("{endpoint}/{repository}/resolve/{}/{}", escaped(revision), escaped(file))
}

/// What to download and where to.
pub(super) struct Download<'d> {
    pub(super) hub: &'d HubSettings,
    pub(super) endpoint: &'d str,
    pub(super) file: &'d HubFile,
    pub(super) expected: Expected,
    pub(super) folder: &'d LockedFolder,
    pub(super) target: PathBuf,
}

impl Download<'_> {
    /// Downloads the file, going on where an earlier download of it stopped.
    pub(super) fn run(
        &self,
        progress: &mut Progress,
        cancelled: &AtomicBool,
    ) -> Result<Sha256, PullError> {
        let url = url(self.endpoint, self.file);
        let agent = agent(self.hub);
        let path = self.target.with_added_extension("part");
        let mut part = Part::open(path, true, progress, cancelled)?;
        let mut is_of_this_run = part.n_bytes() == 0;
        let mut n_connections = 0;
        loop {
            let before = part.n_bytes();
            n_connections += 1;
            let expected = match self.connect(&agent, &url, &mut part) {
                Ok(expected) => expected,
                Err(PullError::NoNetwork { .. })
                    if part.n_bytes() > before && n_connections < MAX_CONNECTIONS =>
                {
                    continue;
                }
                Err(error) => return Err(error),
            };
            if is_of_this_run || part.is(expected) {
                return part.finish(&self.target, expected, &url);
            }
            // What an earlier download left was not the beginning of this file.
            part.restart()?;
            is_of_this_run = true;
        }
    }

    /// One connection: appends to the part what is missing. Gives what the whole file must be, as
    /// the catalogue and the hub say.
    fn connect(
        &self,
        agent: &Agent,
        url: &str,
        part: &mut Part<'_>,
    ) -> Result<Expected, PullError> {
        let mut answer = self.request(agent, url, part.n_bytes())?;
        let mut expected = self.expected;
        if let Some(announced) = answer.sha256 {
            if let Some(wanted) = expected.sha256
                && wanted != announced
            {
                part.set_resumable(false);
                return Err(PullError::WrongChecksum {
                    source_name: url.to_owned(),
                    expected: wanted,
                    found: announced,
                });
            }
            expected.sha256 = Some(announced);
        }
        // Without a sum nobody could tell whether two halves belong together.
        part.set_resumable(expected.sha256.is_some());
        if expected.sha256.is_none() && part.n_bytes() > 0 {
            part.restart()?;
            answer = self.request(agent, url, 0)?;
        }
        let offset = part.n_bytes();
        let status = answer.response.status().as_u16();
        if status == 416 {
            // There is nothing behind what is already here.
            return Ok(expected);
        }
        if offset > 0 && !(status == 206 && range_start(answer.response.headers()) == Some(offset))
        {
            part.restart()?;
        }
        let length = answer.response.body().content_length();
        let total_bytes = length.map(|length| length + part.n_bytes()).or(expected.size_bytes);
        if let (Some(wanted), Some(total)) = (expected.size_bytes, total_bytes)
            && wanted != total
        {
            part.set_resumable(false);
            return Err(PullError::WrongSize {
                source_name: url.to_owned(),
                expected_bytes: wanted,
                found_bytes: total,
            });
        }
        expected.size_bytes = total_bytes;
        if let Some(total) = total_bytes {
            self.folder.check_room(total - part.n_bytes())?;
        }
        part.begin_stage(&format!("Downloading {}", self.file.file_name()), total_bytes);
        let mut reader = answer.response.into_body().into_reader();
        read_pieces(&mut reader, |piece| part.write(piece).map_err(BodyError::Part)).map_err(
            |error| match error {
                BodyError::Part(error) => error,
                BodyError::Network(reason) => {
                    PullError::NoNetwork { url: url.to_owned(), reason: reason.to_string() }
                }
            },
        )?;
        Ok(expected)
    }

    fn request(&self, agent: &Agent, url: &str, offset: u64) -> Result<Answer, PullError> {
        let mut location = url.to_owned();
        let mut sha256 = None;
        for _ in 0..=MAX_REDIRECTS {
            let mut request = agent.get(&location);
            if offset > 0 {
                request = request.header(header::RANGE, format!("bytes={offset}-"));
            }
            if let Some(token) = &self.hub.token
                && origin(&location) == origin(self.endpoint)
            {
                request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.0));
            }
            let response = request.call().map_err(|error| PullError::NoNetwork {
                url: location.clone(),
                reason: error.to_string(),
            })?;
            sha256 = sha256.or_else(|| announced_sha256(response.headers()));
            let status = response.status().as_u16();
            match status {
                200 | 206 | 416 => return Ok(Answer { response, sha256 }),
                301 | 302 | 303 | 307 | 308 => match redirect(&location, response.headers()) {
                    Some(next) => location = next,
                    None => break,
                },
                404 | 410 => return Err(PullError::NotFound { url: location }),
                401 | 403 => return Err(PullError::AccessDenied { url: location, status }),
                _ => return Err(PullError::HubStatus { url: location, status }),
            }
        }
        Err(PullError::Redirects { url: url.to_owned(), limit: MAX_REDIRECTS })
    }
}

struct Answer {
    response: Response<Body>,
    sha256: Option<Sha256>,
}

enum BodyError {
    Network(std::io::Error),
    Part(PullError),
}

impl From<std::io::Error> for BodyError {
    fn from(error: std::io::Error) -> Self {
        Self::Network(error)
    }
}

fn agent(hub: &HubSettings) -> Agent {
    let tls = TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .root_certs(RootCerts::PlatformVerifier)
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build();
    let proxy = if hub.use_environment_proxy { Proxy::try_from_env() } else { None };
    Agent::config_builder()
        .tls_config(tls)
        .proxy(proxy)
        .user_agent(concat!("rapport/", env!("CARGO_PKG_VERSION")))
        .max_redirects(0)
        .max_redirects_will_error(false)
        .http_status_as_error(false)
        .timeout_connect(Some(Duration::from_secs(20)))
        .timeout_recv_response(Some(Duration::from_mins(1)))
        .timeout_per_read(Some(Duration::from_mins(1)))
        .build()
        .new_agent()
}

/// The sum of a large file, which hubs give as the tag of what the address links to.
fn announced_sha256(headers: &HeaderMap) -> Option<Sha256> {
    headers.get("x-linked-etag")?.to_str().ok()?.trim_matches('"').parse().ok()
}

/// The first byte of a partial answer.
fn range_start(headers: &HeaderMap) -> Option<u64> {
    let range = headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok()
}

/// Where a redirect leads: never from an encrypted connection to an open one.
fn redirect(from: &str, headers: &HeaderMap) -> Option<String> {
    let location = headers.get(header::LOCATION)?.to_str().ok()?;
    if location.starts_with("https://")
        || (location.starts_with("http://") && from.starts_with("http://"))
    {
        return Some(location.to_owned());
    }
    let on_the_same_host = location.starts_with('/') && !location.starts_with("//");
    on_the_same_host.then(|| format!("{}{location}", origin(from)))
}

/// Scheme, host and port of an address.
fn origin(url: &str) -> &str {
    let host = url.find("://").map_or(0, |at| at + 3);
    let end = url[host..].find(['/', '?', '#']).map_or(url.len(), |at| host + at);
    &url[..end]
}

/// A path with what addresses give a meaning to written as `%XX`.
fn escaped(path: &str) -> String {
    path.bytes().fold(String::with_capacity(path.len()), |mut escaped, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.extend(['%', hexadecimal(byte >> 4), hexadecimal(byte & 15)]);
        }
        escaped
    })
}

fn hexadecimal(digit: u8) -> char {
    char::from(b"0123456789ABCDEF"[usize::from(digit)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_end_before_the_path() {
        assert_eq!(origin("https://hub.example/a/b"), "https://hub.example");
        assert_eq!(origin("http://127.0.0.1:80?x"), "http://127.0.0.1:80");
        assert_eq!(origin("https://hub.example"), "https://hub.example");
        assert_ne!(origin("https://hub.example.evil/x"), origin("https://hub.example/x"));
    }

    #[test]
    fn redirects_stay_encrypted() {
        let to = |from: &str, location: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::LOCATION, header::HeaderValue::from_static(location));
            redirect(from, &headers)
        };
        assert_eq!(to("https://a/x", "https://b/y").as_deref(), Some("https://b/y"));
        assert_eq!(to("https://a/x", "/y").as_deref(), Some("https://a/y"));
        assert_eq!(to("http://a/x", "http://b/y").as_deref(), Some("http://b/y"));
        for refused in ["http://b/y", "//b/y", "ftp://b", "file:///etc/passwd", ""] {
            assert_eq!(to("https://a/x", refused), None, "{refused}");
        }
    }

    #[test]
    fn paths_are_escaped() {
        assert_eq!(escaped("a b/ü#1.gguf"), "a%20b/%C3%BC%231.gguf");
    }
}
