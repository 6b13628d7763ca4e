//! `graylane schedule`: when an expression is due, how schedules stand, and what became of every slot.

use std::fmt::Write as _;

use clap::{Args, Subcommand};
use comfy_table::{Table, presets};
use graylane_engine::clock::{Clock as _, Timestamp, WallClock};
use graylane_engine::schedule::{Schedule, TZDATA, change_between, local, timezone};
use graylane_engine::trigger::{ScheduleLine, SlotLine};
use serde_json::json;

use super::runs::look;
use super::{Context, Failure, Output, json as indented, note, print};

#[derive(Debug, Subcommand)]
pub(crate) enum ScheduleCommand {
    /// When an expression is due next, in local time and in UTC
    #[command(
        long_about = "Prints the next moments of a cron expression, in local time and in UTC, and says where the zone changes its offset in between.\n\nAn expression whose hours cover the whole day follows the clock: a time that happens twice is due twice, and one that is missing is left out. Any other names times of the day: each is due once a day, at its first occurrence, or at the end of the gap in which it is missing."
    )]
    Next(NextArgs),
    /// How schedules stand: the next slot, the last outcome
    List,
    /// What became of slots, newest first
    History(HistoryArgs),
}

/// Which expression.
#[derive(Debug, Args)]
pub(crate) struct NextArgs {
    /// Five fields, or @hourly, @daily, @weekly, @monthly; in quotes
    #[arg(value_name = "CRON")]
    cron: String,
    /// The IANA time zone
    #[arg(long, default_value = "UTC", value_name = "ZONE")]
    timezone: String,
    /// After this moment, as in 2026-03-28T00:00:00Z; now where nothing is said
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// How many
    #[arg(short = 'n', long = "count", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=10000))]
    count: u16,
}

/// Which slots.
#[derive(Debug, Args)]
pub(crate) struct HistoryArgs {
    /// Of this schedule, workflow, or SOURCE/WORKFLOW/SCHEDULE
    #[arg(value_name = "SCHEDULE")]
    schedule: Option<String>,
    /// With this outcome: fired, caught_up, skipped, missed, overlap, paused, freeze, pending ...
    #[arg(long)]
    outcome: Option<String>,
    /// Not older than this, as in 2026-03-28T00:00:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// How many lines at most
    #[arg(short = 'n', long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=10000))]
    limit: u16,
}

pub(crate) async fn run(context: &Context, command: ScheduleCommand) -> Result<u8, Failure> {
    match command {
        ScheduleCommand::Next(args) => next(context, &args),
        ScheduleCommand::List => {
            let lines: Vec<ScheduleLine> = look(context, "/api/v1/schedules".into()).await?;
            match context.output {
                Output::Json => print(&indented(&lines)),
                Output::Text if lines.is_empty() => note("no schedule was decided here yet"),
                Output::Text => print(&list(&lines)),
            }
            Ok(0)
        }
        ScheduleCommand::History(args) => {
            let mut path = format!("/api/v1/slots?limit={}", args.limit);
            let parts = [("schedule", &args.schedule), ("outcome", &args.outcome), ("since", &args.since)];
            for (name, value) in parts {
                if let Some(value) = value {
                    let _ = write!(path, "&{name}={}", encoded(value));
                }
            }
            let lines: Vec<SlotLine> = look(context, path).await?;
            match context.output {
                Output::Json => print(&indented(&lines)),
                Output::Text if lines.is_empty() => note("no slot is like that"),
                Output::Text => print(&history(&lines)),
            }
            Ok(0)
        }
    }
}

/// A value as it may stand in an address.
fn encoded(value: &str) -> String {
    value.bytes().fold(String::new(), |mut text, byte| {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            // Writing into a String cannot fail.
            let _ = write!(text, "%{byte:02X}");
        }
        text
    })
}

fn next(context: &Context, args: &NextArgs) -> Result<u8, Failure> {
    let refused = |what: &str, why: &str| Failure::refused(format!("{what}: {why}"));
    let schedule: Schedule =
        args.cron.parse().map_err(|why: String| refused(&format!("`{}`", args.cron), &why))?;
    let zone = timezone(&args.timezone)
        .map_err(|hint| Failure::refused(format!("`{}` is not a time zone", args.timezone)).hint(hint))?;
    let from = match &args.from {
        Some(text) => text.parse().map_err(|why: String| refused("--from", &why))?,
        None => WallClock::default().now(),
    };
    let seconds = |at: Timestamp| i64::try_from(at.millis() / 1_000).unwrap_or(i64::MAX);
    let mut before = from;
    let mut rows = Vec::new();
    for slot in schedule.slots(zone, from).take(args.count.into()) {
        let (wall, offset) = local(zone, slot);
        let change = change_between(zone, seconds(before), seconds(slot));
        let told = change.map(|change| {
            let at = Timestamp::from_millis(u64::try_from(change.at).unwrap_or_default() * 1_000);
            let way = if change.after > change.before { "forward" } else { "back" };
            let (old, new) = (show_offset(change.before), show_offset(change.after));
            let here = if at == slot { ", at this slot" } else { "" };
            format!("the clock goes {way}, {old} to {new}, at {}{here}", utc(at))
        });
        rows.push((wall.format("%a %Y-%m-%d %H:%M:%S").to_string(), show_offset(offset), utc(slot), told));
        before = slot;
    }
    if context.output == Output::Json {
        let slots = rows.iter().map(|(wall, offset, utc, change)| {
            json!({ "local": wall[4..].replace(' ', "T") + offset, "utc": utc, "change": change })
        });
        print(&indented(&json!({
            "cron": args.cron, "timezone": args.timezone, "tzdata": TZDATA,
            "follows_the_clock": schedule.interval_like, "either_day": schedule.either_day(),
            "warnings": schedule.warnings, "slots": slots.collect::<Vec<_>>(),
        })));
        return Ok(0);
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(["LOCAL", "", "UTC", ""]);
    for (wall, offset, utc, change) in rows {
        table.add_row([wall, offset, utc, change.unwrap_or_default()]);
    }
    print(&table.trim_fmt());
    for warning in &schedule.warnings {
        note(&format!("note: {warning}"));
    }
    Ok(0)
}

fn utc(at: Timestamp) -> String {
    let text = at.to_string();
    format!("{}Z", &text[..19])
}

fn show_offset(seconds: i64) -> String {
    let sign = if seconds < 0 { '-' } else { '+' };
    let minutes = seconds.abs() / 60;
    format!("{sign}{:02}:{:02}", minutes / 60, minutes % 60)
}

fn list(lines: &[ScheduleLine]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(["SCHEDULE", "CRON", "ZONE", "NEXT", "LAST", "OUTCOME"]);
    for line in lines {
        let next = match (&line.gone, line.next) {
            (Some(_), _) => "gone".to_owned(),
            (None, Some(next)) => utc(next),
            (None, None) => "-".to_owned(),
        };
        let (last, outcome) = line.last.as_ref().map_or(("-".into(), "-".into()), |last| {
            let run = last.run.map(|run| format!(", run {run}")).unwrap_or_default();
            (utc(last.nominal), format!("{}{run}", last.outcome))
        });
        let pending = match line.pending.len() {
            0 => String::new(),
            late => format!("; {late} to start late"),
        };
        table.add_row([
            line.schedule.clone(),
            line.cron.clone(),
            line.timezone.clone(),
            next,
            last,
            format!("{outcome}{pending}"),
        ]);
    }
    table.trim_fmt()
}

fn history(lines: &[SlotLine]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(["SCHEDULE", "SLOT", "OUTCOME", "RUN", "WHY"]);
    for line in lines {
        let slot = match line.count {
            1 => utc(line.from),
            count => format!("{} .. {} ({count})", utc(line.from), utc(line.to)),
        };
        table.add_row([
            line.schedule.clone(),
            slot,
            line.outcome.clone(),
            line.run.map_or_else(|| "-".into(), |run| run.to_string()),
            line.why.clone().unwrap_or_default(),
        ]);
    }
    table.trim_fmt()
}
