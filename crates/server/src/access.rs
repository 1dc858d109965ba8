//! Who may ask: the key, and defences against pages of other sites.
//!
//! A server on the loopback address can be reached by any page in a browser on the same machine. A
//! page of another site sends its own `Origin`, and one that has rebound its name to 127.0.0.1
//! sends its own `Host`; both are refused, and nothing grants cross-origin reading.

use std::net::IpAddr;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, Method, header};
use axum::middleware::Next;
use axum::response::Response;

use rapport_types::Caller;

use crate::App;
use crate::charge;
use crate::error::ApiError;
use crate::observe;

/// How keys that the store makes begin.
const KEY_PREFIX: &str = "rk-";
/// Where Anthropic's clients put the key.
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

pub(crate) async fn check_key(
    State(app): State<App>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let headers = request.headers();
    let bearer = text(headers, &header::AUTHORIZATION)
        .map(|value| value.strip_prefix("Bearer ").unwrap_or_default());
    let shown: Vec<String> = [bearer, text(headers, &API_KEY)]
        .into_iter()
        .flatten()
        .map(|key| key.trim().to_owned())
        .collect();
    let is_open = app.config.api_key.is_none() && !app.config.requires_key;
    if shown.is_empty() && !is_open {
        return Err(ApiError::bad_key());
    }
    let mut holder = None;
    // One that is shown and wrong is refused, whatever the other says.
    for shown in &shown {
        if app.config.api_key.as_deref().is_some_and(|key| is_same(shown, key)) {
            continue;
        }
        match &app.accounts {
            Some(accounts) => {
                let is_reading = request.method() == Method::GET;
                let found = charge::holder(accounts, shown, is_reading).await?;
                // Clients that must send some key send any to a server that asks for none; one of
                // ours that opens nothing any more is refused all the same.
                if found.is_none() && (!is_open || shown.starts_with(KEY_PREFIX)) {
                    return Err(ApiError::bad_key());
                }
                holder = found.or(holder);
            }
            None if app.config.api_key.is_some() => return Err(ApiError::bad_key()),
            None => {}
        }
    }
    let Some(holder) = holder else {
        // The person at this machine, or the one key of the whole server.
        request.extensions_mut().insert(Caller::default());
        return Ok(next.run(request).await);
    };
    observe::note_caller(&holder.caller);
    request.extensions_mut().insert(holder.caller);
    let is_asking = request.method() == Method::POST;
    let mut response = charge::for_holder(holder.clone(), next.run(request)).await;
    if is_asking && let Some(accounts) = &app.accounts {
        charge::tell_limits(accounts, &holder, response.headers_mut()).await;
    }
    Ok(response)
}

pub(crate) async fn check_origin(
    State(app): State<App>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let headers = request.headers();
    let authority = request.uri().authority().map(axum::http::uri::Authority::as_str);
    let host = authority.or_else(|| text(headers, &header::HOST)).unwrap_or_default();
    let name = without_port(host);
    let is_known = name.eq_ignore_ascii_case("localhost")
        || name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
        || app.config.host_names.iter().any(|known| known.eq_ignore_ascii_case(name));
    if !is_known {
        return Err(ApiError::foreign_host(name));
    }
    if let Some(origin) = text(headers, &header::ORIGIN) {
        let of_origin = origin.split_once("://").map(|(_, host)| host);
        if of_origin != Some(host) {
            return Err(ApiError::foreign_origin());
        }
    }
    Ok(next.run(request).await)
}

fn text<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        // Of an IPv6 address without brackets the last part is no port.
        Some((name, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) => {
            if name.contains(':') && !name.ends_with(']') { host } else { name }
        }
        _ => host,
    }
}

/// Takes as long wherever the difference is.
pub(crate) fn is_same(shown: &str, key: &str) -> bool {
    let differences = shown.bytes().zip(key.bytes()).fold(0, |seen, (a, b)| seen | (a ^ b));
    shown.len() == key.len() && differences == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_cut_from_names_and_addresses() {
        for (host, name) in [
            ("localhost:8080", "localhost"),
            ("127.0.0.1", "127.0.0.1"),
            ("[::1]:8080", "[::1]"),
            ("[::1]", "[::1]"),
            ("::1", "::1"),
            ("evil.example:80", "evil.example"),
        ] {
            assert_eq!(without_port(host), name);
        }
    }

    #[test]
    fn only_the_same_key_is_the_same() {
        assert!(is_same("secret", "secret"));
        for other in ["", "secre", "secrets", "Secret"] {
            assert!(!is_same(other, "secret"), "{other}");
        }
    }
}
