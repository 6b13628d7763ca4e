//! JSON Schemas made from the types that read the files, and their complaints in our own words.
//!
//! The schema that is published is the one that validates. No message of the validator's library is
//! ever shown: one function turns what it found into sentences, with the nearest valid name.

use std::collections::BTreeSet;

use jsonschema::error::{TypeKind, ValidationErrorKind};
use jsonschema::{JsonType, ValidationError, Validator};
use schemars::generate::SchemaSettings;
use schemars::transform::{Transform, transform_subschemas};
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value, json};

use crate::document::{Document, Finding, step};

/// The schema of a type, as it is published: draft 2020-12, `null` never allowed (optional means absent).
pub fn of<T: JsonSchema>() -> Value {
    let mut schema = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<T>();
    WithoutNull.transform(&mut schema);
    schema.to_value()
}

/// The schema of a task's `with`: as [`of`], and every value may also be one `${{ ... }}` expression.
pub fn of_spec<T: JsonSchema>() -> Value {
    let mut schema = of::<T>();
    let mut defs = match schema.get_mut("$defs").map(Value::take) {
        Some(Value::Object(defs)) => defs,
        _ => Map::new(),
    };
    for definition in defs.values_mut() {
        allow_expressions_below(definition);
    }
    allow_expressions_below(&mut schema);
    defs.insert(
        "expression".into(),
        json!({ "description": "one ${{ ... }} expression", "type": "string", "pattern": "^\\$\\{\\{[\\s\\S]*\\}\\}$" }),
    );
    schema["$defs"] = Value::Object(defs);
    schema
}

struct WithoutNull;

impl Transform for WithoutNull {
    fn transform(&mut self, schema: &mut Schema) {
        transform_subschemas(self, schema);
        let Some(object) = schema.as_object_mut() else { return };
        if let Some(Value::Array(types)) = object.get_mut("type") {
            types.retain(|t| t != "null");
            if let [only] = types.as_slice() {
                object["type"] = only.clone();
            }
        }
        if let Some(Value::Array(branches)) = object.get_mut("anyOf") {
            branches.retain(|branch| branch.get("type") != Some(&json!("null")));
            if let [Value::Object(only)] = branches.as_slice() {
                let only = only.clone();
                object.remove("anyOf");
                object.extend(only);
            }
        }
        // A default of null says nothing, and integer formats are Rust's, not the file's.
        object.retain(|key, value| !(key == "default" && value.is_null()) && key != "format");
    }
}

fn allow_expressions_below(schema: &mut Value) {
    let Some(object) = schema.as_object_mut() else { return };
    if let Some(Value::Object(properties)) = object.get_mut("properties") {
        for property in properties.values_mut() {
            allow_expression(property);
        }
    }
    for key in ["items", "additionalProperties"] {
        if let Some(inner @ Value::Object(_)) = object.get_mut(key) {
            allow_expression(inner);
        }
    }
}

fn allow_expression(schema: &mut Value) {
    allow_expressions_below(schema);
    let plain_text = schema.get("type") == Some(&json!("string"))
        && schema.get("pattern").is_none()
        && schema.get("enum").is_none();
    if plain_text {
        return;
    }
    let mut inner = schema.take();
    let mut outer = Map::new();
    // What an editor shows stays outside.
    if let Some(object) = inner.as_object_mut() {
        for key in ["description", "default", "title"] {
            if let Some(value) = object.remove(key) {
                outer.insert(key.into(), value);
            }
        }
    }
    outer.insert("anyOf".into(), json!([inner, { "$ref": "#/$defs/expression" }]));
    *schema = Value::Object(outer);
}

/// A compiled schema.
pub struct Checker {
    schema: Value,
    validator: Validator,
}

impl Checker {
    /// Compiles a schema that this program made.
    ///
    /// # Panics
    /// Where the schema is not valid: a bug of the type that it was made from.
    pub fn new(schema: Value) -> Checker {
        let validator = match jsonschema::validator_for(&schema) {
            Ok(validator) => validator,
            Err(error) => panic!("a schema of our own is not valid: {error}"),
        };
        Checker { schema, validator }
    }

    /// The schema.
    pub fn schema(&self) -> &Value {
        &self.schema
    }

    /// Everything that is wrong with a value; pointers begin at the value. `what` names the whole ("a workflow").
    pub fn check(&self, value: &Value, what: &str, document: Option<(&Document, &str)>) -> Vec<Finding> {
        let mut findings = Vec::new();
        for error in self.validator.iter_errors(value) {
            self.explain(&error, value, what, document, &mut findings);
        }
        without_echoes(&mut findings);
        findings.extend(self.fractions(value, what));
        findings
    }

    /// `3.0` is an integer to JSON Schema, and none to those who read the value later.
    fn fractions(&self, value: &Value, what: &str) -> Vec<Finding> {
        let mut pointers = BTreeSet::new();
        whole_fractions(value, String::new(), &mut pointers);
        if pointers.is_empty() {
            return Vec::new();
        }
        let mut broken = value.clone();
        for pointer in &pointers {
            if let Some(number) = broken.pointer_mut(pointer) {
                *number = json!(0.5);
            }
        }
        let refused =
            self.refused_types(&broken).into_iter().filter(|(_, expected)| expected == "an integer");
        refused
            .filter(|(pointer, _)| pointers.contains(pointer))
            .map(|(pointer, expected)| {
                let message = format!("{} must be {expected}, not a number", name_of(value, &pointer, what));
                let number = value.pointer(&pointer).and_then(Value::as_f64).unwrap_or_default();
                Finding::at(pointer, message)
                    .label(format!("expected {expected}"))
                    .hint(format!("write `{number:.0}`"))
            })
            .collect()
    }

    /// The values whose type is refused whatever they are, with what was expected: for stand-ins of values that are
    /// only known later.
    pub fn refused_types(&self, value: &Value) -> Vec<(String, String)> {
        let mut refused = Vec::new();
        for error in self.validator.iter_errors(value) {
            self.collect_types(&error, &mut refused);
        }
        refused
    }

    fn collect_types(&self, error: &ValidationError<'_>, refused: &mut Vec<(String, String)>) {
        match error.kind() {
            ValidationErrorKind::AnyOf { context } => {
                for inner in context.first().into_iter().flatten() {
                    self.collect_types(inner, refused);
                }
            }
            ValidationErrorKind::Type { kind } => {
                refused.push((error.instance_path().to_string(), wanted_words(kind)));
            }
            // Choices are texts.
            ValidationErrorKind::OneOfNotValid { .. } | ValidationErrorKind::Enum { .. }
                if !error.instance().is_string() =>
            {
                refused.push((error.instance_path().to_string(), "a text".into()));
            }
            _ => {}
        }
    }

    fn explain(
        &self,
        error: &ValidationError<'_>,
        whole: &Value,
        what: &str,
        document: Option<(&Document, &str)>,
        findings: &mut Vec<Finding>,
    ) {
        let pointer = error.instance_path().to_string();
        let of_what = || name_of(whole, &pointer, what);
        match error.kind() {
            // A value or one expression: what is wrong with the value is what matters.
            ValidationErrorKind::AnyOf { context } => {
                if let Some(first) = context.first() {
                    for inner in first {
                        self.explain_inner(inner, whole, &pointer, what, document, findings);
                    }
                }
            }
            ValidationErrorKind::AdditionalProperties { unexpected } => {
                let known = self.properties(error);
                for key in unexpected {
                    let mut finding =
                        Finding::at(step(&pointer, key), format!("unknown key `{key}`")).on_key();
                    finding = match nearest(key, known.iter().map(String::as_str)) {
                        Some(near) => finding.label(format!("did you mean `{near}`?")),
                        None => finding.label(format!("not a key of {}", of_what())),
                    };
                    if !known.is_empty() {
                        finding = finding.hint(format!("{} knows {}", of_what(), list(&known)));
                    }
                    findings.push(finding);
                }
            }
            // A map that takes no key at all.
            ValidationErrorKind::FalseSchema => match error.instance().as_ref() {
                Value::Object(map) => findings.extend(map.keys().map(|key| {
                    let finding = Finding::at(step(&pointer, key), format!("unknown key `{key}`")).on_key();
                    finding.label(format!("{} has no keys", of_what()))
                })),
                _ => {
                    let key = unstep(pointer.rsplit('/').next().unwrap_or_default());
                    findings.push(Finding::at(pointer.clone(), format!("unknown key `{key}`")).on_key());
                }
            },
            ValidationErrorKind::Required { property } => {
                let key = property.as_str().unwrap_or_default();
                let message = format!("{} lacks `{key}`", of_what());
                findings.push(
                    Finding::at(pointer.clone(), message).on_key().label(format!("`{key}` is required here")),
                );
            }
            ValidationErrorKind::Enum { options } => {
                let options: Vec<String> = options.as_array().into_iter().flatten().map(plain).collect();
                findings.push(choice_finding(error, &options, &of_what()));
            }
            // A choice whose values are described one by one.
            ValidationErrorKind::OneOfNotValid { .. } if !self.choices(error).is_empty() => {
                findings.push(choice_finding(error, &self.choices(error), &of_what()));
            }
            ValidationErrorKind::Constant { expected_value } => {
                let message = format!("{} must be `{}`", of_what(), plain(expected_value));
                findings.push(Finding::at(pointer.clone(), message));
            }
            // A wrong choice of a fixed few is said once, with the few.
            ValidationErrorKind::Type { .. } if self.sibling(error, "enum").is_some() => {}
            ValidationErrorKind::Type { kind } => {
                let finding = type_finding(error, kind, &of_what(), &pointer, document);
                findings.push(match self.describe(error) {
                    // A text of a certain form: quotes around a number would not make it one.
                    Some(expected) => Finding { label: expected, hints: Vec::new(), ..finding },
                    None => self.with_braces(error, kind, finding),
                });
            }
            ValidationErrorKind::Pattern { pattern } => {
                let given = plain(error.instance());
                let finding = Finding::at(pointer.clone(), format!("{} cannot be `{given}`", of_what()));
                let expected =
                    self.describe(error).unwrap_or_else(|| format!("expected a text like {pattern}"));
                findings.push(finding.label(expected));
            }
            other => {
                let message = match bound_words(other) {
                    Some(words) => format!("{} {words}", of_what()),
                    None => format!("{} is not valid ({})", of_what(), other.keyword()),
                };
                findings.push(Finding::at(pointer.clone(), message));
            }
        }
    }

    /// Errors of an `anyOf` branch carry their own full pointers; the branch of an expression is dropped.
    fn explain_inner(
        &self,
        inner: &ValidationError<'_>,
        whole: &Value,
        outer: &str,
        what: &str,
        document: Option<(&Document, &str)>,
        findings: &mut Vec<Finding>,
    ) {
        let mut found = Vec::new();
        self.explain(inner, whole, what, document, &mut found);
        for mut finding in found {
            if !finding.pointer.starts_with(outer) {
                finding.pointer.insert_str(0, outer);
            }
            findings.push(finding);
        }
    }

    /// One value where a list or a map of it was expected.
    fn with_braces(&self, error: &ValidationError<'_>, kind: &TypeKind, finding: Finding) -> Finding {
        let given = error.instance();
        if given.is_null() || given.is_array() || given.is_object() || plain(given).contains("${{") {
            return finding;
        }
        match kind {
            TypeKind::Single(JsonType::Array) => finding.hint(format!("write `[{}]`", plain(given))),
            TypeKind::Single(JsonType::Object) => {
                match self.sibling(error, "required").and_then(Value::as_array).map(Vec::as_slice) {
                    Some([Value::String(key)]) => {
                        finding.hint(format!("write `{{ {key}: {} }}`", plain(given)))
                    }
                    _ => finding,
                }
            }
            _ => finding,
        }
    }

    /// The texts of a choice; empty where the schema is something else.
    fn choices(&self, error: &ValidationError<'_>) -> Vec<String> {
        let branches = self.sibling(error, "oneOf").and_then(Value::as_array);
        let mut choices = Vec::new();
        for branch in branches.into_iter().flatten() {
            match (branch.get("const"), branch.get("enum").and_then(Value::as_array)) {
                (Some(value), _) => choices.push(plain(value)),
                (None, Some(values)) => choices.extend(values.iter().map(plain)),
                (None, None) => return Vec::new(),
            }
        }
        choices
    }

    /// The keys that stood where an unknown one was found.
    fn properties(&self, error: &ValidationError<'_>) -> BTreeSet<String> {
        let properties = self.sibling(error, "properties").and_then(Value::as_object);
        properties.map(|map| map.keys().cloned().collect()).unwrap_or_default()
    }

    /// The words beside a pattern: `x-expected` of the schema.
    fn describe(&self, error: &ValidationError<'_>) -> Option<String> {
        self.sibling(error, "x-expected")?.as_str().map(str::to_owned)
    }

    /// Another keyword of the schema whose keyword complained.
    fn sibling(&self, error: &ValidationError<'_>, keyword: &str) -> Option<&Value> {
        let path = error.schema_path().to_string();
        let parent = path.rfind('/').map_or("", |cut| &path[..cut]);
        self.schema_at(parent)?.get(keyword)
    }

    /// The library's path walks through `$ref`s; a schema's own pointer does not.
    fn schema_at(&self, path: &str) -> Option<&Value> {
        let mut at = &self.schema;
        for part in path.split('/').skip(1) {
            while let Some(reference) = at.get("$ref").and_then(Value::as_str) {
                at = self.schema.pointer(reference.trim_start_matches('#'))?;
            }
            if part == "$ref" {
                continue;
            }
            let part = unstep(part);
            at = match at {
                Value::Array(items) => items.get(part.parse::<usize>().ok()?)?,
                other => other.get(&part)?,
            };
        }
        while let Some(reference) = at.get("$ref").and_then(Value::as_str) {
            at = self.schema.pointer(reference.trim_start_matches('#'))?;
        }
        Some(at)
    }
}

/// What a value is called: its key, its number in a list, or the whole.
pub(crate) fn name_of(whole: &Value, pointer: &str, what: &str) -> String {
    let Some((above, last)) = pointer.rsplit_once('/') else { return what.to_owned() };
    if !whole.pointer(above).is_some_and(Value::is_array) {
        return format!("`{}`", unstep(last));
    }
    let number = last.parse::<usize>().map_or(0, |index| index + 1);
    match above.rsplit_once('/') {
        Some((_, list)) => format!("item {number} of `{}`", unstep(list)),
        None => format!("item {number} of {what}"),
    }
}

/// A mistyped key is one mistake, not also the lack of the right one.
fn without_echoes(findings: &mut Vec<Finding>) {
    let offered: BTreeSet<(String, String)> = findings
        .iter()
        .filter(|finding| finding.message.starts_with("unknown key "))
        .filter_map(|finding| {
            let (map, _) = finding.pointer.rsplit_once('/')?;
            Some((map.to_owned(), quoted(&finding.label, "did you mean ")?.to_owned()))
        })
        .collect();
    findings.retain(|finding| match finding.label.ends_with(" is required here") {
        true => !quoted(&finding.label, "")
            .is_some_and(|key| offered.contains(&(finding.pointer.clone(), key.to_owned()))),
        false => true,
    });
}

/// What stands in the first backticks, where the text begins with `before` and them.
fn quoted<'t>(text: &'t str, before: &str) -> Option<&'t str> {
    text.strip_prefix(before)?.strip_prefix('`')?.split('`').next()
}

fn whole_fractions(value: &Value, pointer: String, found: &mut BTreeSet<String>) {
    match value {
        Value::Number(number) if number.is_f64() => {
            if number.as_f64().is_some_and(|number| number.fract() == 0.0) {
                found.insert(pointer);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                whole_fractions(item, format!("{pointer}/{index}"), found);
            }
        }
        Value::Object(map) => {
            for (key, item) in map {
                whole_fractions(item, step(&pointer, key), found);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn choice_finding(error: &ValidationError<'_>, options: &[String], what: &str) -> Finding {
    let given = plain(error.instance());
    let pointer = error.instance_path().to_string();
    if error.instance().is_null() {
        let finding = Finding::at(pointer, format!("{what} must not be empty")).on_key();
        return finding.label(format!("one of {}", list(options)));
    }
    let finding = Finding::at(pointer, format!("{what} cannot be `{given}`"));
    match nearest(&given, options.iter().map(String::as_str)) {
        Some(near) => {
            finding.label(format!("did you mean `{near}`?")).hint(format!("one of {}", list(options)))
        }
        None => finding.label(format!("one of {}", list(options))),
    }
}

fn unstep(part: &str) -> String {
    part.replace("~1", "/").replace("~0", "~")
}

fn type_finding(
    error: &ValidationError<'_>,
    kind: &TypeKind,
    what: &str,
    pointer: &str,
    document: Option<(&Document, &str)>,
) -> Finding {
    let wanted = wanted_types(kind);
    let given = error.instance();
    let expected = wanted_words(kind);
    let finding = Finding::at(pointer, format!("{what} must be {expected}, not {}", value_words(given)));
    let finding = if given.is_null() { finding.on_key() } else { finding };
    let finding = finding.label(format!("expected {expected}"));
    if wanted.contains(&JsonType::String) && (given.is_number() || given.is_boolean()) {
        // What was written, not what YAML made of it: `1.20` is the number 1.2.
        let source = document.map(|(document, prefix)| document.source_text(&format!("{prefix}{pointer}")));
        let written = source.filter(|text| !text.is_empty()).map_or_else(|| plain(given), str::to_owned);
        return finding.hint(format!("`{written}` is {}; write \"{written}\"", value_words(given)));
    }
    if given.is_string() && (wanted.contains(&JsonType::Integer) || wanted.contains(&JsonType::Boolean)) {
        let text = plain(given);
        if text.parse::<i64>().is_ok() || text == "true" || text == "false" {
            return finding.hint("remove the quotes");
        }
        if matches!(text.to_ascii_lowercase().as_str(), "yes" | "on" | "no" | "off") {
            return finding.hint("write `true` or `false`");
        }
    }
    finding
}

fn wanted_types(kind: &TypeKind) -> Vec<JsonType> {
    match kind {
        TypeKind::Single(wanted) => vec![*wanted],
        TypeKind::Multiple(wanted) => wanted.iter().collect(),
    }
}

fn wanted_words(kind: &TypeKind) -> String {
    wanted_types(kind).into_iter().map(type_words).collect::<Vec<_>>().join(" or ")
}

fn type_words(kind: JsonType) -> &'static str {
    match kind {
        JsonType::Array => "a list",
        JsonType::Boolean => "true or false",
        JsonType::Integer => "an integer",
        JsonType::Null => "nothing",
        JsonType::Number => "a number",
        JsonType::Object => "a map",
        JsonType::String => "a text",
    }
}

/// What a value is, in words: `a text`, `an integer`, ...
pub fn value_words(value: &Value) -> &'static str {
    match value {
        Value::Null => "empty",
        Value::Bool(_) => "a boolean",
        Value::Number(number) if number.is_f64() => "a number",
        Value::Number(_) => "an integer",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a map",
    }
}

fn bound_words(kind: &ValidationErrorKind) -> Option<String> {
    use ValidationErrorKind as K;
    Some(match kind {
        K::Minimum { limit } => format!("must be at least {limit}"),
        K::Maximum { limit } => format!("must be at most {limit}"),
        K::ExclusiveMinimum { limit } => format!("must be more than {limit}"),
        K::ExclusiveMaximum { limit } => format!("must be less than {limit}"),
        K::MinLength { limit: 1 } | K::MinItems { limit: 1 } | K::MinProperties { limit: 1 } => {
            "must not be empty".into()
        }
        K::MinLength { limit } => format!("must have at least {limit} characters"),
        K::MaxLength { limit } => format!("must have at most {limit} characters"),
        K::MinItems { limit } | K::MinProperties { limit } => format!("must have at least {limit} entries"),
        K::MaxItems { limit } | K::MaxProperties { limit } => format!("must have at most {limit} entries"),
        K::UniqueItems => "names the same thing twice".into(),
        K::PropertyNames { .. } => {
            "has a key that is no name: use letters, digits, `-` and `_`, and begin with a letter".into()
        }
        _ => return None,
    })
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => shorten(text),
        other => shorten(&other.to_string()),
    }
}

fn shorten(text: &str) -> String {
    let mut characters = text.chars();
    let start: String = characters.by_ref().take(60).collect();
    if characters.next().is_some() { format!("{start}...") } else { start }
}

/// Names as prose: `` `a`, `b` or `c` ``.
pub fn list<'a>(names: impl IntoIterator<Item = &'a String>) -> String {
    let quoted: Vec<String> = names.into_iter().map(|name| format!("`{name}`")).collect();
    match quoted.split_last() {
        None => "nothing".into(),
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
    }
}

/// The name that a person most likely meant.
pub fn nearest<'n>(given: &str, names: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    let near = |name: &str| strsim::damerau_levenshtein(&given.to_lowercase(), &name.to_lowercase());
    let limit = 1 + given.chars().count() / 4;
    names
        .into_iter()
        .map(|name| (near(name), name))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, n)| n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(schemars::JsonSchema)]
    #[schemars(deny_unknown_fields)]
    #[expect(dead_code, reason = "only its schema is used")]
    struct Example {
        name: String,
        count: Option<u32>,
        inner: Option<Inner>,
        list: Option<Vec<Inner>>,
    }

    #[derive(schemars::JsonSchema)]
    #[schemars(deny_unknown_fields)]
    #[expect(dead_code, reason = "only its schema is used")]
    struct Inner {
        mode: Mode,
    }

    #[derive(schemars::JsonSchema)]
    #[schemars(rename_all = "lowercase")]
    #[expect(dead_code, reason = "only its schema is used")]
    enum Mode {
        Queue,
        Reject,
    }

    fn told(yaml: &str) -> Vec<String> {
        let document = Document::parse("f.yaml", yaml.as_bytes()).expect("valid YAML");
        let checker = Checker::new(of_spec::<Example>());
        let findings = checker.check(document.value(), "the example", Some((&document, "")));
        let mut told: Vec<String> = findings
            .into_iter()
            .map(|finding| {
                let hints = finding.hints.join("; ");
                format!("{} [{hints}]", document.problem(finding))
            })
            .collect();
        told.sort();
        told
    }

    #[test]
    fn what_the_validator_finds_is_said_in_our_words() {
        assert_eq!(told("name: x\ncount: ${{ inputs.n }}\nlist: ${{ inputs.l }}\n"), Vec::<String>::new());
        assert_eq!(
            told("nmae: x\ncount: -1\ninner: { mode: qeue, x: 1 }\nlist: [{ mode: reject }, { mode: 3 }]\n"),
            [
                "f.yaml:1:1: unknown key `nmae` (did you mean `name`?) [the example knows `count`, `inner`, `list` and `name`]",
                "f.yaml:2:8: `count` must be at least 0 []",
                "f.yaml:3:16: `mode` cannot be `qeue` (did you mean `queue`?) [one of `queue` and `reject`]",
                "f.yaml:3:22: unknown key `x` (not a key of `inner`) [`inner` knows `mode`]",
                "f.yaml:4:34: `mode` cannot be `3` (one of `queue` and `reject`) []",
            ]
        );
        assert_eq!(
            told("name: 1.20\ncount: \"3\"\n"),
            [
                "f.yaml:1:7: `name` must be a text, not a number (expected a text) [`1.20` is a number; write \"1.20\"]",
                "f.yaml:2:8: `count` must be an integer, not a text (expected an integer) [remove the quotes]",
            ]
        );
    }

    #[test]
    fn the_nearest_name_is_offered_only_when_it_is_near() {
        assert_eq!(nearest("timeot", ["timeout", "tasks"]), Some("timeout"));
        assert_eq!(nearest("zzz", ["timeout", "tasks"]), None);
    }
}
