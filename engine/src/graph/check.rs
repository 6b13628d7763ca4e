//! The one pipeline of validation: YAML with positions, frame schema, each `with` by its type's own
//! schema, expressions, references and graph, serde last. All problems at once, each with its place.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Range;
use std::sync::OnceLock;

use petgraph::graphmap::DiGraphMap;
use regex::Regex;
use serde_json::Value;

use super::Graph;
use crate::bundle;
use crate::clock::{DURATION_PATTERN, parse_duration};
use crate::document::{Document, Finding, Problem, Severity, file_problem, on_large_stack, step};
use crate::expression::{self, ANCESTOR_FUNCTIONS, Part, Reference, Scope};
use crate::id::{Digest, WorkflowName, is_name};
use crate::input::Input;
use crate::schedule::{Schedule, field_of, timezone};
use crate::schema::{Checker, list, nearest, value_words};
use crate::task::{Registry, Site};
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
    // One large stack for all expressions of the file.
    on_large_stack(|| check_here(file, bytes, registry, known, site))
}

fn check_here(file: &str, bytes: &[u8], registry: &Registry, known: &Known, site: Site<'_>) -> Checked {
    let (document, duplicates) = match Document::parse_to_check(file, bytes) {
        Ok(read) => read,
        Err(problems) => return Checked { graph: None, problems, name: None },
    };
    if document.value().is_null() {
        let mut problem = file_problem(file, "the file is empty");
        problem.hints.push("a workflow has a `name` and `tasks`; see docs/workflow-reference.md".into());
        return Checked { graph: None, problems: vec![problem], name: None };
    }
    let mut checker = Check::new(&document, registry, known, site);
    checker.all();
    let revision = Digest::of(&bundle::revision(bytes, site.files));
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
            let mut others: Vec<String> = named.iter().filter(|other| *other != file).cloned().collect();
            others.truncate(MAX_NAMED);
            let mut problem = file_problem(file, format!("two workflows are called `{name}`"));
            problem
                .hints
                .push(format!("the other one is in {}; give one of them another name", list(&others)));
            checked.problems.push(problem);
            checked.graph = None;
        }
    }
}

/// The most files that a hint names.
const MAX_NAMED: usize = 5;

/// The most expressions in one text.
const MAX_EXPRESSIONS: usize = 100;

/// How many names are compared for `did you mean` in one file: enough for any file that is nearly right.
const MAX_COMPARED: usize = 500_000;

const NO_EXPRESSIONS: &str = "expressions are not evaluated here";

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
    needs: Needs<'c>,
    /// Tasks that need something unknown: what has ended before them cannot be said.
    unsure: HashSet<&'c str>,
    compared: Cell<usize>,
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
            needs: Needs::default(),
            unsure: HashSet::new(),
            compared: Cell::new(0),
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
                self.no_expression(pointer);
            }
        }
        self.inputs(root);
        self.duration("/timeout");
        let Some(tasks) = root.get("tasks").and_then(Value::as_object) else { return };
        self.graph(tasks);
        self.triggers(root, tasks);
        for (name, task) in tasks {
            self.task(name, task);
        }
        // What else is wrong with such a text is wrong because it is an expression.
        let misplaced: HashSet<String> = self
            .findings
            .iter()
            .filter(|finding| finding.message == NO_EXPRESSIONS)
            .map(|f| f.pointer.clone())
            .collect();
        self.findings
            .retain(|finding| finding.message == NO_EXPRESSIONS || !misplaced.contains(&finding.pointer));
    }

    fn no_expression(&mut self, pointer: String) {
        self.findings.push(
            Finding::at(pointer, NO_EXPRESSIONS).label("`${{ }}` stands in a task's `when` and `with`"),
        );
    }

    /// The schema knows the form of a duration; this knows its size.
    fn duration(&mut self, pointer: &str) {
        let Some(text) = self.document.value().pointer(pointer).and_then(Value::as_str) else { return };
        if has_duration_form(text) && (text.len() > 24 || parse_duration(text).is_err()) {
            self.findings.push(Finding::at(pointer, "the duration is too long to be counted"));
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
                        self.findings.push(Finding::at(format!("{pointer}{key}"), message));
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
        let mut all = Vec::new();
        for (name, task) in tasks {
            let pointer = step("/tasks", name);
            self.name(name, &pointer, "a task");
            let mut needs: Vec<&'c str> = Vec::new();
            let mut named = HashSet::new();
            for (index, need) in task.get("needs").and_then(Value::as_array).into_iter().flatten().enumerate()
            {
                let Some(need) = need.as_str() else { continue };
                let at = format!("{pointer}/needs/{index}");
                if !named.insert(need) {
                    let message = format!("task `{name}` needs `{need}` twice");
                    self.findings.push(Finding::at(at, message).warning());
                } else if need == name {
                    self.findings.push(Finding::at(at, format!("task `{name}` needs itself")));
                } else if let Some((known, _)) = tasks.get_key_value(need) {
                    needs.push(known.as_str());
                    dag.add_edge(known.as_str(), name.as_str(), ());
                } else {
                    let message = format!("task `{name}` needs `{need}`, which is not in this workflow");
                    let finding = self.offer(Finding::at(at, message), need, tasks.keys());
                    self.findings.push(finding);
                    self.unsure.insert(name);
                }
            }
            all.push((name.as_str(), needs));
        }
        self.needs = Needs::new(&all);
        let needs: HashMap<&str, &[&'c str]> =
            all.iter().map(|(name, needs)| (*name, needs.as_slice())).collect();
        // Not Tarjan's: that one recurses, and a chain may be as long as the file allows.
        for cycle in petgraph::algo::kosaraju_scc(&dag).into_iter().filter(|component| component.len() > 1) {
            self.cycle(&cycle, &needs, tasks);
        }
    }

    /// Names one way round, beginning with the task that stands first in the file.
    fn cycle(
        &mut self,
        members: &[&'c str],
        needs: &HashMap<&str, &[&'c str]>,
        tasks: &'c serde_json::Map<String, Value>,
    ) {
        let members: HashSet<&str> = members.iter().copied().collect();
        let Some(start) = tasks.keys().map(String::as_str).find(|name| members.contains(name)) else {
            return;
        };
        let (mut path, mut places) = (vec![start], HashMap::from([(start, 0)]));
        let mut at = start;
        while let Some(next) = needs[at].iter().copied().find(|need| members.contains(need)) {
            if let Some(back) = places.insert(next, path.len()) {
                path.drain(..back);
                break;
            }
            path.push(next);
            at = next;
        }
        let first = path[0];
        path.push(first);
        let mut words: Vec<String> = path.iter().map(|name| format!("`{name}`")).collect();
        if words.len() > 12 {
            words.splice(6..words.len() - 5, ["...".to_owned()]);
        }
        self.findings.push(
            Finding::at(format!("{}/needs", step("/tasks", first)), "tasks need each other in a circle")
                .on_key()
                .label(words.join(" needs ")),
        );
    }

    fn triggers(&mut self, root: &Value, tasks: &serde_json::Map<String, Value>) {
        let mut names: BTreeSet<String> = BTreeSet::new();
        let declared: HashMap<String, Input> =
            self.inputs.iter().map(|input| (input.name.clone(), input.clone())).collect();
        for (index, trigger) in
            root.get("triggers").and_then(Value::as_array).into_iter().flatten().enumerate()
        {
            let pointer = format!("/triggers/{index}");
            let name = match trigger.get("name").and_then(Value::as_str) {
                Some(name) => name.to_owned(),
                None => {
                    let none = serde_json::Map::new();
                    super::unnamed(
                        trigger.get("cron").and_then(Value::as_str).unwrap_or_default(),
                        trigger.get("timezone").and_then(Value::as_str),
                        trigger.get("inputs").and_then(Value::as_object).unwrap_or(&none),
                    )
                }
            };
            if names.contains(&name) {
                let message = match trigger.get("name") {
                    Some(_) => format!("two triggers are called `{name}`"),
                    None => "two triggers without a name are the same: give each a name".to_owned(),
                };
                let finding = Finding::at(format!("{pointer}/name"), message);
                self.findings.push(finding.label("another trigger has this name already"));
            }
            names.insert(name);
            for key in ["start_deadline", "jitter", "catchup_window"] {
                self.duration(&format!("{pointer}/{key}"));
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
                match declared.get(name) {
                    Some(input) => self.findings.extend(
                        input
                            .wrong(value)
                            .into_iter()
                            .map(|(below, why)| Finding::at(format!("{at}{below}"), why)),
                    ),
                    None if root.get("inputs").and_then(|inputs| inputs.get(name)).is_some() => {}
                    None => {
                        let message = format!("the workflow has no input `{name}`");
                        let finding = Finding::at(at, message).on_key();
                        let finding = self.offer(finding, name, declared.keys());
                        self.findings.push(finding);
                    }
                }
            }
            let gives = |name: &str| trigger.get("inputs").and_then(|inputs| inputs.get(name)).is_some();
            for input in self.inputs.iter().filter(|input| input.required() && !gives(&input.name)) {
                let message = format!("the trigger does not give input `{}`, which is required", input.name);
                let finding = Finding::at(format!("{pointer}/inputs"), message).on_key();
                self.findings.push(finding.label(format!(
                    "`{}` ({}) is missing",
                    input.name,
                    input.type_words()
                )));
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
                        let finding = Finding::at(format!("{pointer}/{key}/{at}"), message);
                        let finding = self.offer(finding, name, tasks.keys());
                        self.findings.push(finding);
                    }
                }
            }
        }
    }

    fn cron(&mut self, text: &str, pointer: &str) {
        match text.parse::<Schedule>() {
            Err(words) => {
                let shown = if text.is_empty() { "an empty text".to_owned() } else { format!("`{text}`") };
                let mut finding = Finding::at(pointer, format!("{shown} is not a schedule"));
                finding.within = field_of(text, &words);
                self.findings.push(finding.label(words));
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
        if let Some(value @ (Value::Bool(_) | Value::Number(_))) = task.get("when") {
            let at = format!("{pointer}/when");
            self.replace(
                Finding::at(at, "`when` is one expression")
                    .label("expected `${{ ... }}`")
                    .hint(format!("write \"${{{{ {value} }}}}\"")),
            );
        }
        for key in ["type", "needs", "retry", "timeout", "on_failure"] {
            let Some(value) = task.get(key) else { continue };
            for (below, _) in expression::texts(value) {
                self.no_expression(format!("{pointer}/{key}{below}"));
            }
        }
        for key in ["timeout", "retry/backoff", "retry/max_backoff"] {
            self.duration(&format!("{pointer}/{key}"));
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
                let finding = self.offer(finding, type_name, &known);
                self.findings.push(finding.hint(format!("the types are {}", list(&known))));
            }
            return;
        };
        // A key that stands one level too high.
        let of_type = checker.schema().get("properties").and_then(Value::as_object);
        for key in task.as_object().into_iter().flat_map(serde_json::Map::keys) {
            if of_type.is_some_and(|known| known.contains_key(key)) && !is_task_key(key) {
                let finding = Finding::at(step(&pointer, key), format!("unknown key `{key}`")).on_key();
                self.replace(finding.label(format!("`{key}` stands below `with`")));
            }
        }
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
            found.extend(self.input_types(spec, checker, &what));
        }
        self.findings.extend(found.into_iter().map(|finding| finding.below(&prefix)));
        if kind.ask(spec).is_some() {
            self.guards(name, spec, &prefix);
        }
        for (below, text) in expression::texts(spec) {
            let sealed = kind.sealed_keys().iter().any(|key| below == format!("/{key}"));
            let place = Place::With { sealed, secret: kind.takes_secret(&below) };
            self.text(name, &format!("{prefix}{below}"), text, place);
        }
    }

    /// Says something else of a place of which the schema has said something already.
    fn replace(&mut self, finding: Finding) {
        match self.findings.iter_mut().find(|found| found.pointer == finding.pointer) {
            Some(found) => *found = finding,
            None => self.findings.push(finding),
        }
    }

    /// A value that is one input, and nothing else, has the input's type before any run.
    fn input_types(&self, spec: &Value, checker: &Checker, what: &str) -> Vec<Finding> {
        let mut with_stand_ins = None;
        let mut read = BTreeMap::new();
        for (pointer, text) in expression::texts(spec) {
            if let Some(input) = self.only_input(text)
                && let Some(value) = with_stand_ins.get_or_insert_with(|| spec.clone()).pointer_mut(&pointer)
            {
                *value = input.stand_in();
                read.insert(pointer, input);
            }
        }
        let Some(with_stand_ins) = with_stand_ins else { return Vec::new() };
        let refused = checker.refused_types(&with_stand_ins).into_iter();
        let refused =
            refused.filter_map(|(pointer, expected)| Some((read.get(&pointer)?, pointer, expected)));
        refused
            .map(|(input, pointer, expected)| {
                let name = crate::schema::name_of(spec, &pointer, what);
                let message = format!("{name} must be {expected}, but {}", type_of(input));
                Finding::at(pointer, message).label(format!("expected {expected}"))
            })
            .collect()
    }

    /// The input that a text is, where it is one and nothing else.
    fn only_input(&self, text: &str) -> Option<&Input> {
        let source = expression::whole(text)?;
        let name = source.strip_prefix("inputs.")?;
        self.inputs.iter().find(|input| input.name == name)
    }

    fn text(&mut self, task: &'c str, pointer: &str, text: &str, place: Place) {
        let parts = match expression::split(text) {
            Ok(parts) => parts,
            Err(error) => {
                let cut_off = self.document.rest_of_line(pointer).starts_with(" #");
                let error = if cut_off {
                    error.hint("` #` begins a comment: put the expression in quotes")
                } else {
                    error
                };
                return self.expression_error(pointer, &error, 0);
            }
        };
        let expressions = parts.iter().filter(|part| matches!(part, Part::Expression { .. })).count();
        if expressions > MAX_EXPRESSIONS {
            let message = format!("the text holds more than {MAX_EXPRESSIONS} expressions");
            return self.findings.push(Finding::at(pointer, message));
        }
        for part in parts {
            let Part::Expression { source, at } = part else { continue };
            match expression::inspect(&source) {
                Err(error) => self.expression_error(pointer, &error, at),
                Ok(found) => self.inspected(task, pointer, (&source, at), &found, place),
            }
        }
    }

    fn inspected(
        &mut self,
        task: &'c str,
        pointer: &str,
        (source, at): (&str, usize),
        found: &expression::Inspection,
        place: Place,
    ) {
        let before = self.findings.len();
        for call in &found.calls {
            self.call(pointer, at, call, place);
        }
        for reference in &found.references {
            if let Some(finding) = self.reference(task, pointer, source, reference, place) {
                let bytes = finding.within.clone().unwrap_or_else(|| reference.bytes.clone());
                self.push_within(finding, at, &bytes);
            }
        }
        let looks_at_ancestors =
            found.calls.iter().any(|call| ANCESTOR_FUNCTIONS.contains(&call.name.as_str()));
        // What reads nothing is known already.
        if before == self.findings.len() && found.references.is_empty() && !looks_at_ancestors {
            match expression::evaluate(source, &Scope::default()) {
                // No error: a task that is never reached may say what it likes.
                Err(error) => {
                    let finding = Finding::at(pointer, error.message).warning();
                    let finding = finding.label("it reads nothing, and fails in every run");
                    self.push_within(finding, at, &trimmed(source));
                }
                Ok(value) if matches!(place, Place::When) && !value.is_boolean() => {
                    let message = format!("`when` must be true or false, not {}", value_words(&value));
                    self.push_within(Finding::at(pointer, message), at, &trimmed(source));
                }
                Ok(_) => {}
            }
        }
        if matches!(place, Place::When)
            && let Some(input) = source.trim().strip_prefix("inputs.")
            && let Some(input) = self.inputs.iter().find(|declared| declared.name == input)
            && !input.stand_in().is_boolean()
        {
            let message = format!("`when` must be true or false, but {}", type_of(input));
            self.push_within(Finding::at(pointer, message), at, &trimmed(source));
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

    /// With the name that was most likely meant.
    fn offer<'n>(
        &self,
        finding: Finding,
        given: &str,
        names: impl IntoIterator<Item = &'n String>,
    ) -> Finding {
        let left = MAX_COMPARED.saturating_sub(self.compared.get());
        let compared = &self.compared;
        let names = names.into_iter().take(left).inspect(|_| compared.set(compared.get() + 1));
        match nearest(given, names.map(String::as_str)) {
            Some(near) => finding.label(format!("did you mean `{near}`?")),
            None => finding,
        }
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
            Some(self.offer(Finding::at(pointer, format!("there is no function `{name}`")), name, &known))
        };
        if let Some(finding) = finding {
            self.push_within(finding, shift, &call.bytes);
        }
    }

    /// The tasks whose plans an approval asks for: they come after it, and nothing else that they need is still to come.
    fn guards(&mut self, approval: &'c str, spec: &Value, prefix: &str) {
        let Some(tasks) = self.document.value().get("tasks").and_then(Value::as_object) else { return };
        if self.unsure.contains(approval) {
            return;
        }
        let needs = |task: &str| -> Vec<String> {
            let needs = tasks.get(task).and_then(|task| task.get("needs")).and_then(Value::as_array);
            needs.into_iter().flatten().filter_map(|need| need.as_str().map(str::to_owned)).collect()
        };
        let named: Vec<(usize, &str)> = spec["guards"]
            .as_array()
            .into_iter()
            .flatten()
            .enumerate()
            .filter_map(|(index, name)| Some((index, name.as_str().filter(|name| !name.contains("${{"))?)))
            .collect();
        let mut guarded: Vec<(String, String)> = Vec::new();
        for (index, name) in &named {
            let at = format!("{prefix}/guards/{index}");
            if !tasks.contains_key(*name) {
                let finding = Finding::at(at, format!("there is no task `{name}`"));
                let finding = self.offer(finding, name, tasks.keys());
                self.findings.push(finding);
            } else if !self.needs.is_before(approval, name) {
                let finding = Finding::at(at, format!("task `{name}` does not wait for this approval"));
                self.findings.push(finding.hint(format!("add `{approval}` to the needs of `{name}`")));
            } else {
                guarded.push((at, (*name).to_owned()));
            }
        }
        if spec.get("guards").is_none() {
            let direct = tasks.keys().filter(|task| needs(task).iter().any(|need| need == approval));
            guarded.extend(direct.map(|task| (prefix.trim_end_matches("/with").to_owned(), task.clone())));
        }
        for (at, task) in guarded {
            let late = needs(&task).into_iter().find(|need| {
                need != approval && tasks.contains_key(need) && !self.needs.is_before(need, approval)
            });
            // An approval beside this one makes no plan and is waited for by both.
            let late = late.filter(|need| {
                let kind = tasks.get(need).and_then(|task| task["type"].as_str());
                kind.and_then(|kind| self.registry.get(kind))
                    .is_none_or(|kind| kind.ask(&Value::Null).is_none())
            });
            if let Some(late) = late {
                let words = format!("people agree to the plan of `{task}` before `{late}` has ended");
                self.findings.push(
                    Finding::at(at, words)
                        .on_key()
                        .hint(format!("add `{late}` to the needs of `{approval}`")),
                );
            }
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
                if declared.is_some_and(|inputs| inputs.contains_key(name)) {
                    return None;
                }
                let finding = Finding::at(pointer, format!("the workflow has no input `{name}`"));
                let known = declared.into_iter().flat_map(serde_json::Map::keys);
                Some(within(self.offer(finding, name, known), reference, 0))
            }
            "tasks" => self.task_reference(task, pointer, source, reference, place),
            "run" if matches!(place, Place::With { sealed: true, .. }) => {
                let key = pointer.rsplit('/').next().unwrap_or_default();
                let finding = Finding::at(pointer, format!("`{key}` cannot depend on the run itself"));
                Some(finding.label("a retry or an undo of it is another run, and must claim the same"))
            }
            "run" => {
                let known: Vec<String> = RUN_KEYS.iter().map(|key| (*key).to_owned()).collect();
                let name = first.filter(|name| !RUN_KEYS.contains(name))?;
                let finding = Finding::at(pointer, format!("a run has no `{name}`"));
                let finding = self.offer(finding, name, &known).hint(format!("a run has {}", list(&known)));
                Some(within(finding, reference, 0))
            }
            "vars" => {
                let name = first.filter(|name| !self.known.vars.contains(*name))?;
                let finding = Finding::at(pointer, format!("the settings have no variable `{name}`"));
                let finding = self.offer(finding, name, &self.known.vars);
                Some(within(finding, reference, 0).hint("variables stand below `vars` in the settings"))
            }
            "secrets" => self.secret_reference(pointer, source, reference, place),
            // Types are names too.
            "int" | "uint" | "double" | "string" | "bool" | "bytes" | "list" | "map" | "type" => None,
            other => {
                if self.is_rest_of_dashed(other, source) {
                    return None;
                }
                let known = ["inputs", "tasks", "run", "vars", "secrets"].map(str::to_owned);
                let finding = Finding::at(pointer, format!("`{other}` is not known here"));
                let finding = self.offer(finding, other, &known);
                Some(finding.hint(format!("an expression sees {}", list(&known))))
            }
        }
    }

    /// `tasks.a-b` reads as `tasks.a` minus `b`; what is wrong with it is said of `a`.
    fn is_rest_of_dashed(&self, word: &str, source: &str) -> bool {
        source.contains(&format!("-{word}"))
            && ["tasks", "inputs"].into_iter().any(|root| {
                let names = self.document.value().get(root).and_then(Value::as_object);
                names.into_iter().flat_map(serde_json::Map::keys).any(|name| {
                    name.split('-').skip(1).any(|part| part == word)
                        && source.contains(&format!("{root}.{name}"))
                })
            })
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
            let finding = within(finding, reference, 0);
            let dashed = tasks
                .keys()
                .find(|key| key.starts_with(&format!("{name}-")) && source.contains(key.as_str()));
            return Some(match dashed {
                Some(key) => finding.hint(format!("a name with `-` is written tasks['{key}']")),
                None => self.offer(finding, name, tasks.keys()),
            });
        }
        if !self.needs.is_before(name, task) {
            if self.unsure.contains(task) {
                return None;
            }
            let finding = Finding::at(pointer, format!("task `{name}` need not have ended before `{task}`"));
            return Some(
                within(finding, reference, 0).hint(format!("add `{name}` to the needs of `{task}`")),
            );
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
                let finding = within(self.offer(finding, output, &known), reference, 2);
                Some(finding.hint(format!("a `{type_name}` task puts out {}", list(&known))))
            }
            Some(other) => {
                let known = ["status", "outputs"].map(str::to_owned);
                let finding = Finding::at(pointer, format!("a task has no `{other}`"));
                Some(within(self.offer(finding, other, &known), reference, 1))
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
                let finding = self.offer(finding, name, &self.known.secrets);
                Some(within(finding, reference, 0).hint("secrets stand below `secrets` in the settings"))
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
pub(crate) const RUN_KEYS: [&str; 8] =
    ["id", "workflow", "revision", "submitted_at", "actor", "trigger", "nominal", "actual"];

const FUNCTIONS: [&str; 31] = [
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

/// The task graph by numbers: whether one task is before another is asked once an expression.
#[derive(Default)]
struct Needs<'c> {
    numbers: HashMap<&'c str, usize>,
    before: Vec<Vec<usize>>,
    /// The task whose ancestors are marked, and the marks.
    asked: Option<usize>,
    marks: Vec<usize>,
    round: usize,
}

impl<'c> Needs<'c> {
    /// Needs that are no tasks are left out by the caller.
    fn new(all: &[(&'c str, Vec<&'c str>)]) -> Self {
        let numbers: HashMap<&str, usize> =
            all.iter().enumerate().map(|(number, (name, _))| (*name, number)).collect();
        let before = all
            .iter()
            .map(|(_, needs)| needs.iter().filter_map(|need| numbers.get(need).copied()).collect())
            .collect();
        Needs { marks: vec![0; all.len()], numbers, before, asked: None, round: 0 }
    }

    /// Whether `name` has ended when `task` begins.
    fn is_before(&mut self, name: &str, task: &str) -> bool {
        let (Some(&name), Some(&task)) = (self.numbers.get(name), self.numbers.get(task)) else {
            return false;
        };
        if self.before[task].contains(&name) {
            return true;
        }
        if self.asked != Some(task) {
            self.asked = Some(task);
            self.round += 1;
            let mut stack = vec![task];
            while let Some(at) = stack.pop() {
                for before in &self.before[at] {
                    if std::mem::replace(&mut self.marks[*before], self.round) != self.round {
                        stack.push(*before);
                    }
                }
            }
        }
        self.marks[name] == self.round
    }
}

/// Marks one key of the path that an expression reads.
fn within(mut finding: Finding, reference: &Reference, key: usize) -> Finding {
    finding.within = reference.path_bytes.get(key).cloned();
    finding
}

fn trimmed(source: &str) -> Range<usize> {
    let start = source.len() - source.trim_start().len();
    start..start + source.trim().len()
}

fn type_of(input: &Input) -> String {
    format!("input `{}` is of type {}", input.name, input.type_words())
}

fn is_task_key(key: &str) -> bool {
    matches!(key, "type" | "needs" | "when" | "retry" | "timeout" | "on_failure" | "with")
}

/// Whether a text has the form of a duration, so that only its size can be wrong.
fn has_duration_form(text: &str) -> bool {
    static FORM: OnceLock<Option<Regex>> = OnceLock::new();
    let form = FORM.get_or_init(|| Regex::new(DURATION_PATTERN).ok());
    form.as_ref().is_some_and(|form| form.is_match(text))
}
