//! The written list of mistakes in workflow files, and what is said of each: line, column, mark, words.
//!
//! A row is read on its own first. Then all rows that are not about syntax are put into one file, where every one of
//! them must be told again at its new line. Nothing here looks inside the validator.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use async_trait::async_trait;
use graylane_engine::bundle::Bundle;
use graylane_engine::document::{Problem, Severity};
use graylane_engine::graph::{Checked, Known, check, check_names};
use graylane_engine::task::{Registry, Site};

use crate::cluster::{Clusters, Rehearse};
use crate::environment::{self, Gathered, gather};
use crate::secret::DigestKey;

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
use Stands::{Alone, Input, Task, Top, Trigger};

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

#[test]
fn every_mistake_is_told_at_its_line_and_column() {
    let mut wrong = Vec::new();
    for row in CATALOGUE {
        let (text, _) = text_of(row);
        let told: Vec<String> =
            checked("f.yaml", text.as_bytes()).problems.iter().map(|p| told(p, &text)).collect();
        if told != row.told {
            wrong.push(format!(
                "// {:?}: {}\n{}\n    &[\n{}    ]",
                row.kind,
                row.name,
                row.yaml,
                told.iter().map(|t| format!("        {t:?},\n")).collect::<String>()
            ));
        }
    }
    assert!(wrong.is_empty(), "{} rows\n{}", wrong.len(), wrong.join("\n"));
}

use Kind::{AcrossFiles, Cron, Expression, Graph, Structure, Syntax, Type};

#[rustfmt::skip]
const CATALOGUE: &[Row] = &[
    row(Syntax, "a tab as indentation", Alone, "name: x\ntasks:\n\ta: {}\n",
        &[
        ]),
    row(Syntax, "a tab inside a block", Alone, "name: x\ntasks:\n  a:\n  \ttype: t\n",
        &[
        ]),
    row(Syntax, "a quote that is not closed", Alone, r#"name: "x
tasks:
  a: {}
"#,
        &[
        ]),
    row(Syntax, "a single quote that is not closed", Alone, r"name: 'x
tasks:
  a: {}
",
        &[
        ]),
    row(Syntax, "a bracket that is not closed", Alone, r"name: x
tasks:
  a:
    needs: [b
    type: t
",
        &[
        ]),
    row(Syntax, "a brace that is not closed", Alone, r"name: x
tasks:
  a: { type: t
",
        &[
        ]),
    row(Syntax, "a brace too many", Alone, r"name: x
tasks:
  a: { type: t }}
",
        &[
        ]),
    row(Syntax, "a brace closed by a bracket", Alone, r"name: x
tasks:
  a: { type: t ]
",
        &[
        ]),
    row(Syntax, "a comma missing in a flow map", Alone, r"name: x
tasks:
  a: { type: t needs: [b] }
",
        &[
        ]),
    row(Syntax, "a second colon", Alone, "name: release: x\n",
        &[
        ]),
    row(Syntax, "a missing blank after a colon", Alone, r"name:x
tasks:
  a: {}
",
        &[
        ]),
    row(Syntax, "a line without a colon", Alone, r"name: x
tasks
  a: {}
",
        &[
        ]),
    row(Syntax, "a line without a colon in the midst", Alone, r"name: x
tasks:
  a:
    type
    needs: [b]
",
        &[
        ]),
    row(Syntax, "a key that is indented less", Alone, r"name: x
tasks:
    a:
      type: t
   b:
      type: t
",
        &[
        ]),
    row(Syntax, "a key that is indented more", Alone, r"name: x
  description: y
",
        &[
        ]),
    row(Syntax, "a list item indented wrongly", Alone, r"needs:
  - a
 - b
",
        &[
        ]),
    row(Syntax, "a list item among keys", Alone, r"name: x
- a
",
        &[
        ]),
    row(Syntax, "an unquoted expression in flow style", Alone, r"name: x
tasks:
  a: { with: { tag: ${{ inputs.tag }} } }
",
        &[
        ]),
    row(Syntax, "an unquoted expression in a flow list", Alone, r"name: x
tasks:
  a:
    list: [${{ inputs.tag }}]
",
        &[
        ]),
    row(Syntax, "an unquoted expression with a colon", Alone, r"name: x
tasks:
  a:
    when: ${{ inputs.a ? 'x': 'y' }}
",
        &[
        ]),
    row(Syntax, "an unquoted map literal", Alone, r"name: x
tasks:
  a:
    when: ${{ {'a': 1} }}
",
        &[
        ]),
    row(Syntax, "an expression with a hash", Alone, r"name: x
tasks:
  a:
    when: ${{ inputs.a #b }}
",
        &[
        ]),
    row(Syntax, "a value that begins with a percent sign", Alone, "name: %x\n",
        &[
        ]),
    row(Syntax, "a value that begins with an at sign", Alone, "name: @x\n",
        &[
        ]),
    row(Syntax, "a value that begins with a backtick", Alone, "name: `x`\n",
        &[
        ]),
    row(Syntax, "a value that begins with a star", Alone, "name: *x\n",
        &[
        ]),
    row(Syntax, "a value that begins with an exclamation mark", Alone, "name: !inputs.keep\n",
        &[
        ]),
    row(Syntax, "text after a quoted value", Alone, r#"name: "x" y
"#,
        &[
        ]),
    row(Syntax, "an unknown escape", Alone, r#"name: "a\d"
"#,
        &[
        ]),
    row(Syntax, "two documents", Alone, r"name: x
---
name: y
",
        &[
        ]),
    row(Syntax, "a key that is empty", Alone, r"name: x
? : y
",
        &[
        ]),
    row(Syntax, "a key that is a list", Alone, "[a, b]: x\n",
        &[
        ]),
    row(Syntax, "a key that is a map", Alone, "{a: b}: x\n",
        &[
        ]),
    row(Syntax, "a merge of a text", Alone, r"a: x
<<: y
",
        &[
        ]),
    row(Syntax, "a number that is infinite", Alone, r"a: .inf
b: 1e999
",
        &[
        ]),
    row(Syntax, "an alias to itself", Alone, "a: &a [*a]\n",
        &[
        ]),
    row(Syntax, "NUL", Alone, "name: a\0b\n",
        &[
        ]),
    row(Syntax, "binary", Alone, "name: !!binary aGVsbG8\n",
        &[
        ]),
    row(Syntax, "a block scalar with a wrong indicator", Alone, r"name: |x
  a
",
        &[
        ]),
    row(Syntax, "a block scalar indented less", Alone, r"a:
  name: |
  text
",
        &[
        ]),
    row(Syntax, "only a comment", Alone, "# nothing\n",
        &[
        ]),
    row(Syntax, "a text", Alone, "just a text\n",
        &[
        ]),
    row(Syntax, "a list", Alone, r"- a
- b
",
        &[
        ]),
    row(Structure, "a key of the workflow that is mistyped", Top, "timeot: 2h\n",
        &[
        ]),
    row(Structure, "a key of the workflow that there is not", Top, "on: push\n",
        &[
        ]),
    row(Structure, "a workflow without tasks and without a name", Alone, "description: nothing yet\n",
        &[
        ]),
    row(Structure, "tasks that are empty", Alone, r"name: x
tasks: {}
",
        &[
        ]),
    row(Structure, "tasks that are left out after the colon", Alone, r"name: x
tasks:
",
        &[
        ]),
    row(Structure, "a name that is no name", Alone, r"name: my workflow
tasks:
  a: { type: mse-gray-offline, with: { environment: production, tag: gray } }
",
        &[
        ]),
    row(Structure, "a name that YAML reads as a number", Alone, r"name: 1.20
tasks:
  a: { type: mse-gray-offline, with: { environment: production, tag: gray } }
",
        &[
        ]),
    row(Structure, "a task without a type", Task, r"  s-untyped:
    with: { environment: production }
",
        &[
        ]),
    row(Structure, "a task that is empty", Task, "  s-empty:\n",
        &[
        ]),
    row(Structure, "a task that is a text", Task, "  s-text: deploy\n",
        &[
        ]),
    row(Structure, "a key of a task that is mistyped", Task, r"  s-need:
    type: mse-gray-offline
    need: [deploy]
    with: { environment: production, tag: gray }
",
        &[
        ]),
    row(Structure, "a key of `with` that is mistyped", Task, r"  s-drian:
    type: mse-gray-offline
    with: { environment: production, tag: gray, drian: 4s }
",
        &[
        ]),
    row(Structure, "a key of `with` that stands one level too high", Task, r"  s-level:
    type: mse-gray-offline
    environment: production
    with: { environment: production, tag: gray }
",
        &[
        ]),
    row(Structure, "a key that `with` requires", Task, r"  s-lacks:
    type: mse-gray-offline
    with: { environment: production }
",
        &[
        ]),
    row(Structure, "a `with` that is missing", Task, r"  s-without:
    type: mse-gray-offline
",
        &[
        ]),
    row(Structure, "a key of a nested map that is mistyped", Task, r"  s-nested:
    type: generic-verify
    with:
      environment: production
      tag: gray
      checks:
        - { name: a, http: { path: /a, expect: { body_match: A } } }
",
        &[
        ]),
    row(Structure, "a key that stands twice", Task, r"  s-twice:
    type: mse-gray-offline
    with: { environment: production, tag: gray }
    type: mse-gray-deploy
",
        &[
        ]),
    row(Structure, "a task that stands twice", Task, r"  deploy:
    type: mse-gray-offline
",
        &[
        ]),
    row(Structure, "a task whose name is no name", Task, r"  s task:
    type: mse-gray-offline
    with: { environment: production, tag: gray }
",
        &[
        ]),
    row(Structure, "a task whose name is not ASCII, and columns are characters", Task, "  发布: { type: mse-gray-offline, with: { environment: production, tag: gray }, 重试: 3 }\n",
        &[
        ]),
    row(Structure, "a task type that is mistyped", Task, r"  s-type:
    type: mse-gray-deplyo
    with: {}
",
        &[
        ]),
    row(Structure, "a task type that there is not", Task, r"  s-helm:
    type: helm
",
        &[
        ]),
    row(Structure, "a check that says nothing", Task, r"  s-check:
    type: generic-verify
    with: { environment: production, tag: gray, checks: [{ name: nothing }] }
",
        &[
        ]),
    row(Structure, "a check that says two things", Task, r"  s-checks:
    type: generic-verify
    with: { environment: production, tag: gray, checks: [{ name: two, rollout: {}, http: { path: /a } }] }
",
        &[
        ]),
    row(Structure, "no checks at all", Task, r"  s-none:
    type: generic-verify
    with: { environment: production, tag: gray, checks: [] }
",
        &[
        ]),
    row(Structure, "a lane without services", Task, r"  s-lane:
    type: mse-gray-deploy
    with: { environment: production, tag: gray }
",
        &[
        ]),
    row(Structure, "a service in `images` and in `services`", Task, r"  s-both:
    type: mse-gray-deploy
    with:
      environment: production
      tag: gray
      images: { spring-a: 'a:2' }
      services: { spring-a: {} }
",
        &[
        ]),
    row(Structure, "the same of a prod-deploy", Task, r"  s-prod:
    type: prod-deploy
    with:
      environment: production
      images: { spring-a: 'a:2' }
      services: { spring-a: {} }
",
        &[
        ]),
    row(Structure, "an entry with two ways in", Task, r"  s-entry:
    type: mse-gray-deploy
    with:
      environment: production
      tag: gray
      images: { spring-a: 'a:2' }
      entry: { service: spring-a, weight: 5, header: { name: x-user-id, value: '1' } }
",
        &[
        ]),
    row(Structure, "an entry with no way in", Task, r"  s-shut:
    type: mse-gray-deploy
    with:
      environment: production
      tag: gray
      images: { spring-a: 'a:2' }
      entry: { service: spring-a }
",
        &[
        ]),
    row(Structure, "a choice without options", Input, "  s_choice: { type: choice }\n",
        &[
        ]),
    row(Structure, "a map that does not say of what", Input, "  s_map: { type: map }\n",
        &[
        ]),
    row(Structure, "an input that has a default and is required", Input, "  s_required: { type: string, default: x, required: true }\n",
        &[
        ]),
    row(Structure, "an input without a type", Input, "  s_typeless: { default: x }\n",
        &[
        ]),
    row(Structure, "an input that is a bare type", Input, "  s_bare: string\n",
        &[
        ]),
    row(Type, "a duration that is prose", Top, "timeout: 2 hours\n",
        &[
        ]),
    row(Type, "a choice of the workflow that is mistyped", Top, "concurrency: { group: release, policy: qeue }\n",
        &[
        ]),
    row(Type, "a text that is a list", Top, "description: [a, b]\n",
        &[
        ]),
    row(Type, "an input type that is mistyped", Input, "  y_type: { type: strng }\n",
        &[
        ]),
    row(Type, "a default of another type", Input, "  y_default: { type: integer, default: many }\n",
        &[
        ]),
    row(Type, "a default that is none of the options", Input, "  y_option: { type: choice, options: [up, down], default: upp }\n",
        &[
        ]),
    row(Type, "an option that YAML reads as a number", Input, "  y_options: { type: choice, options: [1.20, 'on'] }\n",
        &[
        ]),
    row(Type, "a default that does not match the pattern", Input, "  y_match: { type: string, pattern: '[a-z]+', default: A1 }\n",
        &[
        ]),
    row(Type, "a pattern that is none", Input, "  y_pattern: { type: string, pattern: '[a-z' }\n",
        &[
        ]),
    row(Type, "a default whose entry has another type", Input, "  y_entry: { type: map, of: string, default: { a: x, b: 1 } }\n",
        &[
        ]),
    row(Type, "`needs` as a text", Task, r"  y-needs:
    type: mse-gray-offline
    needs: deploy
    with: { environment: production, tag: gray }
",
        &[
        ]),
    row(Type, "`needs` as a map", Task, r"  y-map:
    type: mse-gray-offline
    needs: { deploy: true }
    with: { environment: production, tag: gray }
",
        &[
        ]),
    row(Type, "`with` as a list", Task, r"  y-list:
    type: mse-gray-offline
    with:
      - environment: production
",
        &[
        ]),
    row(Type, "`with` as a text", Task, r"  y-with:
    type: mse-gray-offline
    with: production
",
        &[
        ]),
    row(Type, "`with` that is null", Task, r"  y-null:
    type: mse-gray-offline
    with:
",
        &[
        ]),
    row(Type, "a value that is null", Task, r"  y-tag:
    type: mse-gray-offline
    with: { environment: production, tag: }
",
        &[
        ]),
    row(Type, "a tag that YAML reads as a number", Task, r"  y-number:
    type: mse-gray-offline
    with: { environment: production, tag: 12 }
",
        &[
        ]),
    row(Type, "a number in quotes", Task, r"  y-samples:
    type: generic-verify
    with: { environment: production, tag: gray, checks: [{ name: a, samples: '20', rollout: {} }] }
",
        &[
        ]),
    row(Type, "a share in percent", Task, r"  y-rate:
    type: generic-verify
    with: { environment: production, tag: gray, checks: [{ name: a, success_rate: 99, rollout: {} }] }
",
        &[
        ]),
    row(Type, "a fraction where a whole number is expected", Task, r"  y-fraction:
    type: generic-verify
    with: { environment: production, tag: gray, checks: [{ name: a, samples: 1.5, rollout: {} }] }
",
        &[
        ]),
    row(Type, "a number that is too large", Task, r"  y-attempts:
    type: mse-gray-offline
    retry: { attempts: 1000 }
    with: { environment: production, tag: gray }
",
        &[
        ]),
    row(Type, "a number of seconds without a unit", Task, r"  y-backoff:
    type: mse-gray-offline
    retry: { attempts: 3, backoff: 10 }
    with: { environment: production, tag: gray }
",
        &[
        ]),
    row(Type, "`retry` as a number", Task, r"  y-retry:
    type: mse-gray-offline
    retry: 3
    with: { environment: production, tag: gray }
",
        &[
        ]),
    row(Type, "a choice that is mistyped", Task, r"  y-choice:
    type: mse-gray-offline
    on_failure: ignore
    with: { environment: production, tag: gray, on_missing: pas }
",
        &[
        ]),
    row(Type, "`yes` for a boolean", Task, r"  y-when:
    type: mse-gray-offline
    when: true
    with: { environment: production, tag: gray }
",
        &[
        ]),
    row(Type, "`yes` for true", Input, "  y_yes: { type: string, required: yes }\n",
        &[
        ]),
    row(Type, "a path that does not begin with a slash", Task, r"  y-path:
    type: generic-verify
    with: { environment: production, tag: gray, checks: [{ name: a, http: { path: a, as: gray } }] }
",
        &[
        ]),
    row(Type, "a regular expression that is none", Task, r"  y-regex:
    type: generic-verify
    with: { environment: production, tag: gray, checks: [{ name: a, http: { path: /a, expect: { body_matches: 'A[' } } }] }
",
        &[
        ]),
    row(Type, "the reserved tag `original`", Task, r"  y-original:
    type: mse-gray-offline
    with: { environment: production, tag: original }
",
        &[
        ]),
    row(Type, "the reserved tag `base`", Task, r"  y-base:
    type: mse-gray-offline
    with: { environment: production, tag: base }
",
        &[
        ]),
    row(Type, "an empty tag", Task, r"  y-blank:
    type: mse-gray-offline
    with: { environment: production, tag: '' }
",
        &[
        ]),
    row(Type, "a tag with a capital", Task, r"  y-capital:
    type: mse-gray-offline
    with: { environment: production, tag: Gray }
",
        &[
        ]),
    row(Type, "a tag that is an emoji", Task, r"  y-emoji:
    type: mse-gray-offline
    with: { environment: production, tag: 🐦 }
",
        &[
        ]),
    row(Type, "a tag of 60 characters", Task, r"  y-long:
    type: mse-gray-offline
    with: { environment: production, tag: gggggggggggggggggggggggggggggggggggggggggggggggggggggggggggg }
",
        &[
        ]),
    row(Type, "an image that is a list", Task, r"  y-image:
    type: prod-deploy
    with: { environment: production, images: { spring-a: ['a:1'] } }
",
        &[
        ]),
    row(Type, "an image that is empty", Task, r"  y-empty:
    type: prod-deploy
    with: { environment: production, images: { spring-a: '' } }
",
        &[
        ]),
    row(Type, "a negative number of pods", Task, r"  y-pods:
    type: prod-deploy
    with: { environment: production, services: { spring-a: { replicas: -1 } } }
",
        &[
        ]),
    row(Type, "a header that only tags may carry", Task, r"  y-header:
    type: generic-verify
    with: { environment: production, tag: gray, checks: [{ name: a, http: { path: /a, headers: { x-mse-tag: gray, 'a b': c } } }] }
",
        &[
        ]),
    row(Type, "an input of another type than the field", Task, r"  y-input:
    type: generic-verify
    with: { environment: production, tag: '${{ inputs.keep }}', checks: [{ name: a, samples: '${{ inputs.tag }}', rollout: {} }] }
",
        &[
        ]),
    row(Type, "a map that came in through an alias", Task, r"  y-alias:
    type: mse-gray-offline
    retry: &y-retry { attempts: 0 }
    with: { environment: production, tag: gray }
  y-aliased:
    type: mse-gray-offline
    retry: *y-retry
    with: { environment: production, tag: gray }
",
        &[
        ]),
    row(Expression, "an input that is mistyped", Task, r"  e-input:
    type: mse-gray-offline
    needs: [deploy]
    with: { environment: production, tag: '${{ inputs.tga }}' }
",
        &[
        ]),
    row(Expression, "an input that is mistyped, inside a longer text in double quotes", Task, r#"  e-inside:
    type: mse-gray-offline
    needs: [deploy]
    with: { environment: production, tag: "a-${{ inputs.tga }}-b" }
"#,
        &[
        ]),
    row(Expression, "a variable that is mistyped", Task, r"  e-root:
    type: mse-gray-offline
    needs: [deploy]
    with: { environment: production, tag: '${{ input.tag }}' }
",
        &[
        ]),
    row(Expression, "a task that there is not", Task, r"  e-task:
    type: mse-gray-offline
    needs: [deploy]
    when: ${{ tasks.deplo.status == 'succeeded' }}
    with: { environment: production, tag: gray }
",
        &[
        ]),
    row(Expression, "a task with a dash, written with dots", Task, r"  e-dash:
    type: mse-gray-offline
    needs: [deploy, other-end]
    when: ${{ tasks.other-end.status == 'succeeded' }}
    with: { environment: production, tag: gray }
",
        &[
        ]),
    row(Expression, "a task that need not have ended", Task, r"  e-need:
    type: mse-gray-offline
    needs: [deploy]
    when: ${{ tasks['other-end'].status == 'succeeded' }}
    with: { environment: production, tag: gray }
",
        &[
        ]),
    row(Expression, "an output that a type does not have", Task, r"  e-output:
    type: mse-gray-offline
    needs: [deploy]
    with: { environment: production, tag: gray, drain: '${{ tasks.deploy.outputs.image }}' }
",
        &[
        ]),
    row(Expression, "a key of a task that there is not", Task, r"  e-state:
    type: mse-gray-offline
    needs: [deploy]
    when: ${{ tasks.deploy.state == 'succeeded' }}
    with: { environment: production, tag: gray }
",
        &[
        ]),
    row(Expression, "a single `=`", Task, r"  e-equals:
    type: mse-gray-offline
    needs: [deploy]
    when: ${{ inputs.tag = 'gray' }}
    with: { environment: production, tag: gray }
",
        &[
        ]),
    row(Expression, "a word for an operator", Task, r"  e-and:
    type: mse-gray-offline
    needs: [deploy]
    when: ${{ inputs.keep and success() }}
    with: { environment: production, tag: gray }
",
        &[
        ]),
    row(Expression, "an expression that ends too early", Task, r"  e-early:
    type: mse-gray-offline
    needs: [deploy]
    when: ${{ inputs.keep && }}
    with: { environment: production, tag: gray }
",
        &[
        ]),
    row(Expression, "an expression that is not closed", Task, r"  e-open:
    type: mse-gray-offline
    needs: [deploy]
    with: { environment: production, tag: '${{ inputs.tag }' }
",
        &[
        ]),
    row(Expression, "an expression that is empty", Task, r"  e-empty:
    type: mse-gray-offline
    needs: [deploy]
    with: { environment: production, tag: '${{ }}' }
",
        &[
        ]),
    row(Expression, "an expression that lacks its braces", Task, r"  e-bare:
    type: mse-gray-offline
    needs: [deploy]
    when: inputs.keep == false
    with: { environment: production, tag: gray }
",
        &[
        ]),
    row(Expression, "`when` with text around the expression", Task, r"  e-around:
    type: mse-gray-offline
    needs: [deploy]
    when: not ${{ inputs.keep }}
    with: { environment: production, tag: gray }
",
        &[
        ]),
    row(Expression, "a function that there is not", Task, r"  e-function:
    type: mse-gray-offline
    needs: [deploy]
    when: ${{ sucess() }}
    with: { environment: production, tag: gray }
",
        &[
        ]),
    row(Expression, "a function of a value that there is not", Task, r"  e-method:
    type: mse-gray-offline
    needs: [deploy]
    when: ${{ inputs.tag.startswith('g') }}
    with: { environment: production, tag: gray }
",
        &[
        ]),
    row(Expression, "a function of `when` in `with`", Task, r#"  e-success:
    type: mse-gray-offline
    needs: [deploy]
    with: { environment: production, tag: gray, drain: '${{ success() ? "1s" : "2s" }}' }
"#,
        &[
        ]),
    row(Expression, "an argument that a function does not take", Task, r"  e-argument:
    type: mse-gray-offline
    needs: [deploy]
    when: ${{ success('deploy') }}
    with: { environment: production, tag: gray }
",
        &[
        ]),
    row(Expression, "a tag that depends on an output", Task, r"  e-sealed:
    type: mse-gray-offline
    needs: [deploy]
    with: { environment: production, tag: '${{ tasks.deploy.outputs.route }}' }
",
        &[
        ]),
    row(Expression, "a variable of the settings that there is not", Task, r"  e-vars:
    type: mse-gray-offline
    needs: [deploy]
    with: { environment: production, tag: gray, drain: '${{ vars.regoin }}' }
",
        &[
        ]),
    row(Expression, "a secret where none may stand", Task, r"  e-secret:
    type: mse-gray-offline
    needs: [deploy]
    with: { environment: production, tag: gray, drain: '${{ secrets.token }}' }
",
        &[
        ]),
    row(Expression, "a secret that the settings do not have", Task, r"  e-secrets:
    type: generic-verify
    with: { environment: production, tag: gray, checks: [{ name: a, http: { path: /a, headers: { authorization: '${{ secrets.tokn }}' } } }] }
",
        &[
        ]),
    row(Expression, "a secret that is computed with", Task, r#"  e-computed:
    type: generic-verify
    with: { environment: production, tag: gray, checks: [{ name: a, http: { path: /a, headers: { authorization: "${{ 'Bearer ' + secrets.token }}" } } }] }
"#,
        &[
        ]),
    row(Expression, "a key of the run that there is not", Task, r"  e-run:
    type: mse-gray-offline
    needs: [deploy]
    with: { environment: production, tag: gray, drain: '${{ run.user }}' }
",
        &[
        ]),
    row(Expression, "an expression in a key that takes none", Task, r"  e-type:
    type: ${{ inputs.tag }}
    timeout: ${{ inputs.tag }}
",
        &[
        ]),
    row(Expression, "an expression in `needs`", Task, r"  e-needs:
    type: mse-gray-offline
    needs: ['${{ inputs.tag }}']
    with: { environment: production, tag: gray }
",
        &[
        ]),
    row(Expression, "an expression in a default", Input, "  e_default: { type: string, default: '${{ vars.region }}' }\n",
        &[
        ]),
    row(Expression, "a mistake in the second line of a block", Task, r"  e-block:
    type: generic-verify
    with:
      environment: production
      tag: gray
      checks:
        - name: |
            the first line
            of ${{ inputs.tga }}
          rollout: {}
",
        &[
        ]),
    row(Expression, "a mistake in a folded text", Task, r"  e-folded:
    type: generic-verify
    with:
      environment: production
      tag: gray
      checks:
        - name: a text that goes on
            in the next line with ${{ inputs.tga }}
          rollout: {}
",
        &[
        ]),
    row(Expression, "a mistake after an escape", Task, r#"  e-escape:
    type: generic-verify
    with: { environment: production, tag: gray, checks: [{ name: "a \"quote\" of ${{ inputs.tga }}", rollout: {} }] }
"#,
        &[
        ]),
    row(Expression, "a mistake that came in through an alias", Task, r"  e-anchor:
    type: mse-gray-offline
    with: { environment: production, tag: &e-tag '${{ inputs.tga }}' }
  e-alias:
    type: mse-gray-offline
    with: { environment: production, tag: *e-tag }
",
        &[
        ]),
    row(Expression, "brackets nested too deep", Task, r"  e-deep:
    type: mse-gray-offline
    when: ${{ (((((((((((((((((inputs.keep))))))))))))))))) }}
    with: { environment: production, tag: gray }
",
        &[
        ]),
    row(Expression, "a hash that cuts the expression off", Task, r"  e-hash:
    type: mse-gray-offline
    when: ${{ inputs.keep #c }}
    with: { environment: production, tag: gray }
",
        &[
        ]),
    row(Expression, "a sum of a text and a number", Task, r"  e-sum:
    type: mse-gray-offline
    needs: [deploy]
    when: ${{ 'a' + 1 == 'a1' }}
    with: { environment: production, tag: gray }
",
        &[
        ]),
    row(Expression, "`when` that is no boolean", Task, r"  e-bool:
    type: mse-gray-offline
    needs: [deploy]
    when: ${{ inputs.tag }}
    with: { environment: production, tag: gray }
",
        &[
        ]),
    row(Expression, "a text after two expressions, the second wrong", Task, r"  e-second:
    type: mse-gray-offline
    needs: [deploy]
    with: { environment: production, tag: '${{ inputs.tag }}-${{ inputs.tagg }}' }
",
        &[
        ]),
    row(Expression, "a key of an expression that is not ASCII", Task, r"  e-chinese:
    type: generic-verify
    with: { environment: production, tag: gray, checks: [{ name: '灰度 ${{ inputs.标签 }}', rollout: {} }] }
",
        &[
        ]),
    row(Graph, "a task that needs itself", Task, r"  g-self:
    type: mse-gray-offline
    needs: [g-self]
    with: { environment: production, tag: gray }
",
        &[
        ]),
    row(Graph, "a task that needs one that there is not", Task, r"  g-unknown:
    type: mse-gray-offline
    needs: [deploy, depoly]
    with: { environment: production, tag: gray }
",
        &[
        ]),
    row(Graph, "two tasks that need each other", Task, r"  g-a:
    type: mse-gray-offline
    needs: [g-b]
    with: { environment: production, tag: gray }
  g-b:
    type: mse-gray-offline
    needs: [g-a]
    with: { environment: production, tag: gray }
",
        &[
        ]),
    row(Graph, "three tasks in a circle, and one that hangs on it", Task, r"  g-x:
    type: mse-gray-offline
    needs: [g-z]
    with: { environment: production, tag: gray }
  g-y:
    type: mse-gray-offline
    needs: [g-x]
    with: { environment: production, tag: gray }
  g-z:
    type: mse-gray-offline
    needs: [deploy, g-y]
    with: { environment: production, tag: gray }
  g-tail:
    type: mse-gray-offline
    needs: [g-z]
    with: { environment: production, tag: gray }
",
        &[
        ]),
    row(Graph, "a task that is needed twice", Task, r"  g-twice:
    type: mse-gray-offline
    needs: [deploy, deploy]
    with: { environment: production, tag: gray }
",
        &[
        ]),
    row(Graph, "a trigger that selects a task that there is not", Trigger, "  - { name: g-only, cron: 0 4 * * *, only: [deplyo] }\n",
        &[
        ]),
    row(Graph, "a trigger that skips a task that there is not", Trigger, "  - { name: g-skip, cron: 0 4 * * *, skip: [offline] }\n",
        &[
        ]),
    row(Cron, "four fields", Trigger, "  - { name: c-four, cron: 30 2 * * }\n",
        &[
        ]),
    row(Cron, "six fields", Trigger, "  - { name: c-six, cron: 0 30 2 * * 1 }\n",
        &[
        ]),
    row(Cron, "a minute that there is not", Trigger, "  - { name: c-minute, cron: 61 2 * * * }\n",
        &[
        ]),
    row(Cron, "a weekday that there is not", Trigger, "  - { name: c-weekday, cron: 0 2 * * 8 }\n",
        &[
        ]),
    row(Cron, "a name that is no weekday", Trigger, "  - { name: c-name, cron: 0 2 * * mo }\n",
        &[
        ]),
    row(Cron, "a range that runs backwards", Trigger, "  - { name: c-range, cron: 0 2 * * fri-mon }\n",
        &[
        ]),
    row(Cron, "a step of nothing", Trigger, "  - { name: c-step, cron: '*/0 2 * * *' }\n",
        &[
        ]),
    row(Cron, "a step without a range", Trigger, "  - { name: c-posix, cron: 5/20 * * * * }\n",
        &[
        ]),
    row(Cron, "a date that never occurs", Trigger, "  - { name: c-never, cron: 0 0 31 2 * }\n",
        &[
        ]),
    row(Cron, "a nickname that there is not", Trigger, "  - { name: c-nick, cron: '@dayly' }\n",
        &[
        ]),
    row(Cron, "a time zone inside the schedule", Trigger, "  - { name: c-zone, cron: CRON_TZ=Asia/Shanghai 0 2 * * * }\n",
        &[
        ]),
    row(Cron, "a Quartz question mark", Trigger, "  - { name: c-quartz, cron: 0 2 ? * 1 }\n",
        &[
        ]),
    row(Cron, "an empty schedule", Trigger, "  - { name: c-empty, cron: '' }\n",
        &[
        ]),
    row(Cron, "both day fields, which is allowed and odd", Trigger, "  - { name: c-both, cron: 0 2 13 * 5 }\n",
        &[
        ]),
    row(Cron, "a time zone that is mistyped", Trigger, "  - { name: c-tz, cron: 0 2 * * *, timezone: Asia/Shangai }\n",
        &[
        ]),
    row(Cron, "a time zone that is an abbreviation", Trigger, "  - { name: c-cst, cron: 0 2 * * *, timezone: CST }\n",
        &[
        ]),
    row(Cron, "a trigger without a schedule", Trigger, "  - { name: c-none, timezone: UTC }\n",
        &[
        ]),
    row(Cron, "a trigger that gives an input that there is not", Trigger, "  - { name: c-input, cron: 0 2 * * *, inputs: { tga: gray } }\n",
        &[
        ]),
    row(Cron, "a trigger that gives an input of another type", Trigger, "  - { name: c-type, cron: 0 2 * * *, inputs: { keep: 'yes' } }\n",
        &[
        ]),
    row(Cron, "two triggers of one name", Trigger, r"  - { name: c-twin, cron: 0 2 * * * }
  - { name: c-twin, cron: 0 3 * * * }
",
        &[
        ]),
    row(Cron, "a trigger policy that is mistyped", Trigger, "  - { name: c-policy, cron: 0 2 * * *, policy: rejct }\n",
        &[
        ]),
    row(Cron, "a trigger's deadline without a unit", Trigger, "  - { name: c-late, cron: 0 2 * * *, start_deadline: '30' }\n",
        &[
        ]),
    row(AcrossFiles, "an environment that is mistyped", Task, r"  a-env:
    type: mse-gray-offline
    with: { environment: prodction, tag: gray }
",
        &[
        ]),
    row(AcrossFiles, "an environment that there is not", Task, r"  a-none:
    type: mse-gray-offline
    with: { environment: qa, tag: gray }
",
        &[
        ]),
    row(AcrossFiles, "an environment that does not allow the workflow", Task, r"  a-staging:
    type: mse-gray-offline
    with: { environment: staging, tag: gray }
",
        &[
        ]),
    row(AcrossFiles, "a service that is mistyped, in images", Task, r"  a-service:
    type: mse-gray-deploy
    with: { environment: production, tag: gray, images: { sprng-a: 'a:1' } }
",
        &[
        ]),
    row(AcrossFiles, "a service that is mistyped, in services", Task, r"  a-services:
    type: prod-deploy
    with: { environment: production, services: { spring-x: {} } }
",
        &[
        ]),
    row(AcrossFiles, "a service that there is not, in order", Task, r"  a-order:
    type: prod-deploy
    with: { environment: production, images: { spring-a: 'a:1' }, order: [spring-a, billing] }
",
        &[
        ]),
    row(AcrossFiles, "a service that there is not, taken down", Task, r"  a-offline:
    type: mse-gray-offline
    with: { environment: production, tag: gray, services: [spring-d] }
",
        &[
        ]),
    row(AcrossFiles, "an entry at a service that there is not", Task, r"  a-entry:
    type: mse-gray-deploy
    with: { environment: production, tag: gray, images: { spring-a: 'a:1' }, entry: { service: sprig-a, weight: 5 } }
",
        &[
        ]),
    row(AcrossFiles, "an entry at a service without an Ingress", Task, r"  a-ingress:
    type: mse-gray-deploy
    with: { environment: production, tag: gray, images: { spring-b: 'b:1' }, entry: { service: spring-b, weight: 5 } }
",
        &[
        ]),
    row(AcrossFiles, "an entry at a service that is not in the lane", Task, r"  a-outside:
    type: mse-gray-deploy
    with: { environment: production, tag: gray, images: { spring-b: 'b:1' }, entry: { service: spring-a, weight: 5 } }
",
        &[
        ]),
    row(AcrossFiles, "a container that a service does not have", Task, r"  a-container:
    type: prod-deploy
    with: { environment: production, images: { spring-a: { spring-cloud-x: 'a:1' } } }
",
        &[
        ]),
    row(AcrossFiles, "the same below services", Task, r"  a-containers:
    type: mse-gray-deploy
    with: { environment: production, tag: gray, services: { spring-a: { images: { app: 'a:1' } } } }
",
        &[
        ]),
    row(AcrossFiles, "a lane copy of a service that is shared", Task, r"  a-shared:
    type: mse-gray-deploy
    with: { environment: production, tag: gray, images: { nacos: 'nacos:2' } }
",
        &[
        ]),
];
