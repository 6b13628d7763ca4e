//! Watches: nothing missed, nothing twice, selectors that see objects come and go, and histories that end.

use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams, WatchEvent, WatchParams};
use kube::runtime::watcher::{self, Event};
use serde_json::json;

use super::support::*;
use crate::{Cluster, Delays, Options};

fn maps(cluster: &Cluster) -> Api<ConfigMap> {
    Api::namespaced(cluster.client(), SPACE)
}

async fn put(cluster: &Cluster, name: &str, label: &str) {
    let object =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"l": label}}});
    maps(cluster).patch(name, &PatchParams::apply("t").force(), &Patch::Apply(object)).await.unwrap();
}

fn said(event: WatchEvent<ConfigMap>) -> String {
    let name = |object: ConfigMap| object.metadata.name.unwrap_or_default();
    match event {
        WatchEvent::Added(object) => format!("added {}", name(object)),
        WatchEvent::Modified(object) => format!("modified {}", name(object)),
        WatchEvent::Deleted(object) => format!("deleted {}", name(object)),
        WatchEvent::Bookmark(_) => "bookmark".to_owned(),
        WatchEvent::Error(status) => format!("error {} {}", status.code, status.reason),
    }
}

#[tokio::test(start_paused = true)]
async fn a_selector_sees_objects_come_and_go() {
    let cluster = cluster(Delays::none()).await;
    let start = maps(&cluster).list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    put(&cluster, "x", "a").await;
    put(&cluster, "y", "b").await;
    put(&cluster, "x", "b").await;
    put(&cluster, "y", "a").await;
    maps(&cluster).delete("y", &Default::default()).await.unwrap();
    let parameters = WatchParams::default().labels("l=a").timeout(5).disable_bookmarks();
    let events: Vec<String> =
        maps(&cluster).watch(&parameters, &start).await.unwrap().map_ok(said).try_collect().await.unwrap();
    assert_eq!(events, ["added x", "deleted x", "added y", "deleted y"]);
}

#[tokio::test(start_paused = true)]
async fn a_revision_that_history_has_lost_is_gone() {
    let cluster =
        Cluster::start(Options { delays: Delays::none(), history: 10, ..Options::default() }).unwrap();
    let all: Api<ConfigMap> = Api::namespaced(cluster.client(), "default");
    for count in 0..40 {
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": {"n": count.to_string()}});
        all.patch("x", &PatchParams::apply("t"), &Patch::Apply(object)).await.unwrap();
    }
    let mut events = all.watch(&WatchParams::default(), "1").await.unwrap().boxed();
    assert_eq!(said(events.next().await.unwrap().unwrap()), "error 410 Expired");
    assert!(events.next().await.is_none());
}

#[tokio::test]
async fn a_watcher_survives_a_compaction_and_sees_what_happened_meanwhile() {
    let cluster = cluster(Delays::none()).await;
    put(&cluster, "x", "a").await;
    let mut events = watcher::watcher(maps(&cluster), watcher::Config::default().timeout(1)).boxed();
    let mut seen = Vec::new();
    let mut compacted = false;
    let until = tokio::time::Instant::now() + Duration::from_secs(10);
    while !seen.iter().any(|name| name == "y") {
        assert!(tokio::time::Instant::now() < until, "{seen:?}");
        let Ok(Some(Ok(event))) = tokio::time::timeout(Duration::from_millis(200), events.next()).await
        else {
            continue;
        };
        match event {
            Event::InitApply(object) | Event::Apply(object) => {
                seen.push(object.metadata.name.unwrap_or_default())
            }
            Event::InitDone if !compacted => {
                compacted = true;
                put(&cluster, "y", "a").await;
                cluster.compact();
            }
            Event::Init | Event::InitDone | Event::Delete(_) => {}
        }
    }
}

#[tokio::test(start_paused = true)]
async fn quiet_watches_get_bookmarks_and_end_in_time() {
    let cluster = cluster(Delays::none()).await;
    put(&cluster, "x", "a").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let start = tokio::time::Instant::now();
    let revision = cluster.revision().to_string();
    let events: Vec<String> = maps(&cluster)
        .watch(&WatchParams::default().timeout(70), &revision)
        .await
        .unwrap()
        .map_ok(said)
        .try_collect()
        .await
        .unwrap();
    assert_eq!(events, ["bookmark", "bookmark", "bookmark"]);
    assert_eq!(start.elapsed().as_secs(), 70);
}

#[tokio::test(start_paused = true)]
async fn long_lists_come_in_pages() {
    let cluster = cluster(Delays::none()).await;
    for count in 0..7 {
        put(&cluster, &format!("m{count}"), "a").await;
    }
    let mut names = Vec::new();
    let mut parameters = ListParams::default().labels("l in (a, b)").limit(3);
    loop {
        let page = maps(&cluster).list(&parameters).await.unwrap();
        assert!(page.items.len() <= 3);
        names.extend(page.items.into_iter().filter_map(|map| map.metadata.name));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => parameters = parameters.continue_token(&token),
            None => break,
        }
    }
    assert_eq!(names, ["m0", "m1", "m2", "m3", "m4", "m5", "m6"]);
}
