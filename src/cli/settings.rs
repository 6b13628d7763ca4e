//! `graylane settings`: what holds, and where each value came from. A secret's value is never shown, nor what is secret in an address.

use comfy_table::{Table, presets};
use graylane_engine::clock::show_duration;
use serde::Serialize;
use serde_json::{Value, json};

use super::{Context, Failure, Output, json as to_json, print};
use crate::settings::{LogFormat, Origin, Settings, public_url};

/// One setting.
#[derive(Debug, Serialize)]
struct Row {
    setting: String,
    value: Value,
    /// `default`, `file`, `variable` or `flag`.
    origin: &'static str,
    /// The line of the file, the variable's or the flag's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<String>,
}

pub(crate) fn run(context: &Context) -> Result<u8, Failure> {
    let rows = rows(&context.settings);
    match context.output {
        Output::Json => print(&to_json(&rows)),
        Output::Text => {
            let mut table = Table::new();
            table.load_style(presets::NOTHING).set_header(["SETTING", "VALUE", "FROM"]);
            for row in &rows {
                let value = match &row.value {
                    Value::String(text) => text.clone(),
                    Value::Null => "-".into(),
                    other => other.to_string(),
                };
                table.add_row([&row.setting, &value, row.from.as_deref().unwrap_or("default")]);
            }
            print(&table.trim_fmt());
        }
    }
    Ok(0)
}

fn rows(settings: &Settings) -> Vec<Row> {
    let path = |path: &std::path::Path| Value::from(path.display().to_string());
    let mut values: Vec<(String, Value)> = vec![
        ("data".into(), path(&settings.data)),
        ("environments".into(), path(&settings.environments)),
        ("listen".into(), settings.listen.to_string().into()),
        ("tls.certificate".into(), settings.tls.as_ref().map(|tls| path(&tls.certificate)).into()),
        ("tls.key".into(), settings.tls.as_ref().map(|tls| path(&tls.key)).into()),
        ("allow_insecure".into(), settings.allow_insecure.into()),
        ("anonymous".into(), format!("{:?}", settings.anonymous).to_lowercase().into()),
        ("drain".into(), show_duration(settings.drain).into()),
        ("retention.age".into(), settings.retention.age.map(show_duration).into()),
        ("retention.runs".into(), settings.retention.runs.into()),
        ("log.filter".into(), settings.log_filter.clone().into()),
        ("log.format".into(), format_word(settings.log_format).into()),
        ("audit.key".into(), path(&settings.audit_key)),
    ];
    let numbered = |map: &str, at: usize| format!("{map}[{at}]");
    values.extend(
        settings
            .sources
            .iter()
            .enumerate()
            .map(|(at, source)| (numbered("sources", at), source.to_string().into())),
    );
    // An address that takes messages is often a secret in itself: its path is not shown.
    let told = settings.notify.iter().map(|url| {
        let public = public_url(url);
        match public.split_once("://").and_then(|(scheme, rest)| Some((scheme, rest.split_once('/')?))) {
            Some((scheme, (host, _))) => format!("{scheme}://{host}/..."),
            None => public,
        }
    });
    values.extend(told.enumerate().map(|(at, url)| (numbered("notify", at), url.into())));
    values.extend(settings.vars.iter().map(|(name, value)| (format!("vars.{name}"), value.clone())));
    values.extend(settings.secrets.iter().map(|(name, at)| {
        let place = match (&at.env, &at.file) {
            (Some(variable), _) => format!("read from the variable {variable}"),
            (None, Some(file)) => format!("read from {file}"),
            (None, None) => "nowhere".into(),
        };
        (format!("secrets.{name}"), place.into())
    }));
    values.extend(settings.roles.iter().map(|(role, people)| (format!("roles.{role}"), json!(people))));
    values
        .into_iter()
        .map(|(setting, value)| {
            let origin = settings.origins.get(&setting).unwrap_or(&Origin::Default);
            let (word, from) = match origin {
                Origin::Default => ("default", None),
                Origin::File(..) => ("file", Some(origin.to_string())),
                Origin::Variable(_) => ("variable", Some(origin.to_string())),
                Origin::Flag(_) => ("flag", Some(origin.to_string())),
            };
            Row { setting, value, origin: word, from }
        })
        .collect()
}

fn format_word(format: LogFormat) -> &'static str {
    match format {
        LogFormat::Compact => "compact",
        LogFormat::Pretty => "pretty",
        LogFormat::Json => "json",
    }
}
