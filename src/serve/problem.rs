//! What went wrong, as clients are told it: a status and `{"error": .., "hint": ..}`.

use axum::Json;
use axum::http::StatusCode;
use axum::http::header::{CONNECTION, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

#[derive(Clone, Debug)]
pub(super) struct Problem {
    pub status: StatusCode,
    pub error: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// Seconds after which to try again.
    pub retry_after: Option<u64>,
}

impl Problem {
    pub fn new(status: StatusCode, error: impl Into<String>) -> Problem {
        Problem { status, error: error.into(), hint: None, retry_after: None }
    }

    /// A request that says something wrong.
    pub fn bad(error: impl Into<String>) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, error)
    }

    pub fn hint(self, hint: impl Into<String>) -> Problem {
        Problem { hint: Some(hint.into()), ..self }
    }

    /// No client learns how this program is made inside.
    pub fn internal() -> Problem {
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "something went wrong inside of the server")
            .hint("the server goes on; its terminal says more")
    }

    pub fn busy(waiting: usize, retry_after: u64) -> Problem {
        let error = format!("{waiting} requests are waiting already");
        let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, error);
        Problem { retry_after: Some(retry_after), ..problem }
            .hint(format!("try again in {retry_after} s; engine serve --queue N lets more wait"))
    }

    pub fn stopping() -> Problem {
        let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the server is stopping");
        Problem { retry_after: Some(5), ..problem }.hint("try again once it is started anew")
    }

    pub fn too_late(seconds: u64) -> Problem {
        let error = format!("not answered within {seconds} s");
        let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, error);
        Problem { retry_after: Some(5), ..problem }.hint("ask for fewer pictures, or try again later")
    }

    pub fn json(&self) -> Value {
        json!({ "error": self.error, "hint": self.hint })
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.json())).into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        match self.status {
            StatusCode::UNAUTHORIZED => {
                drop(headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")))
            }
            // The rest of a body that was not read would be taken for the next request.
            StatusCode::REQUEST_TIMEOUT | StatusCode::PAYLOAD_TOO_LARGE => {
                drop(headers.insert(CONNECTION, HeaderValue::from_static("close")))
            }
            _ => {}
        }
        response
    }
}
