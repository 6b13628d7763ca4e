//! Label selectors with expressions, as Kubernetes reads them (LabelSelector v1).

use std::collections::BTreeMap;

use serde_json::Value;

/// Whether a selector matches labels. An absent one matches nothing, an empty one everything.
pub fn matches(selector: &Value, labels: &BTreeMap<String, String>) -> bool {
    if !selector.is_object() {
        return false;
    }
    let wanted = selector.get("matchLabels").and_then(Value::as_object);
    let expressions = selector.get("matchExpressions").and_then(Value::as_array);
    wanted.into_iter().flatten().all(|(key, value)| labels.get(key).map(String::as_str) == value.as_str())
        && expressions.into_iter().flatten().all(|expression| holds(expression, labels))
}

/// Whether a selector asks for anything.
pub fn is_empty(selector: &Value) -> bool {
    let none = |key: &str| match selector.get(key) {
        Some(Value::Object(map)) => map.is_empty(),
        Some(Value::Array(items)) => items.is_empty(),
        _ => true,
    };
    none("matchLabels") && none("matchExpressions")
}

fn holds(expression: &Value, labels: &BTreeMap<String, String>) -> bool {
    let key = expression["key"].as_str().unwrap_or_default();
    let values = expression["values"].as_array();
    let listed = |label: &String| values.into_iter().flatten().any(|value| value.as_str() == Some(label));
    match (expression["operator"].as_str().unwrap_or_default(), labels.get(key)) {
        ("In", label) => label.is_some_and(listed),
        ("NotIn", label) => !label.is_some_and(listed),
        ("Exists", label) => label.is_some(),
        ("DoesNotExist", label) => label.is_none(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_selector_matches_where_every_part_of_it_holds() {
        let labels: BTreeMap<String, String> =
            [("app", "a"), ("version", "gray")].map(|(k, v)| (k.into(), v.into())).into();
        let expression = |operator: &str, key: &str, values: Value| json!({ "matchExpressions": [{ "key": key, "operator": operator, "values": values }] });
        for (selector, expected) in [
            (Value::Null, false),
            (json!({}), true),
            (json!({ "matchLabels": { "app": "a" } }), true),
            (json!({ "matchLabels": { "app": "a", "version": "original" } }), false),
            (expression("In", "version", json!(["gray", "blue"])), true),
            (expression("In", "team", json!(["x"])), false),
            (expression("NotIn", "version", json!(["original"])), true),
            (expression("NotIn", "team", json!(["x"])), true),
            (expression("NotIn", "version", json!(["gray"])), false),
            (expression("Exists", "app", json!(null)), true),
            (expression("Exists", "team", json!(null)), false),
            (expression("DoesNotExist", "team", json!(null)), true),
            (expression("DoesNotExist", "app", json!(null)), false),
            (expression("Like", "app", json!(["a"])), false),
        ] {
            assert_eq!(matches(&selector, &labels), expected, "{selector}");
        }
    }
}
