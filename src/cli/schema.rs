//! `graylane schema`: the JSON Schemas that editors and `validate` use.

use clap::{Args, ValueEnum};
use graylane_engine::workflow::WorkflowFile;
use graylane_tasks::environment::Environment;
use serde_json::{Value, json};

use super::{Failure, json as to_json, print};
use crate::settings::SettingsFile;

/// What `schema` takes.
#[derive(Debug, Args)]
pub(crate) struct SchemaArgs {
    /// Of which file
    #[arg(value_enum)]
    of: Of,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Of {
    /// A workflow file
    Workflow,
    /// An environment file
    Environment,
    /// The settings file
    Settings,
    /// The API: an OpenAPI 3.1 document
    Api,
}

pub(crate) fn run(args: &SchemaArgs) -> Result<u8, Failure> {
    let schema = match args.of {
        Of::Workflow => workflow(),
        Of::Environment => graylane_engine::schema::of::<Environment>(),
        Of::Api => crate::api::openapi::document().clone(),
        Of::Settings => graylane_engine::schema::of::<SettingsFile>(),
    };
    print(&to_json(&schema));
    Ok(0)
}

/// The frame, and below `with` the schema of each type: what `validate` checks in two passes, as one for editors.
fn workflow() -> Value {
    let mut schema = graylane_engine::schema::of::<WorkflowFile>();
    let registry = super::types();
    let mut cases = Vec::new();
    for task in registry.iter() {
        let name = task.type_name();
        let mut with = task.schema();
        let definitions = with.as_object_mut().and_then(|map| map.remove("$defs"));
        prefix(&mut with, name);
        for (key, mut definition) in
            definitions.as_ref().and_then(Value::as_object).cloned().into_iter().flatten()
        {
            prefix(&mut definition, name);
            schema["$defs"][format!("{name}.{key}")] = definition;
        }
        if let Some(map) = with.as_object_mut() {
            map.remove("$schema");
        }
        schema["$defs"][format!("{name}.with")] = with;
        cases.push(json!({
            "if": { "properties": { "type": { "const": name } }, "required": ["type"] },
            "then": { "properties": { "with": { "$ref": format!("#/$defs/{name}.with") } } },
        }));
    }
    let names: Vec<&str> = registry.iter().map(|task| task.type_name()).collect();
    schema["$defs"]["TaskFile"]["properties"]["type"]["enum"] = json!(names);
    schema["$defs"]["TaskFile"]["allOf"] = Value::Array(cases);
    schema
}

/// References of a type's own schema, as they stand below the whole.
fn prefix(schema: &mut Value, type_name: &str) {
    match schema {
        Value::Object(map) => {
            if let Some(Value::String(reference)) = map.get_mut("$ref")
                && let Some(key) = reference.strip_prefix("#/$defs/")
            {
                *reference = format!("#/$defs/{type_name}.{key}");
            }
            map.values_mut().for_each(|value| prefix(value, type_name));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| prefix(item, type_name)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
