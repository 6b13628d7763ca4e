//! `${{ ... }}`: expressions in CEL, on values that are already parsed, never on text.
//!
//! Finds what an expression refers to, and evaluates it. The library recurses and cannot be
//! interrupted, so that every expression is bounded before it is compiled, and all work happens on a
//! thread with a large stack. Nothing here knows what a task is: names are checked by `graph.rs`.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use cel::common::ast::{EntryExpr, Expr, IdedExpr, LiteralValue};
use cel::{Context, Env, ExecutionError, Program};
use serde_json::Value;

pub use crate::document::on_large_stack;

/// The longest expression, in bytes.
pub const MAX_BYTES: usize = 1024;
/// The most operators in one expression.
pub const MAX_OPERATORS: usize = 64;
/// How deep brackets may be nested.
pub const MAX_DEPTH: usize = 16;
/// How deep comprehensions (`all`, `exists`, `map`, `filter`) may be nested.
pub const MAX_COMPREHENSIONS: usize = 2;
/// The longest list that a comprehension may run over.
pub const MAX_LIST: usize = 1000;

/// What is wrong with an expression, and where in its own text.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct ExpressionError {
    /// A lower-case fragment.
    pub message: String,
    /// Byte offsets into the text that was given.
    pub bytes: Range<usize>,
    /// What to write instead, where that is known.
    pub hint: Option<String>,
}

impl ExpressionError {
    fn new(message: impl Into<String>, bytes: Range<usize>) -> Self {
        ExpressionError { message: message.into(), bytes, hint: None }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    fn shifted(mut self, by: usize) -> Self {
        self.bytes = self.bytes.start + by..self.bytes.end + by;
        self
    }
}

/// A piece of a text with expressions in it.
#[derive(Debug, Clone, PartialEq)]
pub enum Part {
    /// Literal text, `$${{` already written as `${{`.
    Text(String),
    /// The text between `${{` and `}}`, and where it stands in the whole.
    Expression {
        /// The source, with its surrounding blanks.
        source: String,
        /// Where it stands in the text.
        at: usize,
    },
}

/// Splits a text into literal pieces and expressions.
///
/// # Errors
/// A `${{` without its `}}`.
pub fn split(text: &str) -> Result<Vec<Part>, ExpressionError> {
    let mut parts = Vec::new();
    let mut literal = String::new();
    let mut at = 0;
    while let Some(found) = text[at..].find("${{") {
        let open = at + found;
        if text[..open].ends_with('$') {
            literal.push_str(&text[at..open - 1]);
            literal.push_str("${{");
            at = open + 3;
            continue;
        }
        literal.push_str(&text[at..open]);
        let body = open + 3;
        let close = closing(text, body).ok_or_else(|| {
            ExpressionError::new("an expression is not closed", open..open + 3)
                .hint("write `}}` at its end; where `${{` is meant as it stands, write `$${{`")
        })?;
        if !literal.is_empty() {
            parts.push(Part::Text(std::mem::take(&mut literal)));
        }
        parts.push(Part::Expression { source: text[body..close].to_owned(), at: body });
        at = close + 2;
    }
    literal.push_str(&text[at..]);
    if !literal.is_empty() {
        parts.push(Part::Text(literal));
    }
    Ok(parts)
}

/// The first `}}` at or after `from` that stands outside quotes and closes no map literal.
fn closing(text: &str, from: usize) -> Option<usize> {
    let mut quote = None;
    let mut open = 0_usize;
    let mut characters = text[from..].char_indices().peekable();
    while let Some((at, c)) = characters.next() {
        match (quote, c) {
            (Some(_), '\\') => {
                characters.next();
            }
            (Some(q), _) if q == c => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '{') => open += 1,
            (None, '}') if open > 0 => open -= 1,
            (None, '}') if characters.peek().is_some_and(|(_, next)| *next == '}') => return Some(from + at),
            (None, _) => {}
        }
    }
    None
}

/// The expression, where the text is exactly one and nothing else.
pub fn whole(text: &str) -> Option<String> {
    if !text.starts_with("${{") {
        return None;
    }
    match split(text).ok()?.as_slice() {
        [Part::Expression { source, .. }] => Some(source.trim().to_owned()),
        _ => None,
    }
}

/// A name that an expression reads: `tasks.deploy.outputs.images` is root `tasks` and the path after it.
#[derive(Debug, Clone, PartialEq)]
pub struct Reference {
    /// The variable.
    pub root: String,
    /// The keys after it, as far as they are written out.
    pub path: Vec<String>,
    /// Where the root stands in the source.
    pub bytes: Range<usize>,
    /// Where each key of the path stands in the source.
    pub path_bytes: Vec<Range<usize>>,
}

/// A function that an expression calls.
#[derive(Debug, Clone, PartialEq)]
pub struct FunctionCall {
    /// Its name.
    pub name: String,
    /// How many arguments it is given, the value it is called on not counted.
    pub arguments: usize,
    /// Whether it is called on a value, as in `x.size()`.
    pub on_value: bool,
    /// Where it stands in the source.
    pub bytes: Range<usize>,
}

/// What an expression reads and calls.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Inspection {
    /// Every variable it reads, without those that comprehensions bind.
    pub references: Vec<Reference>,
    /// Every function it calls, operators not counted.
    pub calls: Vec<FunctionCall>,
    comprehensions: usize,
}

/// Compiles an expression within the bounds and lists what it refers to.
///
/// # Errors
/// A bound that is passed, or the first place that is not CEL.
pub fn inspect(source: &str) -> Result<Inspection, ExpressionError> {
    within_bounds(source)?;
    on_large_stack(|| {
        let program = compile(source)?;
        let mut walk = Walk { program: &program, source, bound: Vec::new(), found: Inspection::default() };
        walk.expression(program.expression(), 0)?;
        Ok(walk.found)
    })
}

fn within_bounds(source: &str) -> Result<(), ExpressionError> {
    let all = 0..source.len();
    if source.trim().is_empty() {
        return Err(ExpressionError::new("the expression is empty", all));
    }
    if source.len() > MAX_BYTES {
        let message = format!("the expression has {} bytes; at most {MAX_BYTES} are allowed", source.len());
        return Err(ExpressionError::new(message, all));
    }
    let (mut depth, mut operators, mut quote, mut last) = (0_usize, 0_usize, None, ' ');
    for (at, c) in source.char_indices() {
        match (quote, c) {
            (Some(q), _) if q == c && last != '\\' => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '(' | '[' | '{') => {
                depth += 1;
                if depth > MAX_DEPTH {
                    let message = format!("brackets are nested deeper than {MAX_DEPTH}");
                    return Err(ExpressionError::new(message, at..at + 1));
                }
            }
            (None, ')' | ']' | '}') => depth = depth.saturating_sub(1),
            (None, '+' | '-' | '*' | '/' | '%' | '<' | '>' | '?' | '.') => operators += 1,
            (None, '!') => operators += 1,
            (None, '&' | '|' | '=') if last != c && !matches!(last, '<' | '>' | '!') => operators += 1,
            (None, _) => {}
        }
        // An escaped backslash does not escape what follows it.
        last = if quote.is_some() && last == '\\' && c == '\\' { ' ' } else { c };
        if operators > MAX_OPERATORS {
            let message = format!("the expression has more than {MAX_OPERATORS} operators");
            return Err(ExpressionError::new(message, at..at + c.len_utf8()));
        }
    }
    Ok(())
}

fn environment() -> Arc<Env> {
    static ENVIRONMENT: std::sync::OnceLock<Arc<Env>> = std::sync::OnceLock::new();
    ENVIRONMENT
        .get_or_init(|| {
            let mut env = Env::stdlib();
            // The extension only adds text functions; a name it declared twice would be a bug of the library.
            let _ = env.add_extension(cel::extensions::strings);
            Arc::new(env)
        })
        .clone()
}

fn compile(source: &str) -> Result<Program, ExpressionError> {
    environment().compile(source).map_err(|errors| {
        let at = errors.errors.first().map_or(0, |error| offset(source, error.pos));
        let rest = &source[at..];
        match rest.trim_start().chars().next() {
            None => {
                let end = source.trim_end().len();
                ExpressionError::new("the expression ends too early", end.saturating_sub(1)..end)
            }
            Some(_) => {
                let start = at + (rest.len() - rest.trim_start().len());
                let token: usize = token_length(&source[start..]);
                let message = format!("`{}` is not expected here", &source[start..start + token]);
                let error = ExpressionError::new(message, start..start + token);
                match &source[start..start + token] {
                    "=" => error.hint("to compare, write `==`"),
                    "and" => error.hint("write `&&`"),
                    "or" => error.hint("write `||`"),
                    "not" => error.hint("write `!`"),
                    _ => error,
                }
            }
        }
    })
}

fn token_length(text: &str) -> usize {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    match text.chars().next() {
        Some(first) if word(first) => text.find(|c| !word(c)).unwrap_or(text.len()),
        Some(first) => first.len_utf8(),
        None => 0,
    }
}

/// The byte at a (line, column) pair, both from 1 and the column in characters; clamped to the text.
fn offset(source: &str, (line, column): (isize, isize)) -> usize {
    let line = usize::try_from(line).unwrap_or(1).max(1);
    let column = usize::try_from(column).unwrap_or(1).max(1);
    let start: usize = source.split_inclusive('\n').take(line - 1).map(str::len).sum();
    let rest = &source[start.min(source.len())..];
    start + rest.char_indices().nth(column - 1).map_or(rest.len(), |(at, _)| at)
}

struct Walk<'p> {
    program: &'p Program,
    source: &'p str,
    bound: Vec<String>,
    found: Inspection,
}

impl Walk<'_> {
    fn expression(&mut self, node: &IdedExpr, comprehensions: usize) -> Result<(), ExpressionError> {
        if let Some((root, path, id)) = dotted(node) {
            if !self.bound.iter().any(|name| name == root) {
                let start = self.start_of(id);
                let bytes = start..(start + root.len()).min(self.source.len());
                let path_bytes = self.keys_after(&bytes, &path);
                self.found.references.push(Reference { root: root.to_owned(), path, bytes, path_bytes });
            }
            // An index that is an expression itself reads names of its own.
            return self.indexes(node, comprehensions);
        }
        match &node.expr {
            Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => Ok(()),
            Expr::Select(select) => self.expression(&select.operand, comprehensions),
            Expr::List(list) => list.elements.iter().try_for_each(|e| self.expression(e, comprehensions)),
            Expr::Map(map) => {
                map.entries.iter().try_for_each(|entry| self.entry(&entry.expr, comprehensions))
            }
            Expr::Struct(made) => {
                let at = self.start_of(node.id);
                let message =
                    format!("`{}{{...}}` makes an object of a type; there are no types here", made.type_name);
                Err(ExpressionError::new(message, at..at + 1))
            }
            Expr::Call(call) => {
                if let Some(target) = &call.target {
                    self.expression(target, comprehensions)?;
                }
                call.args.iter().try_for_each(|argument| self.expression(argument, comprehensions))?;
                if is_word(&call.func_name) {
                    let bytes = self.word_at(node.id, &call.func_name);
                    self.found.calls.push(FunctionCall {
                        name: call.func_name.clone(),
                        arguments: call.args.len(),
                        on_value: call.target.is_some(),
                        bytes,
                    });
                }
                Ok(())
            }
            Expr::Comprehension(c) => {
                let depth = comprehensions + 1;
                self.found.comprehensions = self.found.comprehensions.max(depth);
                if depth > MAX_COMPREHENSIONS {
                    let at = self.start_of(node.id);
                    let message = format!(
                        "`all`, `exists`, `map` and `filter` are nested deeper than {MAX_COMPREHENSIONS}"
                    );
                    return Err(ExpressionError::new(message, at..at + 1));
                }
                self.expression(&c.iter_range, comprehensions)?;
                self.expression(&c.accu_init, depth)?;
                let before = self.bound.len();
                self.bound.extend([c.iter_var.clone(), c.accu_var.clone()]);
                self.bound.extend(c.iter_var2.clone());
                for part in [&c.loop_cond, &c.loop_step, &c.result] {
                    self.expression(part, depth)?;
                }
                self.bound.truncate(before);
                Ok(())
            }
        }
    }

    fn entry(&mut self, entry: &EntryExpr, comprehensions: usize) -> Result<(), ExpressionError> {
        match entry {
            EntryExpr::MapEntry(entry) => {
                self.expression(&entry.key, comprehensions)?;
                self.expression(&entry.value, comprehensions)
            }
            EntryExpr::StructField(field) => self.expression(&field.value, comprehensions),
        }
    }

    fn indexes(&mut self, node: &IdedExpr, comprehensions: usize) -> Result<(), ExpressionError> {
        match &node.expr {
            Expr::Select(select) => self.indexes(&select.operand, comprehensions),
            Expr::Call(call) => {
                for argument in call.args.iter().skip(1) {
                    self.expression(argument, comprehensions)?;
                }
                call.args.first().map_or(Ok(()), |first| self.indexes(first, comprehensions))
            }
            _ => Ok(()),
        }
    }

    fn start_of(&self, id: u64) -> usize {
        let start = self.program.source_info().offset_for(id).map_or(0, |(start, _)| start as usize);
        start.min(self.source.len().saturating_sub(1))
    }

    /// Between the keys of a path there are only dots, brackets, quotes and blanks. A key that is written with an
    /// escape is not found: then the root stands for it.
    fn keys_after(&self, root: &Range<usize>, path: &[String]) -> Vec<Range<usize>> {
        let mut from = root.end;
        path.iter()
            .map(|key| match self.source.get(from..).and_then(|rest| rest.find(key.as_str())) {
                Some(at) => {
                    let start = from + at;
                    from = start + key.len();
                    start..from
                }
                None => root.clone(),
            })
            .collect()
    }

    /// A call's own offset is that of its bracket or its dot: the word stands just before or after it.
    fn word_at(&self, id: u64, word: &str) -> Range<usize> {
        let near = self.start_of(id);
        let from = near.saturating_sub(word.len() + 1);
        let from = (0..=from).rev().find(|at| self.source.is_char_boundary(*at)).unwrap_or(0);
        let start = self.source[from..].find(word).map_or(near, |at| from + at);
        start..(start + word.len()).min(self.source.len())
    }
}

fn is_word(name: &str) -> bool {
    // Operators are called `_+_`, `@in`, `!_` and the like inside the library.
    name.chars().next().is_some_and(char::is_alphabetic)
}

/// A chain of names: `a.b["c"]` gives (`a`, [`b`, `c`], id of `a`). Ends at the first index that is no literal text.
fn dotted(node: &IdedExpr) -> Option<(&str, Vec<String>, u64)> {
    match &node.expr {
        Expr::Ident(name) => Some((name, Vec::new(), node.id)),
        Expr::Select(select) => {
            let (root, mut path, id) = dotted(&select.operand)?;
            path.push(select.field.clone());
            Some((root, path, id))
        }
        Expr::Call(call) if call.func_name == "_[_]" => {
            let [operand, index] = call.args.as_slice() else { return None };
            let (root, mut path, id) = dotted(operand)?;
            let Expr::Literal(LiteralValue::String(key)) = &index.expr else { return Some((root, path, id)) };
            path.push(key.inner().to_owned());
            Some((root, path, id))
        }
        _ => None,
    }
}

/// How the tasks above the one in question ended: what `success()`, `failure()`, `always()` and `cancelled()` say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ancestors {
    /// What `success()` says.
    pub success: bool,
    /// What `failure()` says.
    pub failure: bool,
    /// What `cancelled()` says.
    pub cancelled: bool,
}

/// The names of the four functions that look at a task's ancestors.
pub const ANCESTOR_FUNCTIONS: [&str; 4] = ["success", "failure", "always", "cancelled"];

/// What an expression can see.
#[derive(Debug, Clone, Default)]
pub struct Scope {
    /// The variables by name: `inputs`, `tasks`, `run`, `vars`, `secrets`.
    pub variables: BTreeMap<String, Value>,
    /// Set for `when`, where the four functions may be called.
    pub ancestors: Option<Ancestors>,
}

/// Evaluates one expression.
///
/// # Errors
/// As [`inspect`], and what CEL says of the values.
pub fn evaluate(source: &str, scope: &Scope) -> Result<Value, ExpressionError> {
    on_large_stack(|| evaluate_here(source, scope))
}

fn evaluate_here(source: &str, scope: &Scope) -> Result<Value, ExpressionError> {
    let found = inspect(source)?;
    let all = 0..source.len();
    if found.comprehensions > 0 && scope.variables.values().any(has_long_list) {
        let message =
            format!("`all`, `exists`, `map` and `filter` run over lists of at most {MAX_LIST} items");
        return Err(ExpressionError::new(message, all));
    }
    let program = compile(source)?;
    let mut context = Context::with_env(environment());
    for (name, value) in &scope.variables {
        context.add_variable_from_value(name.as_str(), to_cel(value));
    }
    if let Some(ancestors) = scope.ancestors {
        context.add_function("success", move || ancestors.success).map_err(|e| declared(&e, &all))?;
        context.add_function("failure", move || ancestors.failure).map_err(|e| declared(&e, &all))?;
        context.add_function("cancelled", move || ancestors.cancelled).map_err(|e| declared(&e, &all))?;
        context.add_function("always", || true).map_err(|e| declared(&e, &all))?;
    }
    let value = program
        .execute(&context)
        .map_err(|error| ExpressionError::new(execution_words(&error), all.clone()))?;
    from_cel(&value).map_err(|message| ExpressionError::new(message, all))
}

fn declared(error: &impl std::fmt::Display, all: &Range<usize>) -> ExpressionError {
    ExpressionError::new(format!("the expression cannot be evaluated: {error}"), all.clone())
}

fn has_long_list(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.len() > MAX_LIST || items.iter().any(has_long_list),
        Value::Object(map) => map.len() > MAX_LIST || map.values().any(has_long_list),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

/// JSON's integers enter as `int`: the library's own conversion makes `uint` of them, and `1 + inputs.n` would fail.
fn to_cel(value: &Value) -> cel::Value {
    match value {
        Value::Null => cel::Value::Null,
        Value::Bool(value) => cel::Value::Bool(*value),
        Value::Number(number) => match number.as_i64() {
            Some(integer) => cel::Value::Int(integer),
            None => cel::Value::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => cel::Value::String(Arc::new(text.clone())),
        Value::Array(items) => cel::Value::List(Arc::new(items.iter().map(to_cel).collect())),
        Value::Object(map) => {
            let map: HashMap<cel::objects::Key, cel::Value> = map
                .iter()
                .map(|(key, value)| (cel::objects::Key::String(Arc::new(key.clone())), to_cel(value)))
                .collect();
            cel::Value::Map(cel::objects::Map { map: Arc::new(map) })
        }
    }
}

fn from_cel(value: &cel::Value) -> Result<Value, String> {
    match value {
        cel::Value::Null => Ok(Value::Null),
        cel::Value::Bool(value) => Ok((*value).into()),
        cel::Value::Int(value) => Ok((*value).into()),
        cel::Value::UInt(value) => Ok((*value).into()),
        cel::Value::Float(value) => serde_json::Number::from_f64(*value)
            .map(Value::Number)
            .ok_or_else(|| "the result is not a finite number".to_owned()),
        cel::Value::String(text) => Ok(text.as_str().into()),
        cel::Value::List(items) => items.iter().map(from_cel).collect(),
        cel::Value::Map(map) => {
            // Sorted, so that the same expression gives the same bytes.
            let mut sorted = BTreeMap::new();
            for (key, value) in map.map.iter() {
                sorted.insert(key.to_string(), from_cel(value)?);
            }
            Ok(Value::Object(sorted.into_iter().collect()))
        }
        other => Err(format!("the result is a {}, which no field takes", other.type_of())),
    }
}

fn execution_words(error: &ExecutionError) -> String {
    match error {
        ExecutionError::NoSuchKey(key) => format!("there is no `{key}`"),
        ExecutionError::UndeclaredReference(name) => format!("`{name}` is not known here"),
        ExecutionError::NoSuchOverload(overload) => {
            let function = overload.function().trim_matches(['_', '@']).to_owned();
            format!("`{function}` does not take {}", overload.argument_types().join(" and "))
        }
        ExecutionError::UnsupportedBinaryOperator(name, left, right) => {
            let sign = match *name {
                "add" => "+",
                "sub" => "-",
                "mul" => "*",
                "div" => "/",
                "rem" => "%",
                other => other,
            };
            format!("`{sign}` does not take {} and {}", left.type_of(), right.type_of())
        }
        ExecutionError::DivisionByZero(_) | ExecutionError::RemainderByZero(_) => "division by zero".into(),
        ExecutionError::Overflow(..) => "the number is too large".into(),
        ExecutionError::IndexOutOfBounds(_) => "the list has no such item".into(),
        ExecutionError::FunctionError { function, message } => format!("`{function}`: {message}"),
        ExecutionError::InvalidArgumentCount { expected, actual } => {
            format!("{expected} arguments were expected, {actual} given")
        }
        other => {
            // The library prints values in full: they may be long, and they are not ours to repeat.
            let words = other.to_string();
            words.split(&[':', '('][..]).next().unwrap_or("it cannot be evaluated").to_lowercase()
        }
    }
}

/// Renders a text: one whole expression keeps its type, inside a longer text it is written out.
///
/// # Errors
/// What is wrong, with bytes of `text`.
pub fn render(text: &str, scope: &Scope) -> Result<Value, ExpressionError> {
    let parts = split(text)?;
    if let [Part::Expression { source, at }] = parts.as_slice()
        && *at == 3
    {
        return evaluate(source, scope).map_err(|error| error.shifted(*at));
    }
    let mut rendered = String::new();
    for part in parts {
        match part {
            Part::Text(literal) => rendered.push_str(&literal),
            Part::Expression { source, at } => {
                match evaluate(&source, scope).map_err(|error| error.shifted(at))? {
                    Value::String(text) => rendered.push_str(&text),
                    Value::Bool(value) => rendered.push_str(&value.to_string()),
                    Value::Number(number) => rendered.push_str(&number.to_string()),
                    Value::Null => {}
                    Value::Array(_) | Value::Object(_) => {
                        let message = "a list or map cannot be written into a text";
                        return Err(ExpressionError::new(message, at..at + source.len()));
                    }
                }
            }
        }
    }
    Ok(Value::String(rendered))
}

/// Renders every text of a tree; keys stay as they are.
///
/// # Errors
/// The first expression that cannot be evaluated, with the JSON pointer of its text.
pub fn resolve(value: &Value, scope: &Scope) -> Result<Value, (String, ExpressionError)> {
    if !has_expression(value) {
        return Ok(value.clone());
    }
    on_large_stack(|| resolve_below(value, scope, ""))
}

fn resolve_below(value: &Value, scope: &Scope, pointer: &str) -> Result<Value, (String, ExpressionError)> {
    match value {
        Value::String(text) if text.contains("${{") => {
            render(text, scope).map_err(|error| (pointer.to_owned(), error))
        }
        Value::Array(items) => {
            let resolved = items.iter().enumerate();
            resolved.map(|(index, item)| resolve_below(item, scope, &format!("{pointer}/{index}"))).collect()
        }
        Value::Object(map) => {
            let mut resolved = serde_json::Map::new();
            for (key, item) in map {
                resolved
                    .insert(key.clone(), resolve_below(item, scope, &crate::document::step(pointer, key))?);
            }
            Ok(Value::Object(resolved))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(value.clone()),
    }
}

/// Whether any text of the tree holds `${{`.
pub fn has_expression(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains("${{"),
        Value::Array(items) => items.iter().any(has_expression),
        Value::Object(map) => map.values().any(has_expression),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// Every text of a tree that holds `${{`, with its pointer.
pub fn texts(value: &Value) -> Vec<(String, &str)> {
    let mut found = Vec::new();
    collect(value, String::new(), &mut found);
    found
}

fn collect<'v>(value: &'v Value, pointer: String, found: &mut Vec<(String, &'v str)>) {
    match value {
        Value::String(text) if text.contains("${{") => found.push((pointer, text)),
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                collect(item, format!("{pointer}/{index}"), found);
            }
        }
        Value::Object(map) => {
            for (key, item) in map {
                collect(item, crate::document::step(&pointer, key), found);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn scope() -> Scope {
        let variables = [
            ("inputs", json!({"tag": "gray", "n": 3, "keep": false, "none": null, "list": [1, 2, 3]})),
            ("tasks", json!({"a-b": {"status": "succeeded", "outputs": {"x": {"k": "v"}}}})),
        ];
        Scope {
            variables: variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            ancestors: Some(Ancestors { success: true, failure: false, cancelled: false }),
        }
    }

    #[test]
    fn texts_render_to_values() {
        for (text, value) in [
            ("plain", json!("plain")),
            ("${{ inputs.n }}", json!(3)),
            ("${{ inputs.n + 1 }}", json!(4)),
            ("n is ${{ inputs.n }}!", json!("n is 3!")),
            (" ${{ inputs.n }}", json!(" 3")),
            ("$${{ literal }}", json!("${{ literal }}")),
            ("${{ tasks['a-b'].outputs.x }}", json!({"k": "v"})),
            ("${{ {'b': 1, 'a': {'c': 2}} }}", json!({"a": {"c": 2}, "b": 1})),
            ("${{ '}}' }}", json!("}}")),
            ("${{ !inputs.keep && success() }}", json!(true)),
            ("${{ inputs.list.all(i, i < 4) }}", json!(true)),
            ("${{ inputs.none == null }}", json!(true)),
        ] {
            assert_eq!(render(text, &scope()), Ok(value), "{text}");
        }
    }

    #[test]
    fn mistakes_have_words_and_a_place() {
        for (text, place, message) in [
            ("${{ 1 + }}", "+", "the expression ends too early"),
            ("${{ inputs.tag = 'x' }}", "=", "`=` is not expected here"),
            ("${{ 1", "${{", "an expression is not closed"),
            ("${{ inputs.n + 'x' }}", " inputs.n + 'x' ", "`+` does not take int and string"),
            ("${{ inputs.nope }}", " inputs.nope ", "there is no `nope`"),
            ("${{ 1 / 0 }}", " 1 / 0 ", "division by zero"),
            ("a ${{ inputs.list }}", " inputs.list ", "a list or map cannot be written into a text"),
            ("${{ }}", " ", "the expression is empty"),
        ] {
            let error = render(text, &scope()).expect_err(text);
            assert_eq!((error.message.as_str(), &text[error.bytes.clone()]), (message, place), "{text}");
        }
    }

    #[test]
    fn every_bound_has_its_message() {
        let long = format!("'{}'", "x".repeat(MAX_BYTES));
        let many = vec!["1"; MAX_OPERATORS + 2].join("+");
        let deep = format!("{}1{}", "(".repeat(MAX_DEPTH + 1), ")".repeat(MAX_DEPTH + 1));
        let nested = "[1].all(a, [1].all(b, [1].all(c, a + b + c > 0)))".to_owned();
        for (source, words) in [
            (long, "at most 1024"),
            (many, "more than 64"),
            (deep, "deeper than 16"),
            (nested, "nested deeper than 2"),
        ] {
            let error = inspect(&source).expect_err("refused");
            assert!(error.message.contains(words), "{error}");
        }
        let mut wide = scope();
        wide.variables.insert("inputs".into(), json!({"list": vec![0; MAX_LIST + 1]}));
        let error = evaluate("inputs.list.all(i, i == 0)", &wide).expect_err("refused");
        assert!(error.message.contains("at most 1000"), "{error}");
    }

    #[test]
    fn references_are_found_and_bound_names_are_not() {
        let source =
            "tasks['a-b'].outputs.x.k == inputs.tag && inputs.list.exists(i, i == vars.n) && success()";
        let found = inspect(source).expect("valid");
        let told: Vec<String> = found
            .references
            .iter()
            .map(|r| format!("{}:{}.{}", &source[r.bytes.clone()], r.root, r.path.join(".")))
            .collect();
        assert_eq!(
            told,
            ["tasks:tasks.a-b.outputs.x.k", "inputs:inputs.tag", "inputs:inputs.list", "vars:vars.n"]
        );
        assert_eq!(found.calls.len(), 1);
        assert_eq!(&source[found.calls[0].bytes.clone()], "success");
    }

    #[test]
    fn no_sequence_of_tokens_panics_or_leads_out_of_its_text() {
        const TOKENS: [&str; 60] = [
            "inputs",
            ".",
            "tag",
            "n",
            "list",
            "none",
            "tasks",
            "['a-b']",
            "[",
            "]",
            "(",
            ")",
            "{",
            "}",
            "+",
            "-",
            "*",
            "/",
            "%",
            "&&",
            "||",
            "!",
            "==",
            "!=",
            "<",
            ">=",
            "in",
            "?",
            ":",
            ",",
            "1",
            "-1",
            "9223372036854775807",
            "99999999999999999999",
            "1.5",
            "1e400",
            "0x",
            "1u",
            "'a'",
            "\"",
            "'",
            "b'x'",
            "r'\\'",
            "\\",
            "true",
            "null",
            "size",
            ".all",
            ".map",
            ".exists(i, i",
            "has",
            "int",
            "timestamp('x')",
            "duration('1s')",
            "matches('(')",
            "灰",
            "\n",
            "=",
            "x{",
            "😀",
        ];
        // A splitmix64 sequence: the same sentences every time.
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let mut next = |below: usize| {
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            usize::try_from((z ^ (z >> 31)) % below as u64).unwrap_or(0)
        };
        let scope = scope();
        let (mut valid, mut evaluated) = (0, 0);
        on_large_stack(|| {
            for _ in 0..6_000 {
                let count = 1 + next(12);
                let words: Vec<&str> = (0..count).map(|_| TOKENS[next(TOKENS.len())]).collect();
                let source = words.join(if next(2) == 0 { " " } else { "" });
                let inside = |bytes: &Range<usize>| source.get(bytes.clone()).is_some();
                match inspect(&source) {
                    Ok(found) => {
                        valid += 1;
                        for reference in &found.references {
                            assert!(inside(&reference.bytes), "{source}: {reference:?}");
                            assert!(reference.path_bytes.iter().all(inside), "{source}: {reference:?}");
                        }
                        assert!(found.calls.iter().all(|call| inside(&call.bytes)), "{source}: {found:?}");
                    }
                    Err(error) => assert!(inside(&error.bytes), "{source}: {error:?}"),
                }
                match evaluate(&source, &scope) {
                    Ok(_) => evaluated += 1,
                    Err(error) => assert!(inside(&error.bytes), "{source}: {error:?}"),
                }
                let text = format!("a ${{{{{source}}}}} b ${{{{ {source}");
                if let Err(error) = split(&text) {
                    assert!(text.get(error.bytes).is_some(), "{text}");
                }
            }
        });
        assert!(
            valid > 200 && evaluated > 50,
            "{valid} valid, {evaluated} evaluated: too few to mean anything"
        );
    }

    /// Pieces of the language, put together without sense; some of them far beyond the bounds.
    fn nonsense() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            6 => prop::sample::select(vec![
                "inputs.n", "inputs.list", "tasks['a-b'].outputs.x", "run", "x", "1", "0", "-1", "1.5", "1u", "9223372036854775807",
                "'text'", "\"\\u{1F600}\"", "b'\\xff'", "true", "null", "[1, 2]", "{'a': 1}", "(", ")", "[", "]", "{", "}", ",", ".",
                "?", ":", "+", "-", "*", "/", "%", "==", "!=", "<", ">=", "&&", "||", "!", "in", ".all(x, x > 0)", ".map(y, y)",
                ".filter(z, true)", ".exists(w, w == 1)", "has(inputs.n)", "size(", "success()", "always(1)", "duration('1h')",
                "timestamp('2026-01-01T00:00:00Z')", ".matches('a*')", "}}", "${{", "$${{", " ", "\n", "\t", "//", "`", "\\",
            ]).prop_map(str::to_owned),
            1 => any::<char>().prop_map(String::from),
            1 => (prop::sample::select(vec!["(", "[", "-", "1+", ".a", "!", "x?1:"]), 1_usize..400).prop_map(|(part, times)| part.repeat(times)),
        ];
        prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_expression_ends_the_process_and_what_is_refused_has_a_message_and_a_place(text in nonsense()) {
            for text in [text.clone(), format!("${{{{ {text} }}}}"), format!("a ${{{{ {text} }}}} b {text}")] {
                for part in split(&text).unwrap_or_default() {
                    let Part::Expression { source, .. } = part else { continue };
                    if let Err(error) = inspect(&source) {
                        prop_assert!(!error.to_string().is_empty() && error.bytes.end <= source.len().max(1), "{source:?} {error:?}");
                    }
                }
                if let Err((_, error)) = resolve(&json!({ "with": text }), &scope()) {
                    prop_assert!(!error.to_string().is_empty());
                }
            }
            if let Err(error) = evaluate(&text, &scope()) {
                prop_assert!(!error.to_string().is_empty());
            }
        }
    }
}
