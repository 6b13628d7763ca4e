//! What Kubernetes publishes about its types: which fields exist, and how lists and maps merge.
//!
//! `schema.json` was derived from the OpenAPI document of a Kubernetes 1.20 API server, reduced to field names and merge
//! rules; fields and atomic maps that later versions added were entered by hand, and `v1beta1` types that became `v1`
//! without a change of shape carry their new name. Values of a field, in its small language:
//!
//! ```text
//! ""        a scalar               "core.v1.Probe"   a structure         "*"  anything, not described
//! "{}X"     a map of X             "!X"              X, replaced as a whole
//! "[]X"     a list, replaced as a whole              "[=]X"  a set       "[a,b]X"  a list keyed by a and b
//! "[a,b/k]X"  the same, but a strategic merge patch takes k alone for the key
//! ```

use std::collections::HashMap;
use std::sync::LazyLock;

/// How a value of a field is described.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Shape {
    Scalar,
    Any,
    Struct(String),
    Map(Box<Shape>),
    /// Replaced as a whole, whatever is inside.
    Atomic(Box<Shape>),
    List(List, Box<Shape>),
}

/// How a list merges.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum List {
    Atomic,
    Set,
    Keyed { keys: Vec<String>, patch_key: String },
}

type Fields = HashMap<String, Shape>;

static TYPES: LazyLock<HashMap<String, Fields>> = LazyLock::new(|| {
    let raw: HashMap<String, HashMap<String, String>> =
        serde_json::from_str(include_str!("schema.json")).unwrap_or_default();
    raw.into_iter()
        .map(|(name, fields)| (name, fields.into_iter().map(|(field, text)| (field, parse(&text))).collect()))
        .collect()
});

/// The fields of a structure, or `None` where the schema does not know it.
pub(crate) fn fields(name: &str) -> Option<&'static Fields> {
    TYPES.get(name)
}

/// The shape of a field below a shape; what the schema does not know is `Any`.
pub(crate) fn child(shape: &Shape, field: &str) -> Shape {
    match shape {
        Shape::Struct(name) => {
            fields(name).and_then(|fields| fields.get(field)).cloned().unwrap_or(Shape::Any)
        }
        Shape::Map(inner) => (**inner).clone(),
        Shape::Atomic(inner) => child(inner, field),
        Shape::Scalar | Shape::Any | Shape::List(..) => Shape::Any,
    }
}

/// The shape of a kind's whole object.
pub(crate) fn root(kind: &crate::kinds::Kind) -> Shape {
    Shape::Struct(kind.schema.to_owned())
}

fn parse(text: &str) -> Shape {
    if let Some(rest) = text.strip_prefix('!') {
        return Shape::Atomic(Box::new(parse(rest)));
    }
    if let Some(rest) = text.strip_prefix("{}") {
        return Shape::Map(Box::new(parse(rest)));
    }
    if let Some((inside, item)) = text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return Shape::List(parse_list(inside), Box::new(parse(item)));
    }
    match text {
        "" => Shape::Scalar,
        "*" => Shape::Any,
        name => Shape::Struct(name.to_owned()),
    }
}

fn parse_list(inside: &str) -> List {
    match inside {
        "" => List::Atomic,
        "=" => List::Set,
        _ => {
            let (keys, patch_key) = inside.split_once('/').unwrap_or((inside, inside));
            let keys: Vec<String> = keys.split(',').map(str::to_owned).collect();
            let patch_key = patch_key.split(',').next().unwrap_or_default().to_owned();
            List::Keyed { keys, patch_key }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_the_published_schema_keep_their_merge_rules() {
        let table = [
            ("core.v1.PodSpec", "containers", "[name]"),
            ("core.v1.Container", "ports", "[containerPort,protocol/containerPort]"),
            ("core.v1.Container", "env", "[name]"),
            ("core.v1.Container", "args", "[]"),
            ("core.v1.ServiceSpec", "ports", "[port,protocol/port]"),
            ("meta.v1.ObjectMeta", "finalizers", "[=]"),
            ("meta.v1.ObjectMeta", "ownerReferences", "[uid]"),
            ("networking.v1.IngressSpec", "rules", "[]"),
        ];
        for (name, field, expected) in table {
            let Shape::List(list, _) = &fields(name).unwrap()[field] else {
                panic!("{name}.{field} is no list")
            };
            assert_eq!(list, &parse_list(expected.trim_matches(['[', ']'])), "{name}.{field}");
        }
    }

    #[test]
    fn every_structure_that_a_field_names_is_described() {
        fn check(shape: &Shape) {
            match shape {
                Shape::Struct(name) => assert!(fields(name).is_some(), "{name} is not described"),
                Shape::Map(inner) | Shape::Atomic(inner) | Shape::List(_, inner) => check(inner),
                Shape::Scalar | Shape::Any => {}
            }
        }
        assert!(TYPES.len() > 200);
        TYPES.values().flat_map(|fields| fields.values()).for_each(check);
    }
}
