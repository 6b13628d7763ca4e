//! The API as programs see it: its document, and what it says.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::Home;

/// The document as the program writes it.
fn document(home: &Home) -> Value {
    home.graylane(&["schema", "api"]).expect(0).json()
}

#[test]
fn the_document_in_the_repository_is_the_one_that_is_served() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/openapi.json");
    let kept: Value = serde_json::from_slice(&fs::read(file).expect("readable")).expect("JSON");
    let made = document(&Home::new());
    assert!(kept == made, "run `graylane schema api > docs/openapi.json`");
}

#[test]
fn every_reference_of_the_document_points_at_something() {
    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                if let Some(Value::String(to)) = map.get("$ref") {
                    found.push(to.clone());
                }
                map.values().for_each(|value| references(value, found));
            }
            Value::Array(list) => list.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let document = document(&Home::new());
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.len() > 50, "the document has schemas");
    for to in found {
        let pointer = to.strip_prefix('#').unwrap_or_else(|| panic!("{to} leaves the document"));
        assert!(document.pointer(pointer).is_some(), "{to} points at nothing");
    }
}
