//! The written list of mistakes in workflow files, and what is said of each: line, column, mark, words.
//!
//! A row is read on its own first. Then all rows that are not about syntax are put into one file, where every one of
//! them must be told again at its new line. The list is `catalogue.rs`; nothing here looks inside the validator.

mod catalogue;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use async_trait::async_trait;
use graylane_engine::bundle::Bundle;
use graylane_engine::document::{Problem, Severity, step};
use graylane_engine::graph::{Checked, Known, check, check_names};
use graylane_engine::task::{Registry, Site};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::cluster::{Clusters, Rehearse};
use crate::environment::{self, Gathered, gather};
use crate::secret::DigestKey;
use Kind::{AcrossFiles, Cron, Expression, Graph, Structure, Syntax, Type};
use Stands::{Alone, Input, Task, Top, Trigger};
use catalogue::CATALOGUE;

/// Where the lines of a row stand.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Stands {
    /// They are the whole file: a mistake of syntax, or one that contradicts the rest of the one file.
    Alone,
    /// Keys of the workflow.
    Top,
    /// Below `inputs`.
    Input,
    /// Below `triggers`.
    Trigger,
    /// Below `tasks`.
    Task,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Syntax,
    Structure,
    Type,
    Expression,
    Graph,
    Cron,
    AcrossFiles,
}

struct Row {
    kind: Kind,
    /// The mistake, in words.
    name: &'static str,
    stands: Stands,
    yaml: &'static str,
    /// Every problem: ``LINE:COLUMN `what is marked`: message (label) [hint; hint]``.
    told: &'static [&'static str],
}

const fn row(
    kind: Kind,
    name: &'static str,
    stands: Stands,
    yaml: &'static str,
    told: &'static [&'static str],
) -> Row {
    Row { kind, name, stands, yaml, told }
}

/// A valid workflow that rows are put into; every section is open at its end.
const TOP: &str = "name: release\n";
const INPUTS: &str = "\
inputs:
  tag: { type: string, default: gray }
  images: { type: map, of: string, default: { spring-a: 'a:2' } }
  keep: { type: boolean, default: false }
";
const TRIGGERS: &str = "\
triggers:
  - { name: nightly, cron: 30 2 * * 1-5, timezone: Asia/Shanghai }
";
const TASKS: &str = "\
tasks:
  deploy:
    type: mse-gray-deploy
    with: { environment: production, tag: '${{ inputs.tag }}', images: '${{ inputs.images }}' }
  other-end:
    type: mse-gray-offline
    needs: [deploy]
    with: { environment: production, tag: '${{ inputs.tag }}' }
";

struct NoCluster;

#[async_trait]
impl Rehearse for NoCluster {
    async fn connect(&self, _site: &environment::Site) -> Result<(kube::Client, String), String> {
        Err("these tests have no cluster".into())
    }
}

fn registry() -> &'static Registry {
    static REGISTRY: OnceLock<Registry> = OnceLock::new();
    REGISTRY.get_or_init(|| {
        let mut registry = Registry::default();
        crate::register(&mut registry, &Clusters::new(NoCluster), &DigestKey::new([7; 32]));
        registry
    })
}

/// The example's environment, and one of another team that allows no workflow of ours.
fn gathered(more: &[(&str, &str)]) -> Gathered {
    let folder = tempfile::tempdir().expect("a folder");
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config");
    for from in ["environments", "services"] {
        fs::create_dir(folder.path().join(from)).expect("a folder");
        for entry in fs::read_dir(config.join(from)).expect("the example").flatten() {
            fs::copy(entry.path(), folder.path().join(from).join(entry.file_name())).expect("a copy");
        }
    }
    let example = fs::read_to_string(config.join("environments/production.yaml")).expect("the example");
    let staging = example
        .replace("name: production", "name: staging")
        .replace("[release, mse-gray-workflow, prod-workflow]", "[rehearse]");
    fs::write(folder.path().join("environments/staging.yaml"), staging).expect("written");
    for (path, text) in more {
        fs::write(folder.path().join(path), text).expect("written");
    }
    gather(&folder.path().join("environments"), &DigestKey::new([7; 32]))
}

fn files() -> &'static Bundle {
    static FILES: OnceLock<Bundle> = OnceLock::new();
    FILES.get_or_init(|| {
        let gathered = gathered(&[]);
        assert_eq!(gathered.problems, []);
        gathered.bundle
    })
}

fn checked(file: &str, text: &[u8]) -> Checked {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    let known = Known { vars: names(&["region"]), secrets: names(&["token"]) };
    check(file, text, registry(), &known, Site { workflow: None, files: files() })
}

/// A problem without its place: what the one file must repeat.
fn words(problem: &Problem) -> String {
    let warning = if problem.severity == Severity::Warning { "warning: " } else { "" };
    let label = if problem.label.is_empty() { String::new() } else { format!(" ({})", problem.label) };
    let hints =
        if problem.hints.is_empty() { String::new() } else { format!(" [{}]", problem.hints.join("; ")) };
    format!("{warning}{}{label}{hints}", problem.message)
}

fn told(problem: &Problem, text: &str) -> String {
    let Some(place) = &problem.place else { return words(problem) };
    let marked = &text[place.bytes.clone()];
    format!("{}:{} `{marked}`: {}", place.line, place.column, words(problem))
}

fn file_of(rows: &[&Row]) -> (String, Vec<usize>) {
    let mut file = String::new();
    let mut begins = vec![0; rows.len()];
    for (section, base) in [(Top, TOP), (Input, INPUTS), (Trigger, TRIGGERS), (Task, TASKS)] {
        file.push_str(base);
        for (index, row) in rows.iter().enumerate().filter(|(_, row)| row.stands == section) {
            begins[index] = file.lines().count() + 1;
            file.push_str(row.yaml);
        }
    }
    (file, begins)
}

fn text_of(row: &Row) -> (String, usize) {
    if row.stands == Alone {
        return (row.yaml.to_owned(), 1);
    }
    let (text, begins) = file_of(&[row]);
    (text, begins[0])
}

/// What is told of a file, in its order.
fn all_told(text: &str) -> Vec<String> {
    checked("f.yaml", text.as_bytes()).problems.iter().map(|problem| told(problem, text)).collect()
}

#[test]
fn the_base_of_the_list_has_no_mistake() {
    let (text, _) = file_of(&[]);
    let checked = checked("f.yaml", text.as_bytes());
    assert_eq!(checked.problems, []);
    assert_eq!(checked.graph.expect("a graph").len(), 2);
}

#[test]
fn every_mistake_is_told_at_its_line_and_column() {
    let mut wrong = Vec::new();
    for row in CATALOGUE {
        let (text, _) = text_of(row);
        let told = all_told(&text);
        if told != row.told {
            let told: String = told.iter().map(|told| format!("        {told:?},\n")).collect();
            wrong.push(format!("// {:?}: {}\n{}\n    &[\n{told}    ]", row.kind, row.name, row.yaml));
        }
    }
    assert!(wrong.is_empty(), "{} rows\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn the_list_is_long_enough_and_names_every_mistake_once() {
    let count = |kind: Kind| CATALOGUE.iter().filter(|row| row.kind == kind).count();
    for (kind, at_least) in
        [(Syntax, 1), (Structure, 12), (Type, 8), (Expression, 8), (Graph, 4), (Cron, 4), (AcrossFiles, 4)]
    {
        assert!(count(kind) >= at_least, "{kind:?}: {}", count(kind));
    }
    let names: BTreeSet<&str> = CATALOGUE.iter().map(|row| row.name).collect();
    assert_eq!(names.len(), CATALOGUE.len());
    assert!(CATALOGUE.iter().all(|row| !row.told.is_empty()));
}

/// Without the lines and list numbers that a message itself names.
fn without_numbers(told: &str) -> String {
    let mut told = told.to_owned();
    for number in ["in line ", "item "] {
        if let Some((before, after)) = told.split_once(number) {
            told = format!("{before}{number}N{}", after.trim_start_matches(|c: char| c.is_ascii_digit()));
        }
    }
    told
}

#[test]
fn all_mistakes_in_one_file_are_all_told_and_nothing_else() {
    let rows: Vec<&Row> = CATALOGUE.iter().filter(|row| row.stands != Alone).collect();
    let (text, begins) = file_of(&rows);
    let mut expected = Vec::new();
    for (row, begin) in rows.iter().zip(begins) {
        let (_, alone) = text_of(row);
        for told in row.told {
            let (line, rest) = told.split_once(':').expect("a line");
            let line: usize = line.parse().expect("a line");
            expected.push(without_numbers(&format!("{}:{rest}", line - alone + begin)));
        }
    }
    let mut found: Vec<String> = all_told(&text).iter().map(|told| without_numbers(told)).collect();
    let mut missing = Vec::new();
    for told in expected {
        match found.iter().position(|found| *found == told) {
            Some(at) => drop(found.remove(at)),
            None => missing.push(told),
        }
    }
    assert!(missing.is_empty() && found.is_empty(), "missing: {missing:#?}\nnoise: {found:#?}");
}

#[test]
fn line_ends_and_byte_order_marks_change_no_place() {
    for row in CATALOGUE {
        let (text, _) = text_of(row);
        let crlf = text.replace('\n', "\r\n");
        assert_eq!(all_told(&crlf), row.told, "{}", row.name);
        let marked = [b"\xef\xbb\xbf", text.as_bytes()].concat();
        let problems = checked("f.yaml", &marked).problems;
        let told: Vec<String> = problems.iter().map(|problem| told(problem, &text)).collect();
        assert_eq!(told, row.told, "{}", row.name);
    }
}

#[test]
fn two_workflows_of_one_name_are_told_in_both_files() {
    let (text, _) = file_of(&[]);
    let files = [("a.yaml", "release"), ("b.yaml", "release"), ("c.yaml", "prod-workflow")];
    let mut files: Vec<(String, Checked)> = files
        .map(|(file, name)| {
            let text = text.replace("name: release", &format!("name: {name}"));
            (file.to_owned(), checked(file, text.as_bytes()))
        })
        .into();
    check_names(&mut files);
    let told: Vec<String> = files
        .iter()
        .flat_map(|(_, checked)| checked.problems.iter().map(|p| format!("{}: {}", p.file, words(p))))
        .collect();
    assert_eq!(
        told,
        [
            "a.yaml: two workflows are called `release` [the other one is in `b.yaml`; give one of them another name]",
            "b.yaml: two workflows are called `release` [the other one is in `a.yaml`; give one of them another name]",
        ]
    );
    let usable: Vec<bool> = files.iter().map(|(_, checked)| checked.graph.is_some()).collect();
    assert_eq!(usable, [false, false, true]);
}

const BROKEN: &str = "\
name: broken
cluster: rehersal
namespace: Mse
gateway: { kind: nginx, address: localhost }
services: ../services
allow: {}
allow: { workflows: [] }
owner: me
";
const NOWHERE: &str = "\
name: nowhere
cluster: rehearsal
namespace: mse
gateway: { kind: mse, address: 'http://127.0.0.1:1' }
services: ../nothing
allow: { workflows: [] }
";

const ODD: &str = "\
name: odd
cluster: rehearsal
namespace: mse
gateway: { kind: mse, address: 'http://127.0.0.1:1' }
services: ../services
service_options:
  nacso: { gray: false }
  spring-a: { gray: true }
chain: [spring-a, billing, spring-c]
allow: { workflows: [] }
";

#[test]
fn a_broken_environment_beside_good_ones_loses_nothing() {
    let gathered = gathered(&[
        ("environments/broken.yaml", BROKEN),
        ("environments/context.yaml", &NOWHERE.replace("rehearsal", "{ contxt: production }")),
        ("environments/nowhere.yaml", NOWHERE),
        ("environments/odd.yaml", ODD),
        ("environments/numbered.yaml", &NOWHERE.replace("rehearsal", "3")),
        ("environments/tabbed.yaml", "name:\n\ttabbed\n"),
        ("environments/twin.yaml", &NOWHERE.replace("name: nowhere", "name: production")),
    ]);
    assert_eq!(environment::names(&gathered.bundle), ["nowhere", "production", "staging"]);
    let production = environment::Site::load(&gathered.bundle, "production").expect("a site");
    assert_eq!(production.services.len(), 4, "the first of two files of one name holds");
    let told: Vec<String> = gathered
        .problems
        .iter()
        .map(|problem| {
            let file = Path::new(&problem.file).file_name().and_then(|name| name.to_str());
            let place = problem.place.as_ref().map(|place| format!(":{}:{}", place.line, place.column));
            // Folders of tests have names that differ each time.
            let words = words(problem);
            let words = words.split(" [the ").next().unwrap_or_default();
            format!("{}{}: {words}", file.unwrap_or_default(), place.unwrap_or_default())
        })
        .collect();
    assert_eq!(told, TOLD_OF_ENVIRONMENTS, "{told:#?}");
}

#[rustfmt::skip]
const TOLD_OF_ENVIRONMENTS: &[&str] = &[
    "broken.yaml:2:10: `cluster` cannot be `rehersal` (did you mean `rehearsal`?)",
    "broken.yaml:3:12: `namespace` cannot be `Mse` (a namespace has up to 63 small letters, digits and `-`)",
    "broken.yaml:4:18: `kind` cannot be `nginx` (one of `mse`, `higress`, `ingress-nginx` and `gateway-api`)",
    "broken.yaml:4:34: `address` cannot be `localhost` (an address is `http://HOST:PORT` or `https://HOST:PORT`)",
    "broken.yaml:6:1: `allow` lacks `workflows` (`workflows` is required here)",
    "broken.yaml:7:1: duplicate key `allow` (`allow` is already set in line 6) [keep one of the two]",
    "broken.yaml:8:1: unknown key `owner` (not a key of the environment)",
    "context.yaml:2:1: `cluster` lacks `kubeconfig` (`kubeconfig` is required here)",
    "context.yaml:2:12: unknown key `contxt` (did you mean `context`?) [`cluster` knows `context` and `kubeconfig`]",
    "nowhere.yaml: `services` names ../nothing, which is no folder",
    "numbered.yaml:2:10: `cluster` must be a text or a map, not an integer (`rehearsal`, `in-cluster` or `{ kubeconfig: FILE, context: NAME }`)",
    "odd.yaml:7:3: environment `odd` has no service `nacso` (did you mean `nacos`?)",
    "odd.yaml:9:19: environment `odd` has no service `billing` (there is no billing.yaml among its manifests)",
    "tabbed.yaml:2:1: a tab stands where YAML counts blanks [indent with blanks]",
    "twin.yaml: two environments are called `production`",
];

/// A workflow that uses every key there is.
fn everything() -> Value {
    let check = json!({
        "name": "a", "samples": 3, "interval": "1s", "success_rate": 0.5, "settle": "2s",
        "http": { "path": "/a", "as": "lane", "method": "GET", "headers": { "accept": "text/plain" },
                  "expect": { "status": 200, "body_matches": "^A", "body_excludes": "B" } },
    });
    let entry = json!({ "service": "spring-a", "header": { "name": "x-user-id", "value": "100" } });
    json!({
        "name": "release",
        "description": "everything",
        "inputs": {
            "tag": { "type": "string", "default": "gray", "pattern": "[a-z]+", "description": "d" },
            "mode": { "type": "choice", "options": ["up", "down"], "default": "up" },
            "images": { "type": "map", "of": "string", "default": { "spring-a": "a:2" } },
            "count": { "type": "integer", "required": true },
        },
        "triggers": [{
            "name": "nightly", "cron": "30 2 * * 1-5", "timezone": "UTC", "inputs": { "count": 3 },
            "only": ["deploy"], "skip": ["verify"], "policy": "queue", "missed": "latest",
            "start_deadline": "5m", "jitter": "10s",
        }],
        "concurrency": { "group": "g", "policy": "latest" },
        "undo": "never",
        "timeout": "2h",
        "tasks": {
            "deploy": {
                "type": "mse-gray-deploy", "needs": [], "when": "${{ inputs.mode == 'up' }}",
                "retry": { "attempts": 3, "backoff": "1s", "factor": 2.5, "max_backoff": "1m" },
                "timeout": "10m", "on_failure": "stop",
                "with": {
                    "environment": "production", "tag": "${{ inputs.tag }}",
                    "images": { "spring-a": "a:2", "spring-b": { "spring-cloud-b": "b:2" } },
                    "services": { "spring-c": {
                        "images": { "spring-cloud-c": "c:2" }, "replicas": 2, "shared_claims": ["store"] } },
                    "entry": entry,
                },
            },
            "verify": {
                "type": "generic-verify", "needs": ["deploy"],
                "with": {
                    "environment": "production", "tag": "gray",
                    "checks": [check, { "name": "b", "rollout": {} }],
                },
            },
            "promote": {
                "type": "prod-deploy", "needs": ["verify", "deploy"],
                "with": {
                    "environment": "production", "images": "${{ tasks.deploy.outputs.images }}",
                    "order": ["spring-c", "spring-a"], "rollback": "never", "force": ["helm"],
                },
            },
            "offline": {
                "type": "mse-gray-offline", "needs": ["promote"], "on_failure": "continue",
                "with": {
                    "environment": "production", "tag": "gray", "services": ["spring-a"], "drain": "4s",
                    "on_missing": "pass",
                },
            },
        },
    })
}

/// What only a library, or the compiler, would say.
const NOT_OUR_WORDS: &[&str] = &[
    "is not valid (",
    "oneOf",
    "anyOf",
    "$ref",
    "u32",
    "i64",
    "usize",
    "invalid type",
    "invalid value",
    "struct ",
    "variant",
    "Option",
    "serde",
    "schema",
    "the file cannot be read",
    "null",
    "object",
    "scalar",
    "mapping",
];

/// What must hold of anything that is told.
fn assert_sound(text: &str, checked: &Checked) {
    let errors = checked.problems.iter().filter(|problem| problem.severity == Severity::Error).count();
    assert_eq!(checked.graph.is_none(), errors > 0, "{:?}\n{text}", checked.problems);
    for problem in &checked.problems {
        let all = words(problem);
        // What was written may say anything.
        let ours: String = all.split('`').step_by(2).collect();
        assert!(NOT_OUR_WORDS.iter().all(|word| !ours.contains(word)), "{all}\n{text}");
        assert!(!problem.message.is_empty() && !problem.message.ends_with('.'), "{all}");
        if let Some(place) = &problem.place {
            let before = text.get(..place.bytes.start).unwrap_or_else(|| panic!("{place:?} of {text}"));
            assert!(text.get(place.bytes.clone()).is_some(), "{place:?} of {text}");
            // Counted here only where that is quick: there may be thousands.
            if checked.problems.len() < 100 {
                assert_eq!(place.line, before.matches('\n').count() + 1);
                let line = before.rfind('\n').map_or(0, |at| at + 1);
                assert_eq!(place.column, before[line..].chars().count() + 1);
            }
        }
    }
}

fn pointers(value: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_owned());
    match value {
        Value::Object(map) => map.iter().for_each(|(key, item)| pointers(item, &step(at, key), found)),
        Value::Array(items) => {
            items
                .iter()
                .enumerate()
                .for_each(|(index, item)| pointers(item, &format!("{at}/{index}"), found));
        }
        _ => {}
    }
}

#[test]
fn a_wrong_value_in_any_place_is_told_in_our_own_words() {
    let valid = everything();
    assert_eq!(all_told(&valid.to_string()), Vec::<String>::new());
    let wrong_values = [
        json!(null),
        json!(true),
        json!(3),
        json!(3.0),
        json!("x y"),
        json!(["${{ inputs.count }}"]),
        json!({ "x": null }),
        json!("${{ x"),
        json!("9".repeat(30) + "h"),
    ];
    let mut all = Vec::new();
    pointers(&valid, "", &mut all);
    for pointer in &all {
        for wrong in &wrong_values {
            let mut value = valid.clone();
            *value.pointer_mut(pointer).expect("a value") = wrong.clone();
            let text = value.to_string();
            assert_sound(&text, &checked("f.yaml", text.as_bytes()));
        }
    }
}

#[test]
fn the_schemas_use_no_word_that_has_no_sentence() {
    let mut schemas = vec![
        graylane_engine::schema::of::<graylane_engine::workflow::WorkflowFile>(),
        graylane_engine::schema::of::<environment::Environment>(),
    ];
    schemas.extend(registry().iter().map(|task| task.schema()));
    // Each of these, as a kind of error, is explained in `schema.rs`; `$ref` and `$defs` only lead elsewhere.
    let explained = [
        "type",
        "properties",
        "required",
        "additionalProperties",
        "items",
        "anyOf",
        "oneOf",
        "const",
        "enum",
        "pattern",
        "minimum",
        "maximum",
        "minItems",
        "minProperties",
        "$ref",
        "$defs",
    ];
    let only_shown = ["$schema", "$comment", "title", "description", "default", "x-expected"];
    let known: BTreeSet<&str> = explained.into_iter().chain(only_shown).collect();
    for schema in &schemas {
        let mut used = BTreeSet::new();
        keywords(schema, &mut used);
        let unknown: Vec<&String> = used.iter().filter(|word| !known.contains(word.as_str())).collect();
        assert!(unknown.is_empty(), "{unknown:?} in {}", schema["title"]);
    }
}

fn keywords(schema: &Value, used: &mut BTreeSet<String>) {
    let Some(map) = schema.as_object() else { return };
    for (word, value) in map {
        used.insert(word.clone());
        match (word.as_str(), value) {
            ("properties" | "$defs", Value::Object(named)) => {
                named.values().for_each(|schema| keywords(schema, used));
            }
            ("anyOf", Value::Array(branches)) => {
                branches.iter().for_each(|schema| keywords(schema, used));
            }
            // A `oneOf` has a sentence where it is a choice between texts.
            ("oneOf", Value::Array(branches)) => {
                let is_choice = |branch: &Value| branch.get("const").or(branch.get("enum")).is_some();
                assert!(branches.iter().all(is_choice), "{value}");
            }
            ("items" | "additionalProperties", schema) => keywords(schema, used),
            _ => {}
        }
    }
}

#[test]
fn hostile_files_end_in_problems_with_places() {
    let bomb: String = (0..9)
        .map(|level| {
            let inner = if level == 0 { "x".to_owned() } else { format!("*a{}", level - 1) };
            format!("a{level}: &a{level} [{}]\n", vec![inner; 9].join(","))
        })
        .collect();
    let utf16: Vec<u8> = "name: x\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let (base, _) = file_of(&[]);
    let task =
        |key: &str, value: &str| format!("{base}  more:\n    type: mse-gray-offline\n    {key}: {value}\n");
    let hostile: Vec<Vec<u8>> = vec![
        bomb.into_bytes(),
        "[".repeat(100_000).into_bytes(),
        "{a: ".repeat(100_000).into_bytes(),
        "- ".repeat(100_000).into_bytes(),
        "a:\n".repeat(10_000).into_bytes(),
        [&[0xff, 0xfe][..], &utf16].concat(),
        utf16,
        b"name: caf\xe9\n".to_vec(),
        b"\0\0\0\0".to_vec(),
        "\u{feff}".repeat(3).into_bytes(),
        "name: x".repeat(100_000).into_bytes(),
        format!("{base}\n# {}\n", "x".repeat(10 * 1024 * 1024)).into_bytes(),
        format!("name: {}\n", "x".repeat(10 * 1024 * 1024)).into_bytes(),
        task("when", &"${{ x }}".repeat(100_000)).into_bytes(),
        task("needs", &format!("[{}]", "nothing, ".repeat(20_000))).into_bytes(),
        task("with", &format!("{{ {} }}", "a: 1, ".repeat(20_000))).into_bytes(),
        vec![b' '; 17 * 1024 * 1024],
        vec![b'\n'; 1024 * 1024],
        vec![b'\r'; 1024],
        Vec::new(),
    ];
    for bytes in hostile {
        let checked = checked("f.yaml", &bytes);
        assert!(checked.graph.is_some() || !checked.problems.is_empty());
        let text = std::str::from_utf8(&bytes).unwrap_or("");
        assert_sound(text.strip_prefix('\u{feff}').unwrap_or(text), &checked);
    }
}

#[test]
fn a_large_workflow_is_checked_without_going_round_in_it() {
    // Not timed: with one pass too many over the file this test alone would take minutes.
    const COUNT: usize = 3_000;
    let mut chain = format!("{TOP}{INPUTS}tasks:\n");
    for at in 0..COUNT {
        let needs = if at == 0 { String::new() } else { format!("t{}", at - 1) };
        let when = if at == 0 { "!inputs.keep" } else { "tasks.t0.status == 'succeeded'" };
        chain.push_str(&format!(
            "  t{at}: {{ type: mse-gray-offline, needs: [{needs}], when: \"${{{{ {when} }}}}\", with: {{ environment: production, tag: gray }} }}\n"
        ));
    }
    let checked_chain = checked("f.yaml", chain.as_bytes());
    assert_eq!(checked_chain.problems, []);
    assert_eq!(checked_chain.graph.expect("a graph").len(), COUNT);
    let circle = chain.replace("needs: []", &format!("needs: [t{}]", COUNT - 1));
    assert_eq!(checked("f.yaml", circle.as_bytes()).problems.len(), 1);
    let wrong = chain.replace("needs: [t", "needs: [u").replace("tag: gray", "tga: gray");
    assert_eq!(checked("f.yaml", wrong.as_bytes()).problems.len(), 2 * COUNT - 1);
}

/// One damage to a text of bytes.
#[derive(Debug, Clone)]
enum Damage {
    Delete(usize, usize),
    Duplicate(usize, usize),
    Replace(usize, Vec<u8>),
    DropLine(usize),
    DoubleLine(usize),
    SwapLines(usize, usize),
}

impl Damage {
    fn of(&self, text: &mut Vec<u8>) {
        let all = text.len();
        let range = |at: usize, length: usize| {
            let start = at % (all + 1);
            start..(start + length).min(all)
        };
        let mut lines: Vec<Vec<u8>> = text.split_inclusive(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
        let count = lines.len().max(1);
        match self {
            Damage::Delete(at, length) => drop(text.drain(range(*at, *length))),
            Damage::Duplicate(at, length) => {
                let range = range(*at, *length);
                let copy = text[range.clone()].to_vec();
                drop(text.splice(range.end..range.end, copy));
            }
            Damage::Replace(at, with) => drop(text.splice(range(*at, with.len()), with.iter().copied())),
            _ if lines.is_empty() => {}
            Damage::DropLine(line) => {
                lines.remove(line % count);
                *text = lines.concat();
            }
            Damage::DoubleLine(line) => {
                lines.insert(line % count, lines[line % count].clone());
                *text = lines.concat();
            }
            Damage::SwapLines(one, other) => {
                lines.swap(one % count, other % count);
                *text = lines.concat();
            }
        }
    }
}

fn damages() -> impl Strategy<Value = Damage> {
    let pieces =
        ["${{ ", " }}", "\t", ": ", "\n  ", "*a", "&a ", "'", "\"", "- ", "#", "|\n", "灰", "{", "]"];
    let piece = prop_oneof![
        (0..pieces.len()).prop_map(move |at| pieces[at].as_bytes().to_vec()),
        proptest::collection::vec(any::<u8>(), 1..4),
    ];
    let at = || 0..4096_usize;
    prop_oneof![
        (at(), 1..40_usize).prop_map(|(at, length)| Damage::Delete(at, length)),
        (at(), 1..200_usize).prop_map(|(at, length)| Damage::Duplicate(at, length)),
        (at(), piece).prop_map(|(at, with)| Damage::Replace(at, with)),
        at().prop_map(Damage::DropLine),
        at().prop_map(Damage::DoubleLine),
        (at(), at()).prop_map(|(one, other)| Damage::SwapLines(one, other)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_damage_to_a_workflow_panics_or_leads_out_of_the_text(
        which in 0..4_usize,
        damages in proptest::collection::vec(damages(), 1..4),
    ) {
        let examples = [
            include_str!("../../workflows/release.yaml"),
            include_str!("../../workflows/mse-gray-workflow.yaml"),
            include_str!("../../workflows/prod-workflow.yaml"),
        ];
        let mut bytes = match examples.get(which) {
            Some(example) => example.as_bytes().to_vec(),
            None => file_of(&[]).0.into_bytes(),
        };
        for damage in &damages {
            damage.of(&mut bytes);
        }
        let text = std::str::from_utf8(&bytes).unwrap_or("");
        assert_sound(text.strip_prefix('\u{feff}').unwrap_or(text), &checked("f.yaml", &bytes));
    }
}
