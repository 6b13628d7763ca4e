//! What a route is: a row of the table, from which the router, the check of who may, and the OpenAPI document come.
//!
//! What a handler takes and gives is read off its signature ([`Part`], [`Answer`]): it is written down once. A new
//! route is a handler in a file of this folder, and a row in `routes.rs`. Nothing here knows what a handler does.

use std::time::Duration;

use axum::Json;
use axum::extract::State as Given;
use axum::handler::Handler;
use axum::http::Method;
use axum::response::Response;
use axum::routing::{MethodFilter, MethodRouter, on};
use schemars::{JsonSchema, Schema, SchemaGenerator};

use super::State;
use super::caller::{Caller, Who};
use super::error::ApiError;
use super::extract::{Asked, Body, In};

/// The largest body of a request, where a row says nothing else.
pub(crate) const SMALL: usize = 256 * 1024;
/// The largest bundle: whole manifests, in base64.
pub(crate) const BUNDLE: usize = 64 * 1024 * 1024;
/// How long an answer may take, where a row says nothing else.
const PROMPT: Duration = Duration::from_secs(60);
/// How long an answer may take for which much is read or written.
const LONG: Duration = Duration::from_secs(30 * 60);

/// A row of the table.
#[derive(Clone)]
pub(crate) struct Route {
    pub(crate) method: Method,
    /// With its parameters, as in `/api/v1/runs/{id}`.
    pub(crate) path: &'static str,
    pub(crate) who: Who,
    /// The operation's name in the document, which does not change.
    pub(crate) id: &'static str,
    pub(crate) summary: &'static str,
    /// The largest body.
    pub(crate) body: usize,
    /// How long the answer may take; streams are not meant, once they have begun.
    pub(crate) deadline: Duration,
    pub(crate) describe: fn(&mut Operation<'_>),
    pub(crate) handler: MethodRouter<State>,
}

impl Route {
    /// It takes a bundle.
    pub(crate) fn with_bundle(self) -> Route {
        Route { body: BUNDLE, ..self }
    }

    /// Much is read or written for the answer.
    pub(crate) fn long(self) -> Route {
        Route { deadline: LONG, ..self }
    }
}

/// A row that reads.
pub(crate) fn get<H, M, D>(
    path: &'static str,
    who: Who,
    id: &'static str,
    summary: &'static str,
    handler: H,
) -> Route
where
    H: Handler<M, State> + Described<D>,
    M: 'static,
{
    row(Method::GET, MethodFilter::GET, path, who, id, summary, handler)
}

/// A row that does something.
pub(crate) fn post<H, M, D>(
    path: &'static str,
    who: Who,
    id: &'static str,
    summary: &'static str,
    handler: H,
) -> Route
where
    H: Handler<M, State> + Described<D>,
    M: 'static,
{
    row(Method::POST, MethodFilter::POST, path, who, id, summary, handler)
}

/// A row that removes.
#[expect(dead_code, reason = "rows of the table come and go")]
pub(crate) fn delete<H, M, D>(
    path: &'static str,
    who: Who,
    id: &'static str,
    summary: &'static str,
    handler: H,
) -> Route
where
    H: Handler<M, State> + Described<D>,
    M: 'static,
{
    row(Method::DELETE, MethodFilter::DELETE, path, who, id, summary, handler)
}

fn row<H, M, D>(
    method: Method,
    filter: MethodFilter,
    path: &'static str,
    who: Who,
    id: &'static str,
    summary: &'static str,
    handler: H,
) -> Route
where
    H: Handler<M, State> + Described<D>,
    M: 'static,
{
    let describe = H::describe;
    Route {
        method,
        path,
        who,
        id,
        summary,
        body: SMALL,
        deadline: PROMPT,
        describe,
        handler: on(filter, handler),
    }
}

/// What the document says of an operation, while it is gathered.
pub(crate) struct Operation<'g> {
    pub(crate) schemas: &'g mut SchemaGenerator,
    /// The object of what is asked for after the `?`.
    pub(crate) query: Option<Schema>,
    pub(crate) request: Option<Schema>,
    /// The media type of a good answer, and its schema.
    pub(crate) answer: Option<(&'static str, Schema)>,
    /// Whether it takes an `Idempotency-Key`.
    pub(crate) key: bool,
    /// Whether it takes a `Last-Event-ID`.
    pub(crate) last_event: bool,
}

/// A parameter of a handler.
pub(crate) trait Part {
    /// What it adds to the description.
    fn describe(_: &mut Operation<'_>) {}
}

impl Part for Given<State> {}
impl Part for Caller {}
impl<T> Part for In<T> {}

impl<T: JsonSchema> Part for Asked<T> {
    fn describe(operation: &mut Operation<'_>) {
        operation.query = Some(operation.schemas.root_schema_for::<T>());
    }
}

impl<T: JsonSchema> Part for Body<T> {
    fn describe(operation: &mut Operation<'_>) {
        operation.request = Some(operation.schemas.subschema_for::<T>());
    }
}

/// What a handler gives.
pub(crate) trait Answer {
    /// What it adds to the description.
    fn describe(operation: &mut Operation<'_>);
}

impl<T: JsonSchema> Answer for Json<T> {
    fn describe(operation: &mut Operation<'_>) {
        operation.answer = Some(("application/json", operation.schemas.subschema_for::<T>()));
    }
}

impl<T: Answer> Answer for Result<T, ApiError> {
    fn describe(operation: &mut Operation<'_>) {
        T::describe(operation);
    }
}

/// A handler whose signature says what it takes and gives.
pub(crate) trait Described<D> {
    /// Says it.
    fn describe(operation: &mut Operation<'_>);
}

macro_rules! described {
    ($($part:ident),*) => {
        impl<F, Fut, Out, $($part),*> Described<(Fut, $($part,)*)> for F
        where
            F: Fn($($part),*) -> Fut,
            Fut: Future<Output = Out>,
            Out: Answer,
            $($part: Part,)*
        {
            fn describe(operation: &mut Operation<'_>) {
                $(<$part as Part>::describe(operation);)*
                <Out as Answer>::describe(operation);
            }
        }
    };
}

described!();
described!(A);
described!(A, B);
described!(A, B, C);
described!(A, B, C, E);
described!(A, B, C, E, G);
described!(A, B, C, E, G, H);

/// A stream of values, one a line or one an event.
pub(crate) struct Streamed<T, const EVENTS: bool>(Response, std::marker::PhantomData<T>);

/// One JSON value a line.
pub(crate) type Lines<T> = Streamed<T, false>;
/// Server-sent events.
pub(crate) type Events<T> = Streamed<T, true>;

impl<T, const EVENTS: bool> Streamed<T, EVENTS> {
    pub(crate) fn new(response: Response) -> Self {
        Streamed(response, std::marker::PhantomData)
    }
}

impl<T, const EVENTS: bool> axum::response::IntoResponse for Streamed<T, EVENTS> {
    fn into_response(self) -> Response {
        self.0
    }
}

impl<T: JsonSchema, const EVENTS: bool> Answer for Streamed<T, EVENTS> {
    fn describe(operation: &mut Operation<'_>) {
        let media = if EVENTS { "text/event-stream" } else { "application/x-ndjson" };
        operation.answer = Some((media, operation.schemas.subschema_for::<T>()));
    }
}
