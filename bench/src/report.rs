//! The page that is written: what was measured, the goal beside it, and the machine it was measured on.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::Value;

use crate::machine::machine;

/// Makes docs/BENCHMARKS.md.
pub(crate) fn page(measured: &Value, runs: u64, folder: &Path) -> String {
    let mut page = String::from("# Benchmarks\n\n");
    // Writing into a String cannot fail.
    let _ = write!(
        page,
        "Written by `cargo xtask bench`, in a release build. Compare numbers only inside this page: it was measured on\n{}.\n\n",
        machine(folder)
    );
    page.push_str(&tasks(measured));
    page.push_str("## The store\n\n### Durable events\n\nOne event a write, so many runs at once. Raw is an append of the same bytes and fdatasync, in the same run.\n\n");
    page.push_str("| runs at once | events/s | events in a batch | wait p50 | p99 | sled alone: events/s, batch p50 | raw events/s | ratio to raw, of sled alone | raw fdatasync p50 |\n|---|---|---|---|---|---|---|---|---|\n");
    for row in rows(&measured["events"]) {
        let ratio = number(row, "events") / number(row, "raw_events") * 100.0;
        let alone = number(row, "alone_events") / number(row, "raw_events") * 100.0;
        let _ = writeln!(
            page,
            "| {} | {} | {:.1} | {:.2} ms | {:.2} ms | {}, {:.2} ms | {} | {ratio:.0} %, {alone:.0} % | {:.2} ms |",
            row["at_once"],
            whole(number(row, "events")),
            number(row, "batch"),
            number(row, "p50"),
            number(row, "p99"),
            whole(number(row, "alone_events")),
            number(row, "alone_p50"),
            whole(number(row, "raw_events")),
            number(row, "raw_p50"),
        );
    }
    page.push_str("\nGoal: at least 30 % of raw with 64 runs at once. The journal hashes every record and waits for the device twice where raw waits once:\nsled's flush writes and waits (sync_file_range), and only our fdatasync after it outlives a power cut. What sled alone reaches with the same\nbatches is the limit; it also bounds a step of a chain and the time from a submit to the first task, which besides wake some five threads.\n\n");
    let raw = rows(&measured["events"]).first().map_or(0.0, |row| number(row, "raw_p50"));
    let through = &measured["through"];
    let (open, idle) = (&measured["open"], &measured["idle"]);
    let _ = write!(
        page,
        "### A long history\n\n| measure | goal | measured | in raw fdatasyncs |\n|---|---|---|---|\n\
         | open with {runs} finished and 1,000 active runs: first resumed task | < 2 s | {:.2} s | {} |\n\
         | the same: the store is open | | {:.2} s | {} |\n\
         | the same: memory then, and at most until all 1,000 had ended | < 150 MB | {:.0} MB, {:.0} MB | |\n\
         | {runs} runs through one process: memory at the end, at most | flat | {:.0} MB, {:.0} MB | |\n\
         | the same: disk beside the payload of {:.0} MB | <= 1.5 x | {:.0} MB, {:.2} x | |\n\
         | the same: events/s, all durable | | {} | |\n\
         | the same: the slowest of all writes | | {} ms | {} |\n\
         | idle: memory, processor | < 30 MB, < 0.1 % | {:.1} MB, {:.2} % | |\n\
         | start with 100 runs: engine ready | < 0.2 s | {:.3} s | {} |\n\n",
        number(open, "first_task_s"),
        times(number(open, "first_task_s") * 1_000.0, raw),
        number(open, "open_s"),
        times(number(open, "open_s") * 1_000.0, raw),
        number(open, "memory_mb"),
        number(open, "peak_mb"),
        number(through, "memory_mb"),
        number(through, "peak_mb"),
        number(through, "payload_mb"),
        number(through, "disk_mb"),
        number(through, "disk_mb") / number(through, "payload_mb"),
        whole(number(through, "events")),
        through["slowest_ms"],
        times(number(through, "slowest_ms"), raw),
        number(idle, "memory_mb"),
        number(idle, "processor_percent"),
        number(idle, "ready_s"),
        times(number(idle, "ready_s") * 1_000.0, raw),
    );
    let _ = write!(
        page,
        "### Lists\n\nA page of 50, half of them the newest, half far down, 1,000 times each, among {runs} runs in {} segments. Goal: p99 < 5 ms.\n\n| runs of | found | p50 | p99 | p99 in raw fdatasyncs |\n|---|---|---|---|---|\n",
        through["segments"],
    );
    for row in rows(&measured["lists"]) {
        let _ = writeln!(
            page,
            "| {} | {} | {:.2} ms | {:.2} ms | {} |",
            row["of"].as_str().unwrap_or_default(),
            row["found"],
            number(row, "p50"),
            number(row, "p99"),
            times(number(row, "p99"), raw),
        );
    }
    page.push_str("\n### The curve of the runs through one process\n\n| runs | seconds | memory | disk | payload | disk / payload |\n|---|---|---|---|---|---|\n");
    for row in rows(&through["curve"]) {
        let _ = writeln!(
            page,
            "| {} | {:.0} | {:.0} MB | {:.0} MB | {:.0} MB | {:.2} |",
            row["runs"],
            number(row, "seconds"),
            number(row, "memory_mb"),
            number(row, "disk_mb"),
            number(row, "payload_mb"),
            number(row, "disk_mb") / number(row, "payload_mb"),
        );
    }
    page.push('\n');
    page.push_str(&load(&measured["load"]));
    page
}

/// What the section of the load is called.
const LOAD: &str = "## The API under load\n";

/// The section of the load.
pub(crate) fn load(measured: &Value) -> String {
    let clients = &measured["clients"];
    let mut section = format!(
        "{LOAD}\n{clients} clients of one daemon, over TCP and each with a token: every one holds a stream of everything (server-sent events), and once a\n\
         second lists the newest 50 runs, every other time those that succeeded, and shows one of them. Meanwhile {} runs are submitted, {} a second, each\n\
         followed on a stream of its own, approved, and seen to its end. A list and a submit count from when they were due, an event from its moment in the\n\
         record, which is before its fsync, to its arrival, by the machine's clock and to the millisecond.\n\n\
         | call | how many | p50 | p99 | slowest |\n|---|---|---|---|---|\n",
        measured["runs"], measured["a_second"],
    );
    for (what, key) in [
        ("list runs", "list"),
        ("show a run", "show"),
        ("submit a run, with its connection", "submit"),
        ("approve, with its connection", "approve"),
        ("an event to the stream of its run", "of_run"),
        ("an event to the streams of everything", "of_all"),
    ] {
        let row = &measured[key];
        // Writing into a String cannot fail.
        let _ = writeln!(
            section,
            "| {what} | {} | {:.1} ms | {:.1} ms | {:.1} ms |",
            whole(number(row, "calls")),
            number(row, "p50"),
            number(row, "p99"),
            number(row, "most"),
        );
    }
    let missed = &measured["hints_missed"];
    // As above.
    let _ = write!(
        section,
        "\nNo call failed. Each stream of everything told {} entries, and the streams of runs {} records: none was lost, none came twice. Of the\n\
         hints between the entries, which have no id and may be passed over, {missed} were.\n\n\
         It took {:.0} s. The daemon used {:.2} of {} cores and at most {:.0} MB, its clients, on the same machine, {:.2} cores. One raw append and fdatasync\n\
         took {:.2} ms just before (p50), and {:.1} processes had wanted a processor in the minute before.\n",
        measured["events"],
        whole(number(measured, "records")),
        number(measured, "seconds"),
        number(measured, "program_cores"),
        measured["cores"],
        number(measured, "memory_mb"),
        number(measured, "client_cores"),
        number(measured, "raw_ms"),
        number(measured, "load_average"),
    );
    section
}

/// A page in which the section of the load is this one; at its end where it had none.
pub(crate) fn replaced(page: &str, section: &str) -> String {
    let heading = section.split_inclusive('\n').next().unwrap_or(section);
    let Some(at) = page.find(heading) else { return format!("{}\n\n{section}", page.trim_end()) };
    let (before, rest) = page.split_at(at);
    match rest[heading.len()..].find("\n## ") {
        Some(end) => format!("{before}{}\n{}", section.trim_end(), &rest[heading.len() + end..]),
        None => format!("{before}{section}"),
    }
}

/// The section on tasks that do nothing.
pub(crate) fn tasks(measured: &Value) -> String {
    let mut page = String::new();
    let (wide, diamonds) = (&measured["wide"], &measured["diamonds"]);
    let (chain, submit) = (&measured["chain"], &measured["submit"]);
    // Writing into a String cannot fail.
    let _ = write!(
        page,
        "## Tasks that do nothing, every step durable\n\n| measure | goal | measured | in raw fdatasyncs | sled alone, likewise |\n|---|---|---|---|---|\n\
         | 1 -> 500 -> 1: tasks/s (median, slowest) | > 3,000 | {}, {} | | |\n\
         | 200 diamonds of 5 at once: tasks/s, runs lost | > 3,000, none | {}, {} | | |\n\
         | a chain of 100: one step | one fsync a step, < 2 x | {:.2} ms | {:.1} x | {:.1} x |\n\
         | submit to the first task under way, in process: p50, p99 | p99 < 4 x | {:.2} ms, {:.2} ms | {:.1} x | {:.1} x |\n",
        whole(number(wide, "rate")),
        whole(number(wide, "slowest")),
        whole(number(diamonds, "rate")),
        diamonds["lost"],
        number(chain, "step_ms"),
        number(chain, "ratio"),
        number(chain, "alone"),
        number(submit, "p50"),
        number(submit, "p99"),
        number(submit, "ratio"),
        number(submit, "alone"),
    );
    let api = &measured["api"];
    let _ = writeln!(
        page,
        "| the same through the API's socket, program and client two processes: p50, p99 | p99 < 4 x | {:.2} ms, {:.2} ms | {:.1} x | {:.1} x |",
        number(api, "p50"),
        number(api, "p99"),
        number(api, "ratio"),
        number(api, "alone"),
    );
    let _ = writeln!(
        page,
        "| two requests on that socket that write nothing: p50, p99 | | {:.2} ms, {:.2} ms | {:.1} x | |",
        number(api, "floor_p50"),
        number(api, "floor_p99"),
        number(api, "floor_p99") / number(api, "raw_ms"),
    );
    for (of, key) in [("a chain", "large-chain"), ("1 -> 9,998 -> 1", "large-wide")] {
        let row = &measured[key];
        let _ = writeln!(
            page,
            "| 10,000 tasks, {}: validate, whole run, memory | < 0.5 s, < 5 s, < 200 MB | {:.2} s, {:.2} s, {:.0} MB | | |",
            of,
            number(row, "validate_s"),
            number(row, "run_s"),
            number(row, "memory_mb"),
        );
    }
    page.push_str(
        "\n`sled alone` is one batch of the same records through sled, its flush and our fdatasync, in the same minute: the median beside a step, the\n\
         p99 beside the others. It is what the journal cannot beat: sled's flush waits for the device and only our fdatasync after it outlives a\n\
         power cut, where raw waits once. A log of our own in front of sled would wait once too; it was left out because sled, cut off between its\n\
         flush and an fdatasync, does not open again, so that such a log would have to hold everything since sled's last fdatasync *and* sled would\n\
         have to stop writing in between. Through the socket two requests and sled alone add up, so that on a disk\n\
         as quick as this one they bound the ratio before the journal has done anything.\n",
    );
    page.push('\n');
    page
}

fn rows(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn number(value: &Value, key: &str) -> f64 {
    value[key].as_f64().unwrap_or(0.0)
}

fn times(milliseconds: f64, raw: f64) -> String {
    if raw > 0.0 { format!("{:.1} x", milliseconds / raw) } else { "-".into() }
}

/// A number with its thousands apart.
fn whole(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_section_of_the_page_is_written_anew_and_the_others_stay() {
        let new = format!("{LOAD}\nnew\n");
        let of = |page: &str| replaced(page, &new);
        assert_eq!(of("# P\n\n## A\n\na\n"), format!("# P\n\n## A\n\na\n\n{new}"));
        let between = format!("# P\n\n{LOAD}\nold\n\n## A\n\na\n");
        assert_eq!(of(&between), format!("# P\n\n{new}\n## A\n\na\n"));
        assert_eq!(of(&of(&between)), of(&between));
        assert_eq!(of(&format!("# P\n\n{LOAD}\nold\n")), format!("# P\n\n{new}"));
    }
}
