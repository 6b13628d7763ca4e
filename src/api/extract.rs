//! What handlers are given of a request; where it does not fit, a problem with a stable code, never the framework's text.

use axum::Json;
use axum::extract::rejection::{BytesRejection, JsonRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use super::error::{ApiError, Code};

/// The body, as JSON.
pub(crate) struct Body<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Body<T>, ApiError> {
        match Json::<T>::from_request(request, state).await {
            Ok(Json(body)) => Ok(Body(body)),
            Err(JsonRejection::MissingJsonContentType(_)) => {
                Err(ApiError::new(Code::WrongType, "the body is not marked as JSON")
                    .hint("send it with `content-type: application/json`"))
            }
            Err(JsonRejection::BytesRejection(rejection)) => Err(unread(&rejection)),
            Err(rejection) => Err(ApiError::bad_request(format!("the body: {}", cause(&rejection)))),
        }
    }
}

/// Why a body was not read to its end.
fn unread(rejection: &BytesRejection) -> ApiError {
    if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
        return ApiError::new(Code::TooLarge, "the body is larger than this operation takes");
    }
    ApiError::bad_request("the body ended early")
}

/// The innermost reason: the ones around it say what kind of thing failed, which the caller knows.
fn cause(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// What is asked for after the `?`.
pub(crate) struct Asked<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Asked<T>, ApiError> {
        let asked: Result<Query<T>, QueryRejection> = Query::from_request_parts(parts, state).await;
        asked
            .map(|Query(asked)| Asked(asked))
            .map_err(|rejection| ApiError::bad_request(format!("the address: {}", cause(&rejection))))
    }
}

/// The parameters in the path.
pub(crate) struct In<T>(pub(crate) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for In<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<In<T>, ApiError> {
        let given: Result<Path<T>, PathRejection> = Path::from_request_parts(parts, state).await;
        given
            .map(|Path(given)| In(given))
            .map_err(|rejection| ApiError::bad_request(format!("the path: {}", cause(&rejection))))
    }
}
