//! A workflow checked: the DAG of its tasks, everything typed.
//!
//! A `Graph` exists only where its file has no error; the scheduler accepts nothing less. `check.rs`
//! finds everything that is wrong, at once and with places; this file holds what is right.

mod check;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use petgraph::Direction;
use petgraph::graph::{DiGraph, NodeIndex};
use petgraph::visit::EdgeRef as _;
use serde_json::{Map, Value};

pub use self::check::{Checked, Known, check, check_names};
use crate::bundle::{Bundle, WORKFLOW_FILE};
use crate::clock::parse_duration;
use crate::document::{Problem, Severity};
use crate::id::{Digest, TaskName, WorkflowName};
use crate::input::Input;
use crate::retry::RetryPolicy;
use crate::task::{Registry, Site, Task};
use crate::workflow::{
    ConcurrencyFile, MissedFile, OnFailureFile, PolicyFile, RetryFile, TaskFile, UndoFile, WorkflowFile,
};

/// A checked workflow.
#[derive(Debug, Clone)]
pub struct Graph {
    /// Its name.
    pub name: WorkflowName,
    /// The SHA-256 of the file, and of the files that it names: of [`bundle::revision`](crate::bundle::revision).
    pub revision: Digest,
    /// What it is for.
    pub description: Option<String>,
    /// What a run is given.
    pub inputs: Vec<Input>,
    /// What starts runs besides people.
    pub triggers: Vec<Trigger>,
    /// Runs of one group that must not overlap, where the file says so.
    pub concurrency: Option<Concurrency>,
    /// The longest a run may take.
    pub timeout: Option<Duration>,
    /// Whether a failed run is taken back.
    pub undo: Undo,
    dag: DiGraph<TaskNode, ()>,
    /// Invariant: a node's index is its place in the order of tasks.
    index: BTreeMap<TaskName, NodeIndex>,
}

/// Graphs that were checked lately, with their bundles: what runs again and again is read once.
#[derive(Debug, Clone, Default)]
pub struct Graphs(Arc<Mutex<HashMap<String, Read>>>);

/// A bundle and the graph of its workflow.
type Read = (Arc<Bundle>, Arc<Graph>);

/// How many graphs are remembered; then all are forgotten, which is simpler than to know the oldest.
const GRAPHS: usize = 64;

impl Graphs {
    /// The graph of a bundle, checked now or remembered. It depends on the names of variables and secrets too.
    ///
    /// # Errors
    /// Every problem of the workflow file.
    pub(crate) fn of(
        &self,
        digest: &Digest,
        registry: &Registry,
        known: &Known,
        bundle: impl FnOnce() -> Result<Bundle, Vec<Problem>>,
    ) -> Result<Read, Vec<Problem>> {
        let key = format!("{digest} {:?} {:?}", known.vars, known.secrets);
        if let Some(found) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(found.clone());
        }
        let bundle = bundle()?;
        let bytes = bundle.get(WORKFLOW_FILE).unwrap_or_default();
        let checked = check(WORKFLOW_FILE, bytes, registry, known, Site { workflow: None, files: &bundle });
        let graph = checked.graph.ok_or_else(|| {
            checked
                .problems
                .into_iter()
                .filter(|problem| problem.severity == Severity::Error)
                .collect::<Vec<_>>()
        })?;
        let found = (Arc::new(bundle), Arc::new(graph));
        let mut graphs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if graphs.len() >= GRAPHS {
            graphs.clear();
        }
        graphs.insert(key, found.clone());
        Ok(found)
    }
}

/// One task of a graph.
#[derive(Debug, Clone)]
pub struct TaskNode {
    /// Its name.
    pub name: TaskName,
    /// Its type.
    pub kind: Kind,
    /// What must have ended before.
    pub needs: Vec<TaskName>,
    /// Whether it runs.
    pub when: Option<When>,
    /// How a failed attempt is tried again.
    pub retry: RetryPolicy,
    /// The longest one attempt may take.
    pub timeout: Duration,
    /// What the run does when it fails.
    pub on_failure: OnFailure,
    /// Its spec, expressions unresolved.
    pub with: Value,
    /// The tasks that its expressions may read; `None` for all before it.
    pub reads: Option<BTreeSet<String>>,
}

/// A task's type, as the registry knows it.
#[derive(Clone)]
pub struct Kind(Arc<dyn Task>);

impl std::ops::Deref for Kind {
    type Target = Arc<dyn Task>;

    fn deref(&self) -> &Arc<dyn Task> {
        &self.0
    }
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.type_name())
    }
}

/// The longest attempt where the file names none.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// A task's `when`.
#[derive(Debug, Clone, PartialEq)]
pub struct When {
    /// The expression inside `${{ }}`.
    pub source: String,
    /// Whether it calls `success()`, `failure()`, `always()` or `cancelled()`: then nothing is added to it.
    pub looks_at_ancestors: bool,
    /// Whether it may hold while the run is ending: it calls `failure()`, `always()` or `cancelled()`.
    pub cleans_up: bool,
}

/// What a run does when a task fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFailure {
    /// Nothing new starts but clean-up.
    Stop,
    /// It counts as passed.
    Continue,
    /// It waits for a person.
    Hold,
}

/// Whether a failed run is taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undo {
    /// What it changed stays.
    Never,
    /// By a run of its own.
    OnFailure,
}

/// How often taking back one task is tried: nobody may be there to say more.
const UNDO_ATTEMPTS: u32 = 3;

/// A schedule of a workflow.
#[derive(Debug, Clone)]
pub struct Trigger {
    /// Its name; where none is written, one that follows from expression, zone and inputs.
    pub name: String,
    /// Five fields.
    pub cron: String,
    /// The zone of the five fields.
    pub timezone: chrono_tz::Tz,
    /// The inputs of its runs.
    pub inputs: Map<String, Value>,
    /// The only tasks of its runs; empty for all.
    pub only: Vec<TaskName>,
    /// Tasks that its runs leave out.
    pub skip: Vec<TaskName>,
    /// Its own policy, where it names one.
    pub policy: Option<PolicyFile>,
    /// What happens to missed moments.
    pub missed: MissedFile,
    /// How late a run may start and still be on time.
    pub start_deadline: Duration,
    /// How old a moment that is made up for may be.
    pub catchup_window: Duration,
    /// How many missed moments are made up for at most.
    pub max_catchup: usize,
    /// Whether the last moment of a freeze is made up for.
    pub defer: bool,
    /// How far starts are spread.
    pub jitter: Duration,
}

/// Runs that must not overlap.
#[derive(Debug, Clone, PartialEq)]
pub struct Concurrency {
    /// The group's name.
    pub group: String,
    /// What a new run does while another of the group is active; `None` leaves it to the trigger's kind.
    pub policy: Option<PolicyFile>,
}

impl Graph {
    /// The task of this name.
    pub fn task(&self, name: &TaskName) -> Option<&TaskNode> {
        self.index.get(name).map(|index| &self.dag[*index])
    }

    /// All tasks, each after those that it needs.
    pub fn tasks(&self) -> impl Iterator<Item = &TaskNode> {
        self.dag.node_weights()
    }

    /// The place of a task in [`Graph::tasks`].
    pub fn place(&self, name: &TaskName) -> Option<usize> {
        self.index.get(name).map(|index| index.index())
    }

    /// The task at a place below [`Graph::len`].
    pub(crate) fn at(&self, place: usize) -> &TaskNode {
        &self.dag[NodeIndex::new(place)]
    }

    /// How many tasks there are.
    pub fn len(&self) -> usize {
        self.dag.node_count()
    }

    /// Whether there are no tasks: never, for a checked workflow.
    pub fn is_empty(&self) -> bool {
        self.dag.node_count() == 0
    }

    /// The places of what a task needs directly.
    pub(crate) fn needs_of(&self, place: usize) -> impl Iterator<Item = usize> {
        self.dag.neighbors_directed(NodeIndex::new(place), Direction::Incoming).map(NodeIndex::index)
    }

    /// The places of the tasks that need this one directly.
    pub(crate) fn dependents_of(&self, place: usize) -> impl Iterator<Item = usize> {
        self.dag.neighbors_directed(NodeIndex::new(place), Direction::Outgoing).map(NodeIndex::index)
    }

    /// The tasks that name this one in `needs`.
    pub fn dependents(&self, name: &TaskName) -> impl Iterator<Item = &TaskNode> {
        self.place(name).into_iter().flat_map(|place| self.dependents_of(place)).map(|place| self.at(place))
    }

    /// Everything that must have ended before this task, directly or not.
    pub fn ancestors(&self, name: &TaskName) -> Vec<&TaskNode> {
        self.reach(name, Direction::Incoming)
    }

    /// Everything that comes after this task, directly or not.
    pub fn descendants(&self, name: &TaskName) -> Vec<&TaskNode> {
        self.reach(name, Direction::Outgoing)
    }

    fn reach(&self, name: &TaskName, direction: Direction) -> Vec<&TaskNode> {
        let Some(start) = self.index.get(name) else { return Vec::new() };
        let mut seen = vec![false; self.dag.node_count()];
        let mut stack = vec![*start];
        let mut found = Vec::new();
        while let Some(index) = stack.pop() {
            for next in self.dag.neighbors_directed(index, direction) {
                if !std::mem::replace(&mut seen[next.index()], true) {
                    found.push(&self.dag[next]);
                    stack.push(next);
                }
            }
        }
        found
    }

    /// The same tasks, the last first: in which order a run is taken back. What could not be taken back holds up
    /// nothing, and nothing is conditional: what did not start is left out by the run itself.
    pub fn reversed(&self) -> Graph {
        let last = self.dag.node_count().saturating_sub(1);
        let mut dag = DiGraph::new();
        let mut index = BTreeMap::new();
        for node in self.dag.raw_nodes().iter().rev().map(|node| &node.weight) {
            let mut node = node.clone();
            node.needs = self.dependents(&node.name).map(|after| after.name.clone()).collect();
            node.when = None;
            node.on_failure = OnFailure::Continue;
            node.retry = RetryPolicy { attempts: UNDO_ATTEMPTS, ..RetryPolicy::default() };
            index.insert(node.name.clone(), dag.add_node(node));
        }
        for edge in self.dag.edge_references() {
            dag.add_edge(
                NodeIndex::new(last - edge.target().index()),
                NodeIndex::new(last - edge.source().index()),
                (),
            );
        }
        Graph { dag, index, timeout: None, undo: Undo::Never, ..self.clone() }
    }

    /// Builds the graph of a file that has no error.
    fn build(
        file: WorkflowFile,
        revision: Digest,
        inputs: Vec<Input>,
        registry: &Registry,
        written: &[&str],
    ) -> Option<Graph> {
        let mut unordered = DiGraph::new();
        let mut index = BTreeMap::new();
        for (name, task) in &file.tasks {
            let node = TaskNode::new(name.parse().ok()?, task, registry)?;
            index.insert(node.name.clone(), unordered.add_node(node));
        }
        for (name, task) in &file.tasks {
            let to = *index.get(&name.parse::<TaskName>().ok()?)?;
            let needs: BTreeSet<&String> = task.needs.iter().collect();
            for need in needs {
                unordered.add_edge(*index.get(&need.parse::<TaskName>().ok()?)?, to, ());
            }
        }
        let order = in_order(&unordered, &index, written);
        if order.len() != unordered.node_count() {
            return None;
        }
        // Places in the graph are places in the order.
        let mut dag = DiGraph::with_capacity(order.len(), unordered.edge_count());
        for name in &order {
            let at = index.get_mut(name)?;
            *at = dag.add_node(unordered[*at].clone());
        }
        for edge in unordered.edge_references() {
            let place = |at: NodeIndex| index.get(&unordered[at].name).copied();
            dag.add_edge(place(edge.source())?, place(edge.target())?, ());
        }
        let name: WorkflowName = file.name.parse().ok()?;
        let concurrency = file.concurrency.map(|ConcurrencyFile { group, policy }| Concurrency {
            group: group.unwrap_or_else(|| name.to_string()),
            policy,
        });
        let triggers = file.triggers.iter().map(Trigger::new);
        Some(Graph {
            name,
            revision,
            description: file.description.clone(),
            inputs,
            triggers: triggers.collect::<Option<_>>()?,
            concurrency,
            timeout: match &file.timeout {
                Some(text) => Some(parse_duration(text).ok()?),
                None => None,
            },
            undo: match file.undo {
                Some(UndoFile::OnFailure) => Undo::OnFailure,
                Some(UndoFile::Never) | None => Undo::Never,
            },
            dag,
            index,
        })
    }
}

/// Each task after those that it needs; else as they stand in the file, which is how people think of them.
/// Tasks of a circle are left out.
fn in_order(
    dag: &DiGraph<TaskNode, ()>,
    index: &BTreeMap<TaskName, NodeIndex>,
    written: &[&str],
) -> Vec<TaskName> {
    let place: BTreeMap<&str, usize> =
        written.iter().enumerate().map(|(place, name)| (*name, place)).collect();
    let place_of = |at: NodeIndex| place.get(dag[at].name.as_str()).copied().unwrap_or(usize::MAX);
    let mut waits: Vec<usize> =
        dag.node_indices().map(|at| dag.neighbors_directed(at, Direction::Incoming).count()).collect();
    let mut ready: BTreeSet<(usize, NodeIndex)> =
        index.values().filter(|at| waits[at.index()] == 0).map(|at| (place_of(*at), *at)).collect();
    let mut order = Vec::with_capacity(dag.node_count());
    while let Some((_, at)) = ready.pop_first() {
        order.push(dag[at].name.clone());
        for next in dag.neighbors_directed(at, Direction::Outgoing) {
            waits[next.index()] -= 1;
            if waits[next.index()] == 0 {
                ready.insert((place_of(next), next));
            }
        }
    }
    order
}

impl TaskNode {
    /// Whether people decide here, and nothing acts.
    pub fn is_approval(&self) -> bool {
        self.kind.ask(&self.with).is_some()
    }

    fn new(name: TaskName, file: &TaskFile, registry: &Registry) -> Option<TaskNode> {
        Some(TaskNode {
            name,
            kind: Kind(registry.get(&file.type_name)?.clone()),
            needs: file.needs.iter().map(|need| need.parse().ok()).collect::<Option<_>>()?,
            when: match &file.when {
                Some(text) => Some(When::new(text)?),
                None => None,
            },
            retry: match &file.retry {
                Some(retry) => policy(retry)?,
                None => RetryPolicy::default(),
            },
            timeout: duration_or(file.timeout.as_deref(), DEFAULT_TIMEOUT)?,
            on_failure: match file.on_failure {
                Some(OnFailureFile::Continue) => OnFailure::Continue,
                Some(OnFailureFile::Hold) => OnFailure::Hold,
                Some(OnFailureFile::Stop) | None => OnFailure::Stop,
            },
            reads: tasks_read(file),
            with: Value::Object(file.with.clone()),
        })
    }
}

/// The tasks that expressions of a task name, by the text alone: `tasks.a` and `tasks['a-b']`. One name too many does
/// no harm; a `tasks` without a name means all.
fn tasks_read(file: &TaskFile) -> Option<BTreeSet<String>> {
    let with = Value::Object(file.with.clone());
    let texts = crate::expression::texts(&with).into_iter().map(|(_, text)| text);
    let mut read = BTreeSet::new();
    for text in texts.chain(file.when.as_deref()) {
        if !text.contains("${{") {
            continue;
        }
        for rest in text.split("tasks").skip(1) {
            let quoted = rest.trim_start().strip_prefix('[').map(str::trim_start);
            let rest = match (quoted, rest.trim_start().strip_prefix('.')) {
                (Some(rest), _) => rest.strip_prefix(['\'', '"'])?,
                (None, Some(rest)) => rest.trim_start(),
                (None, None) => return None,
            };
            let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_'));
            let name = &rest[..end.unwrap_or(rest.len())];
            read.insert(name.to_owned());
            // Unquoted, a name ends at a dash: `tasks.a-1` reads `a`.
            read.extend(name.split('-').next().map(str::to_owned));
        }
    }
    Some(read)
}

impl When {
    fn new(text: &str) -> Option<When> {
        let source = crate::expression::whole(text)?;
        let found = crate::expression::inspect(&source).ok()?;
        let calls = |names: &[&str]| found.calls.iter().any(|call| names.contains(&call.name.as_str()));
        Some(When {
            looks_at_ancestors: calls(&crate::expression::ANCESTOR_FUNCTIONS),
            cleans_up: calls(&["failure", "always", "cancelled"]),
            source,
        })
    }
}

impl Trigger {
    fn new(file: &crate::workflow::TriggerFile) -> Option<Trigger> {
        let names =
            |names: &[String]| names.iter().map(|name| name.parse().ok()).collect::<Option<Vec<TaskName>>>();
        Some(Trigger {
            name: match &file.name {
                Some(name) => name.clone(),
                None => unnamed(&file.cron, file.timezone.as_deref(), &file.inputs),
            },
            cron: file.cron.clone(),
            timezone: match &file.timezone {
                Some(name) => name.parse().ok()?,
                None => chrono_tz::UTC,
            },
            inputs: file.inputs.clone(),
            only: names(&file.only)?,
            skip: names(&file.skip)?,
            policy: file.policy,
            missed: file.missed.unwrap_or(MissedFile::Skip),
            start_deadline: duration_or(file.start_deadline.as_deref(), Duration::from_secs(300))?,
            catchup_window: duration_or(file.catchup_window.as_deref(), Duration::from_secs(24 * 3600))?,
            max_catchup: file.max_catchup.unwrap_or(10) as usize,
            defer: file.defer,
            jitter: duration_or(file.jitter.as_deref(), Duration::ZERO)?,
        })
    }
}

/// The name of a trigger that has none: the same as long as its slots and inputs are.
fn unnamed(cron: &str, timezone: Option<&str>, inputs: &Map<String, Value>) -> String {
    // The order in which inputs are written says nothing.
    let inputs: BTreeMap<&String, &Value> = inputs.iter().collect();
    let text = format!("{cron}\n{}\n{}", timezone.unwrap_or("UTC"), serde_json::json!(inputs));
    format!("cron-{}", &Digest::of(text.as_bytes()).short()[..8])
}

fn duration_or(text: Option<&str>, default: Duration) -> Option<Duration> {
    text.map_or(Some(default), |text| parse_duration(text).ok())
}

fn policy(file: &RetryFile) -> Option<RetryPolicy> {
    let default = RetryPolicy::default();
    Some(RetryPolicy {
        attempts: file.attempts,
        backoff: duration_or(file.backoff.as_deref(), default.backoff)?,
        factor: file.factor.unwrap_or(default.factor),
        max_backoff: duration_or(file.max_backoff.as_deref(), default.max_backoff)?,
    })
}
