//! Requests made from the document, right and wrong: every operation, every role. Nothing may fail inside or hang, and
//! every answer is one that the document describes.

use std::collections::BTreeMap;
use std::time::Duration;

use jsonschema::Validator;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::support::Home;
use crate::support::daemon::{Daemon, QUICK, Reply, WAITS};

/// How long one answer may take.
const WITHIN: Duration = Duration::from_secs(30);

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

/// What the document says of answers.
struct Described {
    /// By operation: the media type of a good answer, and what each value of it is.
    good: BTreeMap<String, (String, Validator)>,
    problem: Validator,
}

impl Described {
    fn new(document: &Value) -> Described {
        // References point into the document: a schema is judged with the document's own around it.
        let validator = |schema: &Value| {
            let schema = json!({ "allOf": [schema], "components": document["components"] });
            jsonschema::draft202012::new(&schema).unwrap_or_else(|error| panic!("{error}: {schema}"))
        };
        let operations = document["paths"].as_object().expect("paths").values();
        let operations = operations.flat_map(|path| path.as_object().expect("operations").values());
        let good = operations.map(|operation| {
            let content = operation["responses"]["200"]["content"].as_object().expect("a good answer");
            let (media, described) = content.iter().next().expect("a media type");
            let id = operation["operationId"].as_str().expect("a name");
            (id.to_owned(), (media.clone(), validator(&described["schema"])))
        });
        let problem = &document["components"]["responses"]["problem"]["content"]["application/problem+json"];
        Described { good: good.collect(), problem: validator(&problem["schema"]) }
    }

    /// Why this is not an answer of the operation; `None` where it is one.
    fn wrong(&self, operation: &str, reply: &Reply) -> Option<String> {
        if reply.status >= 400 {
            // Which code it is, is one of those that the document lists.
            reply.code();
            return misfit(&self.problem, &reply.json());
        }
        let (media, validator) = &self.good[operation];
        let kind = reply.header("content-type").unwrap_or_default();
        if kind.split(';').next() != Some(media.as_str()) {
            return Some(format!("{kind} instead of {media}"));
        }
        let lines = |prefix: &str| -> Vec<Value> {
            let lines = reply.body.lines().filter_map(|line| line.strip_prefix(prefix));
            lines
                .filter(|line| !line.is_empty())
                .map(|line| serde_json::from_str(line).expect("JSON"))
                .collect()
        };
        let values = match media.as_str() {
            "application/json" => vec![reply.json()],
            "application/x-ndjson" => lines(""),
            "text/event-stream" => lines("data: "),
            _ => vec![reply.body.clone().into()],
        };
        values.iter().find_map(|value| misfit(validator, value))
    }
}

fn misfit(validator: &Validator, value: &Value) -> Option<String> {
    let misfit = validator.iter_errors(value).next()?;
    Some(format!("{misfit} at {}: {value}", misfit.instance_path()))
}

/// A request of an operation, right or wrong.
struct Made {
    address: String,
    headers: Vec<(String, String)>,
    body: Option<Vec<u8>>,
}

fn made(path: &str, operation: &Value, document: &Value, run: &str, random: &mut Random) -> Made {
    let (mut address, mut query, mut headers) = (path.to_owned(), String::new(), Vec::new());
    for parameter in operation["parameters"].as_array().into_iter().flatten() {
        let name = parameter["name"].as_str().expect("a name");
        let made = match name {
            // Another one waits, and following it would wait with it.
            "run" | "other" if random.below(4) > 0 => run.to_owned(),
            "source" | "workflow" | "environment" if random.below(4) > 0 => {
                [("source", "workflows"), ("workflow", "quick"), ("environment", "production")]
                    .iter()
                    .find(|(known, _)| *known == name)
                    .map_or_else(String::new, |(_, value)| (*value).to_owned())
            }
            _ => value(&parameter["schema"], document, random, 0).to_string().trim_matches('"').to_owned(),
        };
        match parameter["in"].as_str() {
            Some("path") => {
                let made = if made.is_empty() || made == "latest" { "x" } else { &made };
                address = address.replace(&format!("{{{name}}}"), &escaped(made));
            }
            Some("query") if random.below(2) == 0 => query.push_str(&format!("&{name}={}", escaped(&made))),
            Some("header")
                if random.below(2) == 0 && made.bytes().all(|byte| (b' '..0x7f).contains(&byte)) =>
            {
                headers.push((name.to_owned(), made));
            }
            _ => {}
        }
    }
    if !query.is_empty() {
        address = format!("{address}?{}", &query[1..]);
    }
    let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
    let body = (!schema.is_null()).then(|| {
        let body = value(schema, document, random, 0).to_string().into_bytes();
        match random.below(12) {
            // Cut short, or nothing like it.
            0 => body[..random.below(body.len())].to_vec(),
            1 => vec![0xff; random.below(64)],
            2 => "[".repeat(random.below(5_000)).into_bytes(),
            _ => body,
        }
    });
    if body.is_some() {
        let kind = if random.below(20) == 0 { "text/plain" } else { "application/json" };
        headers.push(("content-type".into(), kind.into()));
    }
    Made { address, headers, body }
}

fn send(daemon: &Daemon, method: &str, made: &Made, token: Option<&str>) -> (Reply, Duration) {
    let bearer = token.map(|token| ("authorization".to_owned(), format!("Bearer {token}")));
    let headers: Vec<(&str, &str)> =
        made.headers.iter().chain(&bearer).map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let began = Instant::now();
    let reply = daemon.send(method, &made.address, &headers, made.body.as_deref().unwrap_or_default());
    (reply, began.elapsed())
}

#[test]
fn whatever_is_asked_of_any_operation_is_answered_as_the_document_says_and_nothing_fails_inside() {
    let home = Home::new();
    home.write("workflows/quick.yaml", &QUICK.replace("name: release", "name: quick"));
    let boss = home.token("boss", "admin", &[]);
    let tokens =
        ["viewer", "operator", "approver", "admin"].map(|role| home.token(&format!("the-{role}"), role, &[]));
    let daemon = home.serve(&[]);
    let run = daemon.submit(&boss, QUICK);
    daemon.submit(&boss, WAITS);
    daemon.until(&boss, &run, "succeeded");
    let document = daemon.ask("GET", "/api/v1/openapi.json", None, None).json();
    let described = Described::new(&document);
    let mut random = Random(6);
    let (mut asked, mut wrong) = (0, Vec::new());
    let mut good = std::collections::BTreeSet::new();
    for (path, operations) in document["paths"].as_object().expect("paths") {
        for (method, operation) in operations.as_object().expect("operations") {
            let id = operation["operationId"].as_str().expect("a name");
            // It goes on until somebody hangs up.
            let endless = id == "streamEvents";
            for round in 0..if endless { 0 } else { ROUNDS } {
                let made = made(path, operation, &document, &run, &mut random);
                // Now and then nobody in particular.
                let token = (random.below(12) > 0).then(|| tokens[round % 4].as_str());
                let (reply, took) = send(&daemon, &method.to_uppercase(), &made, token);
                asked += 1;
                let shown = || {
                    let body = made.body.as_ref().map(|body| String::from_utf8_lossy(body).into_owned());
                    format!("{method} {} {:?} {body:?}: {reply:?}", made.address, made.headers)
                };
                assert!((200..500).contains(&reply.status), "{}", shown());
                assert!(took < WITHIN, "{took:?}: {}", shown());
                if reply.status != 304
                    && let Some(why) = described.wrong(id, &reply)
                {
                    wrong.push(format!("{id}: {why}\n  {}", shown()));
                }
                if reply.status == 200 {
                    good.insert(id.to_owned());
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {asked}:\n{}", wrong.len(), wrong[..wrong.len().min(10)].join("\n"));
    assert!(asked > 1_000, "{asked}");
    // It says nothing where nothing was done: most operations were carried out too.
    assert!(
        good.len() * 10 > described.good.len() * 6,
        "{} of {}: {good:?}",
        good.len(),
        described.good.len()
    );
    assert_eq!(daemon.get("/api/v1/health", &boss).status, 200);
}

/// The control: the check notices an answer that is another one.
#[test]
fn an_answer_that_the_document_does_not_describe_is_noticed() {
    let home = Home::new();
    let document = home.graylane(&["schema", "api"]).expect(0).json();
    let described = Described::new(&document);
    let reply = |status: u16, kind: &str, body: Value| Reply {
        status,
        head: format!("HTTP/1.1 {status} x\ncontent-type: {kind}"),
        body: body.to_string(),
    };
    let json = "application/json";
    assert_eq!(described.wrong("submitRun", &reply(200, json, json!({ "id": "x" }))), None);
    for answer in [
        reply(200, json, json!({ "id": 7 })),
        reply(200, json, json!({})),
        reply(200, "text/html", json!({ "id": "x" })),
        reply(400, "application/problem+json", json!({ "status": 400, "code": "another", "detail": "x" })),
    ] {
        assert!(described.wrong("submitRun", &answer).is_some(), "{answer:?}");
    }
}
