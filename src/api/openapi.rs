//! The table of routes as an OpenAPI 3.1 document; the schemas are those of the types that handlers take and give.
//!
//! `docs/openapi.json` is this document, and a test compares the two.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::caller::Who;
use super::error::Code;
use super::route::{Operation, Route};
use super::wire::Problem;

/// The document.
pub(crate) fn document() -> &'static Value {
    static DOCUMENT: LazyLock<Value> = LazyLock::new(|| of(&super::routes::table()));
    &DOCUMENT
}

fn of(table: &[Route]) -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut schemas = settings.into_generator();
    let problem = schemas.subschema_for::<Problem>();
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for route in table {
        let mut operation = Operation {
            schemas: &mut schemas,
            query: None,
            request: None,
            answer: None,
            key: false,
            last_event: false,
        };
        (route.describe)(&mut operation);
        let described = told(route, operation);
        let method = route.method.as_str().to_lowercase();
        paths.entry(route.path).or_default().insert(method, described);
    }
    let words: Vec<&str> = Code::ALL.iter().map(|code| code.word()).collect();
    let mut definitions = schemas.take_definitions(true);
    if let Some(code) = definitions.get_mut("Problem").and_then(|of| of.pointer_mut("/properties/code")) {
        code["enum"] = json!(words);
    }
    json!({
        "openapi": "3.1.0",
        "jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
        "info": {
            "title": "Graylane",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Release workflows for Kubernetes. `x-role` says who may use an operation: `anybody`; `viewer`, every token; `operator`, `approver` and `admin` (who may do everything); `owner`, only over the socket of the data folder.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "/" }],
        "security": [{ "token": [] }],
        "paths": paths,
        "components": {
            "schemas": definitions,
            "responses": {
                "problem": {
                    "description": "Why not: RFC 9457, with a code that does not change",
                    "content": { "application/problem+json": { "schema": problem } },
                },
            },
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
        },
    })
}

fn told(route: &Route, operation: Operation<'_>) -> Value {
    let mut parameters: Vec<Value> = route
        .path
        .split('/')
        .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
        .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }))
        .collect();
    if let Some(query) = &operation.query {
        parameters.extend(in_query(query.as_value()));
    }
    if operation.key {
        parameters.push(json!({
            "name": "Idempotency-Key", "in": "header", "schema": { "type": "string", "maxLength": 255 },
            "description": "The same key gives the same run, however often it is sent",
        }));
    }
    if operation.last_event {
        parameters.push(json!({
            "name": "Last-Event-ID", "in": "header", "schema": { "type": "string" },
            "description": "Goes on after this event",
        }));
    }
    let mut described =
        json!({ "operationId": route.id, "summary": route.summary, "x-role": route.who.word() });
    if route.who == Who::Anybody {
        described["security"] = json!([]);
    }
    if !parameters.is_empty() {
        described["parameters"] = json!(parameters);
    }
    if let Some(request) = operation.request {
        described["requestBody"] =
            json!({ "required": true, "content": { "application/json": { "schema": request } } });
    }
    let good = match operation.answer {
        Some((media, schema)) => json!({ "description": "Done", "content": { media: { "schema": schema } } }),
        None => json!({ "description": "Done" }),
    };
    described["responses"] = json!({ "200": good, "default": { "$ref": "#/components/responses/problem" } });
    described
}

/// The fields of an object as parameters.
fn in_query(object: &Value) -> Vec<Value> {
    let required = object.get("required").and_then(Value::as_array);
    let properties = object.get("properties").and_then(Value::as_object);
    let one = |(name, schema): (&String, &Value)| {
        let mut schema = schema.clone();
        let description = schema.as_object_mut().and_then(|schema| schema.remove("description"));
        // Nobody writes `null` into an address.
        if let Some(types) = schema.get_mut("type")
            && let Some([only, _]) = types.as_array().map(Vec::as_slice)
        {
            *types = only.clone();
        }
        if schema.get("default").is_some_and(Value::is_null) {
            schema.as_object_mut().and_then(|schema| schema.remove("default"));
        }
        let mut parameter = json!({ "name": name, "in": "query", "schema": schema });
        if let Some(description) = description {
            parameter["description"] = description;
        }
        if required.is_some_and(|required| required.iter().any(|one| one == name)) {
            parameter["required"] = json!(true);
        }
        parameter
    };
    properties.into_iter().flatten().map(one).collect()
}
