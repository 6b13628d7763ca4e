//! Inputs of a workflow: their types, and the values that a run is given.

use std::collections::BTreeMap;

use regex::Regex;
use serde_json::{Map, Value};

use crate::document::step;
use crate::schema::{list, nearest, value_words};
use crate::workflow::{InputFile, InputKind};

/// One input, checked.
#[derive(Debug, Clone)]
pub struct Input {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    kind: InputKind,
    of: Option<InputKind>,
    options: Vec<String>,
    /// Compiled, and as it was written.
    pattern: Option<(Regex, String)>,
    required: bool,
    default: Option<Value>,
}

impl Input {
    /// Takes an input from the file; what is wrong is told with a pointer below the input.
    ///
    /// # Errors
    /// Pairs of a pointer below the input and a sentence.
    pub fn new(name: &str, file: &InputFile) -> Result<Input, Vec<(String, String)>> {
        let mut wrong: Vec<(&str, String)> = Vec::new();
        let holds_others = matches!(file.kind, InputKind::List | InputKind::Map);
        if holds_others && file.of.is_none() {
            wrong.push(("/type", format!("a {} says what it holds with `of`", kind_word(file.kind))));
        }
        if !holds_others && file.of.is_some() {
            wrong.push(("/of", "`of` is for a list or a map".into()));
        }
        if matches!(file.of, Some(InputKind::Choice | InputKind::List | InputKind::Map)) {
            wrong.push(("/of", "`of` is string, integer, number, boolean or object".into()));
        }
        let options = file.options.clone().unwrap_or_default();
        if file.kind == InputKind::Choice && options.is_empty() {
            wrong.push(("/type", "a choice lists its values with `options`".into()));
        }
        if file.kind != InputKind::Choice && file.options.is_some() {
            wrong.push(("/options", "`options` is for a choice".into()));
        }
        let pattern = match &file.pattern {
            Some(pattern) if file.kind == InputKind::String => {
                match Regex::new(&format!("^(?:{pattern})$")) {
                    Ok(regex) => Some((regex, pattern.clone())),
                    Err(error) => {
                        let why = error.to_string();
                        let why =
                            why.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
                        wrong.push(("/pattern", format!("not a regular expression: {why}")));
                        None
                    }
                }
            }
            Some(_) => {
                wrong.push(("/pattern", "`pattern` is for a string".into()));
                None
            }
            None => None,
        };
        if file.required && file.default.is_some() {
            wrong.push((
                "/required",
                "an input that has a default is never missing: remove one of the two".into(),
            ));
        }
        let input = Input {
            name: name.to_owned(),
            description: file.description.clone(),
            kind: file.kind,
            of: file.of,
            options,
            pattern,
            required: file.required,
            default: file.default.clone(),
        };
        let mut wrong: Vec<(String, String)> =
            wrong.into_iter().map(|(key, why)| (key.to_owned(), why)).collect();
        if wrong.is_empty()
            && let Some(default) = &input.default
        {
            wrong.extend(input.wrong(default).into_iter().map(|(at, why)| (format!("/default{at}"), why)));
        }
        if wrong.is_empty() { Ok(input) } else { Err(wrong) }
    }

    /// Whether a value must be given.
    pub fn required(&self) -> bool {
        self.required
    }

    /// The value where none is given.
    pub fn default(&self) -> Option<&Value> {
        self.default.as_ref()
    }

    /// The type in words: `string`, `map of string`.
    pub fn type_words(&self) -> String {
        match self.of {
            Some(of) => format!("{} of {}", kind_word(self.kind), kind_word(of)),
            None => kind_word(self.kind).to_owned(),
        }
    }

    /// Whether a value is of the input's type.
    ///
    /// # Errors
    /// A sentence that names the input.
    pub fn check(&self, value: &Value) -> Result<(), String> {
        self.wrong(value).into_iter().next().map_or(Ok(()), |(_, why)| Err(why))
    }

    /// Everything in a value that is not of the input's type: a pointer below the value, and a sentence that names
    /// the input.
    pub fn wrong(&self, value: &Value) -> Vec<(String, String)> {
        let name = &self.name;
        let whole = |why: String| vec![(String::new(), why)];
        if let Err(expected) = check_kind(self.kind, value) {
            return whole(format!("input `{name}` must be {expected}, not {}", value_words(value)));
        }
        match (self.kind, value) {
            (InputKind::Choice, Value::String(text)) if !self.options.contains(text) => {
                let near = nearest(text, self.options.iter().map(String::as_str));
                let near = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
                whole(format!("input `{name}` cannot be `{text}`: one of {}{near}", list(&self.options)))
            }
            (InputKind::String, Value::String(text)) => match &self.pattern {
                Some((pattern, written)) if !pattern.is_match(text) => {
                    whole(format!("input `{name}` cannot be `{text}`: it must match {written}"))
                }
                _ => Vec::new(),
            },
            (InputKind::List, Value::Array(items)) => items
                .iter()
                .enumerate()
                .filter_map(|(index, item)| self.wrong_inner(&index.to_string(), item))
                .collect(),
            (InputKind::Map, Value::Object(map)) => {
                map.iter().filter_map(|(key, item)| self.wrong_inner(key, item)).collect()
            }
            _ => Vec::new(),
        }
    }

    fn wrong_inner(&self, key: &str, value: &Value) -> Option<(String, String)> {
        let expected = check_kind(self.of?, value).err()?;
        let why = format!("input `{}.{key}` must be {expected}, not {}", self.name, value_words(value));
        Some((step("", key), why))
    }

    /// A value of the input's type: what stands in for it before it is known.
    pub(crate) fn stand_in(&self) -> Value {
        match self.kind {
            InputKind::String | InputKind::Choice => "x".into(),
            InputKind::Integer | InputKind::Number => 1.into(),
            InputKind::Boolean => true.into(),
            InputKind::List => Value::Array(Vec::new()),
            InputKind::Map | InputKind::Object => Value::Object(Map::new()),
        }
    }

    /// Reads a value as it stands on a command line. Its type is the declared one: `007` stays a text where a text is declared.
    ///
    /// # Errors
    /// A sentence that names the input.
    pub fn parse(&self, text: &str) -> Result<Value, String> {
        let value = parse_kind(self.kind, text).ok_or_else(|| {
            format!("input `{}` is of type {}: `{text}` is not", self.name, self.type_words())
        })?;
        self.check(&value)?;
        Ok(value)
    }

    /// Reads the value of one entry of a map or object, given as `name.key=text`.
    ///
    /// # Errors
    /// A sentence that names the input.
    pub fn parse_entry(&self, key: &str, text: &str) -> Result<Value, String> {
        let name = &self.name;
        match (self.kind, self.of) {
            (InputKind::Map, Some(of)) => parse_kind(of, text)
                .ok_or_else(|| format!("input `{name}.{key}` is of type {}: `{text}` is not", kind_word(of))),
            (InputKind::Object, _) => Ok(serde_json::from_str(text).unwrap_or_else(|_| text.into())),
            _ => Err(format!("input `{name}` is a {}: it has no `{key}`", self.type_words())),
        }
    }
}

fn kind_word(kind: InputKind) -> &'static str {
    match kind {
        InputKind::String => "string",
        InputKind::Integer => "integer",
        InputKind::Number => "number",
        InputKind::Boolean => "boolean",
        InputKind::Choice => "choice",
        InputKind::List => "list",
        InputKind::Map => "map",
        InputKind::Object => "object",
    }
}

fn check_kind(kind: InputKind, value: &Value) -> Result<(), &'static str> {
    match (kind, value) {
        (InputKind::String | InputKind::Choice, Value::String(_))
        | (InputKind::Number, Value::Number(_))
        | (InputKind::Boolean, Value::Bool(_))
        | (InputKind::List, Value::Array(_))
        | (InputKind::Map | InputKind::Object, Value::Object(_)) => Ok(()),
        (InputKind::Integer, Value::Number(number)) if number.is_i64() || number.is_u64() => Ok(()),
        (InputKind::String | InputKind::Choice, _) => Err("a text"),
        (InputKind::Integer, _) => Err("an integer"),
        (InputKind::Number, _) => Err("a number"),
        (InputKind::Boolean, _) => Err("true or false"),
        (InputKind::List, _) => Err("a list"),
        (InputKind::Map | InputKind::Object, _) => Err("a map"),
    }
}

fn parse_kind(kind: InputKind, text: &str) -> Option<Value> {
    match kind {
        InputKind::String | InputKind::Choice => Some(text.into()),
        InputKind::Integer => text.parse::<i64>().ok().map(Value::from),
        InputKind::Number => match text.parse::<i64>() {
            Ok(integer) => Some(integer.into()),
            Err(_) => text.parse::<f64>().ok().and_then(serde_json::Number::from_f64).map(Value::Number),
        },
        InputKind::Boolean => text.parse::<bool>().ok().map(Value::from),
        InputKind::List => serde_json::from_str(text).ok().filter(Value::is_array).or_else(|| {
            // `a,b,c` is how people write lists on a command line.
            Some(text.split(',').filter(|item| !item.is_empty()).map(Value::from).collect())
        }),
        InputKind::Map | InputKind::Object => serde_json::from_str(text).ok().filter(Value::is_object),
    }
}

/// Reads `key=value` pairs of a command line by the declared types.
///
/// # Errors
/// Every mistake as a sentence.
pub fn parse_pairs<'p>(
    inputs: &[Input],
    pairs: impl IntoIterator<Item = &'p str>,
) -> Result<Map<String, Value>, Vec<String>> {
    let mut given: Map<String, Value> = Map::new();
    let mut wrong = Vec::new();
    for pair in pairs {
        let Some((path, text)) = pair.split_once('=') else {
            wrong.push(format!("`{pair}` is not an input: write `-i name=value`"));
            continue;
        };
        let (name, entry) = path.split_once('.').map_or((path, None), |(name, entry)| (name, Some(entry)));
        let Some(input) = inputs.iter().find(|input| input.name == name) else {
            wrong.push(unknown(inputs, name));
            continue;
        };
        let parsed = match entry {
            None => input.parse(text).map(|value| {
                given.insert(name.to_owned(), value);
            }),
            Some(entry) => input.parse_entry(entry, text).map(|value| {
                let map = given.entry(name).or_insert_with(|| Value::Object(Map::new()));
                if let Value::Object(map) = map {
                    map.insert(entry.to_owned(), value);
                }
            }),
        };
        wrong.extend(parsed.err());
    }
    if wrong.is_empty() { Ok(given) } else { Err(wrong) }
}

fn unknown(inputs: &[Input], name: &str) -> String {
    match nearest(name, inputs.iter().map(|input| input.name.as_str())) {
        Some(near) => format!("the workflow has no input `{name}`; did you mean `{near}`?"),
        None => {
            let known: Vec<String> = inputs.iter().map(|input| input.name.clone()).collect();
            format!("the workflow has no input `{name}`: it has {}", list(&known))
        }
    }
}

/// Fills in defaults, and `null` for what is absent, and checks everything.
///
/// # Errors
/// Every mistake as a sentence.
pub fn complete(
    inputs: &[Input],
    mut given: Map<String, Value>,
) -> Result<BTreeMap<String, Value>, Vec<String>> {
    let mut wrong = Vec::new();
    let mut complete = BTreeMap::new();
    for input in inputs {
        let value = match given.remove(&input.name).filter(|value| !value.is_null()) {
            Some(value) => {
                wrong.extend(input.check(&value).err());
                value
            }
            None if input.required => {
                let example = match input.kind {
                    InputKind::Map => format!("-i {}.KEY=VALUE", input.name),
                    _ => format!("-i {}=VALUE", input.name),
                };
                wrong.push(format!(
                    "input `{}` ({}) is required: give it with `{example}`",
                    input.name,
                    input.type_words()
                ));
                Value::Null
            }
            None => input.default.clone().unwrap_or(Value::Null),
        };
        complete.insert(input.name.clone(), value);
    }
    wrong.extend(given.keys().map(|name| unknown(inputs, name)));
    if wrong.is_empty() { Ok(complete) } else { Err(wrong) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn input(name: &str, file: Value) -> Input {
        Input::new(name, &serde_json::from_value(file).expect("shape")).expect("valid")
    }

    #[test]
    fn a_command_line_is_read_by_the_declared_types() {
        let inputs = [
            input("tag", json!({"type": "string", "default": "gray"})),
            input("images", json!({"type": "map", "of": "string", "required": true})),
            input("n", json!({"type": "integer"})),
            input("mode", json!({"type": "choice", "options": ["fast", "slow"]})),
            input("list", json!({"type": "list", "of": "string"})),
        ];
        let given = parse_pairs(&inputs, ["tag=007", "images.a=x:1", "images.b.c=y=2", "n=3", "list=a,b"])
            .expect("valid");
        assert_eq!(
            Value::Object(given.clone()),
            json!({"tag": "007", "images": {"a": "x:1", "b.c": "y=2"}, "n": 3, "list": ["a", "b"]})
        );
        let complete = complete(&inputs, given).expect("complete");
        assert_eq!(complete["mode"], Value::Null);

        let wrong = parse_pairs(&inputs, ["tga=1", "n=x", "mode=fats", "x"]).expect_err("wrong");
        assert_eq!(
            wrong,
            [
                "the workflow has no input `tga`; did you mean `tag`?",
                "input `n` is of type integer: `x` is not",
                "input `mode` cannot be `fats`: one of `fast` and `slow`; did you mean `fast`?",
                "`x` is not an input: write `-i name=value`",
            ]
        );
        let missing = super::complete(&inputs, Map::new()).expect_err("missing");
        assert_eq!(
            missing,
            ["input `images` (map of string) is required: give it with `-i images.KEY=VALUE`"]
        );
    }
}
