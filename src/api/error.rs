//! The one place where errors of the engine become answers of the API: a status, a stable code, a message.
//!
//! Every refusal is `application/problem+json` (RFC 9457), those of the framework too. What the inside says of itself
//! goes to the log, not to the caller.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use graylane_engine::scheduler::{DeedError, FollowUpError, SubmitError};
use graylane_engine::task::{ErrorKind, TaskError};

use super::wire::Problem;
use crate::problems::WireProblem;

macro_rules! codes {
    ($($variant:ident, $word:literal, $status:ident, $title:literal;)*) => {
        /// What went wrong, as programs tell it apart. A code never changes its meaning.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Code {
            $(#[doc = $title] $variant,)*
        }

        impl Code {
            /// All of them.
            pub(crate) const ALL: &[Code] = &[$(Code::$variant,)*];

            /// The code.
            pub(crate) fn word(self) -> &'static str {
                match self { $(Code::$variant => $word,)* }
            }

            /// Its status.
            pub(crate) fn status(self) -> StatusCode {
                match self { $(Code::$variant => StatusCode::$status,)* }
            }

            /// The same in words, whatever the case.
            pub(crate) fn title(self) -> &'static str {
                match self { $(Code::$variant => $title,)* }
            }
        }
    };
}

codes! {
    BadRequest, "bad-request", BAD_REQUEST, "The request is not well formed";
    BadCursor, "bad-cursor", BAD_REQUEST, "The cursor is not one of this list";
    TokenInAddress, "token-in-address", BAD_REQUEST, "A token does not belong into an address";
    Unauthenticated, "unauthenticated", UNAUTHORIZED, "A token is needed";
    NotAllowed, "not-allowed", FORBIDDEN, "The caller may not do this";
    NotFound, "not-found", NOT_FOUND, "There is no such thing";
    WrongMethod, "wrong-method", METHOD_NOT_ALLOWED, "The address does not take this method";
    Busy, "busy", CONFLICT, "Another run is active, and the policy refuses this one";
    NotWaiting, "not-waiting", CONFLICT, "Nothing waits for this answer";
    KeyTaken, "key-taken", CONFLICT, "The key was used for another request";
    Conflict, "conflict", CONFLICT, "It does not fit what is there";
    TooLarge, "too-large", PAYLOAD_TOO_LARGE, "The body is too large";
    WrongType, "wrong-type", UNSUPPORTED_MEDIA_TYPE, "The body is not JSON";
    InvalidWorkflow, "invalid-workflow", UNPROCESSABLE_ENTITY, "The workflow has errors";
    InvalidInputs, "invalid-inputs", UNPROCESSABLE_ENTITY, "The inputs do not fit the workflow";
    Refused, "refused", UNPROCESSABLE_ENTITY, "What is asked for cannot be done";
    TooMany, "too-many-requests", TOO_MANY_REQUESTS, "Too many requests";
    Overloaded, "overloaded", SERVICE_UNAVAILABLE, "There are too many connections";
    Internal, "internal", INTERNAL_SERVER_ERROR, "Graylane has failed";
    Store, "store", INTERNAL_SERVER_ERROR, "The store has failed";
    Cluster, "cluster", BAD_GATEWAY, "The cluster did not answer as it should";
    Stopping, "stopping", SERVICE_UNAVAILABLE, "Graylane is stopping";
    TooSlow, "too-slow", SERVICE_UNAVAILABLE, "The answer took too long";
}

/// An error on its way out.
#[derive(Debug)]
pub(crate) struct ApiError {
    code: Code,
    problem: Box<Problem>,
    headers: Vec<(header::HeaderName, HeaderValue)>,
}

impl ApiError {
    pub(crate) fn new(code: Code, detail: impl Into<String>) -> ApiError {
        let problem = Problem {
            kind: format!("urn:graylane:problem:{}", code.word()),
            title: code.title().into(),
            status: code.status().as_u16(),
            code: code.word().into(),
            detail: detail.into(),
            problems: Vec::new(),
            details: Vec::new(),
            hint: None,
        };
        ApiError { code, problem: Box::new(problem), headers: Vec::new() }
    }

    /// What is said of it.
    pub(crate) fn into_problem(self) -> Problem {
        *self.problem
    }

    /// What can be done about it.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> ApiError {
        self.problem.hint = Some(hint.into());
        self
    }

    /// A header of the answer.
    pub(crate) fn header(mut self, name: header::HeaderName, value: HeaderValue) -> ApiError {
        self.headers.push((name, value));
        self
    }

    pub(crate) fn bad_request(detail: impl Into<String>) -> ApiError {
        ApiError::new(Code::BadRequest, detail)
    }

    pub(crate) fn not_found(detail: impl Into<String>) -> ApiError {
        ApiError::new(Code::NotFound, detail)
    }

    pub(crate) fn refused(detail: impl Into<String>) -> ApiError {
        ApiError::new(Code::Refused, detail)
    }

    pub(crate) fn not_allowed(detail: impl Into<String>) -> ApiError {
        ApiError::new(Code::NotAllowed, detail)
    }

    pub(crate) fn store(detail: impl Into<String>) -> ApiError {
        ApiError::new(Code::Store, detail)
    }
}

impl From<SubmitError> for ApiError {
    fn from(error: SubmitError) -> ApiError {
        let detail = error.to_string();
        match error {
            SubmitError::Invalid(problems) => {
                let mut answer = ApiError::new(Code::InvalidWorkflow, detail);
                answer.problem.problems = problems.iter().map(WireProblem::from).collect();
                answer
            }
            SubmitError::Inputs(wrong) => {
                let first = wrong.first().cloned().unwrap_or(detail);
                let mut answer = ApiError::new(Code::InvalidInputs, first);
                answer.problem.details = wrong.into_iter().skip(1).collect();
                answer
            }
            SubmitError::Busy(_) => ApiError::new(Code::Busy, detail),
            SubmitError::KeyTaken(_) => ApiError::new(Code::KeyTaken, detail),
            SubmitError::Journal(_) => ApiError::store(detail),
            SubmitError::Stopping => ApiError::new(Code::Stopping, detail),
        }
    }
}

impl From<DeedError> for ApiError {
    fn from(error: DeedError) -> ApiError {
        let detail = error.to_string();
        match error {
            DeedError::Refused(_) => ApiError::new(Code::Conflict, detail),
            DeedError::Journal(_) => ApiError::store(detail),
            DeedError::Stopping => ApiError::new(Code::Stopping, detail),
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
            ErrorKind::Transient => ApiError::new(Code::Cluster, error.message),
        };
        answer.problem.details = error.details;
        answer.problem.hint = error.hint;
        answer
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.code.status(), Json(*self.problem)).into_response();
        let kind = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response.headers_mut().extend(self.headers);
        response
    }
}
