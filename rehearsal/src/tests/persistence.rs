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

#[tokio::test]
async fn a_taken_port_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let options = RehearsalOptions { gateway_listen: address, ..RehearsalOptions::default() };
    let error = Rehearsal::start(options).await.unwrap_err();
    assert_eq!(error.to_string(), format!("cannot listen on {address}"));
    assert!(matches!(error, Error::Listen { address: named, .. } if named == address));
}
