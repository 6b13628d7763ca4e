//! Rollouts: never below what the strategy promises, back to an old ReplicaSet, and stuck ones that say so.

use std::time::Duration;

use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use super::support::*;
use crate::object::{int, list, text};
use crate::{Cluster, Delays};

fn one(cluster: &Cluster) -> Value {
    cluster.object("deployments.apps", SPACE, "spring-cloud-a").unwrap()
}

fn condition(object: &Value, name: &str) -> Value {
    list(object, "/status/conditions").iter().find(|one| one["type"] == name).cloned().unwrap_or_default()
}

fn is_done(object: &Value, replicas: i64) -> bool {
    object["status"]["observedGeneration"] == object["metadata"]["generation"]
        && ["updatedReplicas", "replicas", "availableReplicas"]
            .iter()
            .all(|field| int(&object["status"], &format!("/{field}")) == Some(replicas))
        && condition(object, "Progressing")["reason"] == "NewReplicaSetAvailable"
}

async fn rolled_out(cluster: &Cluster, replicas: i64) -> Value {
    eventually_in(cluster, "rolled out", |cluster| {
        Some(one(cluster)).filter(|object| is_done(object, replicas))
    })
    .await
}

fn with_replicas(replicas: i64, image: &str, strategy: Value) -> Value {
    let mut manifest = deployment("a", "", image);
    manifest["spec"]["replicas"] = replicas.into();
    manifest["spec"]["strategy"] = strategy;
    manifest
}

#[tokio::test]
async fn a_rolling_update_keeps_within_surge_and_unavailable_at_every_change() {
    for (replicas, surge, unavailable, most, least) in [
        (4, json!("25%"), json!("25%"), 5, 3),
        (3, json!(1), json!(0), 4, 3),
        (5, json!(0), json!(2), 5, 3),
        (1, json!("25%"), json!("25%"), 2, 1),
    ] {
        let cluster = cluster(Delays::fast()).await;
        let strategy = json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}});
        apply(&cluster.client(), SPACE, vec![with_replicas(replicas, "v1", strategy.clone())]).await;
        rolled_out(&cluster, replicas).await;
        let from = cluster.revision();
        apply(&cluster.client(), SPACE, vec![with_replicas(replicas, "v2", strategy)]).await;
        rolled_out(&cluster, replicas).await;
        // Replay the history: what would an observer have counted after each change?
        let mut pods: std::collections::BTreeMap<String, Value> = cluster.with(|state| {
            let mut pods = std::collections::BTreeMap::new();
            for change in state.changes_since(0).unwrap().take_while(|change| change.revision <= from) {
                note(&mut pods, change);
            }
            pods
        });
        cluster.with(|state| {
            for change in state.changes_since(from).unwrap() {
                note(&mut pods, change);
                let living: Vec<&Value> = pods.values().filter(|pod| !crate::object::is_dying(pod)).collect();
                let ready = living.iter().filter(|pod| crate::pods::is_ready(pod)).count();
                assert!(living.len() <= most, "{} pods of at most {most}", living.len());
                assert!(ready >= least, "{ready} ready of at least {least}");
            }
        });
        let images: Vec<String> = cluster
            .objects("pods", SPACE)
            .iter()
            .map(|pod| text(pod, "/spec/containers/0/image").to_owned())
            .collect();
        assert!(images.iter().filter(|image| image.ends_with(":v2")).count() == replicas as usize);
    }
}

fn note(pods: &mut std::collections::BTreeMap<String, Value>, change: &crate::store::Change) {
    if change.key.resource == crate::kinds::PODS {
        if change.removed {
            pods.remove(&change.key.name);
        } else {
            pods.insert(change.key.name.clone(), (*change.new).clone());
        }
    }
}

#[tokio::test]
async fn recreate_has_no_two_versions_at_once() {
    let cluster = cluster(Delays::fast()).await;
    apply(&cluster.client(), SPACE, vec![with_replicas(2, "v1", json!({"type": "Recreate"}))]).await;
    rolled_out(&cluster, 2).await;
    let from = cluster.revision();
    apply(&cluster.client(), SPACE, vec![with_replicas(2, "v2", json!({"type": "Recreate"}))]).await;
    rolled_out(&cluster, 2).await;
    cluster.with(|state| {
        let mut pods = std::collections::BTreeMap::new();
        for change in state.changes_since(0).unwrap() {
            note(&mut pods, change);
            let images: std::collections::BTreeSet<&str> =
                pods.values().map(|pod| text(pod, "/spec/containers/0/image")).collect();
            assert!(change.revision < from || images.len() <= 1, "{images:?}");
        }
    });
}

#[tokio::test]
async fn going_back_reuses_the_old_replica_set_under_a_new_revision() {
    let cluster = cluster(Delays::fast()).await;
    let mut seen = Vec::new();
    for image in ["v1", "v2", "v1"] {
        apply(&cluster.client(), SPACE, vec![with_replicas(1, image, Value::Null)]).await;
        let object = rolled_out(&cluster, 1).await;
        seen.push(
            crate::object::annotation(&object, "deployment.kubernetes.io/revision").unwrap().to_owned(),
        );
    }
    assert_eq!(seen, ["1", "2", "3"]);
    let sets = cluster.objects("replicasets.apps", SPACE);
    assert_eq!(sets.len(), 2);
    let pod = &cluster.objects("pods", SPACE)[0];
    let hash = crate::object::label(pod, "pod-template-hash").unwrap();
    let set = sets.iter().find(|set| crate::object::name(set).ends_with(hash)).unwrap();
    assert_eq!(crate::object::annotation(set, "deployment.kubernetes.io/revision"), Some("3"));
}

#[tokio::test(start_paused = true)]
async fn a_rollout_that_stands_still_exceeds_its_deadline_and_keeps_the_old_pods() {
    let cluster = cluster(Delays::realistic()).await;
    apply(&cluster.client(), SPACE, vec![with_replicas(2, "v1", Value::Null)]).await;
    rolled_out(&cluster, 2).await;
    let mut stuck = with_replicas(2, "missing", Value::Null);
    stuck["spec"]["progressDeadlineSeconds"] = 30.into();
    apply(&cluster.client(), SPACE, vec![stuck]).await;
    tokio::time::sleep(Duration::from_secs(25)).await;
    assert_eq!(condition(&one(&cluster), "Progressing")["status"], "True");
    tokio::time::sleep(Duration::from_secs(10)).await;
    let object = one(&cluster);
    assert_eq!(condition(&object, "Progressing")["reason"], "ProgressDeadlineExceeded");
    assert_eq!(condition(&object, "Available")["status"], "True");
    assert_eq!(object["status"]["availableReplicas"], 2);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_was_missed_stays_said_when_an_old_replica_set_is_found_again() {
    let cluster = cluster(Delays::realistic()).await;
    let with_deadline = |image: &str| {
        let mut object = with_replicas(1, image, Value::Null);
        object["spec"]["progressDeadlineSeconds"] = 30.into();
        object
    };
    apply(&cluster.client(), SPACE, vec![with_deadline("v1")]).await;
    rolled_out(&cluster, 1).await;
    apply(&cluster.client(), SPACE, vec![with_deadline("missing")]).await;
    tokio::time::sleep(Duration::from_secs(40)).await;
    let missed = one(&cluster);
    assert_eq!(condition(&missed, "Progressing")["reason"], "ProgressDeadlineExceeded");
    let from = cluster.revision();
    apply(&cluster.client(), SPACE, vec![with_deadline("v1")]).await;
    let back = rolled_out(&cluster, 1).await;
    assert_eq!(condition(&back, "Progressing")["reason"], "NewReplicaSetAvailable");
    // In between, as the real controller does it, with the generation of now and the time of then.
    let stale = cluster.with(|state| {
        let changes = state.changes_since(from).unwrap();
        let objects = changes.map(|change| change.new.clone());
        let mut found = objects.filter(|object| {
            text(object, "/kind") == "Deployment"
                && object["status"]["observedGeneration"] == back["metadata"]["generation"]
                && condition(object, "Progressing")["reason"] == "ProgressDeadlineExceeded"
        });
        found.next().map(|object| condition(&object, "Progressing"))
    });
    let stale = stale.expect("a status of this generation with the old condition");
    assert_eq!(stale["lastUpdateTime"], condition(&missed, "Progressing")["lastUpdateTime"]);
}

#[tokio::test]
async fn a_paused_deployment_scales_but_does_not_move() {
    let cluster = cluster(Delays::fast()).await;
    apply(&cluster.client(), SPACE, vec![with_replicas(1, "v1", Value::Null)]).await;
    rolled_out(&cluster, 1).await;
    let patch = json!({"spec": {"paused": true, "replicas": 3, "template": {"metadata": {"annotations": {"again": "1"}}}}});
    deployments(&cluster.client())
        .patch("spring-cloud-a", &PatchParams::default(), &Patch::Merge(patch))
        .await
        .unwrap();
    let object = eventually_in(&cluster, "scaled", |cluster| {
        Some(one(cluster)).filter(|object| object["status"]["availableReplicas"] == 3)
    })
    .await;
    assert_eq!(cluster.objects("replicasets.apps", SPACE).len(), 1);
    assert_eq!(condition(&object, "Progressing")["reason"], "DeploymentPaused");
    let resume = json!({"spec": {"paused": null}});
    deployments(&cluster.client())
        .patch("spring-cloud-a", &PatchParams::default(), &Patch::Merge(resume))
        .await
        .unwrap();
    rolled_out(&cluster, 3).await;
    assert_eq!(cluster.objects("replicasets.apps", SPACE).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_four_services_are_up_within_seconds_and_every_seed_repeats_itself() {
    let mut times = Vec::new();
    for _ in 0..2 {
        let cluster = cluster(Delays::realistic()).await;
        let start = tokio::time::Instant::now();
        apply(&cluster.client(), SPACE, baseline()).await;
        eventually_in(&cluster, "all available", |cluster| {
            let all = cluster.objects("deployments.apps", SPACE);
            all.iter().all(|object| object["status"]["availableReplicas"] == 1).then_some(())
        })
        .await;
        times.push(start.elapsed());
    }
    assert!(times[0] > Duration::from_millis(600) && times[0] < Duration::from_secs(5), "{times:?}");
    assert!(times[0].abs_diff(times[1]) < Duration::from_millis(100), "{times:?}");
}
