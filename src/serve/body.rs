//! The JSON body of a request: bounded in size and in time, and what is wrong with it in one sentence.

use std::time::Duration;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use serde::de::DeserializeOwned;

use super::limits::BYTES;
use super::problem::Problem;

/// How long a body may take to arrive.
const SECONDS: u64 = 10;

pub(super) struct Body<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Body<T>, Problem> {
        let read = Json::<T>::from_request(request, state);
        match tokio::time::timeout(Duration::from_secs(SECONDS), read).await {
            Ok(Ok(Json(value))) => Ok(Body(value)),
            Ok(Err(rejection)) => Err(problem(&rejection)),
            Err(_) => {
                let error = format!("the body did not arrive within {SECONDS} s");
                Err(Problem::new(StatusCode::REQUEST_TIMEOUT, error))
            }
        }
    }
}

fn problem(rejection: &JsonRejection) -> Problem {
    let schema = "/openapi.json says what a request may hold";
    match (rejection, rejection.status()) {
        (_, StatusCode::PAYLOAD_TOO_LARGE) => {
            let error = format!("the body has more than {} KiB", BYTES / 1024);
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, error)
        }
        (_, StatusCode::UNSUPPORTED_MEDIA_TYPE) => {
            Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the body is not said to be JSON")
                .hint("send the header Content-Type: application/json")
        }
        (JsonRejection::JsonDataError(e), _) => Problem::bad(inner(e)).hint(schema),
        (JsonRejection::JsonSyntaxError(e), _) => {
            Problem::bad(format!("the body is not JSON: {}", inner(e))).hint(schema)
        }
        _ => Problem::bad("the body could not be read").hint(schema),
    }
}

/// The innermost cause, which says what is wrong and where.
fn inner(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.last().map(ToString::to_string).unwrap_or_default()
}
