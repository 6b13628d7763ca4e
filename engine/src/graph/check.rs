//! The one pipeline of validation: YAML with positions, frame schema, each `with` by its type's own
//! schema, expressions, references and graph, serde last. All problems at once, each with its place.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::OnceLock;

use petgraph::graphmap::DiGraphMap;
use serde_json::Value;

use super::Graph;
use crate::document::{Document, Finding, Problem, Severity, file_problem, step};
use crate::expression::{self, ANCESTOR_FUNCTIONS, Part, Reference};
use crate::id::{Digest, WorkflowName, is_name};
use crate::input::Input;
use crate::schema::{Checker, list, nearest};
use crate::task::{Registry, Site};
use crate::trigger::schedule::{Schedule, timezone};
use crate::workflow::{InputFile, WorkflowFile};

/// Names that only the operator's settings know.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// The names of `vars`.
    pub vars: BTreeSet<String>,
    /// The names of `secrets`.
    pub secrets: BTreeSet<String>,
}

/// What came of checking a file.
#[derive(Debug)]
pub struct Checked {
    /// The graph, where no problem is an error.
    pub graph: Option<Graph>,
    /// Everything that was found, in the file's order.
    pub problems: Vec<Problem>,
    /// The name that the file gives itself, where it could be read.
    pub name: Option<String>,
}

/// Checks a workflow file.
pub fn check(file: &str, bytes: &[u8], registry: &Registry, known: &Known, site: Site<'_>) -> Checked {
    let (document, duplicates) = match Document::parse_to_check(file, bytes) {
        Ok(read) => read,
        Err(problems) => return Checked { graph: None, problems, name: None },
    };
    if document.value().is_null() {
        let mut problem = file_problem(file, "the file is empty");
        problem.hints.push("a workflow has a `name` and `tasks`; see docs/workflow-reference.md".into());
        return Checked { graph: None, problems: vec![problem], name: None };
    }
    // One large stack for all expressions of the file.
    expression::on_large_stack(|| {
        let mut checker = Check::new(&document, registry, known, site);
        checker.all();
        let revision = Digest::of(bytes);
        let Check { mut findings, inputs, .. } = checker;
        findings.retain(unique());
        let mut problems = duplicates;
        problems.extend(findings.into_iter().map(|finding| document.problem(finding)));
        problems.sort_by_key(|problem| problem.place.as_ref().map_or(0, |place| place.bytes.start));
        let name = document.value().get("name").and_then(Value::as_str).map(str::to_owned);
        let graph = if problems.iter().any(|problem| problem.severity == Severity::Error) {
            None
        } else {
            match serde_json::from_value::<WorkflowFile>(document.value().clone()) {
                Ok(parsed) => {
                    let tasks = document.value().get("tasks").and_then(Value::as_object);
                    let written: Vec<&str> =
                        tasks.into_iter().flat_map(|tasks| tasks.keys()).map(String::as_str).collect();
                    Graph::build(parsed, revision, inputs, registry, &written)
                }
                Err(error) => {
                    problems.push(file_problem(file, format!("the file cannot be read: {error}")));
                    None
                }
            }
        };
        Checked { graph, problems, name }
    })
}

/// Two files with one name are an error in both.
pub fn check_names(files: &mut [(String, Checked)]) {
    let mut by_name: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (index, (_, checked)) in files.iter().enumerate() {
        if let Some(name) = &checked.name {
            by_name.entry(name.clone()).or_default().push(index);
        }
    }
    for (name, indexes) in by_name.into_iter().filter(|(_, indexes)| indexes.len() > 1) {
        let named: Vec<String> = indexes.iter().map(|index| files[*index].0.clone()).collect();
        for index in indexes {
            let (file, checked) = &mut files[index];
            let others: Vec<String> = named.iter().filter(|other| *other != file).cloned().collect();
            let mut problem = file_problem(file, format!("two workflows are called `{name}`"));
            problem
                .hints
                .push(format!("the other one is in {}; give one of them another name", list(&others)));
            checked.problems.push(problem);
            checked.graph = None;
        }
    }
}

/// The same mistake found by two passes is told once.
fn unique() -> impl FnMut(&Finding) -> bool {
    let mut seen = BTreeSet::new();
    move |finding| seen.insert((finding.pointer.clone(), finding.message.clone()))
}

fn frame() -> &'static Checker {
    static FRAME: OnceLock<Checker> = OnceLock::new();
    FRAME.get_or_init(|| Checker::new(crate::schema::of::<WorkflowFile>()))
}

struct Check<'c> {
    document: &'c Document,
    registry: &'c Registry,
    known: &'c Known,
    site: Site<'c>,
    /// The workflow's own name, where it is valid.
    workflow: Option<WorkflowName>,
    /// Every task's direct needs, as far as they exist.
    needs: BTreeMap<&'c str, Vec<&'c str>>,
    ancestors: HashMap<&'c str, BTreeSet<&'c str>>,
    inputs: Vec<Input>,
    findings: Vec<Finding>,
}

impl<'c> Check<'c> {
    fn new(document: &'c Document, registry: &'c Registry, known: &'c Known, site: Site<'c>) -> Self {
        let workflow =
            document.value().get("name").and_then(Value::as_str).and_then(|name| name.parse().ok());
        Check {
            document,
            registry,
            known,
            site,
            workflow,
            needs: BTreeMap::new(),
            ancestors: HashMap::new(),
            inputs: Vec::new(),
            findings: Vec::new(),
        }
    }

    fn all(&mut self) {
        let document: &'c Document = self.document;
        let root = document.value();
        self.findings.extend(frame().check(root, "the workflow", Some((document, ""))));
        for (pointer, _) in expression::texts(root) {
            if !pointer.starts_with("/tasks/") {
                self.findings.push(
                    Finding::at(pointer, "expressions are not evaluated here")
                        .label("`${{ }}` stands in a task's `when` and `with`"),
                );
            }
        }
        self.inputs(root);
        let Some(tasks) = root.get("tasks").and_then(Value::as_object) else { return };
        self.graph(tasks);
        self.triggers(root, tasks);
        for (name, task) in tasks {
            self.task(name, task);
        }
    }

    fn inputs(&mut self, root: &Value) {
        let Some(inputs) = root.get("inputs").and_then(Value::as_object) else { return };
        for (name, value) in inputs {
            let pointer = step("/inputs", name);
            self.name(name, &pointer, "an input");
            let Ok(file) = serde_json::from_value::<InputFile>(value.clone()) else { continue };
            match Input::new(name, &file) {
                Ok(input) => self.inputs.push(input),
                Err(wrong) => {
                    for (key, message) in wrong {
                        self.findings.push(Finding::at(format!("{pointer}/{key}"), message));
                    }
                }
            }
        }
    }

    fn name(&mut self, name: &str, pointer: &str, what: &str) {
        if !is_name(name) {
            self.findings.push(
                Finding::at(pointer, format!("`{name}` cannot be the name of {what}"))
                    .on_key()
                    .label("a name has letters, digits, `-` and `_`, and begins with a letter"),
            );
        }
    }

    fn graph(&mut self, tasks: &'c serde_json::Map<String, Value>) {
        let mut dag: DiGraphMap<&str, ()> = DiGraphMap::new();
        for (name, task) in tasks {
            let pointer = step("/tasks", name);
            self.name(name, &pointer, "a task");
            let mut needs = Vec::new();
            for (index, need) in task.get("needs").and_then(Value::as_array).into_iter().flatten().enumerate()
            {
                let Some(need) = need.as_str() else { continue };
                let at = format!("{pointer}/needs/{index}");
                if need == name {
                    self.findings.push(Finding::at(at, format!("task `{name}` needs itself")));
                } else if let Some((known, _)) = tasks.get_key_value(need) {
                    needs.push(known.as_str());
                    dag.add_edge(known.as_str(), name.as_str(), ());
                } else {
                    let message = format!("task `{name}` needs `{need}`, which is not in this workflow");
                    self.findings.push(offer(Finding::at(at, message), need, tasks.keys()));
                }
            }
            self.needs.insert(name, needs);
        }
        for cycle in petgraph::algo::tarjan_scc(&dag).into_iter().filter(|component| component.len() > 1) {
            self.cycle(&cycle);
        }
    }

    /// Names one way round, beginning with the task that stands first in the file.
    fn cycle(&mut self, members: &[&'c str]) {
        let Some(start) = self.needs.keys().copied().find(|name| members.contains(name)) else { return };
        let mut path = vec![start];
        let mut at = start;
        while let Some(next) = self.needs[at].iter().copied().find(|need| members.contains(need)) {
            if let Some(back) = path.iter().position(|name| *name == next) {
                path.drain(..back);
                break;
            }
            path.push(next);
            at = next;
        }
        let first = path[0];
        path.push(first);
        let words: Vec<String> = path.iter().map(|name| format!("`{name}`")).collect();
        self.findings.push(
            Finding::at(format!("{}/needs", step("/tasks", first)), "tasks need each other in a circle")
                .on_key()
                .label(words.join(" needs ")),
        );
    }

    fn ancestors(&mut self, task: &'c str) -> &BTreeSet<&'c str> {
        if !self.ancestors.contains_key(task) {
            let mut found = BTreeSet::new();
            let mut stack: Vec<&str> = self.needs.get(task).cloned().unwrap_or_default();
            while let Some(name) = stack.pop() {
                if found.insert(name) {
                    stack.extend(self.needs.get(name).into_iter().flatten());
                }
            }
            self.ancestors.insert(task, found);
        }
        &self.ancestors[task]
    }

    fn triggers(&mut self, root: &Value, tasks: &serde_json::Map<String, Value>) {
        let mut names: BTreeMap<&str, usize> = BTreeMap::new();
        for (index, trigger) in
            root.get("triggers").and_then(Value::as_array).into_iter().flatten().enumerate()
        {
            let pointer = format!("/triggers/{index}");
            if let Some(name) = trigger.get("name").and_then(Value::as_str)
                && let Some(first) = names.insert(name, index)
            {
                let message = format!("two triggers are called `{name}`");
                let label = format!("trigger {} has this name already", first + 1);
                self.findings.push(Finding::at(format!("{pointer}/name"), message).label(label));
            }
            if let Some(cron) = trigger.get("cron").and_then(Value::as_str) {
                self.cron(cron, &format!("{pointer}/cron"));
            }
            if let Some(zone) = trigger.get("timezone").and_then(Value::as_str)
                && let Err(words) = timezone(zone)
            {
                let message = format!("`{zone}` is not a time zone");
                self.findings.push(Finding::at(format!("{pointer}/timezone"), message).label(words));
            }
            for (name, value) in trigger.get("inputs").and_then(Value::as_object).into_iter().flatten() {
                let at = step(&format!("{pointer}/inputs"), name);
                match self.inputs.iter().find(|input| input.name == *name) {
                    Some(input) => {
                        if let Err(message) = input.check(value) {
                            self.findings.push(Finding::at(at, message));
                        }
                    }
                    None if root.get("inputs").and_then(|inputs| inputs.get(name)).is_some() => {}
                    None => {
                        let message = format!("the workflow has no input `{name}`");
                        let names = self.inputs.iter().map(|input| &input.name);
                        self.findings.push(offer(Finding::at(at, message).on_key(), name, names));
                    }
                }
            }
            for key in ["only", "skip"] {
                for (at, name) in trigger.get(key).and_then(Value::as_array).into_iter().flatten().enumerate()
                {
                    let Some(name) = name.as_str() else { continue };
                    if !tasks.contains_key(name) {
                        let message = format!(
                            "there is no task `{name}` to {}",
                            if key == "only" { "select" } else { "skip" }
                        );
                        self.findings.push(offer(
                            Finding::at(format!("{pointer}/{key}/{at}"), message),
                            name,
                            tasks.keys(),
                        ));
                    }
                }
            }
        }
    }

    fn cron(&mut self, text: &str, pointer: &str) {
        match text.parse::<Schedule>() {
            Err(words) => {
                self.findings.push(Finding::at(pointer, format!("`{text}` is not a schedule")).label(words))
            }
            Ok(schedule) => self
                .findings
                .extend(schedule.warnings.into_iter().map(|words| Finding::at(pointer, words).warning())),
        }
    }

    fn task(&mut self, name: &'c str, task: &'c Value) {
        let pointer = step("/tasks", name);
        if let Some(when) = task.get("when").and_then(Value::as_str) {
            let at = format!("{pointer}/when");
            if expression::whole(when).is_some() || when.contains("${{") {
                if expression::whole(when).is_none() && expression::split(when).is_ok() {
                    let finding = Finding::at(at, "`when` is one expression and nothing else");
                    self.findings.push(finding.hint("put everything inside one `${{ ... }}`"));
                } else {
                    self.text(name, &at, when, Place::When);
                }
            } else {
                let finding = Finding::at(at, "`when` is one expression").label("expected `${{ ... }}`");
                self.findings.push(finding.hint(format!("write \"${{{{ {when} }}}}\"")));
            }
        }
        for key in ["type", "needs", "retry", "timeout", "on_failure"] {
            let Some(value) = task.get(key) else { continue };
            for (below, _) in expression::texts(value) {
                self.findings.push(
                    Finding::at(format!("{pointer}/{key}{below}"), "expressions are not evaluated here")
                        .label("`${{ }}` stands in a task's `when` and `with`"),
                );
            }
        }
        if let Some(attempts) = task.pointer("/retry/attempts").and_then(Value::as_u64)
            && attempts == 1
            && task.pointer("/retry/backoff").is_some()
        {
            let finding =
                Finding::at(format!("{pointer}/retry/attempts"), "one attempt is no retry").warning();
            self.findings.push(finding.label("`attempts` counts all tries, the first one too"));
        }
        let Some(type_name) = task.get("type").and_then(Value::as_str) else { return };
        let (Some(kind), Some(checker)) =
            (self.registry.get(type_name).cloned(), self.registry.checker(type_name))
        else {
            if !type_name.contains("${{") {
                let known: Vec<String> = self.registry.iter().map(|t| t.type_name().to_owned()).collect();
                let finding =
                    Finding::at(format!("{pointer}/type"), format!("unknown task type `{type_name}`"));
                self.findings
                    .push(offer(finding, type_name, &known).hint(format!("the types are {}", list(&known))));
            }
            return;
        };
        let empty = Value::Object(serde_json::Map::new());
        let spec = task.get("with").unwrap_or(&empty);
        if !spec.is_object() {
            return;
        }
        let prefix = format!("{pointer}/with");
        let what = format!("a `{type_name}` task");
        let mut found = checker.check(spec, &what, Some((self.document, &prefix)));
        if found.is_empty() {
            let site = Site { workflow: self.site.workflow.or(self.workflow.as_ref()), ..self.site };
            found = kind.check(spec, &site);
        }
        self.findings.extend(found.into_iter().map(|finding| finding.below(&prefix)));
        for (below, text) in expression::texts(spec) {
            let sealed = kind.sealed_keys().iter().any(|key| below == format!("/{key}"));
            let place = Place::With { sealed, secret: kind.takes_secret(&below) };
            self.text(name, &format!("{prefix}{below}"), text, place);
        }
    }

    fn text(&mut self, task: &'c str, pointer: &str, text: &str, place: Place) {
        let parts = match expression::split(text) {
            Ok(parts) => parts,
            Err(error) => return self.expression_error(pointer, &error, 0),
        };
        for part in parts {
            let Part::Expression { source, at } = part else { continue };
            match expression::inspect(&source) {
                Err(error) => self.expression_error(pointer, &error, at),
                Ok(found) => {
                    for call in &found.calls {
                        self.call(pointer, at, call, place);
                    }
                    for reference in &found.references {
                        if let Some(finding) = self.reference(task, pointer, &source, reference, place) {
                            self.push_within(finding, at, &reference.bytes);
                        }
                    }
                }
            }
        }
    }

    fn expression_error(&mut self, pointer: &str, error: &expression::ExpressionError, shift: usize) {
        let mut finding = Finding::at(pointer, error.message.clone());
        finding.hints.extend(error.hint.clone());
        self.push_within(finding, shift, &error.bytes);
    }

    fn push_within(&mut self, mut finding: Finding, shift: usize, bytes: &std::ops::Range<usize>) {
        finding.within = Some(bytes.start + shift..bytes.end + shift);
        self.findings.push(finding);
    }

    fn call(&mut self, pointer: &str, shift: usize, call: &expression::FunctionCall, place: Place) {
        let name = call.name.as_str();
        let finding = if ANCESTOR_FUNCTIONS.contains(&name) && !call.on_value {
            match place {
                Place::With { .. } => {
                    let finding = Finding::at(pointer, format!("`{name}()` is known in `when` only"));
                    Some(finding.hint("in `with`, read `tasks.NAME.status`"))
                }
                Place::When if call.arguments > 0 => {
                    Some(Finding::at(pointer, format!("`{name}()` takes no argument")))
                }
                Place::When => None,
            }
        } else if FUNCTIONS.contains(&name) {
            None
        } else {
            let known: Vec<String> =
                FUNCTIONS.iter().chain(&ANCESTOR_FUNCTIONS).map(|f| (*f).to_owned()).collect();
            Some(offer(Finding::at(pointer, format!("there is no function `{name}`")), name, &known))
        };
        if let Some(finding) = finding {
            self.push_within(finding, shift, &call.bytes);
        }
    }

    fn reference(
        &mut self,
        task: &'c str,
        pointer: &str,
        source: &str,
        reference: &Reference,
        place: Place,
    ) -> Option<Finding> {
        let first = reference.path.first().map(String::as_str);
        match reference.root.as_str() {
            "inputs" => {
                let name = first?;
                let declared = self.document.value().get("inputs").and_then(Value::as_object);
                let known: Vec<&String> = declared.into_iter().flat_map(|inputs| inputs.keys()).collect();
                if known.iter().any(|input| *input == name) {
                    return None;
                }
                let finding = Finding::at(pointer, format!("the workflow has no input `{name}`"));
                Some(offer(finding, name, known.iter().copied()))
            }
            "tasks" => self.task_reference(task, pointer, source, reference, place),
            "run" => {
                let known: Vec<String> = RUN_KEYS.iter().map(|key| (*key).to_owned()).collect();
                let name = first.filter(|name| !RUN_KEYS.contains(name))?;
                Some(offer(Finding::at(pointer, format!("a run has no `{name}`")), name, &known))
            }
            "vars" => {
                let name = first.filter(|name| !self.known.vars.contains(*name))?;
                let finding = Finding::at(pointer, format!("the settings have no variable `{name}`"));
                Some(
                    offer(finding, name, &self.known.vars)
                        .hint("variables stand below `vars` in the settings"),
                )
            }
            "secrets" => self.secret_reference(pointer, source, reference, place),
            // Types are names too.
            "int" | "uint" | "double" | "string" | "bool" | "bytes" | "list" | "map" | "type" => None,
            other => {
                let known = ["inputs", "tasks", "run", "vars", "secrets"].map(str::to_owned);
                let finding = Finding::at(pointer, format!("`{other}` is not known here"));
                Some(offer(finding, other, &known).hint(format!("an expression sees {}", list(&known))))
            }
        }
    }

    fn task_reference(
        &mut self,
        task: &'c str,
        pointer: &str,
        source: &str,
        reference: &Reference,
        place: Place,
    ) -> Option<Finding> {
        let name = reference.path.first()?;
        if let Place::With { sealed: true, .. } = place {
            let key = pointer.rsplit('/').next().unwrap_or_default();
            let finding = Finding::at(pointer, format!("`{key}` cannot depend on what a task puts out"));
            return Some(finding.label("it says what the run claims, and must be known at submit"));
        }
        let tasks = self.document.value().get("tasks").and_then(Value::as_object)?;
        if !tasks.contains_key(name) {
            let finding = Finding::at(pointer, format!("there is no task `{name}`"));
            let dashed = tasks
                .keys()
                .find(|key| key.starts_with(&format!("{name}-")) && source.contains(key.as_str()));
            return Some(match dashed {
                Some(key) => finding.hint(format!("a name with `-` is written tasks['{key}']")),
                None => offer(finding, name, tasks.keys()),
            });
        }
        if !self.ancestors(task).contains(name.as_str()) {
            let finding = Finding::at(pointer, format!("task `{name}` need not have ended before `{task}`"));
            return Some(finding.hint(format!("add `{name}` to the needs of `{task}`")));
        }
        match reference.path.get(1).map(String::as_str) {
            None | Some("status") => None,
            Some("outputs") => {
                let output = reference.path.get(2)?;
                let type_name = tasks.get(name)?.get("type")?.as_str()?;
                let kind = self.registry.get(type_name)?;
                if kind.outputs().contains(&output.as_str()) {
                    return None;
                }
                let known: Vec<String> = kind.outputs().iter().map(|output| (*output).to_owned()).collect();
                let finding = Finding::at(pointer, format!("task `{name}` has no output `{output}`"));
                Some(
                    offer(finding, output, &known)
                        .hint(format!("a `{type_name}` task puts out {}", list(&known))),
                )
            }
            Some(other) => {
                let known = ["status", "outputs"].map(str::to_owned);
                Some(offer(Finding::at(pointer, format!("a task has no `{other}`")), other, &known))
            }
        }
    }

    fn secret_reference(
        &self,
        pointer: &str,
        source: &str,
        reference: &Reference,
        place: Place,
    ) -> Option<Finding> {
        let name = reference.path.first();
        if !matches!(place, Place::With { secret: true, .. }) {
            let finding = Finding::at(pointer, "a secret cannot stand here");
            return Some(finding.label("only where a type sends it on, as in the headers of an http check"));
        }
        match name {
            Some(name) if source.trim() == format!("secrets.{name}") => {
                if self.known.secrets.contains(name) {
                    return None;
                }
                let finding = Finding::at(pointer, format!("the settings have no secret `{name}`"));
                Some(
                    offer(finding, name, &self.known.secrets)
                        .hint("secrets stand below `secrets` in the settings"),
                )
            }
            _ => {
                let finding = Finding::at(pointer, "a secret cannot be computed with");
                Some(finding.hint("write `${{ secrets.NAME }}` and nothing else inside the braces"))
            }
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Place {
    When,
    With { sealed: bool, secret: bool },
}

/// What an expression sees of the run.
pub(crate) const RUN_KEYS: [&str; 5] = ["id", "workflow", "revision", "submitted_at", "actor"];

const FUNCTIONS: [&str; 33] = [
    "size",
    "has",
    "all",
    "exists",
    "exists_one",
    "map",
    "filter",
    "contains",
    "startsWith",
    "endsWith",
    "matches",
    "int",
    "uint",
    "double",
    "string",
    "bool",
    "type",
    "min",
    "max",
    "lowerAscii",
    "upperAscii",
    "replace",
    "split",
    "join",
    "trim",
    "substring",
    "indexOf",
    "lastIndexOf",
    "charAt",
    "format",
    "duration",
    "timestamp",
    "dyn",
];

fn offer<'n>(finding: Finding, given: &str, names: impl IntoIterator<Item = &'n String>) -> Finding {
    match nearest(given, names.into_iter().map(String::as_str)) {
        Some(near) => finding.label(format!("did you mean `{near}`?")),
        None => finding,
    }
}
