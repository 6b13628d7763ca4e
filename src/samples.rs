//! What the checks of a run saw, as tables: a row a check, and a row for each thing that was said.

use comfy_table::{ContentArrangement, Table, presets};
use graylane_engine::view::{RunView, TaskView};

/// The table of each task that checked something; nothing where none did.
pub(crate) fn tables(view: &RunView) -> String {
    let mut out = String::new();
    for task in &view.tasks {
        let lines = of_task(task);
        if !lines.is_empty() {
            out.push_str(&format!("\nsamples of {}\n", task.name));
            lines.iter().for_each(|line| out.push_str(&format!("  {line}\n")));
        }
    }
    out.trim_end().to_owned()
}

fn of_task(task: &TaskView) -> Vec<String> {
    let values = task.outputs.as_ref().map(|outputs| &outputs.values);
    let values = values.or_else(|| task.error.as_ref()?.values.as_deref());
    let checks =
        values.and_then(|values| values.get("checks")?.as_array()).filter(|checks| !checks.is_empty());
    let Some(checks) = checks.filter(|_| task.type_name == "generic-verify") else { return Vec::new() };
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(["CHECK", "KIND", "RIGHT", "P50", "P95", "P99", "RESULT"]);
    table.set_content_arrangement(ContentArrangement::Disabled);
    for check in checks {
        let text = |key: &str| check[key].as_str().unwrap_or_default().to_owned();
        let latency = |key: &str| check[key].as_u64().map_or_else(|| "-".to_owned(), |ms| format!("{ms} ms"));
        let result = match (check["passed"] == true, text("why")) {
            (true, _) => "passed".to_owned(),
            (false, why) => format!("failed: {why}"),
        };
        let right = format!("{} of {}", check["right"], check["samples"]);
        let [p50, p95, p99] = ["p50_ms", "p95_ms", "p99_ms"].map(latency);
        table.add_row([text("name"), text("kind"), right, p50, p95, p99, result]);
        let lists = [
            ("right", &check["answers"]),
            ("wrong", &check["wrong"]),
            ("no data", &check["no_data"]["answers"]),
        ];
        for (word, list) in lists {
            for said in list.as_array().into_iter().flatten().take(3) {
                let one_line =
                    said["answer"].as_str().unwrap_or_default().split_whitespace().collect::<Vec<_>>();
                let answer: String = one_line.join(" ").chars().take(100).collect();
                let words =
                    format!("{} x {word}, first in sample {}: {answer}", said["count"], said["first"]);
                table.add_row([
                    String::new(),
                    String::new(),
                    String::new(),
                    String::new(),
                    String::new(),
                    String::new(),
                    words,
                ]);
            }
        }
    }
    table.trim_fmt().lines().map(|line| line.trim_end().to_owned()).collect()
}
