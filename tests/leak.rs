//! The leak test against an oracle that is not itself: the cluster's own endpoints controller.

use std::collections::BTreeMap;
use std::time::Duration;

use graylane_rehearsal::{Cluster, Delays, Options};
use graylane_tasks::cluster::{Cluster as Told, create_all};
use graylane_tasks::environment::GatewayKind;
use graylane_tasks::lane::leak::{Pods, leaks};
use graylane_tasks::lane::{Copy, render};
use graylane_tasks::manifest::{kind, name, parse, texts};
use k8s_openapi::api::core::v1::Namespace;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};

const NAMESPACE: &str = "n";

/// Selectors made from what the pods of the example carry, in every mixture.
fn selectors() -> impl Strategy<Value = BTreeMap<String, String>> {
    let label = prop_oneof![
        Just(("app", "spring-cloud-a")),
        Just(("app", "spring-cloud-c")),
        Just(("msePilotCreateAppName", "spring-cloud-a")),
        Just(("zadigx-release-version", "original")),
        Just(("zadigx-release-version", "gray")),
        Just(("zadigx-release-type", "mse-gray")),
        Just(("team", "nobody")),
    ];
    prop::collection::vec(label, 1..3).prop_map(|labels| {
        labels.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    })
}

fn service(number: usize, selector: &BTreeMap<String, String>) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": format!("s{number}") },
        "spec": { "selector": selector, "ports": [{ "port": 80, "protocol": "TCP", "targetPort": 20001 }] },
    })
}

/// Services that list a lane's pod without being the lane's, as the endpoints controller says.
async fn met(cluster: &Cluster, services: usize) -> Vec<String> {
    let gray = |address: &Value, pods: &[Value]| {
        let pod = address["targetRef"]["name"].as_str().unwrap_or_default();
        pods.iter()
            .any(|p| name(p) == pod && texts(p, "/metadata/labels").contains_key("zadigx-release-type"))
    };
    let deadline = tokio::time::Instant::now() + Duration::from_secs(120);
    loop {
        let pods = cluster.objects("pods", NAMESPACE);
        let ready = pods.iter().filter(|pod| {
            pod.pointer("/status/conditions")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .any(|c| c["type"] == "Ready" && c["status"] == "True")
        });
        let endpoints = cluster.objects("endpoints", NAMESPACE);
        let settled = pods.len() == 3 && ready.count() == 3 && endpoints.len() >= services;
        if settled {
            // Two looks apart: the controller has nothing left to do.
            let before = cluster.revision();
            tokio::time::advance(Duration::from_secs(5)).await;
            for _ in 0..50 {
                tokio::task::yield_now().await;
            }
            if cluster.revision() == before {
                let addresses = |endpoints: &Value| {
                    let subsets = endpoints["subsets"].as_array().cloned().unwrap_or_default();
                    subsets
                        .into_iter()
                        .flat_map(|subset| subset["addresses"].as_array().cloned().unwrap_or_default())
                        .collect::<Vec<_>>()
                };
                let mut found: Vec<String> = cluster
                    .objects("endpoints", NAMESPACE)
                    .iter()
                    .filter(|endpoints| {
                        name(endpoints).starts_with('s')
                            && addresses(endpoints).iter().any(|a| gray(a, &pods))
                    })
                    .filter(|endpoints| {
                        !name(endpoints).contains("-mse-gray") && !name(endpoints).starts_with("spring")
                    })
                    .map(|endpoints| name(endpoints).to_owned())
                    .collect();
                found.sort();
                return found;
            }
        }
        assert!(tokio::time::Instant::now() < deadline, "the rehearsal never settled: {} pods", pods.len());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[test]
fn the_plan_complains_exactly_where_the_endpoints_controller_would_leak() {
    let mut runner = TestRunner::new(Config { cases: 24, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&prop::collection::vec(selectors(), 1..5), |selectors| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .expect("a runtime");
        let (complained, met) = runtime.block_on(judge(&selectors));
        prop_assert_eq!(complained, met, "{:?}", selectors);
        Ok(())
    });
    outcome.expect("the leak test and the cluster agree");
}

async fn judge(selectors: &[BTreeMap<String, String>]) -> (Vec<String>, Vec<String>) {
    let cluster = Cluster::start(Options { delays: Delays::none(), ..Options::default() }).expect("started");
    let client = cluster.client();
    let told = Told::over(client.clone(), NAMESPACE);
    let namespaces: kube::Api<Namespace> = kube::Api::all(client.clone());
    let mut namespace = Namespace::default();
    namespace.metadata.name = Some(NAMESPACE.to_owned());
    namespaces.create(&kube::api::PostParams::default(), &namespace).await.expect("created");
    let folder = format!("{}/config/services", env!("CARGO_MANIFEST_DIR"));
    for service in ["spring-a", "spring-c"] {
        create_all(&client, NAMESPACE, format!("{folder}/{service}.yaml").as_ref()).await.expect("created");
    }
    let services: Vec<Value> =
        selectors.iter().enumerate().map(|(number, selector)| service(number, selector)).collect();
    for object in &services {
        told.apply(object, false, true).await.expect("applied");
    }
    let text = std::fs::read_to_string(format!("{folder}/spring-a.yaml")).expect("there");
    let baseline = parse("spring-a", &text).expect("valid");
    let none = BTreeMap::new();
    let copy = Copy {
        service: "spring-a",
        namespace: None,
        baseline: &baseline,
        tag: "gray",
        images: &none,
        live: &none,
        replicas: 1,
        entry: None,
        gateway: GatewayKind::Mse,
        patches: &[],
        edited: None,
    };
    let rendered = render(&copy).expect("rendered");
    let pods: Vec<Pods> =
        rendered.objects.iter().filter(|object| kind(object) == "Deployment").map(Pods::of).collect();
    let mut complained: Vec<String> = leaks(&services, &pods).into_iter().map(|leak| leak.service).collect();
    complained.sort();
    complained.dedup();
    // The guard off: applied all the same.
    for object in &rendered.objects {
        let mut object = object.clone();
        if kind(&object) == "Secret" {
            object["data"] = json!({ "token": "eA==" });
        }
        told.apply(&object, false, true).await.expect("applied");
    }
    let met = met(&cluster, services.len()).await;
    cluster.shutdown().await;
    (complained, met)
}
