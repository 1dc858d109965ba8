//! The web app itself: files that were built into the program, and the headers that keep them safe.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha2::{Digest, Sha256};

use super::{Web, hex};
use crate::error::ApiError;

/// Names of files below here carry the hash of what is in them.
const IMMUTABLE: &str = "/_app/immutable/";
/// What answers for every page of the app.
const INDEX: &str = "/index.html";

/// The files of the built web app.
#[derive(Clone, Debug, Default)]
pub struct Pages {
    files: BTreeMap<&'static str, File>,
    policy: String,
}

#[derive(Clone, Debug)]
struct File {
    bytes: &'static [u8],
    etag: String,
}

impl Pages {
    /// Files by their paths, such as `/index.html`.
    pub fn new(files: &[(&'static str, &'static [u8])]) -> Self {
        let file = |&(path, bytes): &(&'static str, &'static [u8])| {
            let etag = format!("\"{}\"", hex(&Sha256::digest(bytes)[..8]));
            (path, File { bytes, etag })
        };
        let index = files.iter().find(|(path, _)| *path == INDEX);
        let index = index.map_or("", |(_, bytes)| std::str::from_utf8(bytes).unwrap_or_default());
        Self { files: files.iter().map(file).collect(), policy: policy(index) }
    }

    fn index(&self) -> Option<(&'static str, &File)> {
        self.files.get_key_value(INDEX).map(|(path, file)| (*path, file))
    }
}

/// Scripts run only from this server, and of those in the page only what it was built with.
fn policy(index: &str) -> String {
    let mut scripts = "'self'".to_owned();
    let mut rest = index;
    while let Some(start) = rest.find("<script") {
        rest = &rest[start..];
        let Some(head_end) = rest.find('>') else { break };
        let (head, body) = rest.split_at(head_end + 1);
        let Some(end) = body.find("</script>") else { break };
        if !head.contains(" src=") && end > 0 {
            let hash = BASE64.encode(Sha256::digest(&body[..end]));
            scripts.push_str(" 'sha256-");
            scripts.push_str(&hash);
            scripts.push('\'');
        }
        rest = &body[end..];
    }
    format!(
        "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; \
         script-src {scripts}; object-src 'none'; base-uri 'none'; frame-ancestors 'none'; \
         form-action 'self'"
    )
}

/// Whatever is neither `/api` nor `/v1`.
pub(super) async fn page(State(web): State<Web>, request: Request) -> Response {
    let path = request.uri().path();
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return ApiError::no_such_path().into_response();
    }
    let pages = &web.accounts.pages;
    let found = pages.files.get_key_value(path).map(|(path, file)| (*path, file));
    let is_page = accepts_html(request.headers()) && !path.starts_with("/v1/");
    // Every page is the app, which knows its own paths.
    let found = found.or_else(|| pages.index().filter(|_| is_page));
    let Some((path, file)) = found else {
        if is_page {
            let text = "This build of rapport has no web app in it: build it with `make build`. \
                        Programs find the API under /v1.\n";
            return (StatusCode::NOT_FOUND, text).into_response();
        }
        return ApiError::no_such_path().into_response();
    };
    let is_known = request
        .headers()
        .get(header::IF_NONE_MATCH)
        .is_some_and(|etag| etag.as_bytes() == file.etag.as_bytes());
    let mut response = if is_known {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        Response::new(Body::from(file.bytes))
    };
    let caching = if path.starts_with(IMMUTABLE) {
        "public, max-age=31536000, immutable"
    } else {
        "no-cache"
    };
    let headers = response.headers_mut();
    let mut set = |name: HeaderName, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    };
    set(header::CONTENT_TYPE, content_type(path));
    set(header::ETAG, &file.etag);
    set(header::CACHE_CONTROL, caching);
    set(header::CONTENT_SECURITY_POLICY, &pages.policy);
    set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(header::X_FRAME_OPTIONS, "DENY");
    set(header::REFERRER_POLICY, "no-referrer");
    response
}

fn accepts_html(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    accept.is_some_and(|accept| accept.contains("text/html"))
}

fn content_type(path: &str) -> &'static str {
    match path.rsplit('.').next().unwrap_or_default() {
        "html" => "text/html; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "json" => "application/json",
        "webmanifest" => "application/manifest+json",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "ico" => "image/x-icon",
        "webp" => "image/webp",
        "woff2" => "font/woff2",
        "txt" => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_scripts_of_the_page_may_run_inline() {
        let index = "<html><script src=\"/a.js\"></script><script>alert(1)</script></html>";
        let policy = policy(index);
        let hash = BASE64.encode(Sha256::digest("alert(1)"));
        assert!(policy.contains(&format!("script-src 'self' 'sha256-{hash}';")), "{policy}");
        assert_eq!(policy.matches("sha256-").count(), 1);
    }
}
