//! The leak test against an oracle that is not itself: the cluster's own endpoints controller.
//!
//! The rehearsal's meets selectors by chance; that of a real API server every one of two labels, in one namespace.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use graylane_rehearsal::{Cluster, Delays, Options};
use graylane_tasks::cluster::create_all;
use graylane_tasks::environment::GatewayKind;
use graylane_tasks::lane::leak::{Pods, leaks};
use graylane_tasks::lane::{Copy, render};
use graylane_tasks::manifest::{kind, name, parse, texts};
use k8s_openapi::api::core::v1::{Endpoints, Namespace, Pod};
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};

use crate::support::agent::test_run;
use crate::support::stage::real;
use crate::support::{client, tally};

const NAMESPACE: &str = "n";

/// What the pods of the example carry, and what none does.
const LABELS: [(&str, &str); 7] = [
    ("app", "spring-cloud-a"),
    ("app", "spring-cloud-c"),
    ("msePilotCreateAppName", "spring-cloud-a"),
    ("zadigx-release-version", "original"),
    ("zadigx-release-version", "gray"),
    ("zadigx-release-type", "mse-gray"),
    ("team", "nobody"),
];

fn selector(labels: &[(&str, &str)]) -> BTreeMap<String, String> {
    labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// Selectors made of them, in every mixture.
fn selectors() -> impl Strategy<Value = BTreeMap<String, String>> {
    let label = prop::sample::select(&LABELS[..]);
    prop::collection::vec(label, 1..3).prop_map(|labels| selector(&labels))
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
    let complained = put(&cluster.client(), NAMESPACE, selectors).await;
    let met = met(&cluster, selectors.len()).await;
    cluster.shutdown().await;
    (complained, met)
}

/// As somebody else would: Graylane itself writes nothing outside an attempt.
async fn apply(client: &kube::Client, namespace: &str, object: &Value) {
    let (group, version) = object["apiVersion"]
        .as_str()
        .map(|version| version.split_once('/').unwrap_or(("", version)))
        .expect("a version");
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind(object)));
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    let params = PatchParams::apply("somebody").force();
    api.patch(name(object), &params, &Patch::Apply(object)).await.expect("applied");
}

/// Puts the example, Services with these selectors and a lane's copy of one service into a namespace, whatever the leak test
/// says; gives the Services that it complains of.
async fn put(client: &kube::Client, namespace: &str, selectors: &[BTreeMap<String, String>]) -> Vec<String> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let mut made = Namespace::default();
    made.metadata.name = Some(namespace.to_owned());
    namespaces.create(&PostParams::default(), &made).await.expect("created");
    let folder = format!("{}/config/services", env!("CARGO_MANIFEST_DIR"));
    for service in ["spring-a", "spring-c"] {
        create_all(client, namespace, format!("{folder}/{service}.yaml").as_ref()).await.expect("created");
    }
    let services: Vec<Value> =
        selectors.iter().enumerate().map(|(number, selector)| service(number, selector)).collect();
    for object in &services {
        apply(client, namespace, object).await;
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
    let complained: BTreeSet<String> = leaks(&services, &pods).into_iter().map(|leak| leak.service).collect();
    // The guard off: applied all the same.
    for object in &rendered.objects {
        let mut object = object.clone();
        if kind(&object) == "Secret" {
            object["data"] = json!({ "token": "eA==" });
        }
        apply(client, namespace, &object).await;
    }
    complained.into_iter().collect()
}

/// The Services that list a lane's pod on a real API server, once all pods are up and nothing has changed for two seconds.
async fn really_met(client: &kube::Client, namespace: &str, services: usize) -> BTreeSet<String> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let endpoints: Api<Endpoints> = Api::namespaced(client.clone(), namespace);
    let is_ready = |pod: &&Pod| {
        let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
        conditions.into_iter().flatten().any(|found| found.type_ == "Ready" && found.status == "True")
    };
    let (mut before, mut same) = (BTreeSet::new(), 0);
    for _ in 0..600 {
        let pods = pods.list(&ListParams::default()).await.expect("listed").items;
        let gray: BTreeSet<&str> = pods
            .iter()
            .filter(|pod| pod.metadata.labels.as_ref().is_some_and(|l| l.contains_key("zadigx-release-type")))
            .filter_map(|pod| pod.metadata.name.as_deref())
            .collect();
        let all = endpoints.list(&ListParams::default()).await.expect("listed").items;
        let named = |found: &Endpoints| found.metadata.name.clone().unwrap_or_default();
        let ours: Vec<&Endpoints> = all
            .iter()
            .filter(|found| named(found).strip_prefix('s').is_some_and(|n| n.parse::<usize>().is_ok()))
            .collect();
        let meets = |found: &&&Endpoints| {
            let subsets = found.subsets.iter().flatten();
            let addresses = subsets.flat_map(|subset| subset.addresses.iter().flatten());
            let mut pods = addresses.filter_map(|address| address.target_ref.as_ref()?.name.as_deref());
            pods.any(|pod| gray.contains(pod))
        };
        let met: BTreeSet<String> = ours.iter().filter(meets).map(|found| named(found)).collect();
        let up = pods.iter().filter(is_ready).count() == 3 && pods.len() == 3 && ours.len() == services;
        same = if up && met == before { same + 1 } else { 0 };
        if same == 10 {
            return met;
        }
        before = met;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    panic!("{namespace} never settled");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_plan_complains_exactly_where_a_real_endpoints_controller_leaks() {
    let Some(kubeconfig) = real() else { return };
    let pairs = LABELS.iter().flat_map(|one| LABELS.iter().map(move |two| selector(&[*one, *two])));
    let selectors: Vec<_> = pairs.collect::<BTreeSet<_>>().into_iter().collect();
    let client = client(&kubeconfig).await;
    let namespace = format!("leaks-{}", test_run());
    let complained = put(&client, &namespace, &selectors).await;
    let met = really_met(&client, &namespace, selectors.len()).await;
    let of = |name: &String| {
        let number: usize = name.trim_start_matches('s').parse().expect("a number");
        format!("{:?}", selectors[number])
    };
    let told: BTreeSet<String> = complained.iter().map(of).collect();
    assert_eq!(told, met.iter().map(of).collect(), "complaints, and what the controller does");
    assert!(met.len() > 5 && met.len() < selectors.len(), "both kinds are among them: {met:?}");
    tally::told("selectors of the leak test", 0, selectors.len());
    let namespaces: Api<Namespace> = Api::all(client);
    namespaces.delete(&namespace, &DeleteParams::background()).await.expect("deleted");
}
