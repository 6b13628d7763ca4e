//! Server-side apply, and the bookkeeping of field managers that every other write needs for it.
//!
//! ```text
//! applied object ── merge ──> merged ── take away what this manager gave up and nobody else owns ──> pruned
//!        └── its set against the sets of the other managers, where a value changes ──> conflict, or force
//! ```
//! Values are compared before they are written; an equal value is owned together and never a conflict.

use serde_json::{Map, Value, json};

use crate::fields::{self, Path, Set, Step};
use crate::kinds::Kind;
use crate::object;
use crate::schema::{self, List, Shape};
use crate::status::Failure;

/// Who writes, and how.
#[derive(Debug, Clone)]
pub(crate) struct Writer {
    pub(crate) manager: String,
    pub(crate) subresource: Option<String>,
    pub(crate) force: bool,
    pub(crate) time: String,
}

/// One entry of `managedFields`.
#[derive(Debug, Clone)]
struct Owner {
    manager: String,
    operation: String,
    api_version: String,
    subresource: String,
    time: String,
    set: Set,
}

impl Owner {
    /// What conflicts call this manager.
    fn display(&self) -> String {
        let mut text = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if self.operation == "Update" {
            text.push_str(&format!(" using {}", self.api_version));
        }
        text
    }

    fn is(&self, writer: &Writer, operation: &str) -> bool {
        self.manager == writer.manager
            && self.operation == operation
            && self.subresource == writer.subresource.as_deref().unwrap_or_default()
    }
}

/// Applies an object over the live one (an empty object where there is none) and returns the result.
pub(crate) fn apply(kind: &Kind, live: &Value, applied: &Value, writer: &Writer) -> Result<Value, Failure> {
    let shape = schema::root(kind);
    let mut applied = applied.clone();
    object::remove(&mut applied, &["metadata", "managedFields"]);
    object::strip_nulls(&mut applied);
    let refused =
        |why: String| Failure::untyped(kind, object::namespace(&applied), object::name(&applied), &why);
    let set = fields::of_object(&shape, &applied).map_err(refused)?;
    let mut merged = live.clone();
    merge(&shape, &mut merged, &applied);

    let mut owners = read(live);
    if owners.is_empty() && live.get("metadata").is_some() {
        owners.push(before_first_apply(kind, &shape, live));
    }
    let mine = owners.iter().position(|owner| owner.is(writer, "Apply")).map(|at| owners.remove(at));
    let changed = changed(&shape, live, &merged);
    resolve_conflicts(&mut owners, &changed, writer.force)?;

    if let Some(before) = &mine {
        let mut kept = fields::with_named_fields(&shape, &set);
        owners.iter().for_each(|owner| kept.extend(fields::with_named_fields(&shape, &owner.set)));
        let mut given_up = fields::with_named_fields(&shape, &before.set);
        given_up.retain(|path| !kept.contains(path) && !kept.iter().any(|other| other.starts_with(path)));
        fields::remove(&shape, &mut merged, &given_up);
    }
    let unchanged = mine.as_ref().is_some_and(|before| before.set == set);
    let time = mine
        .filter(|_| unchanged && without_owners(&merged) == without_owners(live))
        .map(|before| before.time);
    owners.push(Owner {
        manager: writer.manager.clone(),
        operation: "Apply".to_owned(),
        api_version: kind.api_version(),
        subresource: writer.subresource.clone().unwrap_or_default(),
        time: time.unwrap_or_else(|| writer.time.clone()),
        set,
    });
    write(&mut merged, owners);
    Ok(merged)
}

/// Notes in the written object what a create, update or patch changed against the live one.
pub(crate) fn note_update(kind: &Kind, live: Option<&Value>, written: &mut Value, writer: &Writer) {
    let shape = schema::root(kind);
    let empty = Value::Object(Map::new());
    let live = live.unwrap_or(&empty);
    // Clients may send an empty list to drop all bookkeeping, or another one that they have made of it (apimachinery,
    // managedfields: what is sent counts where it can be read); without one the live one counts.
    let dropped =
        written.pointer("/metadata/managedFields").and_then(Value::as_array).is_some_and(Vec::is_empty);
    let sent = read(written);
    let mut owners = if dropped || !sent.is_empty() { sent } else { read(live) };
    let mut changed = changed(&shape, live, written);
    changed.extend(made(kind, &shape, live, written));
    if writer.subresource.is_none() && kind.has("status") {
        changed.retain(|path| !is_status(path));
    }
    let gone = removed(&shape, live, written);
    let mine = owners.iter().position(|owner| owner.is(writer, "Update")).map(|at| owners.remove(at));
    for owner in &mut owners {
        owner.set.retain(|path| !changed.contains(path));
    }
    let mut set = mine.as_ref().map(|before| before.set.clone()).unwrap_or_default();
    let time = mine.filter(|_| changed.is_empty()).map_or_else(|| writer.time.clone(), |before| before.time);
    set.extend(changed);
    if !set.is_empty() {
        owners.push(Owner {
            manager: writer.manager.clone(),
            operation: "Update".to_owned(),
            api_version: kind.api_version(),
            subresource: writer.subresource.clone().unwrap_or_default(),
            time,
            set,
        });
    }
    for owner in &mut owners {
        owner.set.retain(|path| !gone.iter().any(|gone| path.starts_with(gone)));
    }
    write(written, owners);
}

/// Other managers' fields that would get another value: an error, or with force no longer theirs.
fn resolve_conflicts(owners: &mut [Owner], changed: &Set, force: bool) -> Result<(), Failure> {
    let mut conflicts: Vec<(String, Path)> = Vec::new();
    for owner in owners.iter_mut() {
        let lost: Vec<Path> = owner.set.intersection(changed).cloned().collect();
        if force {
            lost.iter().for_each(|path| {
                owner.set.remove(path);
            });
        } else {
            conflicts.extend(lost.into_iter().map(|path| (owner.display(), path)));
        }
    }
    if conflicts.is_empty() {
        return Ok(());
    }
    conflicts.sort();
    let causes = conflicts
        .iter()
        .map(|(manager, path)| {
            json!({ "reason": "FieldManagerConflict", "message": format!("conflict with {manager}"), "field": fields::display(path) })
        })
        .collect();
    Err(Failure::apply_conflict(conflict_message(&conflicts), causes))
}

fn conflict_message(conflicts: &[(String, Path)]) -> String {
    if let [(manager, path)] = conflicts {
        return format!("Apply failed with 1 conflict: conflict with {manager}: {}", fields::display(path));
    }
    let mut lines = vec![format!("Apply failed with {} conflicts: ", conflicts.len())];
    let mut last = None;
    for (manager, path) in conflicts {
        if last != Some(manager) {
            let head = format!("conflicts with {manager}:");
            match last {
                None => lines[0].push_str(&head),
                Some(_) => lines.push(head),
            }
            last = Some(manager);
        }
        lines.push(format!("- {}", fields::display(path)));
    }
    lines.join("\n")
}

/// Merges what was applied into the object: maps by field, keyed lists and sets by item, the rest as a whole.
fn merge(shape: &Shape, into: &mut Value, from: &Value) {
    match (shape, &mut *into, from) {
        (Shape::Struct(_) | Shape::Map(_) | Shape::Any, Value::Object(into), Value::Object(from)) => {
            for (field, value) in from {
                match into.get_mut(field) {
                    Some(inner) => merge(&schema::child(shape, field), inner, value),
                    None => {
                        into.insert(field.clone(), value.clone());
                    }
                }
            }
        }
        (Shape::List(list, item), Value::Array(old), Value::Array(new)) if *list != List::Atomic => {
            *old = merge_items(list, item, old, new);
        }
        _ => *into = from.clone(),
    }
}

fn merge_items(list: &List, item: &Shape, old: &[Value], new: &[Value]) -> Vec<Value> {
    let merged = |value: &Value| {
        let same = old.iter().find(|other| fields::step(list, other) == fields::step(list, value));
        let mut result = same.unwrap_or(value).clone();
        merge(item, &mut result, value);
        result
    };
    let named_in = |items: &[Value], value: &Value| {
        items.iter().any(|other| fields::step(list, other) == fields::step(list, value))
    };
    // The applied order counts where it names every item; otherwise new items follow the old ones.
    if old.iter().all(|value| named_in(new, value)) {
        return new.iter().map(merged).collect();
    }
    let kept = old.iter().map(|value| {
        match new.iter().find(|other| fields::step(list, other) == fields::step(list, value)) {
            Some(applied) => merged(applied),
            None => value.clone(),
        }
    });
    kept.chain(new.iter().filter(|value| !named_in(old, value)).cloned()).collect()
}

/// The paths that are new in `after` or have another value there.
fn changed(shape: &Shape, before: &Value, after: &Value) -> Set {
    let (Ok(before), Ok(after)) = (fields::flatten(shape, before), fields::flatten(shape, after)) else {
        return Set::new();
    };
    let differs = |path: &Path, value: &Option<Value>| before.get(path) != Some(value);
    after
        .into_iter()
        .filter(|(path, value)| differs(path, value) && !fields::belongs_to_nobody(path))
        .map(|(path, _)| path)
        .collect()
}

/// The structures, maps and lists that are new in `after`: whoever writes them owns them besides what is inside.
fn made(kind: &Kind, shape: &Shape, before: &Value, after: &Value) -> Set {
    let (Ok(before), Ok(after)) = (fields::flatten(shape, before), fields::flatten(shape, after)) else {
        return Set::new();
    };
    let old = fields::containers(&before);
    let mut new = fields::containers(&after);
    // Kinds that a definition brought have no type: of a new object everything is new.
    let custom = kind.group == "gateway.networking.k8s.io";
    new.retain(|path| {
        let was = old.contains(path) || before.contains_key(path);
        !was && (custom || !is_always_there(path)) && !fields::belongs_to_nobody(path)
    });
    new
}

/// What a type writes even where it is empty: a new object has it before anybody says anything (Go: neither a pointer nor
/// left out where it is empty).
fn is_always_there(path: &Path) -> bool {
    const NAMES: [&str; 8] =
        ["spec", "status", "metadata", "template", "jobTemplate", "strategy", "updateStrategy", "containers"];
    path.iter().all(|step| matches!(step, Step::Field(name) if NAMES.contains(&name.as_str())))
}

fn removed(shape: &Shape, before: &Value, after: &Value) -> Set {
    let (Ok(mut before), Ok(after)) = (fields::flatten(shape, before), fields::flatten(shape, after)) else {
        return Set::new();
    };
    before.extend(fields::containers(&before).into_iter().map(|path| (path, None)));
    let still_there =
        |path: &Path| after.range(path.clone()..).next().is_some_and(|(next, _)| next.starts_with(path));
    before.into_keys().filter(|path| !still_there(path) && !fields::belongs_to_nobody(path)).collect()
}

/// An object without any bookkeeping belongs to whoever wrote it before anyone applied.
fn before_first_apply(kind: &Kind, shape: &Shape, live: &Value) -> Owner {
    let mut set = fields::of_object(shape, live).unwrap_or_default();
    set.extend(made(kind, shape, &Value::Object(Map::new()), live));
    set.retain(|path| !is_status(path));
    Owner {
        manager: "before-first-apply".to_owned(),
        operation: "Update".to_owned(),
        api_version: kind.api_version(),
        subresource: String::new(),
        time: String::new(),
        set,
    }
}

fn is_status(path: &Path) -> bool {
    path.first() == Some(&Step::Field("status".to_owned()))
}

fn read(object: &Value) -> Vec<Owner> {
    let field = |entry: &Value, name: &str| entry[name].as_str().unwrap_or_default().to_owned();
    object::list(object, "/metadata/managedFields")
        .iter()
        .map(|entry| Owner {
            manager: field(entry, "manager"),
            operation: field(entry, "operation"),
            api_version: field(entry, "apiVersion"),
            subresource: field(entry, "subresource"),
            time: field(entry, "time"),
            set: fields::decode(&entry["fieldsV1"]),
        })
        .collect()
}

fn write(object: &mut Value, mut owners: Vec<Owner>) {
    owners.retain(|owner| !owner.set.is_empty());
    owners.sort_by(|a, b| {
        (&a.operation, &a.time, &a.manager, &a.subresource).cmp(&(
            &b.operation,
            &b.time,
            &b.manager,
            &b.subresource,
        ))
    });
    let entries: Vec<Value> = owners
        .iter()
        .map(|owner| {
            let mut entry = json!({
                "manager": owner.manager, "operation": owner.operation, "apiVersion": owner.api_version,
                "fieldsType": "FieldsV1", "fieldsV1": fields::encode(&owner.set),
            });
            if !owner.time.is_empty() {
                entry["time"] = owner.time.clone().into();
            }
            if !owner.subresource.is_empty() {
                entry["subresource"] = owner.subresource.clone().into();
            }
            entry
        })
        .collect();
    if entries.is_empty() {
        object::remove(object, &["metadata", "managedFields"]);
    } else {
        object::set(object, &["metadata", "managedFields"], entries);
    }
}

fn without_owners(object: &Value) -> Value {
    let mut object = object.clone();
    object::remove(&mut object, &["metadata", "managedFields"]);
    object
}
