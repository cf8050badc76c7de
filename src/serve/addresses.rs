//! The addresses of the server.

/// Every address that there is; those below `/api/` and the metrics ask for the token.
pub(super) const ROUTES: [&str; 12] = [
    "/",
    "/page.css",
    "/page.js",
    "/openapi.json",
    "/health",
    "/metrics",
    "/api/model",
    "/api/vocabulary",
    "/api/prompt",
    "/api/generate",
    "/api/stream",
    "/api/animate",
];

/// The route of a path, for counts; a stranger's paths are all `other`.
pub(super) fn name(path: &str) -> &'static str {
    ROUTES.into_iter().find(|route| *route == path).unwrap_or("other")
}

/// Whether a route answers only those who show the token.
pub(super) fn is_private(route: &str) -> bool {
    route.starts_with("/api/") || route == "/metrics"
}
