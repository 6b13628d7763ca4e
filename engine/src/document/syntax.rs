//! What is said of a file that is not YAML: the reader's words are made for programmers, these are for people who
//! wrote a file.
//!
//! The reader says where it could not go on. Here the place is moved to what was mistaken (the bracket that is still
//! open, the tab, the unquoted expression), by looking at a few lines of text. Nothing here parses YAML.

use std::ops::Range;

use serde_yaml::Error;

use super::{Lines, Problem, Severity, byte_range};

/// A syntax error, in words.
pub(super) fn problem(name: &str, text: &str, error: &Error) -> Problem {
    let error = error.without_snippet();
    let lines = Lines::of(text);
    let start = error.location().map_or(0, |location| match byte_range(&location).start {
        0 => offset_of(text, location.line(), location.column()),
        start => start,
    });
    let around = Around::new(text, &lines, super::floor(text, start));
    let told = around.explain(error);
    Problem {
        severity: Severity::Error,
        file: name.to_owned(),
        place: Some(lines.place(text, told.bytes)),
        message: told.message,
        label: told.label,
        hints: told.hint.into_iter().collect(),
    }
}

/// What is said, and where.
struct Told {
    message: String,
    label: String,
    hint: Option<String>,
    bytes: Range<usize>,
}

impl Told {
    fn new(bytes: Range<usize>, message: impl Into<String>, label: impl Into<String>) -> Told {
        Told { message: message.into(), label: label.into(), hint: None, bytes }
    }

    fn hint(mut self, hint: impl Into<String>) -> Told {
        self.hint = Some(hint.into());
        self
    }
}

const QUOTE: &str = "put the value in quotes";

/// The text around the place where the reader stopped.
struct Around<'t> {
    text: &'t str,
    lines: &'t Lines,
    /// Where the reader stopped.
    at: usize,
    /// The line of it, without its end.
    line: Range<usize>,
}

impl<'t> Around<'t> {
    fn new(text: &'t str, lines: &'t Lines, at: usize) -> Self {
        let mut around = Around { text, lines, at, line: 0..0 };
        around.line = around.line_of(at);
        around
    }

    fn explain(&self, error: &Error) -> Told {
        match error {
            Error::MultipleDocuments { .. } => {
                let dashes = self.text[..self.at].rfind("\n---").map_or(self.here(), |at| at + 1..at + 4);
                Told::new(dashes, "the file holds several documents", "a second document begins")
                    .hint("a workflow is one document: remove the `---`, or use one file each")
            }
            Error::NullIntoString { .. } => {
                Told::new(self.here(), "a key is empty", "expected a name before the colon")
            }
            Error::RecursiveReferencesRequireWeakTypes { .. } => {
                Told::new(self.token(), "an alias refers to itself", "").hint("write the value out")
            }
            Error::AliasReplayCounterOverflow { .. }
            | Error::AliasReplayLimitExceeded { .. }
            | Error::AliasExpansionLimitExceeded { .. }
            | Error::AliasReplayStackDepthExceeded { .. }
            | Error::Budget { .. } => Told::new(
                self.here(),
                "the file is nested or repeated beyond the limits",
                "the limit is passed here",
            )
            .hint("at most 48 levels deep, and aliases may repeat 20,000 nodes in all"),
            Error::UnsupportedTag { .. }
            | Error::InvalidBinaryBase64 { .. }
            | Error::BinaryNotUtf8 { .. }
            | Error::TaggedScalarCannotDeserializeIntoString { .. } => self.tag(),
            Error::UnknownAnchor { .. } => {
                Told::new(self.token(), "an alias has no anchor", "a value that begins with `*` is an alias")
                    .hint(QUOTE)
            }
            Error::NonFiniteFloat { value, .. } => {
                let message = format!("`{value}` is not a number that can be used");
                Told::new(self.token(), message, "expected a finite number").hint("a text is put in quotes")
            }
            Error::MergeValueNotMapOrSeqOfMaps { .. } => {
                Told::new(self.token(), "`<<` takes the keys of a map", "expected a map, or an alias of one")
            }
            _ => self.explain_words(&error.to_string()),
        }
    }

    /// The scanner tells its errors as sentences only.
    fn explain_words(&self, raw: &str) -> Told {
        let says = |words: &str| raw.contains(words);
        if says("tabs disallowed") || says("tab cannot be used") || says("a tab") {
            return self.tab();
        }
        if let Some(bytes) = self.unquoted_expression() {
            let message = "an expression must be quoted here";
            return Told::new(bytes, message, "braces and colons mean something to YAML")
                .hint("put the expression in quotes: \"${{ ... }}\"");
        }
        if says("unclosed quote") {
            return Told::new(self.here(), "a quote is not closed", "it opens here");
        }
        if let Some((open, close)) = mismatched(raw) {
            return Told::new(self.here(), format!("`{open}` is closed by `{close}`"), "it opens here");
        }
        if says("unclosed bracket") {
            return self.unclosed(self.at);
        }
        if says("misplaced bracket") {
            let bracket = &self.text[self.here()];
            return Told::new(self.here(), format!("`{bracket}` closes nothing"), "no bracket is open here");
        }
        if (says("illegal placement of ':'") || says("expected ',' or"))
            && let Some(open) = self.open_above()
        {
            return self.unclosed(open);
        }
        if says("expected ',' or") {
            let close = if says("']'") { ']' } else { '}' };
            return Told::new(
                self.here(),
                "a comma is missing",
                format!("expected `,` or `{close}` before this"),
            );
        }
        if says("mapping values are not allowed") {
            return self.colon();
        }
        if says("simple key expected ':'") || says("simple key is no longer valid") {
            return self.no_colon(self.line.clone());
        }
        if says("did not find expected key") || says("expected '-' indicator") || says("invalid indentation")
        {
            return self.indentation();
        }
        if says("unexpected character") {
            let found = self.text[self.at..].chars().next().unwrap_or(' ');
            if found.is_control() {
                let message = format!("the character U+{:04X} cannot stand in YAML", u32::from(found));
                return Told::new(self.here(), message, "").hint("save the file as plain UTF-8 text");
            }
            return Told::new(self.token(), format!("a value cannot begin with `{found}`"), "").hint(QUOTE);
        }
        if says("trailing content after") {
            let rest = self.at..self.text_end(&self.line);
            return Told::new(rest, "text stands after a closed quote", "the value has ended before this")
                .hint("put the whole value in one kind of quotes, and double those inside it");
        }
        if says("unknown escape") {
            return Told::new(
                self.escape(),
                "an unknown escape in double quotes",
                "`\\` begins an escape here",
            )
            .hint("write `\\\\`, or put the value in single quotes");
        }
        if says("expected string scalar") {
            return Told::new(self.here(), "a key must be a text", "expected a name before the colon");
        }
        if says("scanning a block scalar") {
            let message = "text stands beside the mark of a block";
            return Told::new(
                self.at..self.text_end(&self.line),
                message,
                "the text begins on the next line",
            );
        }
        if says("may not precede") {
            return Told::new(self.here(), "a blank is missing after `:`", "");
        }
        if says("unexpected EOF") || says("node content") {
            let message = "this value cannot be read";
            return Told::new(self.here(), message, "a bracket, a quote or a value is missing near here");
        }
        let words = raw.lines().next().unwrap_or(raw);
        let words = words.split(" at line ").next().unwrap_or(words).trim_end_matches([':', ' ']);
        let words = words.split_once("error: ").map_or(words, |(_, rest)| rest);
        let mut words = words.to_owned();
        for (theirs, ours) in [("mapping", "map"), ("sequence", "list"), ("scalar", "text")] {
            words = words.replace(theirs, ours);
        }
        Told::new(self.here(), format!("this is not valid YAML: {words}"), "")
    }

    fn tab(&self) -> Told {
        let before = self.text[self.line.start..self.next(self.at)].rfind('\t');
        let tab = before.map_or(self.at, |at| self.line.start + at);
        let first = self.text[self.line.start..tab].rfind(|c| c != '\t').map_or(0, |at| at + 1);
        Told::new(self.line.start + first..self.next(tab), "a tab stands where YAML counts blanks", "")
            .hint("indent with blanks")
    }

    fn tag(&self) -> Told {
        let before = &self.text[self.line.start..self.at.min(self.line.end)];
        let found = before.rfind(" !").map_or(self.at, |at| self.line.start + at + 1);
        let message = "a YAML tag is not supported here";
        Told::new(self.token_at(found), message, "a value that begins with `!` is a tag").hint(QUOTE)
    }

    fn unclosed(&self, open: usize) -> Told {
        let (open_word, close) = if self.text[open..].starts_with('[') { ('[', ']') } else { ('{', '}') };
        Told::new(open..self.next(open), format!("`{open_word}` is not closed"), "it opens here")
            .hint(format!("write `{close}` at its end"))
    }

    /// `a: b: c`, a key below a value, or a line before this one that lacks its colon.
    fn colon(&self) -> Told {
        let before = &self.text[self.line.start..self.at];
        if before.contains(": ") {
            return Told::new(
                self.here(),
                "a second `:` on one line",
                "a value with `: ` in it needs quotes",
            )
            .hint(QUOTE);
        }
        let key = self.line.start + blanks(before)..self.at;
        let Some(above) = self.line_above() else {
            return Told::new(key, "a key cannot stand here", "");
        };
        let content = &self.text[above.clone()];
        if content.contains(": ") || content.ends_with(':') {
            let line = self.lines.place(self.text, above).line;
            return Told::new(key, "a key is indented too far", format!("line {line} has a value already"));
        }
        self.no_colon(above)
    }

    fn no_colon(&self, line: Range<usize>) -> Told {
        let content = &self.text[line.clone()];
        let bytes = line.start + blanks(content)..self.text_end(&line);
        Told::new(bytes, "this line is no `key: value`", "a `:` and a blank are missing")
    }

    fn indentation(&self) -> Told {
        let content = &self.text[self.line.clone()];
        let indent = blanks(content);
        let start = self.line.start + indent;
        let same = self.text[..self.line.start].lines().rev().find(|line| {
            !line.trim().is_empty() && !line.trim_start().starts_with('#') && blanks(line) <= indent
        });
        let is_item = content[indent..].starts_with("- ") || &content[indent..] == "-";
        match same {
            Some(above) if blanks(above) == indent && is_item => {
                Told::new(start..start + 1, "a list item cannot stand among keys", "")
            }
            Some(above) if blanks(above) == indent => {
                Told::new(self.key_at(start), "a key cannot stand among list items", "")
            }
            _ => {
                let bytes = if is_item { start..start + 1 } else { self.key_at(start) };
                let blanks = if indent == 1 { "1 blank".into() } else { format!("{indent} blanks") };
                Told::new(
                    bytes,
                    "the indentation of this line fits no line above",
                    format!("it has {blanks}"),
                )
            }
        }
    }

    /// An expression on this line that stands outside quotes, begins before the place, and cannot be plain text.
    fn unquoted_expression(&self) -> Option<Range<usize>> {
        let mut quote = None;
        let line = &self.text[self.line.clone()];
        let mut last = ' ';
        for (at, c) in line.char_indices() {
            match quote {
                Some(q) if c == q => quote = None,
                Some(_) => {}
                // A quote inside a word is a letter of it.
                None if matches!(c, '"' | '\'') && matches!(last, ' ' | '[' | '{' | ',' | ':') => {
                    quote = Some(c)
                }
                None if line[at..].starts_with("${{") => {
                    if self.line.start + at > self.at {
                        return None;
                    }
                    let end = line[at..].find("}}").map_or(at + 3, |end| at + end + 2);
                    return Some(self.line.start + at..self.line.start + end);
                }
                None => {}
            }
            last = c;
        }
        None
    }

    /// A bracket that an earlier line opens and that is still open in this one.
    fn open_above(&self) -> Option<usize> {
        let mut open = Vec::new();
        let (mut quote, mut last) = (None, ' ');
        // A few lines are enough: further up, a guess is more likely wrong than right.
        let first = self.text[..self.line.start].rmatch_indices('\n').nth(4).map_or(0, |(at, _)| at + 1);
        for (at, c) in self.text[first..self.line.start].char_indices() {
            match (quote, c) {
                (Some(q), _) if c == q => quote = None,
                (Some(_), _) => {}
                (None, '"' | '\'') if matches!(last, ' ' | '[' | '{' | ',' | ':') => quote = Some(c),
                (None, '[' | '{') => open.push(first + at),
                (None, ']' | '}') => {
                    open.pop();
                }
                (None, _) => {}
            }
            last = c;
        }
        open.pop()
    }

    /// The first escape after the place that double quotes do not know.
    fn escape(&self) -> Range<usize> {
        let mut characters = self.text[self.at..].char_indices();
        while let Some((at, c)) = characters.next() {
            if c == '\\'
                && let Some((_, escaped)) = characters.next()
                && !"0abtnvfre \"/\\N_LPxuU\t\n\r".contains(escaped)
            {
                return self.at + at..self.at + at + 1 + escaped.len_utf8();
            }
        }
        self.here()
    }

    fn line_of(&self, at: usize) -> Range<usize> {
        let start = self.text[..at].rfind('\n').map_or(0, |newline| newline + 1);
        let end = self.text[start..].find('\n').map_or(self.text.len(), |newline| start + newline);
        start..end
    }

    /// The nearest line above that says anything.
    fn line_above(&self) -> Option<Range<usize>> {
        let mut line = self.line.clone();
        while line.start > 0 {
            line = self.line_of(line.start - 1);
            let content = self.text[line.clone()].trim();
            if !content.is_empty() && !content.starts_with('#') {
                return Some(line.start..self.text_end(&line));
            }
        }
        None
    }

    fn text_end(&self, line: &Range<usize>) -> usize {
        line.start + self.text[line.clone()].trim_end().len()
    }

    fn key_at(&self, start: usize) -> Range<usize> {
        let line = &self.text[start..self.text_end(&self.line).max(start)];
        start..start + line.find(": ").unwrap_or_else(|| line.trim_end_matches(':').len())
    }

    fn next(&self, at: usize) -> usize {
        at + self.text[at..].chars().next().map_or(0, char::len_utf8)
    }

    fn here(&self) -> Range<usize> {
        self.at..self.next(self.at)
    }

    fn token(&self) -> Range<usize> {
        self.token_at(self.at)
    }

    fn token_at(&self, start: usize) -> Range<usize> {
        let rest = &self.text[start..];
        let end = rest.find(|c: char| c.is_whitespace() || ",]}".contains(c)).unwrap_or(rest.len());
        start..(start + end).max(self.next(start))
    }
}

fn blanks(line: &str) -> usize {
    line.len() - line.trim_start_matches(' ').len()
}

/// `mismatched bracket '{' closed by ']'`
fn mismatched(raw: &str) -> Option<(char, char)> {
    let (_, rest) = raw.split_once("mismatched bracket '")?;
    let open = rest.chars().next()?;
    let (_, rest) = rest.split_once("closed by '")?;
    Some((open, rest.chars().next()?))
}

fn offset_of(text: &str, line: u64, column: u64) -> usize {
    let line = usize::try_from(line.saturating_sub(1)).unwrap_or(0);
    let column = usize::try_from(column.saturating_sub(1)).unwrap_or(0);
    let start: usize = text.split_inclusive('\n').take(line).map(str::len).sum();
    let rest = &text[start.min(text.len())..];
    start + rest.char_indices().nth(column).map_or(rest.len(), |(at, _)| at)
}
