//! Requests made from the document, right and wrong: every operation, every role; nothing may fail inside or hang.

use serde_json::{Map, Value, json};

use crate::support::Home;
use crate::support::daemon::{QUICK, WAITS};

/// How many requests each operation gets.
const ROUNDS: usize = 24;

/// A splitmix64 sequence: the same requests each time.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % end.max(1) as u64) as usize
    }

    fn pick<'v>(&mut self, values: &[&'v str]) -> &'v str {
        values[self.below(values.len())]
    }
}

const TEXTS: &[&str] = &[
    "",
    "x",
    "latest",
    "production",
    "release",
    "spring-a",
    "gray",
    "1h",
    "0",
    "-1",
    "\u{0}",
    "../../etc/passwd",
    "ü 🦀",
    "99999999999999999999",
    "viewer",
    "${{ secrets.x }}",
    "a\nb",
];

/// A value of this schema, or now and then of none.
fn value(schema: &Value, document: &Value, random: &mut Random, depth: usize) -> Value {
    if depth > 6 || random.below(12) == 0 {
        return [json!(null), json!(7), json!("x"), json!([]), json!({}), json!(true)][random.below(6)]
            .clone();
    }
    if let Some(to) = schema["$ref"].as_str().and_then(|to| to.strip_prefix('#')) {
        return value(document.pointer(to).unwrap_or(&Value::Null), document, random, depth + 1);
    }
    for choice in ["oneOf", "anyOf"] {
        if let Some(branches) = schema[choice].as_array() {
            let branch = &branches[random.below(branches.len())];
            let mut made = value(branch, document, random, depth + 1);
            if let (Some(made), Value::Object(more)) =
                (made.as_object_mut(), object(schema, document, random, depth))
            {
                made.extend(more);
            }
            return made;
        }
    }
    if let Some(values) = schema["enum"].as_array() {
        return values[random.below(values.len())].clone();
    }
    if let Some(only) = schema.get("const") {
        return only.clone();
    }
    let kind = schema["type"].as_str().or_else(|| schema["type"].get(0).and_then(Value::as_str));
    match kind {
        Some("string") => random.pick(TEXTS).into(),
        Some("integer" | "number") => {
            [json!(0), json!(1), json!(500), json!(-1), json!(u64::MAX)][random.below(5)].clone()
        }
        Some("boolean") => json!(random.below(2) == 0),
        Some("array") => {
            (0..random.below(3)).map(|_| value(&schema["items"], document, random, depth + 1)).collect()
        }
        Some("object") => object(schema, document, random, depth),
        _ => json!({ random.pick(TEXTS): random.pick(TEXTS) }),
    }
}

fn object(schema: &Value, document: &Value, random: &mut Random, depth: usize) -> Value {
    let required = schema["required"].as_array();
    let mut made = Map::new();
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let needed = required.is_some_and(|required| required.iter().any(|one| one == name));
        if random.below(if needed { 20 } else { 2 }) != 1 {
            made.insert(name.clone(), value(property, document, random, depth + 1));
        }
    }
    Value::Object(made)
}

/// As it stands in an address.
fn escaped(text: &str) -> String {
    text.bytes()
        .map(
            |byte| {
                if byte.is_ascii_alphanumeric() {
                    char::from(byte).to_string()
                } else {
                    format!("%{byte:02X}")
                }
            },
        )
        .collect()
}

#[test]
fn whatever_is_asked_of_any_operation_is_answered_and_nothing_fails_inside() {
    let home = Home::new();
    let boss = home.token("boss", "admin", &[]);
    let tokens =
        ["viewer", "operator", "approver", "admin"].map(|role| home.token(&format!("the-{role}"), role, &[]));
    let daemon = home.serve(&[]);
    let runs = [daemon.submit(&boss, QUICK), daemon.submit(&boss, WAITS)];
    let document = daemon.ask("GET", "/api/v1/openapi.json", None, None).json();
    let mut random = Random(6);
    let mut asked = 0;
    for (path, operations) in document["paths"].as_object().expect("paths") {
        for (method, operation) in operations.as_object().expect("operations") {
            // It goes on until somebody hangs up.
            let endless = operation["operationId"] == "streamEvents";
            for round in 0..if endless { 0 } else { ROUNDS } {
                let mut address = path.clone();
                let mut query = String::new();
                for parameter in operation["parameters"].as_array().into_iter().flatten() {
                    let name = parameter["name"].as_str().expect("a name");
                    let made = match name {
                        // The second one waits, and following it would wait with it.
                        "run" if random.below(4) > 0 => runs[0].clone(),
                        _ => value(&parameter["schema"], &document, &mut random, 0)
                            .to_string()
                            .trim_matches('"')
                            .to_owned(),
                    };
                    match parameter["in"].as_str() {
                        Some("path") => {
                            address = address.replace(
                                &format!("{{{name}}}"),
                                &escaped(if made.is_empty() || made == "latest" { "x" } else { &made }),
                            )
                        }
                        Some("query") if random.below(2) == 0 => {
                            query.push_str(&format!("&{name}={}", escaped(&made)))
                        }
                        _ => {}
                    }
                }
                if !query.is_empty() {
                    address = format!("{address}?{}", &query[1..]);
                }
                let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
                let body = (!schema.is_null()).then(|| value(schema, &document, &mut random, 0));
                let reply =
                    daemon.ask(&method.to_uppercase(), &address, Some(&tokens[round % 4]), body.as_ref());
                asked += 1;
                assert!((200..500).contains(&reply.status), "{method} {address} {body:?}: {reply:?}");
                if reply.status >= 400 {
                    reply.code();
                }
            }
        }
    }
    assert!(asked > 500, "{asked}");
    assert_eq!(daemon.get("/api/v1/health", &boss).status, 200);
}
