//! The one place where errors of the engine become answers of the API: a status, a stable code, a message.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use graylane_engine::scheduler::{FollowUpError, SubmitError};
use graylane_engine::task::{ErrorKind, TaskError};

use super::wire::Problem;
use crate::problems::WireProblem;

/// An error on its way out.
pub(crate) struct ApiError {
    status: StatusCode,
    problem: Problem,
}

impl ApiError {
    fn new(status: StatusCode, code: &str, detail: impl Into<String>) -> ApiError {
        let problem = Problem {
            code: code.into(),
            detail: detail.into(),
            problems: Vec::new(),
            details: Vec::new(),
            hint: None,
        };
        ApiError { status, problem }
    }

    pub(crate) fn bad_request(detail: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, "bad-request", detail)
    }

    pub(crate) fn not_found(detail: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::NOT_FOUND, "not-found", detail)
    }

    pub(crate) fn refused(detail: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "refused", detail)
    }

    pub(crate) fn conflict(code: &str, detail: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::CONFLICT, code, detail)
    }

    pub(crate) fn not_allowed(detail: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::FORBIDDEN, "not-allowed", detail)
    }

    pub(crate) fn store(detail: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "store", detail)
    }
}

impl From<SubmitError> for ApiError {
    fn from(error: SubmitError) -> ApiError {
        let detail = error.to_string();
        match error {
            SubmitError::Invalid(problems) => {
                let mut answer = ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid-workflow", detail);
                answer.problem.problems = problems.iter().map(WireProblem::from).collect();
                answer
            }
            SubmitError::Inputs(wrong) => {
                let mut answer = ApiError::new(
                    StatusCode::UNPROCESSABLE_ENTITY,
                    "invalid-inputs",
                    wrong.first().cloned().unwrap_or(detail),
                );
                answer.problem.details = wrong.into_iter().skip(1).collect();
                answer
            }
            SubmitError::Busy(_) => ApiError::new(StatusCode::CONFLICT, "busy", detail),
            SubmitError::KeyTaken(_) => ApiError::new(StatusCode::CONFLICT, "key-taken", detail),
            SubmitError::Journal(_) => ApiError::store(detail),
            SubmitError::Stopping => ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "store", detail),
        }
    }
}

impl From<FollowUpError> for ApiError {
    fn from(error: FollowUpError) -> ApiError {
        let detail = error.to_string();
        match error {
            FollowUpError::Unknown(_) => ApiError::not_found(detail),
            FollowUpError::Follow(_) => ApiError::refused(detail),
            FollowUpError::Read(_) => ApiError::store(detail),
            FollowUpError::Submit(error) => error.into(),
        }
    }
}

impl From<TaskError> for ApiError {
    fn from(error: TaskError) -> ApiError {
        let mut answer = match error.kind {
            ErrorKind::Permanent | ErrorKind::Hold => ApiError::refused(error.message),
            ErrorKind::Transient => ApiError::new(StatusCode::BAD_GATEWAY, "cluster", error.message),
        };
        answer.problem.details = error.details;
        answer.problem.hint = error.hint;
        answer
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.problem)).into_response();
        let kind = axum::http::HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(axum::http::header::CONTENT_TYPE, kind);
        response
    }
}
