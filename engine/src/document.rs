//! A YAML file with positions, and a problem in it with its place.
//!
//! Reads text into a tree in which every key and value knows where it stands. It knows nothing of
//! workflows, and never prints: a `Problem` is data, the terminal and the API render it.

mod syntax;

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_yaml::options::DuplicateKeyPolicy;
use serde_yaml::{Location, Spanned};

/// The largest file that is read, in bytes.
pub const MAX_FILE_BYTES: usize = 16 * 1024 * 1024;

const STACK_BYTES: usize = 64 * 1024 * 1024;

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The file cannot be used.
    Error,
    /// The file can be used, but probably does not mean what it says.
    Warning,
}

/// A place in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Byte offsets into the text; never beyond it.
    pub bytes: Range<usize>,
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
}

/// One thing that is wrong, where, and what to write instead.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    /// Whether the file can still be used.
    pub severity: Severity,
    /// The file's name as the user gave it.
    pub file: String,
    /// Where; `None` where the whole file is meant.
    pub place: Option<Place>,
    /// What is wrong, as a lower-case fragment without a full stop.
    pub message: String,
    /// What stands under the mark: usually what was expected.
    pub label: String,
    /// What to do about it.
    pub hints: Vec<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(place) => write!(f, "{}:{}:{}: {}", self.file, place.line, place.column, self.message)?,
            None => write!(f, "{}: {}", self.file, self.message)?,
        }
        if !self.label.is_empty() {
            write!(f, " ({})", self.label)?;
        }
        Ok(())
    }
}

/// What is wrong at a place that only a JSON pointer names: what checks of values say before they know the file.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    /// The pointer of the value, as RFC 6901 writes it.
    pub pointer: String,
    /// Whether the mark stands under the key rather than the value.
    pub on_key: bool,
    /// Whether the file can still be used.
    pub severity: Severity,
    /// As in [`Problem`].
    pub message: String,
    /// As in [`Problem`].
    pub label: String,
    /// As in [`Problem`].
    pub hints: Vec<String>,
    /// A part of a string value, in bytes from its first character, where the value stands unquoted on one line.
    pub within: Option<Range<usize>>,
}

impl Finding {
    /// An error at the value that `pointer` names.
    pub fn at(pointer: impl Into<String>, message: impl Into<String>) -> Finding {
        Finding {
            pointer: pointer.into(),
            on_key: false,
            severity: Severity::Error,
            message: message.into(),
            label: String::new(),
            hints: Vec::new(),
            within: None,
        }
    }

    /// The same, marked under the key.
    pub fn on_key(mut self) -> Finding {
        self.on_key = true;
        self
    }

    /// The same, with the words under the mark.
    pub fn label(mut self, label: impl Into<String>) -> Finding {
        self.label = label.into();
        self
    }

    /// The same, with one more hint.
    pub fn hint(mut self, hint: impl Into<String>) -> Finding {
        self.hints.push(hint.into());
        self
    }

    /// The same, as a warning.
    pub fn warning(mut self) -> Finding {
        self.severity = Severity::Warning;
        self
    }

    /// The same, about a value that stands below `prefix`.
    pub fn below(mut self, prefix: &str) -> Finding {
        self.pointer.insert_str(0, prefix);
        self
    }
}

/// A pointer's next step: `key` with `~` and `/` written as RFC 6901 asks.
pub fn step(pointer: &str, key: &str) -> String {
    format!("{pointer}/{}", key.replace('~', "~0").replace('/', "~1"))
}

/// A parsed file.
#[derive(Debug, Clone)]
pub struct Document {
    name: String,
    text: Arc<str>,
    lines: Lines,
    value: Value,
    places: HashMap<String, Marks>,
}

#[derive(Debug, Clone)]
struct Marks {
    key: Option<Range<usize>>,
    /// A list or map is marked by where it begins.
    value: Range<usize>,
    is_collection: bool,
}

/// Where the lines begin, and how many characters stand before: a file with thousands of problems counts them once.
#[derive(Debug, Clone)]
struct Lines {
    begins: Vec<usize>,
    /// Characters before every [`STRIDE`]th byte: a line may be the whole file.
    characters: Vec<usize>,
}

const STRIDE: usize = 1024;

impl Lines {
    fn of(text: &str) -> Lines {
        let begins = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        let mut characters = vec![0];
        let mut counted = 0;
        for stride in text.as_bytes().chunks(STRIDE) {
            counted += characters_in(stride);
            characters.push(counted);
        }
        Lines { begins, characters }
    }

    fn place(&self, text: &str, bytes: Range<usize>) -> Place {
        let start = floor(text, bytes.start);
        let end = floor(text, bytes.end).max(start);
        let line = self.begins.partition_point(|begins| *begins <= start);
        let column = self.before(text, start) - self.before(text, self.begins[line - 1]) + 1;
        Place { line, column, bytes: start..end }
    }

    fn before(&self, text: &str, at: usize) -> usize {
        let stride = at / STRIDE;
        self.characters[stride] + characters_in(&text.as_bytes()[stride * STRIDE..at])
    }
}

/// Bytes that begin a character.
fn characters_in(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte & 0xC0 != 0x80).count()
}

impl Document {
    /// Reads one YAML document.
    ///
    /// # Errors
    /// The syntax error (there is one a file: after it nothing else can be read), or every duplicate key.
    pub fn parse(name: &str, bytes: &[u8]) -> Result<Document, Vec<Problem>> {
        let (document, duplicates) = Document::parse_to_check(name, bytes)?;
        if duplicates.is_empty() { Ok(document) } else { Err(duplicates) }
    }

    /// Reads one YAML document whose other mistakes shall be found too: duplicate keys stand beside it, and the
    /// first of two keys holds.
    ///
    /// # Errors
    /// The syntax error.
    pub fn parse_to_check(name: &str, bytes: &[u8]) -> Result<(Document, Vec<Problem>), Vec<Problem>> {
        on_large_stack(|| Document::read(name, bytes))
    }

    fn read(name: &str, bytes: &[u8]) -> Result<(Document, Vec<Problem>), Vec<Problem>> {
        let text = decode(name, bytes)?;
        let options = serde_yaml::options! {
            strict_booleans: true,
            duplicate_keys: DuplicateKeyPolicy::PassThrough,
            with_snippet: false,
            leading_zero_numbers_as_strings: true,
            underscored_numbers_as_strings: true,
            reject_unsupported_tags: true,
            alias_limits: serde_yaml::alias_limits! { max_total_replayed_events: 20_000 },
            budget: serde_yaml::budget! { max_depth: 48, max_nodes: 2_000_000, max_events: 8_000_000, max_total_scalar_bytes: 64 * 1024 * 1024 },
        };
        let root: Node = serde_yaml::from_str_with_options(&text, options)
            .map_err(|error| vec![syntax::problem(name, &text, &error)])?;
        let mut reader = Reader { text: &text, places: HashMap::new(), duplicates: Vec::new() };
        let value = reader.read(root, String::new(), None);
        let Reader { places, duplicates, .. } = reader;
        let lines = Lines::of(&text);
        let document = Document { name: name.to_owned(), text: text.into(), lines, value, places };
        let duplicates = duplicates
            .into_iter()
            .map(|(key, first, second)| {
                let first = document.lines.place(&document.text, first);
                let mut problem = document.problem_at(second, format!("duplicate key `{key}`"));
                problem.label = format!("`{key}` is already set in line {}", first.line);
                problem.hints.push("keep one of the two".into());
                problem
            })
            .collect();
        Ok((document, duplicates))
    }

    /// The file's name as it was given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file's text.
    pub fn text(&self) -> &Arc<str> {
        &self.text
    }

    /// The whole file as a JSON value.
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// The source text of the value at this pointer; a mapping's or a list's is empty.
    pub fn source_text(&self, pointer: &str) -> &str {
        let scalar = self.places.get(pointer).filter(|marks| !marks.is_collection);
        scalar.and_then(|marks| self.text.get(marks.value.clone())).unwrap_or("")
    }

    /// What follows the value at this pointer on its line.
    pub fn rest_of_line(&self, pointer: &str) -> &str {
        let rest = self.places.get(pointer).and_then(|marks| self.text.get(marks.value.end..)).unwrap_or("");
        rest.split('\n').next().unwrap_or("")
    }

    /// A problem at the place that the finding names. Where the pointer leads nowhere (a missing key), the
    /// nearest parent's key is marked.
    pub fn problem(&self, finding: Finding) -> Problem {
        let bytes = self.bytes_of(&finding);
        let mut problem = self.problem_at(bytes, finding.message);
        problem.severity = finding.severity;
        problem.label = finding.label;
        problem.hints = finding.hints;
        problem
    }

    fn bytes_of(&self, finding: &Finding) -> Range<usize> {
        let mut pointer = finding.pointer.as_str();
        let mut exact = true;
        loop {
            if let Some(marks) = self.places.get(pointer) {
                let on_key = finding.on_key || !exact || marks.is_collection || marks.value.is_empty();
                if on_key && let Some(key) = &marks.key {
                    return key.clone();
                }
                if let Some(within) = &finding.within
                    && exact
                    && let Some(inner) = self.inside(pointer, &marks.value, within)
                {
                    return inner;
                }
                return if marks.is_collection {
                    self.beginning(marks.value.start)
                } else {
                    marks.value.clone()
                };
            }
            exact = false;
            match pointer.rfind('/') {
                Some(cut) => pointer = &pointer[..cut],
                None => return 0..0,
            }
        }
    }

    /// What a list or map without a key is marked by: its bracket, its dash, or its first word.
    fn beginning(&self, start: usize) -> Range<usize> {
        let rest = self.text.get(start..).unwrap_or("");
        let length = match rest.chars().next() {
            Some('[' | '{' | '-') => 1,
            _ => rest.find(|c: char| c.is_whitespace() || c == ':').unwrap_or(rest.len()),
        };
        start..start + length
    }

    /// The part of a scalar's span that holds these bytes of its value. Where escapes, folded lines or indentation
    /// move bytes, the same text is looked for in the source; an alias holds no text of its own.
    fn inside(&self, pointer: &str, span: &Range<usize>, within: &Range<usize>) -> Option<Range<usize>> {
        let source = self.text.get(span.clone())?;
        let value = self.value.pointer(pointer)?.as_str()?;
        let wanted = value.get(within.clone())?;
        let quote = usize::from(source.starts_with(['"', '\'']));
        let unquoted = source.get(quote..source.len().saturating_sub(quote))?;
        let at = if unquoted == value {
            quote + within.start
        } else {
            let same_count = source.matches(wanted).count() == value.matches(wanted).count();
            if wanted.is_empty() || !same_count {
                return None;
            }
            let before = value[..within.start].matches(wanted).count();
            source.match_indices(wanted).nth(before)?.0
        };
        Some(span.start + at..span.start + at + wanted.len())
    }

    fn problem_at(&self, bytes: Range<usize>, message: String) -> Problem {
        Problem {
            severity: Severity::Error,
            file: self.name.clone(),
            place: Some(self.lines.place(&self.text, bytes)),
            message,
            label: String::new(),
            hints: Vec::new(),
        }
    }
}

/// Runs work on a thread of its own: the libraries for YAML and for expressions recurse, and within their bounds
/// cannot overflow this stack.
pub fn on_large_stack<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    // A nested call must not start yet another thread: checking a file with thousands of expressions does so once.
    thread_local!(static LARGE: std::cell::Cell<bool> = const { std::cell::Cell::new(false) });
    if LARGE.get() {
        return work();
    }
    std::thread::scope(|scope| {
        let spawned = std::thread::Builder::new()
            .name("large-stack".into())
            .stack_size(STACK_BYTES)
            .spawn_scoped(scope, || {
                LARGE.set(true);
                work()
            });
        match spawned.map(std::thread::ScopedJoinHandle::join) {
            Ok(Ok(done)) => done,
            Ok(Err(panic)) => std::panic::resume_unwind(panic),
            Err(error) => panic!("no thread for reading: {error}"),
        }
    })
}

/// A problem of a whole file.
pub fn file_problem(file: &str, message: impl Into<String>) -> Problem {
    Problem {
        severity: Severity::Error,
        file: file.to_owned(),
        place: None,
        message: message.into(),
        label: String::new(),
        hints: Vec::new(),
    }
}

fn decode(name: &str, bytes: &[u8]) -> Result<String, Vec<Problem>> {
    if bytes.len() > MAX_FILE_BYTES {
        let size = bytes.len() / (1024 * 1024);
        let mut problem = file_problem(name, format!("the file is too large: {size} MiB"));
        problem.hints.push(format!("at most {} MiB are read", MAX_FILE_BYTES / (1024 * 1024)));
        return Err(vec![problem]);
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.strip_prefix('\u{feff}').unwrap_or(text).to_owned()),
        Err(error) => {
            let line = bytes[..error.valid_up_to()].iter().filter(|b| **b == b'\n').count() + 1;
            let mut problem = file_problem(name, format!("the file is not UTF-8 text (line {line})"));
            let is_utf16 = bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]);
            let hint = if is_utf16 { "it looks like UTF-16: save it as UTF-8" } else { "save it as UTF-8" };
            problem.hints.push(hint.into());
            Err(vec![problem])
        }
    }
}

fn floor(text: &str, mut at: usize) -> usize {
    at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

fn byte_range(location: &Location) -> Range<usize> {
    let span = location.span();
    let start = span.byte_offset().and_then(|at| usize::try_from(at).ok()).unwrap_or(0);
    let length = span.byte_len().and_then(|len| usize::try_from(len).ok()).unwrap_or(0);
    start..start + length
}

/// A YAML node as serde hands it over, with its place.
struct Node {
    at: Range<usize>,
    kind: Kind,
}

enum Kind {
    Null,
    Bool(bool),
    Integer(i64),
    Unsigned(u64),
    Float(f64),
    String(String),
    List(Vec<Node>),
    Map(Vec<(Range<usize>, String, Node)>),
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Kind>::deserialize(deserializer)?;
        Ok(Node { at: byte_range(&spanned.referenced), kind: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(KindVisitor)
    }
}

struct KindVisitor;

impl<'de> Visitor<'de> for KindVisitor {
    type Value = Kind;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Kind, E> {
        Ok(Kind::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Kind, E> {
        Ok(Kind::Integer(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Kind, E> {
        Ok(i64::try_from(value).map_or(Kind::Unsigned(value), Kind::Integer))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Kind, E> {
        Ok(Kind::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Kind, E> {
        Ok(Kind::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Kind, E> {
        Ok(Kind::String(value))
    }

    fn visit_unit<E>(self) -> Result<Kind, E> {
        Ok(Kind::Null)
    }

    fn visit_none<E>(self) -> Result<Kind, E> {
        Ok(Kind::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Kind, D::Error> {
        Kind::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Kind, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Kind::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Kind, A::Error> {
        let mut map = Vec::new();
        while let Some(key) = entries.next_key::<Spanned<String>>()? {
            map.push((byte_range(&key.referenced), key.value, entries.next_value()?));
        }
        Ok(Kind::Map(map))
    }
}

struct Reader<'t> {
    text: &'t str,
    places: HashMap<String, Marks>,
    duplicates: Vec<(String, Range<usize>, Range<usize>)>,
}

impl Reader<'_> {
    fn read(&mut self, node: Node, pointer: String, key: Option<Range<usize>>) -> Value {
        let is_collection = matches!(node.kind, Kind::List(_) | Kind::Map(_));
        let span = node.at.clone();
        let value = match node.kind {
            Kind::Null => Value::Null,
            Kind::Bool(value) => value.into(),
            Kind::Integer(value) => value.into(),
            Kind::Unsigned(value) => value.into(),
            Kind::Float(value) => self.float(value, &node.at),
            Kind::String(value) => value.into(),
            Kind::List(items) => items
                .into_iter()
                .enumerate()
                .map(|(index, item)| self.read(item, format!("{pointer}/{index}"), None))
                .collect(),
            Kind::Map(entries) => self.read_map(entries, &pointer),
        };
        self.places.insert(pointer, Marks { key, value: span, is_collection });
        value
    }

    fn read_map(&mut self, entries: Vec<(Range<usize>, String, Node)>, pointer: &str) -> Value {
        let mut map = serde_json::Map::new();
        let mut seen: HashMap<String, Range<usize>> = HashMap::new();
        for (at, key, node) in entries {
            if let Some(first) = seen.get(&key) {
                self.duplicates.push((key, first.clone(), at));
                continue;
            }
            seen.insert(key.clone(), at.clone());
            let value = self.read(node, step(pointer, &key), Some(at));
            map.insert(key, value);
        }
        Value::Object(map)
    }

    /// A number that JSON cannot hold (infinity) is kept as its text, so that its type is refused with its place.
    fn float(&self, value: f64, at: &Range<usize>) -> Value {
        serde_json::Number::from_f64(value)
            .map_or_else(|| self.text.get(at.clone()).unwrap_or("").into(), Value::Number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, pointer: &str, on_key: bool) -> (usize, usize, String) {
        let document = Document::parse("f.yaml", text.as_bytes()).expect("valid");
        let finding = Finding { on_key, ..Finding::at(pointer, "m") };
        let place = document.problem(finding).place.expect("a place");
        (place.line, place.column, text[place.bytes].to_owned())
    }

    #[test]
    fn keys_and_values_know_their_places() {
        let text = "name: x\ntasks:\n  a:\n    with: { n: 3, 中: [1, \"two\"] }\n";
        assert_eq!(check(text, "/name", false), (1, 7, "x".into()));
        assert_eq!(check(text, "/tasks/a", true), (3, 3, "a".into()));
        assert_eq!(check(text, "/tasks/a/with/n", false), (4, 16, "3".into()));
        assert_eq!(check(text, "/tasks/a/with/中/1", false), (4, 26, "\"two\"".into()));
        assert_eq!(
            check(text, "/tasks/a/missing", false),
            (3, 3, "a".into()),
            "a missing key marks its parent"
        );
    }

    #[test]
    fn every_duplicate_key_is_told_with_both_places() {
        let problems = Document::parse("f.yaml", b"a: 1\nb: 2\na: 3\nb: 4\n").expect_err("duplicates");
        let told: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "f.yaml:3:1: duplicate key `a` (`a` is already set in line 1)",
                "f.yaml:4:1: duplicate key `b` (`b` is already set in line 2)"
            ]
        );
    }

    #[test]
    fn an_unquoted_expression_is_told_to_be_quoted() {
        let problems = Document::parse("f.yaml", b"a: { tag: ${{ x }} }\n").expect_err("syntax");
        assert_eq!(problems[0].hints, ["put the expression in quotes: \"${{ ... }}\""]);
    }

    #[test]
    fn scalars_keep_what_was_written() {
        let text = "a: 012\nb: 1_000\nc: 007\nd: yes\ne: 1.5\nf: 99999999999999999999\n";
        let document = Document::parse("f.yaml", text.as_bytes()).expect("valid");
        assert_eq!(
            document.value(),
            &serde_json::json!({"a": "012", "b": "1_000", "c": "007", "d": "yes", "e": 1.5, "f": 1e20})
        );
        assert_eq!(document.source_text("/f"), "99999999999999999999");
    }

    #[test]
    fn hostile_files_end_in_one_problem() {
        let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: [*e,*e,*e,*e,*e,*e,*e,*e,*e]\n";
        let deep = "[".repeat(10_000);
        let not_text: &[u8] = &[b'a', b':', b' ', 0xff, 0xfe];
        for bytes in [
            bomb.as_bytes(),
            deep.as_bytes(),
            not_text,
            b"? : x\n",
            b"a: .inf\n",
            b"a: !success() x\n",
            b"a: *b\n",
        ] {
            let problems = Document::parse("f.yaml", bytes).expect_err("refused");
            assert_eq!(problems.len(), 1, "{problems:?}");
        }
        assert!(Document::parse("f.yaml", &vec![b' '; MAX_FILE_BYTES + 1]).is_err());
    }
}
