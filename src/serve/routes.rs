//! What answers at each address: the page, what it is made of, and the API.

use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::extract::{DefaultBodyLimit, State as Shared};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};
use tower_http::catch_panic::CatchPanicLayer;

use super::addresses::ROUTES;
use super::problem::Problem;
use super::state::State;
use super::{answers, guard, limits};

pub(super) fn router(state: Arc<State>) -> Router {
    let [page, css, js, openapi, health, metrics, model, vocabulary, prompt, generate, stream, animate] =
        ROUTES;
    let text =
        |kind: &'static str, text: &'static str| get(move || async move { ([(CONTENT_TYPE, kind)], text) });
    Router::new()
        .route(page, text("text/html; charset=utf-8", include_str!("page.html")))
        .route(css, text("text/css; charset=utf-8", include_str!("page.css")))
        .route(js, text("text/javascript; charset=utf-8", include_str!("page.js")))
        .route(openapi, text("application/json", include_str!("openapi.json")))
        .route(health, get(healthy))
        .route(metrics, get(numbers))
        .route(model, get(answers::model))
        .route(vocabulary, get(answers::vocabulary))
        .route(prompt, post(answers::prompt))
        .route(generate, post(answers::generate))
        .route(stream, post(answers::stream))
        .route(animate, post(answers::animate))
        .fallback(unknown)
        .method_not_allowed_fallback(other_method)
        .layer(DefaultBodyLimit::max(limits::BYTES))
        .layer(CatchPanicLayer::custom(|_| Problem::internal().into_response()))
        .layer(from_fn_with_state(state.clone(), guard::guard))
        .with_state(state)
}

async fn healthy(Shared(state): Shared<Arc<State>>) -> Json<Value> {
    Json(json!({ "status": "ok", "queue": state.queue.len() }))
}

async fn numbers(Shared(state): Shared<Arc<State>>) -> Response {
    let text = state.metrics.text(state.queue.len());
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

async fn unknown() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "there is nothing at this address")
        .hint("/openapi.json lists what there is")
}

async fn other_method() -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this address answers another method")
        .hint("/openapi.json lists what there is")
}

#[cfg(test)]
mod tests {
    use super::super::addresses::is_private;
    use super::*;

    #[test]
    fn the_description_has_every_address_and_no_other() {
        let described: Value = serde_json::from_str(include_str!("openapi.json")).unwrap();
        assert_eq!(described["openapi"], "3.1.0");
        assert_eq!(described["info"]["version"], env!("CARGO_PKG_VERSION"));
        let mut paths: Vec<&str> =
            described["paths"].as_object().unwrap().keys().map(String::as_str).collect();
        let mut routes = ROUTES.to_vec();
        routes.retain(|route| !["/page.css", "/page.js"].contains(route));
        paths.sort_unstable();
        routes.sort_unstable();
        assert_eq!(paths, routes);
        for (path, item) in described["paths"].as_object().unwrap() {
            for operation in item.as_object().unwrap().values() {
                assert_eq!(operation["security"].is_array(), is_private(path), "{path}");
            }
        }
    }
}
