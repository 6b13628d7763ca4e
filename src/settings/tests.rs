//! What holds, where it came from, and what is refused, as tables.

use std::fs;

use graylane_engine::document::Problem;
use tempfile::TempDir;

use super::*;

/// A settings file in a folder of its own, and what is given beside it.
fn resolve(file: &str, given: impl Fn(Given) -> Given) -> (TempDir, Result<Settings, Vec<Problem>>) {
    let folder = tempfile::tempdir().expect("made");
    let path = folder.path().join("graylane.yaml");
    fs::write(&path, file).expect("written");
    let given = given(Given::default().flag("--config", Some(path.display())));
    let resolved = Settings::resolve(&given);
    (folder, resolved)
}

fn problems(file: &str, given: impl Fn(Given) -> Given) -> String {
    let (folder, resolved) = resolve(file, given);
    let found = resolved.expect_err("refused");
    let words = |problem: &Problem| format!("{problem} {}", problem.hints.join(" "));
    let text = found.iter().map(words).collect::<Vec<_>>().join("\n");
    text.replace(&format!("{}/", folder.path().display()), "")
}

#[test]
fn a_flag_lies_over_a_variable_over_the_file_over_the_default() {
    let written = "\n\nlisten: 127.0.0.1:1\n";
    for (file, variable, flag, port, from) in [
        ("", None, None, 7420, "default"),
        (written, None, None, 1, "graylane.yaml:3"),
        (written, Some(""), None, 1, "graylane.yaml:3"),
        (written, Some("127.0.0.1:2"), None, 2, "GRAYLANE_LISTEN"),
        ("", Some("127.0.0.1:2"), None, 2, "GRAYLANE_LISTEN"),
        (written, Some("127.0.0.1:2"), Some("127.0.0.1:3"), 3, "--listen"),
    ] {
        let (_folder, resolved) = resolve(file, |given| {
            let given = match variable {
                Some(text) => given.variable("GRAYLANE_LISTEN", text),
                None => given,
            };
            given.flag("--listen", flag)
        });
        let settings = resolved.expect("right");
        assert_eq!(settings.listen.port(), port, "{file:?}");
        assert!(settings.origins["listen"].to_string().ends_with(from), "{:?}", settings.origins["listen"]);
    }
}

#[test]
fn every_variable_reaches_its_setting() {
    let (_folder, resolved) = resolve("", |given| {
        given
            .variable("GRAYLANE_DATA", "d")
            .variable("GRAYLANE_ENVIRONMENTS", "e")
            .variable("GRAYLANE_TLS_CERTIFICATE", "c.pem")
            .variable("GRAYLANE_TLS_KEY", "k.pem")
            .variable("GRAYLANE_ALLOW_INSECURE", "true")
            .variable("GRAYLANE_ANONYMOUS", "viewer")
            .variable("GRAYLANE_DRAIN", "5s")
            .variable("GRAYLANE_RETENTION_AGE", "90d")
            .variable("GRAYLANE_RETENTION_RUNS", "7")
            .variable("GRAYLANE_LOG", "debug")
            .variable("GRAYLANE_LOG_FORMAT", "json")
            .variable("GRAYLANE_AUDIT_KEY", "a.key")
    });
    let settings = resolved.expect("right");
    assert_eq!(settings.data, PathBuf::from("d"));
    assert_eq!(settings.environments, PathBuf::from("e"));
    assert_eq!(settings.tls, Some(Tls { certificate: "c.pem".into(), key: "k.pem".into() }));
    assert!(settings.allow_insecure);
    assert_eq!(settings.drain, Duration::from_secs(5));
    assert_eq!(settings.retention, Retention { age: Some(Duration::from_secs(90 * 86_400)), runs: Some(7) });
    assert_eq!(settings.log_filter(true), "debug");
    assert_eq!(settings.log_format, LogFormat::Json);
    assert_eq!(settings.audit_key, PathBuf::from("a.key"));
    let from_variables =
        settings.origins.values().filter(|origin| matches!(origin, Origin::Variable(_))).count();
    assert_eq!(from_variables, KEYS.len() - 1, "all but GRAYLANE_LISTEN");
}

#[test]
fn paths_of_the_file_are_relative_to_it_and_those_of_flags_to_the_current_folder() {
    let (folder, resolved) = resolve("data: store\nsources: [{ folder: flows }]\n", |given| given);
    let settings = resolved.expect("right");
    assert_eq!(settings.data, folder.path().join("store"));
    assert_eq!(settings.sources[0].at, sources::SourceAt::Folder(folder.path().join("flows")));
    let (_folder, resolved) = resolve("data: store", |given| given.flag("--data", Some("here")));
    assert_eq!(resolved.expect("right").data, PathBuf::from("here"));
}

#[test]
fn a_typo_is_refused_where_it_stands() {
    for (file, expected) in [
        ("drian: 30s\n", "graylane.yaml:1:1: unknown key `drian` (did you mean `drain`?)"),
        ("tls:\n  cert: a.pem\n", "graylane.yaml:2:3: unknown key `cert`"),
        ("drain: soon\n", "graylane.yaml:1:8: `drain`"),
        ("listen: localhost\n", "graylane.yaml:1:9: `listen` is no address"),
        ("tls: { key: k.pem }\n", "`tls.key` needs `tls.certificate`"),
        ("retention: { runs: 0 }\n", "must be at least 1"),
        ("log: { filter: 'a=b=c=d' }\n", "`log.filter` cannot be read"),
        ("log: { format: prety }\n", "did you mean `pretty`?"),
        ("sources: [{ branch: main }]\n", "`sources.0` names neither a folder nor a repository"),
        ("sources: [{ folder: a, branch: main }]\n", "`sources.0.branch` is for repositories"),
        ("sources: [{ folder: a }, { folder: b/a }]\n", "`sources.1` is called `a`, as another one is"),
        ("sources:\n  - { url: /r.git, branch: '--upload-pack=x' }\n", "2:28: `sources.0.branch` is no name"),
        ("sources: [{ url: /r.git, folder: ../up }]\n", "leaves the repository"),
        ("sources: [{ url: /r.git, interval: 1s }]\n", "is too short (at least `5s`)"),
        ("sources: [{ url: 'ext::sh -c id' }]\n", "is no repository's address"),
        ("sources: [{ url: '--help' }]\n", "is no repository's address"),
    ] {
        let found = problems(file, |given| given);
        assert!(found.contains(expected), "{file:?}: {found}");
    }
}

#[test]
fn an_unknown_variable_is_refused_with_the_name_that_was_meant() {
    let found = problems("", |given| given.variable("GRAYLANE_DRIAN", "5s"));
    assert!(found.contains("there is no setting for the variable `GRAYLANE_DRIAN`"), "{found}");
    assert!(found.contains("did you mean `GRAYLANE_DRAIN`?"), "{found}");
    let found = problems("", |given| given.variable("GRAYLANE_DRAIN", "soon"));
    assert!(found.contains("the variable GRAYLANE_DRAIN: `drain` is wrong"), "{found}");
    let found = problems("", |given| given.variable("GRAYLANE_ALLOW_INSECURE", "yes"));
    assert!(found.contains("cannot be `yes` (`true` or `false`)"), "{found}");
    let found = problems("", |given| given.flag("--listen", Some("nowhere")));
    assert!(found.contains("--listen: `listen` is no address"), "{found}");
}

#[test]
fn variables_that_mean_something_else_are_let_be() {
    let (_folder, resolved) = resolve("secrets: { registry: { env: GRAYLANE_REGISTRY } }\n", |given| {
        given
            .variable("GRAYLANE_REGISTRY", "a secret of the settings")
            .variable("GRAYLANE_TOKEN", "the client's")
            .variable("GRAYLANE_REHEARSAL_DELAYS", "fast")
            // What Kubernetes sets for Services called `graylane` and `graylane-metrics`.
            .variable("GRAYLANE_SERVICE_HOST", "10.0.0.1")
            .variable("GRAYLANE_SERVICE_PORT_HTTP", "80")
            .variable("GRAYLANE_PORT", "tcp://10.0.0.1:80")
            .variable("GRAYLANE_PORT_80_TCP_ADDR", "10.0.0.1")
            .variable("GRAYLANE_METRICS_SERVICE_HOST", "10.0.0.2")
    });
    resolved.expect("nothing is refused");
    let found = problems("", |given| given.variable("GRAYLANE_PORT", "80"));
    assert!(found.contains("`GRAYLANE_PORT`"), "a person's GRAYLANE_PORT is no setting: {found}");
}

#[test]
fn credentials_in_an_address_are_refused_and_never_repeated() {
    for url in [
        "https://ann:hunter2@git.example.com/r.git",
        "https://hunter2@git.example.com/r.git",
        "ssh://git:hunter2@git.example.com/r.git",
        "https://git.example.com/r.git?private_token=hunter2",
    ] {
        let found = problems(&format!("sources: [{{ url: '{url}' }}]\n"), |given| given);
        assert!(found.contains("`sources.0.url` holds credentials"), "{found}");
        assert!(!found.contains("hunter2"), "{found}");
        assert!(!public_url(url).contains("hunter2"), "{url}");
    }
    for url in
        ["ssh://git@h/r.git", "git@h:team/r.git", "https://h/r", "git://h/r", "file:///r", "/srv/r.git"]
    {
        let (_folder, resolved) = resolve(&format!("sources: [{{ url: '{url}' }}]\n"), |given| given);
        let settings = resolved.unwrap_or_else(|found| panic!("{url}: {found:?}"));
        assert_eq!(settings.sources[0].name, "r", "{url}");
    }
}
