//! What every request passes: who asks, from where, and the headers of every answer.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use axum::extract::{Request, State as Shared};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, HOST, HeaderName, HeaderValue, ORIGIN, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::addresses;
use super::problem::Problem;
use super::state::State;

/// Scripts, styles and calls of this server alone; pictures also from the page's own memory.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HEADERS: [(HeaderName, &str); 7] = [
    (CONTENT_SECURITY_POLICY, POLICY),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (X_FRAME_OPTIONS, "DENY"),
    (REFERRER_POLICY, "no-referrer"),
    (CACHE_CONTROL, "no-store"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// Lets a request through or answers it with a problem, counts it, and adds the headers.
pub(super) async fn guard(Shared(state): Shared<Arc<State>>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let route = addresses::name(request.uri().path());
    state.unanswered.fetch_add(1, Relaxed);
    let _answered = Answered(&state);
    let mut response = match admit(&state, route, request.headers()) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    };
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    state.metrics.answered(route, response.status().as_u16(), began.elapsed().as_secs_f64());
    response
}

/// A request that is given up is no longer unanswered either.
struct Answered<'a>(&'a State);

impl Drop for Answered<'_> {
    fn drop(&mut self) {
        self.0.unanswered.fetch_sub(1, Relaxed);
    }
}

fn admit(state: &State, route: &str, headers: &HeaderMap) -> Result<(), Problem> {
    check_host(state.host, headers)?;
    match &state.token {
        // No page of another site knows the token, so that a proxy may have a name of its own.
        Some(token) if addresses::is_private(route) && !token.is_shown(headers) => {
            return Err(Problem::new(StatusCode::UNAUTHORIZED, "no token, or another than the server's")
                .hint("send the header Authorization: Bearer TOKEN"));
        }
        Some(_) => {}
        None => check_origin(headers)?,
    }
    match state.is_stopping.load(Relaxed) {
        true => Err(Problem::stopping()),
        false => Ok(()),
    }
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name).map(|value| value.to_str().unwrap_or_default())
}

/// Another site's page may let a name of its own point to this machine's loopback (DNS rebinding), and so read what a browser of
/// this machine may read.
fn check_host(own: IpAddr, headers: &HeaderMap) -> Result<(), Problem> {
    match own.is_loopback() && !is_loopback(text(headers, HOST).unwrap_or_default()) {
        true => Err(Problem::new(StatusCode::MISDIRECTED_REQUEST, "this server goes by another name")
            .hint("ask for it as localhost or by its address")),
        false => Ok(()),
    }
}

/// Another site's page may send requests as itself, which its Origin tells.
fn check_origin(headers: &HeaderMap) -> Result<(), Problem> {
    let host = text(headers, HOST).unwrap_or_default();
    match text(headers, ORIGIN) {
        Some(origin) if origin.split_once("://").is_none_or(|(_, of)| of != host) => {
            Err(Problem::new(StatusCode::FORBIDDEN, "a page of another site may not ask here"))
        }
        _ => Ok(()),
    }
}

/// Whether a Host header names this machine's loopback, with any port.
fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) if port.is_empty() || port.starts_with(':') => address,
        Some(_) => return false,
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_loopback_are_its_own() {
        for own in
            ["localhost", "LOCALHOST:8080", "127.0.0.1", "127.0.0.1:1", "127.8.0.1:80", "[::1]", "[::1]:8080"]
        {
            assert!(is_loopback(own), "{own}");
        }
        for other in [
            "",
            "example.org",
            "localhost.example.org",
            "127.0.0.1.example.org:80",
            "10.0.0.1",
            "[::1]x",
            "[::2]",
        ] {
            assert!(!is_loopback(other), "{other}");
        }
    }

    #[test]
    fn a_page_of_another_site_is_refused() {
        let own: IpAddr = [127, 0, 0, 1].into();
        let check = |host: &str, origin: Option<&str>| {
            let mut headers = HeaderMap::from_iter([(HOST, host.parse().unwrap())]);
            origin.map(|origin| headers.insert(ORIGIN, origin.parse().unwrap()));
            check_host(own, &headers)
                .and_then(|()| check_origin(&headers))
                .map_err(|problem| problem.status.as_u16())
        };
        assert_eq!(check("localhost:8080", None), Ok(()));
        assert_eq!(check("localhost:8080", Some("http://localhost:8080")), Ok(()));
        assert_eq!(check("localhost:8080", Some("http://localhost:3000")), Err(403));
        assert_eq!(check("localhost:8080", Some("null")), Err(403));
        assert_eq!(check("evil.example:8080", Some("http://evil.example:8080")), Err(421));
    }
}
