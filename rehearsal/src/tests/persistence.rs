//! Restarts: the cluster goes on from its file, and a broken file is an error.

use std::time::Duration;

use super::support::*;
use crate::{Cluster, Delays, Error, Options, Rehearsal, RehearsalOptions};

#[tokio::test]
async fn a_restarted_rehearsal_goes_on_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let options = || RehearsalOptions {
        file: Some(folder.path().join("cluster.json")),
        delays: Delays::fast(),
        ..RehearsalOptions::default()
    };
    let first = Rehearsal::start(options()).await.unwrap();
    assert!(first.seed(SPACE, &enrolled(), baseline(), "platform").await.unwrap());
    first.wait_ready(SPACE, Duration::from_secs(20)).await.unwrap();
    let before = first.cluster().objects("pods", SPACE);
    let id = before[0]["status"]["containerStatuses"][0]["imageID"].as_str().unwrap().to_owned();
    let revision = first.cluster().revision();
    first.shutdown().await;

    let second = Rehearsal::start(options()).await.unwrap();
    assert!(!second.seed(SPACE, &enrolled(), baseline(), "platform").await.unwrap());
    second.wait_ready(SPACE, Duration::from_secs(20)).await.unwrap();
    assert!(second.cluster().revision() >= revision);
    let uids = |pods: &[serde_json::Value]| -> Vec<String> {
        pods.iter().map(|pod| crate::object::uid(pod).to_owned()).collect()
    };
    assert_eq!(uids(&second.cluster().objects("pods", SPACE)), uids(&before));
    assert!(second.cluster().tag_of(&id).is_some(), "{id}");
    let gateway = second.gateway_addr();
    eventually("traffic again", || async move {
        let answer = get(gateway, "/a", &[]).await;
        (shape(&answer.body) == "A[config=base] -> B -> C").then_some(())
    })
    .await;
    // Something new still gets an address and a uid of its own.
    apply(&second.client(), SPACE, vec![deployment("c", "gray", "v2")]).await;
    second.wait_ready(SPACE, Duration::from_secs(20)).await.unwrap();
    let addresses: Vec<String> = second
        .cluster()
        .objects("pods", SPACE)
        .iter()
        .map(|pod| crate::object::text(pod, "/status/podIP").to_owned())
        .collect();
    assert_eq!(addresses.iter().collect::<std::collections::BTreeSet<_>>().len(), 5, "{addresses:?}");
    second.shutdown().await;
}

#[tokio::test]
async fn a_crash_loop_goes_on_crashing_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let options =
        || Options { file: Some(folder.path().join("c.json")), delays: Delays::fast(), ..Options::default() };
    let restarts = |cluster: &Cluster| {
        let pods = cluster.objects("pods", "default");
        pods.first()
            .and_then(|pod| pod["status"]["containerStatuses"][0]["restartCount"].as_i64())
            .unwrap_or_default()
    };
    let first = Cluster::start(options()).unwrap();
    apply(&first.client(), "default", vec![deployment("a", "", "crash")]).await;
    eventually_in(&first, "two restarts", |cluster| (restarts(cluster) >= 2).then_some(())).await;
    first.shutdown().await;
    let before = restarts(&first);
    let second = Cluster::start(options()).unwrap();
    eventually_in(&second, "more restarts", |cluster| (restarts(cluster) > before).then_some(())).await;
    second.shutdown().await;
}

#[tokio::test]
async fn what_was_acknowledged_is_on_disk_when_the_answer_comes() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("cluster.json");
    let options = || Options { file: Some(file.clone()), delays: Delays::fast(), ..Options::default() };
    let cluster = Cluster::start(options()).unwrap();
    for count in 0..20 {
        let name = format!("c{count}");
        let map = serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
        let made = apply_one(&cluster.client(), "default", map, "t", true).await.unwrap();
        // As a killed process would find it: nothing is stopped, nothing flushed.
        let copy = folder.path().join("copy.json");
        std::fs::copy(&file, &copy).unwrap();
        if file.with_extension("json.log").exists() {
            std::fs::copy(file.with_extension("json.log"), copy.with_extension("json.log")).unwrap();
        }
        let other = Cluster::start(Options { file: Some(copy), ..options() }).unwrap();
        let found = other.object("configmaps", "default", &name).unwrap();
        assert_eq!(Some(crate::object::uid(&found)), made.metadata.uid.as_deref());
        other.shutdown().await;
    }
    cluster.shutdown().await;
}

#[tokio::test]
async fn a_broken_file_is_an_error_and_stays_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("cluster.json");
    for content in
        ["", "{", "{\"format\":9,\"revision\":1,\"addresses\":0,\"images\":{},\"objects\":[]}", "[1]"]
    {
        std::fs::write(&file, content).unwrap();
        let error = Cluster::start(Options { file: Some(file.clone()), ..Options::default() }).unwrap_err();
        assert!(matches!(error, Error::Broken { .. }), "{error}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), content);
    }
    let error =
        Cluster::start(Options { file: Some(folder.path().to_owned()), ..Options::default() }).unwrap_err();
    assert!(matches!(error, Error::Read { .. }), "{error}");
}

/// Waits until everything up to now is on disk, and copies it as a killed process would leave it.
async fn as_if_killed(cluster: &Cluster, file: &std::path::Path, copy: &std::path::Path) {
    cluster.saved().await;
    std::fs::copy(file, copy).unwrap();
    std::fs::copy(file.with_extension("json.log"), copy.with_extension("json.log")).unwrap();
}

#[tokio::test]
async fn a_write_costs_what_changed_and_the_log_is_folded_into_the_file_before_it_is_long() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("c.json");
    let log = file.with_extension("json.log");
    let options = || Options { file: Some(file.clone()), delays: Delays::fast(), ..Options::default() };
    let cluster = Cluster::start(options()).unwrap();
    let client = cluster.client();
    let map = |name: String, text: String| serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"text": text}});
    for count in 0..40 {
        apply_one(&client, "default", map(format!("c{count}"), "x".repeat(20_000)), "t", true).await.unwrap();
    }
    let size = |path: &std::path::Path| std::fs::metadata(path).map_or(0, |found| found.len());
    let (whole, before) = (size(&file), size(&log));
    apply_one(&client, "default", map("small".into(), "y".into()), "t", true).await.unwrap();
    assert_eq!(size(&file), whole, "the file stays");
    assert!(size(&log) - before < 5_000, "a line has what changed: {} and {before}", size(&log));
    for count in 0..200 {
        apply_one(&client, "default", map("c0".into(), format!("{count}{}", "x".repeat(20_000))), "t", true)
            .await
            .unwrap();
    }
    assert!(size(&file) > whole && size(&log) < 3_000_000, "folded: {} and {}", size(&file), size(&log));
    cluster.shutdown().await;
    assert_eq!(size(&log), 0, "at the end there is one file");
    let again = Cluster::start(options()).unwrap();
    let found = again.object("configmaps", "default", "c0").unwrap();
    assert!(found["data"]["text"].as_str().unwrap().starts_with("199x"));
    again.shutdown().await;
}

#[tokio::test]
async fn a_line_that_was_cut_off_is_none_and_a_broken_one_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("c.json");
    let options = |file: &std::path::Path| Options {
        file: Some(file.to_owned()),
        delays: Delays::fast(),
        ..Options::default()
    };
    let cluster = Cluster::start(options(&file)).unwrap();
    let map =
        |name: &str| serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
    for name in ["one", "two"] {
        apply_one(&cluster.client(), "default", map(name), "t", true).await.unwrap();
    }
    let copy = folder.path().join("copy.json");
    as_if_killed(&cluster, &file, &copy).await;
    cluster.shutdown().await;
    let log = copy.with_extension("json.log");
    let (text, lines) = (std::fs::read_to_string(&copy).unwrap(), std::fs::read_to_string(&log).unwrap());
    std::fs::write(&log, format!("{lines}{{\"revision\":99999,\"addr")).unwrap();
    let other = Cluster::start(options(&copy)).unwrap();
    assert!(other.object("configmaps", "default", "two").is_some());
    other.shutdown().await;
    // As a process leaves it that ended between folding the log and removing it.
    let folded = std::fs::read_to_string(&copy).unwrap();
    std::fs::write(&log, &lines).unwrap();
    let other = Cluster::start(options(&copy)).unwrap();
    assert!(other.object("configmaps", "default", "two").is_some());
    other.shutdown().await;
    assert!(folded.len() > text.len());
    std::fs::write(&log, "{\n").unwrap();
    let error = Cluster::start(options(&copy)).unwrap_err();
    assert!(matches!(&error, Error::Broken { path, .. } if *path == log), "{error}");
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "{\n");
    // Moved away, the file takes its log along.
    std::fs::remove_file(&copy).unwrap();
    let empty = Cluster::start(options(&copy)).unwrap();
    assert!(empty.object("configmaps", "default", "two").is_none());
    empty.shutdown().await;
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let options = RehearsalOptions { gateway_listen: address, ..RehearsalOptions::default() };
    let error = Rehearsal::start(options).await.unwrap_err();
    assert_eq!(error.to_string(), format!("cannot listen on {address}"));
    assert!(matches!(error, Error::Listen { address: named, .. } if named == address));
}
