//! Where naive rendering breaks: a test a case, each rendered, refused, or told by name, with the sentence that a user sees.
//!
//! The baseline is the example's `spring-a`; a case changes its manifest, or what else stands in the namespace.

use serde_json::{Value, json};

use super::around::{Around, agent};
use super::leak::{Pods, leaks};
use super::route::{Entry, Header};
use super::tests::{plain, service};
use super::*;

/// What a case comes to.
enum Comes {
    /// It is refused with this sentence.
    Refused(&'static str),
    /// It is rendered, and this is told.
    Told(&'static str),
    /// It is rendered so.
    Rendered(fn(&Copied)),
}

/// A case.
struct Case {
    tag: &'static str,
    /// What is special about the manifest: Deployment, Service, Ingress and Secret, in this order.
    manifest: fn(&mut Vec<Value>),
    /// What else is in the namespace.
    around: fn() -> Vec<Value>,
    /// Claims that a person lets both versions write to.
    shared: &'static [&'static str],
    comes: Comes,
}

const PLAIN: Case =
    Case { tag: "gray", manifest: |_| {}, around: Vec::new, shared: &[], comes: Comes::Rendered(|_| {}) };

/// A copy, and what was told of it.
struct Copied {
    objects: Vec<Value>,
    notes: Vec<String>,
}

impl Copied {
    fn find(&self, wanted: &str) -> &Value {
        self.objects.iter().find(|object| kind(object) == wanted).expect(wanted)
    }

    fn pods(&self) -> &Value {
        &self.find("Deployment")["spec"]["template"]["spec"]
    }
}

/// All that a plan judges without a cluster's answers.
fn judged(case: &Case) -> Result<Copied, Vec<String>> {
    let mut baseline = service("spring-a");
    (case.manifest)(&mut baseline);
    let header = Header { name: "x-user-id".into(), value: Some("100".into()), pattern: None };
    let entry = Entry { service: "spring-a".into(), header: Some(header), cookie: None, weight: None };
    let has_door = baseline.iter().any(|object| kind(object) == "Ingress");
    let rendered =
        render(&Copy { entry: has_door.then_some(&entry), ..plain("spring-a", &baseline, case.tag) })?;
    let around = Around::of(baseline.iter().cloned().chain((case.around)()));
    let shared = case.shared.iter().map(|claim| (*claim).to_owned()).collect();
    let shared = BTreeMap::from([("spring-a".to_owned(), shared)]);
    let mut judgement = around.judge(&rendered.objects, &baseline.iter().collect::<Vec<_>>(), &shared);
    let of_agent = agent(&rendered.objects, "spring-a");
    judgement.wrong.extend(of_agent.wrong);
    judgement.notes.extend(of_agent.notes);
    let pods: Vec<Pods> =
        rendered.objects.iter().filter(|object| kind(object) == "Deployment").map(Pods::of).collect();
    let found = leaks(around.all("Service").iter().chain(&rendered.objects), &pods);
    judgement.wrong.extend(found.into_iter().map(|leak| format!("{leak}: {}", leak.hint)));
    if !judgement.wrong.is_empty() {
        return Err(judgement.wrong);
    }
    let notes = [rendered.shared, rendered.notes, judgement.notes].concat();
    Ok(Copied { objects: rendered.objects, notes })
}

fn check(case: &Case) {
    match (&case.comes, judged(case)) {
        (Comes::Refused(expected), Err(wrong)) => {
            assert!(wrong.iter().any(|sentence| sentence == expected), "{wrong:#?}");
        }
        (Comes::Told(expected), Ok(copied)) => {
            assert!(copied.notes.iter().any(|sentence| sentence == expected), "{:#?}", copied.notes);
            // The control: what is said of this case is not said of every copy.
            let plain = judged(&PLAIN).expect("rendered").notes;
            assert!(!plain.iter().any(|sentence| sentence == expected), "said of everything");
        }
        (Comes::Rendered(holds), Ok(copied)) => holds(&copied),
        (Comes::Refused(expected), Ok(_)) => panic!("not refused: {expected}"),
        (Comes::Told(_) | Comes::Rendered(_), Err(wrong)) => panic!("refused: {wrong:#?}"),
    }
}

macro_rules! cases {
    ($($name:ident { $($field:ident: $value:expr),* $(,)? })*) => {
        $(#[test]
        fn $name() {
            check(&Case { $($field: $value,)* ..PLAIN });
        })*
    };
}

fn labels(object: &mut Value) -> &mut Map<String, Value> {
    map_at(object, &["spec", "template", "metadata", "labels"])
}

fn pods(objects: &mut [Value]) -> &mut Value {
    &mut objects[0]["spec"]["template"]["spec"]
}

fn claim(mode: &str) -> Vec<Value> {
    vec![
        json!({ "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": "store" }, "spec": { "accessModes": [mode] } }),
    ]
}

fn mounted(objects: &mut [Value]) {
    pods(objects)["volumes"] = json!([{ "name": "v", "persistentVolumeClaim": { "claimName": "store" } }]);
}

fn of_kind(kind: &str, api_version: &str, name: &str, spec: Value) -> Vec<Value> {
    vec![json!({ "apiVersion": api_version, "kind": kind, "metadata": { "name": name }, "spec": spec })]
}

fn by_app() -> Value {
    json!({ "matchLabels": { "app": "spring-cloud-a" } })
}

cases! {
    nothing_special_is_rendered_and_nothing_is_told {
        comes: Comes::Rendered(|copied| assert_eq!(copied.notes, Vec::<String>::new())),
    }
    name_length_of_a_service {
        manifest: |o| {
            o[1]["metadata"]["name"] = "s".repeat(55).into();
            o[2]["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]["name"] = "s".repeat(55).into();
        },
        comes: Comes::Refused("Service sssssssssssssssssssssssssssssssssssssssssssssssssssssss-mse-gray: the gray copy's name is longer than 63 characters; use a tag of at most 3 characters"),
    }
    name_length_of_a_deployment_hides_the_tag_in_pod_names {
        manifest: |o| o[0]["metadata"]["name"] = "d".repeat(40).into(),
        comes: Comes::Told("Deployment dddddddddddddddddddddddddddddddddddddddd-mse-gray: names of its pods are cut after 58 characters and may not show the tag"),
    }
    name_length_of_an_application {
        manifest: |o| {
            o[0]["metadata"]["name"] = "d".repeat(64).into();
            labels(&mut o[0]).remove(APP_NAME);
        },
        comes: Comes::Refused("Deployment dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd-mse-gray: `msePilotCreateAppName: dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd` is no label: a value has up to 63 letters, digits, `-`, `_` and `.`; set the label in the baseline's template to a shorter name"),
    }
    a_service_name_begins_with_a_letter {
        manifest: |o| {
            o[1]["metadata"]["name"] = "1st".into();
            o[2]["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]["name"] = "1st".into();
        },
        comes: Comes::Refused("Service 1st-mse-gray: this is no name for a Service: small letters, digits and `-`, a letter first"),
    }
    reserved_tags {
        tag: "original",
        comes: Comes::Refused("`original` means the baseline and cannot be a lane's tag"),
    }
    tag_suffix_collision_is_no_collision_by_label {
        tag: "x-mse-a",
        comes: Comes::Rendered(|copied| {
            let deployment = copied.find("Deployment");
            assert_eq!(deployment["metadata"]["name"], "spring-cloud-a-mse-x-mse-a");
            assert_eq!(deployment["metadata"]["annotations"][ANNOTATION_ORIGIN], "spring-cloud-a");
            assert_eq!(deployment["metadata"]["labels"][VERSION], "x-mse-a");
        }),
    }
    references_to_config_maps_and_secrets_in_every_place {
        manifest: |o| {
            o.push(json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "mine" }, "data": {} }));
            let secret = || json!({ "name": "spring-cloud-a" });
            let spec = pods(o);
            spec["imagePullSecrets"] = json!([secret(), { "name": "theirs" }]);
            spec["initContainers"] = json!([{ "name": "i", "image": "i", "envFrom": [{ "secretRef": secret() }, { "configMapRef": { "name": "mine" } }],
                "env": [{ "name": "K", "valueFrom": { "configMapKeyRef": { "name": "mine", "key": "k" } } }] }]);
            spec["volumes"] = json!([
                { "name": "a", "secret": { "secretName": "spring-cloud-a" } },
                { "name": "b", "csi": { "driver": "d", "nodePublishSecretRef": secret() } },
                { "name": "c", "cephfs": { "monitors": ["m"], "secretRef": secret() } },
                { "name": "d", "projected": { "sources": [{ "secret": secret() }, { "configMap": { "name": "mine" } }] } },
                { "name": "e", "configMap": { "name": "theirs" } },
            ]);
        },
        comes: Comes::Rendered(|copied| {
            let spec = copied.pods();
            let (mine, secret) = ("mine-mse-gray", "spring-cloud-a-mse-gray");
            for (pointer, expected) in [
                ("/imagePullSecrets/0/name", secret),
                ("/imagePullSecrets/1/name", "theirs"),
                ("/initContainers/0/envFrom/0/secretRef/name", secret),
                ("/initContainers/0/envFrom/1/configMapRef/name", mine),
                ("/initContainers/0/env/0/valueFrom/configMapKeyRef/name", mine),
                ("/containers/0/env/1/valueFrom/secretKeyRef/name", secret),
                ("/volumes/0/secret/secretName", secret),
                ("/volumes/1/csi/nodePublishSecretRef/name", secret),
                ("/volumes/2/cephfs/secretRef/name", secret),
                ("/volumes/3/projected/sources/0/secret/name", secret),
                ("/volumes/3/projected/sources/1/configMap/name", mine),
                ("/volumes/4/configMap/name", "theirs"),
            ] {
                assert_eq!(spec.pointer(pointer).and_then(Value::as_str), Some(expected), "{pointer}");
            }
        }),
    }
    ingress_backends_follow_and_tls_stays_shared {
        manifest: |o| {
            o[2]["spec"]["tls"] = json!([{ "hosts": ["example.com"], "secretName": "spring-cloud-a" }]);
            o[2]["spec"]["defaultBackend"] = json!({ "service": { "name": "spring-cloud-a-base", "port": { "number": 20001 } } });
        },
        comes: Comes::Rendered(|copied| {
            let spec = &copied.find("Ingress")["spec"];
            assert_eq!(spec["rules"][0]["http"]["paths"][0]["backend"]["service"]["name"], "spring-cloud-a-base-mse-gray");
            assert_eq!(spec["defaultBackend"]["service"]["name"], "spring-cloud-a-base-mse-gray");
            assert_eq!(spec["tls"][0]["secretName"], "spring-cloud-a");
            assert_eq!(copied.find("Ingress")["metadata"]["annotations"]["nginx.ingress.kubernetes.io/canary"], "true");
        }),
    }
    ingress_that_leads_elsewhere {
        manifest: |o| o[2]["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]["name"] = "front".into(),
        comes: Comes::Refused("Ingress spring-cloud-a-mse-gray leads to no Service that the lane has a copy of, so nobody would meet the lane"),
    }
    ingress_annotations_of_certificates_and_dns {
        manifest: |o| o[2]["metadata"]["annotations"] = json!({
            "cert-manager.io/cluster-issuer": "i", "acme.cert-manager.io/http01-edit-in-place": "true",
            "external-dns.alpha.kubernetes.io/hostname": "h", "kubernetes.io/ingress.class": "mse", "nginx.ingress.kubernetes.io/rewrite-target": "/",
        }),
        comes: Comes::Rendered(|copied| {
            let annotations = texts(copied.find("Ingress"), "/metadata/annotations");
            assert!(!annotations.keys().any(|key| key.contains("cert-manager") || key.contains("external-dns")));
            assert_eq!(annotations["kubernetes.io/ingress.class"], "mse");
            assert_eq!(annotations["nginx.ingress.kubernetes.io/rewrite-target"], "/");
        }),
    }
    server_set_metadata {
        manifest: |o| {
            o[0]["metadata"] = json!({ "name": "spring-cloud-a", "uid": "u", "resourceVersion": "1", "generation": 2, "creationTimestamp": "t",
                "selfLink": "s", "managedFields": [], "finalizers": ["f"], "generateName": "g",
                "annotations": { "kubectl.kubernetes.io/last-applied-configuration": "{}", "deployment.kubernetes.io/revision": "3" } });
            o[0]["spec"]["template"]["metadata"]["annotations"] = json!({ "kubectl.kubernetes.io/restartedAt": "t" });
            o[0]["status"] = json!({ "replicas": 1 });
        },
        comes: Comes::Rendered(|copied| {
            let deployment = copied.find("Deployment");
            let keys: Vec<&String> = deployment["metadata"].as_object().expect("a map").keys().collect();
            assert_eq!(keys, ["annotations", "labels", "name"]);
            let annotations: Vec<String> = texts(deployment, "/metadata/annotations").into_keys().collect();
            assert_eq!(annotations, [ANNOTATION_MANIFEST_HASH, ANNOTATION_ORIGIN]);
            let of_pods: Vec<String> = texts(deployment, "/spec/template/metadata/annotations").into_keys().collect();
            assert_eq!(of_pods, [ANNOTATION_CONFIG_HASH]);
            assert!(deployment.get("status").is_none());
        }),
    }
    owner_references {
        manifest: |o| o[0]["metadata"]["ownerReferences"] = json!([{ "kind": "Application", "name": "shop", "uid": "u" }]),
        comes: Comes::Told("Deployment spring-cloud-a is owned by Application shop: the copy is not, and an operator may take back what is written to the baseline"),
    }
    service_network_fields {
        manifest: |o| {
            let spec = o[1]["spec"].as_object_mut().expect("a map");
            spec.extend(json!({ "type": "LoadBalancer", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "healthCheckNodePort": 1, "loadBalancerIP": "1.1.1.1",
                "loadBalancerClass": "c", "loadBalancerSourceRanges": ["0.0.0.0/0"], "externalIPs": ["1.1.1.1"], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
                "externalTrafficPolicy": "Local", "internalTrafficPolicy": "Local", "allocateLoadBalancerNodePorts": true }).as_object().expect("a map").clone());
            o[1]["spec"]["ports"][0]["nodePort"] = 30000.into();
            o[1]["metadata"]["annotations"] = json!({ "service.beta.kubernetes.io/alibaba-cloud-loadbalancer-id": "lb-1",
                "metallb.universe.tf/address-pool": "p", "cloud.google.com/neg": "n", "note": "kept" });
        },
        comes: Comes::Rendered(|copied| {
            let service = copied.find("Service");
            assert_eq!(service["spec"]["type"], "ClusterIP");
            let keys: Vec<&String> = service["spec"].as_object().expect("a map").keys().collect();
            assert_eq!(keys, ["ports", "selector", "type"]);
            assert_eq!(service["spec"]["ports"][0], json!({ "name": "http", "port": 20001, "protocol": "TCP", "targetPort": 20001 }));
            let annotations: Vec<String> = texts(service, "/metadata/annotations").into_keys().collect();
            assert_eq!(annotations, [ANNOTATION_MANIFEST_HASH, ANNOTATION_ORIGIN, "note"]);
        }),
    }
    a_headless_service_stays_headless {
        manifest: |o| o[1]["spec"]["clusterIP"] = "None".into(),
        comes: Comes::Rendered(|copied| assert_eq!(copied.find("Service")["spec"]["clusterIP"], "None")),
    }
    a_service_without_selector_gets_none {
        manifest: |o| o.push(json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "outside" }, "spec": { "ports": [{ "port": 1 }] } })),
        comes: Comes::Told("Service outside stays shared: it selects no pods"),
    }
    an_external_name_is_no_copy {
        manifest: |o| o.push(json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "elsewhere" }, "spec": { "type": "ExternalName", "externalName": "x.org" } })),
        comes: Comes::Told("Service elsewhere stays shared: it only names another host"),
    }
    a_service_of_other_pods_stays_theirs {
        manifest: |o| o.push(json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "db" }, "spec": { "selector": { "app": "db" }, "ports": [{ "port": 1 }] } })),
        comes: Comes::Told("Service db stays shared: it selects no pods of this service"),
    }
    traffic_leak_by_any_service_of_the_namespace {
        around: || of_kind("Service", "v1", "metrics", json!({ "selector": { "app": "spring-cloud-a" } })),
        comes: Comes::Refused("Service metrics would send its requests to the pods of Deployment spring-cloud-a-mse-gray: add `zadigx-release-version: original` to the selector of Service metrics, once the baseline's pods carry the label"),
    }
    traffic_leak_that_somebody_wired_to_the_lane {
        around: || of_kind("Service", "v1", "preview", json!({ "selector": { "app": "spring-cloud-a", VERSION: "gray" } })),
        comes: Comes::Refused("Service preview would send its requests to the pods of Deployment spring-cloud-a-mse-gray: Service preview asks for `zadigx-release-version: gray` itself: remove it, the lane has Services of its own"),
    }
    registry_leak_by_pods_that_opt_out_of_the_agent {
        manifest: |o| { labels(&mut o[0]).insert("msePilotAutoEnable".into(), "off".into()); },
        comes: Comes::Refused("service `spring-a`: its template opts out of the MSE agent (`msePilotAutoEnable: off`), and a gray pod without it would be met by everybody; remove the label, or keep the service out of lanes with `gray: false`"),
    }
    an_agent_that_is_not_loaded_by_itself {
        manifest: |o| { labels(&mut o[0]).insert("disableJavaToolOptionsInjection".into(), "true".into()); },
        comes: Comes::Told("service `spring-a`: `disableJavaToolOptionsInjection` is set: its image must load the MSE agent itself"),
    }
    enrolment_on_the_deployment_is_read_by_nobody {
        manifest: |o| o[0]["metadata"]["labels"] = json!({ "msePilotAutoEnable": "on" }),
        comes: Comes::Told("service `spring-a`: `msePilotAutoEnable` stands on the Deployment, where nobody reads it: it belongs into its template"),
    }
    the_application_keeps_its_name {
        manifest: |o| { labels(&mut o[0]).remove(APP_NAME); },
        comes: Comes::Rendered(|copied| assert_eq!(copied.find("Deployment")["spec"]["template"]["metadata"]["labels"][APP_NAME], "spring-cloud-a")),
    }
    labels_by_which_mse_knows_an_application_stay {
        manifest: |o| labels(&mut o[0]).extend(json!({ "mseNamespace": "shop", "aliyun.com/app-language": "golang", "aliyun.com/agent-version": "4.2.5",
            "mse.lossless.enable": "true", "mse.lossless.warmupTime": "120" }).as_object().expect("a map").clone()),
        comes: Comes::Rendered(|copied| {
            let labels = texts(copied.find("Deployment"), "/spec/template/metadata/labels");
            for (key, value) in [("mseNamespace", "shop"), ("aliyun.com/app-language", "golang"), ("aliyun.com/agent-version", "4.2.5"),
                ("mse.lossless.enable", "true"), ("mse.lossless.warmupTime", "120"), (SERVICE_TAG, "gray"), (APP_NAME, "spring-cloud-a")] {
                assert_eq!(labels.get(key).map(String::as_str), Some(value), "{key}");
            }
        }),
    }
    an_ingress_whose_annotations_lead_elsewhere_leads_to_the_lane {
        manifest: |o| o[2]["metadata"]["annotations"] = json!({ "mse.ingress.kubernetes.io/destination": "100% spring-cloud-a-base.n.svc.cluster.local:20001",
            "mse.ingress.kubernetes.io/service-subset": "base", "mse.ingress.kubernetes.io/subset-labels": "zadigx-release-version original" }),
        comes: Comes::Rendered(|copied| {
            let annotations = copied.find("Ingress")["metadata"]["annotations"].to_string();
            assert!(!annotations.contains("destination") && !annotations.contains("subset"), "{annotations}");
        }),
    }
    a_baseline_with_a_tag_is_none_to_mse {
        manifest: |o| { labels(&mut o[0]).insert(SERVICE_TAG.into(), "base".into()); },
        comes: Comes::Told("the baseline of service `spring-a` carries `alicloud.service.tag: base`: MSE takes only pods without it for the baseline"),
    }
    overlapping_selector_of_the_baseline {
        manifest: |o| { map_at(&mut o[0], &["spec", "selector", "matchLabels"]).remove(VERSION); },
        comes: Comes::Refused("service `spring-a`: spec.selector.matchLabels of its Deployment lacks `zadigx-release-version: original`; without it baseline and lane cannot be told apart"),
    }
    overlapping_selector_of_another_deployment {
        around: || of_kind("Deployment", "apps/v1", "old-a", json!({ "selector": by_app() })),
        comes: Comes::Refused("the selector of Deployment old-a takes the pods of Deployment spring-cloud-a-mse-gray for its own: give its selector and template `zadigx-release-version: original`; a selector cannot be changed, so it is made anew"),
    }
    overlapping_selector_of_a_replica_set {
        around: || of_kind("ReplicaSet", "apps/v1", "orphan", json!({ "selector": by_app() })),
        comes: Comes::Refused("the selector of ReplicaSet orphan takes the pods of Deployment spring-cloud-a-mse-gray for its own: give its selector and template `zadigx-release-version: original`; a selector cannot be changed, so it is made anew"),
    }
    overlapping_selector_of_a_stateful_set_by_expression {
        around: || of_kind("StatefulSet", "apps/v1", "store", json!({ "selector": { "matchExpressions": [{ "key": "app", "operator": "In", "values": ["spring-cloud-a"] }] } })),
        comes: Comes::Refused("the selector of StatefulSet store takes the pods of Deployment spring-cloud-a-mse-gray for its own: give its selector and template `zadigx-release-version: original`; a selector cannot be changed, so it is made anew"),
    }
    overlapping_selector_of_a_daemon_set {
        around: || of_kind("DaemonSet", "apps/v1", "agent", json!({ "selector": by_app() })),
        comes: Comes::Refused("the selector of DaemonSet agent takes the pods of Deployment spring-cloud-a-mse-gray for its own: give its selector and template `zadigx-release-version: original`; a selector cannot be changed, so it is made anew"),
    }
    autoscaler_scales_the_baseline_only {
        around: || of_kind("HorizontalPodAutoscaler", "autoscaling/v2", "a", json!({ "scaleTargetRef": { "kind": "Deployment", "name": "spring-cloud-a" } })),
        comes: Comes::Told("HorizontalPodAutoscaler a scales the baseline only: Deployment spring-cloud-a-mse-gray keeps its number of pods"),
    }
    autoscaler_metric_by_a_label_that_both_carry {
        around: || of_kind("HorizontalPodAutoscaler", "autoscaling/v2", "a", json!({ "scaleTargetRef": { "kind": "Deployment", "name": "spring-cloud-a" },
            "metrics": [{ "type": "Pods", "pods": { "metric": { "name": "rps", "selector": by_app() } } }] })),
        comes: Comes::Told("HorizontalPodAutoscaler a measures by labels that the pods of Deployment spring-cloud-a-mse-gray carry too"),
    }
    autoscaler_of_the_copy_itself {
        around: || of_kind("HorizontalPodAutoscaler", "autoscaling/v2", "g", json!({ "scaleTargetRef": { "kind": "Deployment", "name": "spring-cloud-a-mse-gray" } })),
        comes: Comes::Refused("HorizontalPodAutoscaler g scales Deployment spring-cloud-a-mse-gray itself: it and this deploy would each set the number of pods; remove it"),
    }
    keda_scales_the_baseline_only {
        around: || of_kind("ScaledObject", "keda.sh/v1alpha1", "k", json!({ "scaleTargetRef": { "name": "spring-cloud-a" } })),
        comes: Comes::Told("ScaledObject k scales the baseline only: Deployment spring-cloud-a-mse-gray keeps its number of pods"),
    }
    budget_on_app_only {
        around: || of_kind("PodDisruptionBudget", "policy/v1", "b", json!({ "selector": by_app(), "minAvailable": 1 })),
        comes: Comes::Told("PodDisruptionBudget b counts the pods of Deployment spring-cloud-a-mse-gray too: unhealthy gray pods can block a node's drain, healthy ones hide that the baseline's are missing; add `zadigx-release-version: original` to its selector"),
    }
    claim_for_one_writer {
        manifest: |o| mounted(o),
        around: || claim("ReadWriteOnce"),
        comes: Comes::Refused("Deployment spring-cloud-a-mse-gray mounts PersistentVolumeClaim store, which is ReadWriteOnce: it is the baseline's, and a second version cannot have it; give the copy another volume by a patch"),
    }
    claim_for_many_writers_waits_for_a_person_to_confirm {
        manifest: |o| mounted(o),
        around: || claim("ReadWriteMany"),
        comes: Comes::Refused("Deployment spring-cloud-a-mse-gray mounts PersistentVolumeClaim store as the baseline does: two versions write to one store; confirm it by `shared_claims: [store]` at the service, or give the copy another volume by a patch"),
    }
    claim_for_many_writers_that_a_person_confirmed {
        manifest: |o| mounted(o),
        around: || claim("ReadWriteMany"),
        shared: &["store"],
        comes: Comes::Told("Deployment spring-cloud-a-mse-gray mounts PersistentVolumeClaim store as the baseline does: two versions write to one store"),
    }
    another_claim_is_not_the_one_that_was_confirmed {
        manifest: |o| mounted(o),
        around: || claim("ReadWriteMany"),
        shared: &["other"],
        comes: Comes::Refused("Deployment spring-cloud-a-mse-gray mounts PersistentVolumeClaim store as the baseline does: two versions write to one store; confirm it by `shared_claims: [store]` at the service, or give the copy another volume by a patch"),
    }
    claim_for_many_writers_that_every_container_only_reads {
        manifest: |o| {
            mounted(o);
            pods(o)["containers"][0]["volumeMounts"] = json!([{ "name": "v", "mountPath": "/v", "readOnly": true }]);
        },
        around: || claim("ReadWriteMany"),
        comes: Comes::Rendered(|copied| assert_eq!(copied.notes, Vec::<String>::new())),
    }
    confirming_opens_no_claim_for_one_writer {
        manifest: |o| mounted(o),
        around: || claim("ReadWriteOnce"),
        shared: &["store"],
        comes: Comes::Refused("Deployment spring-cloud-a-mse-gray mounts PersistentVolumeClaim store, which is ReadWriteOnce: it is the baseline's, and a second version cannot have it; give the copy another volume by a patch"),
    }
    claim_that_is_only_read {
        manifest: |o| mounted(o),
        around: || claim("ReadOnlyMany"),
        comes: Comes::Rendered(|copied| assert_eq!(copied.notes, Vec::<String>::new())),
    }
    claim_that_is_not_there {
        manifest: |o| mounted(o),
        comes: Comes::Refused("Deployment spring-cloud-a-mse-gray mounts PersistentVolumeClaim store, which is not on the cluster: its pods would never start"),
    }
    stateful_set_is_not_supported {
        manifest: |o| o.push(json!({ "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": { "name": "s" } })),
        comes: Comes::Refused("service `spring-a`: StatefulSet s: a lane cannot hold a copy of this kind"),
    }
    host_port {
        manifest: |o| pods(o)["containers"][0]["ports"][0]["hostPort"] = 20001.into(),
        comes: Comes::Told("Deployment spring-cloud-a-mse-gray: port 20001 of the node is left out: it is the baseline's"),
    }
    host_network {
        manifest: |o| pods(o)["hostNetwork"] = true.into(),
        comes: Comes::Refused("Deployment spring-cloud-a-mse-gray: its pods use the node's network (`hostNetwork`), and two versions cannot bind the same ports; take it away by a patch"),
    }
    node_pinned {
        manifest: |o| pods(o)["nodeSelector"] = json!({ "kubernetes.io/hostname": "n1" }),
        comes: Comes::Told("Deployment spring-cloud-a-mse-gray: gray pods go to node n1 alone, as the baseline's do: it must have room for both"),
    }
    anti_affinity_of_the_copy_counts_the_lane_only {
        manifest: |o| pods(o)["affinity"] = json!({ "podAntiAffinity": { "preferredDuringSchedulingIgnoredDuringExecution": [{ "weight": 1,
            "podAffinityTerm": { "topologyKey": "kubernetes.io/hostname", "labelSelector": by_app() } }] } }),
        comes: Comes::Rendered(|copied| {
            let selector = &copied.pods()["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"][0]["podAffinityTerm"]["labelSelector"];
            assert_eq!(selector["matchLabels"], json!({ "app": "spring-cloud-a", VERSION: "gray" }));
        }),
    }
    anti_affinity_of_the_baseline_holds_both_ways {
        manifest: |o| pods(o)["affinity"] = json!({ "podAntiAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": [
            { "topologyKey": "kubernetes.io/hostname", "labelSelector": by_app() }] } }),
        comes: Comes::Told("pods of Deployment spring-cloud-a keep those of Deployment spring-cloud-a-mse-gray off their nodes (required anti-affinity by labels that both carry): as many nodes must be free"),
    }
    topology_spread_of_the_baseline_counts_gray_pods {
        manifest: |o| pods(o)["topologySpreadConstraints"] = json!([{ "topologyKey": "zone", "labelSelector": by_app() }]),
        comes: Comes::Told("Deployment spring-cloud-a spreads its pods by labels that those of Deployment spring-cloud-a-mse-gray carry too: they are counted with them"),
    }
    network_policy_that_leaves_gray_pods_out {
        around: || of_kind("NetworkPolicy", "networking.k8s.io/v1", "p", json!({ "podSelector": { "matchLabels": { VERSION: "original" } } })),
        comes: Comes::Told("NetworkPolicy p holds for the baseline's pods and not for those of Deployment spring-cloud-a-mse-gray"),
    }
    network_policy_for_gray_pods_alone {
        around: || of_kind("NetworkPolicy", "networking.k8s.io/v1", "p", json!({ "podSelector": { "matchLabels": { TYPE: GRAY_TYPE } } })),
        comes: Comes::Told("NetworkPolicy p holds for the pods of Deployment spring-cloud-a-mse-gray and not for the baseline's"),
    }
    network_policy_that_limits_where_the_agent_connects_to {
        around: || of_kind("NetworkPolicy", "networking.k8s.io/v1", "p", json!({ "podSelector": by_app(), "policyTypes": ["Egress"] })),
        comes: Comes::Told("NetworkPolicy p limits where the pods of Deployment spring-cloud-a-mse-gray connect to: the MSE agent and the registry must be among it"),
    }
    network_policy_that_lets_only_the_baseline_in {
        around: || of_kind("NetworkPolicy", "networking.k8s.io/v1", "p", json!({ "podSelector": { "matchLabels": { "app": "db" } },
            "ingress": [{ "from": [{ "podSelector": { "matchLabels": { "app": "spring-cloud-a", VERSION: "original" } } }] }] })),
        comes: Comes::Told("NetworkPolicy p lets requests come from the baseline's pods and not those of Deployment spring-cloud-a-mse-gray"),
    }
    istio_authorization_policy_that_leaves_gray_pods_out {
        around: || of_kind("AuthorizationPolicy", "security.istio.io/v1", "p", json!({ "selector": { "matchLabels": { VERSION: "original" } } })),
        comes: Comes::Told("AuthorizationPolicy p holds for the baseline's pods and not for those of Deployment spring-cloud-a-mse-gray"),
    }
    istio_authorization_policy_for_gray_pods_alone {
        around: || of_kind("AuthorizationPolicy", "security.istio.io/v1", "p", json!({ "selector": { "matchLabels": { TYPE: GRAY_TYPE } } })),
        comes: Comes::Told("AuthorizationPolicy p holds for the pods of Deployment spring-cloud-a-mse-gray and not for the baseline's"),
    }
    istio_authorization_policy_of_the_whole_namespace_holds_for_both {
        around: || of_kind("AuthorizationPolicy", "security.istio.io/v1", "p", json!({})),
        comes: Comes::Rendered(|copied| assert_eq!(copied.notes, Vec::<String>::new())),
    }
    istio_sidecar_that_leaves_gray_pods_out {
        around: || of_kind("Sidecar", "networking.istio.io/v1", "s", json!({ "workloadSelector": { "labels": { "app": "spring-cloud-a", VERSION: "original" } } })),
        comes: Comes::Told("Sidecar s holds for the baseline's pods and not for those of Deployment spring-cloud-a-mse-gray"),
    }
    istio_subset_by_a_label_that_both_carry {
        around: || of_kind("DestinationRule", "networking.istio.io/v1", "d", json!({ "host": "spring-cloud-a-base", "subsets": [{ "name": "v1", "labels": { "app": "spring-cloud-a" } }] })),
        comes: Comes::Told("subset `v1` of DestinationRule d asks for labels that the pods of Deployment spring-cloud-a-mse-gray carry too: add `zadigx-release-version: original` to it, or requests for it may meet the lane"),
    }
    istio_subset_that_somebody_wired_to_the_lane {
        around: || of_kind("DestinationRule", "networking.istio.io/v1", "d", json!({ "host": "spring-cloud-a-base", "subsets": [{ "name": "gray", "labels": { VERSION: "gray" } }] })),
        comes: Comes::Told("subset `gray` of DestinationRule d asks for labels that the pods of Deployment spring-cloud-a-mse-gray carry and the baseline's do not: somebody wired it to the lane by hand"),
    }
    istio_subset_of_the_baseline_alone {
        around: || of_kind("DestinationRule", "networking.istio.io/v1", "d", json!({ "host": "spring-cloud-a-base", "subsets": [{ "name": "v1", "labels": { VERSION: "original" } }] })),
        comes: Comes::Rendered(|copied| assert_eq!(copied.notes, Vec::<String>::new())),
    }
    argo_cd_marks {
        manifest: |o| {
            o[0]["metadata"]["labels"] = json!({ "app.kubernetes.io/instance": "shop", "argocd.argoproj.io/instance": "shop", "team": "a" });
            o[0]["metadata"]["annotations"] = json!({ "argocd.argoproj.io/tracking-id": "shop:apps/Deployment:n/spring-cloud-a" });
            for path in [&["spec", "selector", "matchLabels"][..], &["spec", "template", "metadata", "labels"][..]] {
                map_at(&mut o[0], path).insert("app.kubernetes.io/instance".into(), "shop".into());
            }
        },
        comes: Comes::Rendered(|copied| {
            let deployment = copied.find("Deployment");
            let labels: Vec<String> = texts(deployment, "/metadata/labels").into_keys().collect();
            assert_eq!(labels, ["team", SERVICE_NAME, TYPE, VERSION]);
            assert_eq!(deployment["spec"]["selector"]["matchLabels"]["app.kubernetes.io/instance"], "shop", "it stays where a selector asks for it");
            assert!(!deployment.to_string().contains("argocd"));
        }),
    }
    helm_flux_and_kustomize_marks {
        manifest: |o| {
            o[0]["metadata"]["labels"] = json!({ "app.kubernetes.io/managed-by": "Helm", "helm.sh/chart": "c", "kustomize.toolkit.fluxcd.io/name": "k", "helm.toolkit.fluxcd.io/name": "h" });
            o[0]["metadata"]["annotations"] = json!({ "meta.helm.sh/release-name": "r", "helm.sh/resource-policy": "keep" });
        },
        comes: Comes::Rendered(|copied| {
            let deployment = copied.find("Deployment");
            assert_eq!(deployment["metadata"]["labels"]["app.kubernetes.io/managed-by"], "graylane");
            let text = deployment["metadata"].to_string();
            assert!(!["helm", "Helm", "fluxcd"].iter().any(|mark| text.contains(mark)), "{text}");
        }),
    }
    service_monitor {
        manifest: |o| o[1]["metadata"]["labels"] = json!({ "scrape": "yes" }),
        around: || of_kind("ServiceMonitor", "monitoring.coreos.com/v1", "m", json!({ "selector": { "matchLabels": { "scrape": "yes" } } })),
        comes: Comes::Told("ServiceMonitor m scrapes Service spring-cloud-a-base-mse-gray too, as a job of its own: tell them apart by the label `zadigx-release-version`, or alerts mix both versions"),
    }
    pod_monitor {
        around: || of_kind("PodMonitor", "monitoring.coreos.com/v1", "m", json!({ "selector": by_app() })),
        comes: Comes::Told("PodMonitor m scrapes the pods of Deployment spring-cloud-a-mse-gray too: tell them apart by the label `zadigx-release-version`, or alerts mix both versions"),
    }
    resource_quota {
        around: || vec![json!({ "apiVersion": "v1", "kind": "ResourceQuota", "metadata": { "name": "q" }, "spec": { "hard": { "pods": "3" } }, "status": { "used": { "pods": "3" } } })],
        comes: Comes::Refused("ResourceQuota q leaves room for 0 pods, and the lane needs 1 more: its pods would never be made"),
    }
    a_quota_with_room {
        around: || vec![json!({ "apiVersion": "v1", "kind": "ResourceQuota", "metadata": { "name": "q" }, "spec": { "hard": { "pods": "4" } }, "status": { "used": { "pods": "3" } } })],
        comes: Comes::Rendered(|_| {}),
    }
    order_of_operations {
        manifest: |o| {
            o.push(json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "c" }, "data": {} }));
            o.reverse();
        },
        comes: Comes::Rendered(|copied| {
            let order: Vec<&str> = copied.objects.iter().map(kind).collect();
            assert_eq!(order, ["ConfigMap", "Secret", "Deployment", "Service", "Ingress"]);
        }),
    }
    ports_of_services_that_no_container_declares {
        manifest: |o| o[1]["spec"]["ports"][0]["targetPort"] = "web".into(),
        comes: Comes::Told("Service spring-cloud-a-base-mse-gray sends requests to port `web`, which no container of Deployment spring-cloud-a-mse-gray declares"),
    }
    probe_on_another_port_than_the_container_declares {
        // The seed's own oddity: containerPort 8080, probe on 20002.
        manifest: |o| {
            pods(o)["containers"][0]["ports"][0]["containerPort"] = 8080.into();
            pods(o)["containers"][0]["livenessProbe"]["tcpSocket"]["port"] = 20002.into();
            o[1]["spec"]["ports"][0]["targetPort"] = 8080.into();
        },
        comes: Comes::Told("Deployment spring-cloud-a-mse-gray: the livenessProbe of container `spring-cloud-a` asks port 20002, which no container declares"),
    }
    strategy_that_is_null {
        manifest: |o| o[0]["spec"]["strategy"] = Value::Null,
        comes: Comes::Rendered(|copied| assert!(copied.find("Deployment")["spec"].get("strategy").is_none())),
    }
}

#[test]
fn the_name_of_a_service_is_the_value_of_a_label() {
    let baseline = service("spring-a");
    let wrong = render(&plain("spring-a-", &baseline, "gray")).expect_err("refused");
    assert_eq!(
        wrong,
        [
            "service `spring-a-`: its name must do as the value of a label: up to 63 characters, a letter or digit at the end; rename its manifest file"
        ]
    );
}

#[test]
fn a_lane_of_nacos_is_refused_because_its_baseline_has_no_version_label() {
    let nacos = service("nacos");
    let wrong = render(&plain("nacos", &nacos, "gray")).expect_err("refused");
    assert_eq!(
        wrong,
        [
            "service `nacos`: spec.selector.matchLabels of its Deployment lacks `zadigx-release-version: original`; without it baseline and lane cannot be told apart",
            "service `nacos`: spec.template.metadata.labels of its Deployment lacks `zadigx-release-version: original`; without it baseline and lane cannot be told apart",
        ]
    );
}

/// The controls of the leak test and of the test of selectors: without the label that a baseline must carry they would have to speak.
#[test]
fn with_the_guards_label_taken_away_the_same_namespace_leaks_and_overlaps() {
    let baseline = service("spring-a");
    let rendered = render(&plain("spring-a", &baseline, "gray")).expect("rendered");
    let pods: Vec<Pods> = rendered.objects.iter().filter(|o| kind(o) == "Deployment").map(Pods::of).collect();
    assert_eq!(leaks(&baseline, &pods), []);
    let mut bare = baseline.clone();
    for path in [&["spec", "selector"][..], &["spec", "selector", "matchLabels"][..]] {
        for object in &mut bare {
            if kind(object) == if path.len() == 2 { "Service" } else { "Deployment" } {
                map_at(object, path).remove(VERSION);
            }
        }
    }
    assert_eq!(leaks(&bare, &pods).len(), 1);
    let found =
        Around::of(bare.clone()).judge(&rendered.objects, &bare.iter().collect::<Vec<_>>(), &BTreeMap::new());
    assert!(
        found.wrong.iter().any(|why| why.starts_with("the selector of Deployment spring-cloud-a takes")),
        "{found:?}"
    );
}
