//! Rubbish: whatever a client sends, the answer is an answer, and the cluster works on.

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::support::*;
use crate::kinds::TABLE;
use crate::{Cluster, Delays, Options};

/// A value of any shape, with numbers and words that code is tempted to trust.
fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        prop_oneof![Just(0), Just(-1), Just(i64::MAX), Just(i64::MIN), any::<i64>()].prop_map(Value::from),
        prop_oneof![
            Just("".to_owned()),
            Just("25%".to_owned()),
            Just("-999999999999999999%".to_owned()),
            Just("x@sha256:".to_owned()),
            Just("2026-13-01T00:00:00Z".to_owned()),
            "\\PC{0,12}",
        ]
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        let key = prop_oneof![
            Just("name".to_owned()),
            Just("$patch".to_owned()),
            Just("matchLabels".to_owned()),
            Just("metadata".to_owned()),
            "\\PC{0,6}"
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key, inner), 0..4)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

/// Every place in a value, as pointers.
fn places(value: &Value, here: String, out: &mut Vec<String>) {
    out.push(here.clone());
    match value {
        Value::Object(map) => {
            for (key, inner) in map {
                places(inner, format!("{here}/{}", key.replace('~', "~0").replace('/', "~1")), out);
            }
        }
        Value::Array(items) => {
            for (at, inner) in items.iter().enumerate() {
                places(inner, format!("{here}/{at}"), out);
            }
        }
        _ => {}
    }
}

/// Objects that are nearly right, so that rubbish gets past the door.
fn samples() -> Vec<Value> {
    let mut set = deployment("a", "", "v1");
    set["kind"] = "ReplicaSet".into();
    set["spec"]["strategy"].take();
    set["spec"]["minReadySeconds"] = 1.into();
    let mut limits = deployment("b", "", "crash");
    limits["spec"]["strategy"] =
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}});
    limits["spec"]["progressDeadlineSeconds"] = 5.into();
    let job = json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j"},
        "spec": {"activeDeadlineSeconds": 5, "backoffLimit": 1, "ttlSecondsAfterFinished": 5,
            "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "x:exit1"}]}}},
    });
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "p", "annotations": {"fakenode/run-seconds": "1", "fakenode/stop-seconds": "1"}, "ownerReferences": [{"uid": "x"}], "finalizers": ["a/b"]},
        "spec": {"terminationGracePeriodSeconds": 5, "containers": [{"name": "c", "image": "x:slow5", "readinessProbe": {"initialDelaySeconds": 1}, "lifecycle": {"preStop": {"exec": {"command": ["sleep", "3"]}}}}]},
    });
    let mut all = baseline();
    all.extend(gray_lane());
    all.extend([set, limits, job, pod]);
    all
}

#[derive(Debug, Clone)]
struct Shot {
    sample: usize,
    place: usize,
    with: Value,
    how: usize,
}

fn shot() -> impl Strategy<Value = Shot> {
    (0..samples().len(), any::<prop::sample::Index>(), any_value(), 0..8usize)
        .prop_map(|(sample, place, with, how)| Shot { sample, place: place.index(1000), with, how })
}

async fn fire(cluster: &Cluster, shot: &Shot) {
    let mut object = samples().swap_remove(shot.sample);
    let kind =
        crate::kinds::by_kind(object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap())
            .unwrap();
    let name = object["metadata"]["name"].as_str().unwrap().to_owned();
    let mut all = Vec::new();
    places(&object, String::new(), &mut all);
    if let Some(place) = object.pointer_mut(&all[shot.place % all.len()]) {
        *place = shot.with.clone();
    }
    let root = if kind.group.is_empty() { "api" } else { "apis" };
    let list = format!("/{root}/{}/namespaces/{SPACE}/{}", kind.api_version(), kind.plural);
    let one = format!("{list}/{name}");
    let body = object.to_string();
    let (method, uri, content, body) = match shot.how {
        0 => (Method::POST, list, "application/json", body),
        1 => (Method::PUT, one, "application/json", body),
        2 => {
            (Method::PATCH, format!("{one}?fieldManager=f&force=true"), "application/apply-patch+yaml", body)
        }
        3 => (Method::PATCH, format!("{one}/status"), "application/merge-patch+json", body),
        4 => (Method::PATCH, one, "application/strategic-merge-patch+json", body),
        5 => (
            Method::PATCH,
            one,
            "application/json-patch+json",
            json!([{"op": "add", "path": all[shot.place % all.len()], "value": shot.with}]).to_string(),
        ),
        6 => (Method::DELETE, one, "application/json", shot.with.to_string()),
        _ => (Method::PATCH, format!("{one}/scale"), "application/merge-patch+json", shot.with.to_string()),
    };
    let request = Request::builder().method(method).uri(uri).header("content-type", content);
    let response = cluster.api().answer(request.body(Full::new(Bytes::from(body))).unwrap()).await;
    assert!(response.status().as_u16() >= 200);
}

/// Whether the controllers still do their work.
async fn works(cluster: &Cluster, name: &str) {
    let namespaces: kube::Api<k8s_openapi::api::core::v1::Namespace> = kube::Api::all(cluster.client());
    let object = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
    namespaces.create(&Default::default(), &object).await.unwrap();
    eventually_in(cluster, "a furnished namespace", |cluster| {
        cluster.object("serviceaccounts", name, "default")
    })
    .await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nearly_right_objects_break_nothing(shots in prop::collection::vec(shot(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let cluster = cluster(Delays::fast()).await;
            for shot in &shots {
                fire(&cluster, shot).await;
                tokio::time::sleep(std::time::Duration::from_millis(300)).await;
            }
            tokio::time::sleep(std::time::Duration::from_secs(60)).await;
            works(&cluster, "still-there").await;
        });
    }

    #[test]
    fn any_path_and_query_get_an_answer(path in "/(api|apis|)/?[a-z0-9./%{}]{0,30}", query in "\\PC{0,30}", method in 0..5usize) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let cluster = Cluster::start(Options { delays: Delays::none(), ..Options::default() }).unwrap();
            let method = [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE][method].clone();
            let query: String = query.chars().map(|letter| if letter.is_ascii_graphic() && letter != '#' { letter } else { '&' }).collect();
            for row in TABLE.iter().take(1) {
                for path in [path.clone(), format!("/api/v1/{}", row.plural)] {
                    let Ok(request) = Request::builder().method(method.clone()).uri(format!("{path}?{query}")).body(Full::new(Bytes::new())) else { continue };
                    assert!(cluster.api().answer(request).await.status().as_u16() >= 200);
                }
            }
        });
    }
}
