//! Least rights: what `graylane rbac` prints is enough for a release, and nothing in it is too much.
//!
//! The rehearsal refuses what a test forbids; a real API server has RBAC, and an identity that has nothing else.

use std::path::{Path, PathBuf};

use graylane_tasks::environment::{Site, gather};
use graylane_tasks::manifest::parse;
use graylane_tasks::readiness::{Level, check};
use graylane_tasks::rights::{Rule, Weight, rules};
use graylane_tasks::secret::DigestKey;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};

use crate::support::desk::{Desk, NAMESPACE, shown};
use crate::support::{Home, client, say};

/// How the rehearsal names a resource.
fn whole(rule: &Rule) -> String {
    match rule.resource.split_once('/') {
        _ if rule.group.is_empty() => rule.resource.clone(),
        Some((resource, subresource)) => format!("{resource}.{}/{subresource}", rule.group),
        None => format!("{}.{}", rule.resource, rule.group),
    }
}

/// Every verb of every rule: without it a plan is refused before it writes and names the rule, or a check says so.
#[tokio::test]
async fn a_right_that_is_left_out_is_named_before_the_first_write() {
    let desk = Desk::new().await;
    let spec = json!({ "tag": "gray", "images": { "spring-a": "a:2" } });
    desk.plan("mse-gray-deploy", &spec).await.expect("with all rights there is a plan");
    let mut must = 0;
    for rule in rules(&desk.site(), NAMESPACE, &[]) {
        for verb in &rule.verbs {
            desk.cluster.forbid(verb, &whole(&rule));
            let named = [*verb, rule.resource.as_str()];
            if rule.weight == Weight::Must {
                must += 1;
                let told = shown(&desk.refused("mse-gray-deploy", &spec).await);
                assert!(named.iter().all(|word| told.contains(word)), "{verb} {}: {told}", rule.resource);
                let line = format!("resources: [\"{}\"]", rule.resource);
                assert!(told.contains(&line), "the rule to add, for {verb} {}: {told}", rule.resource);
            }
            let found = check(&desk.told().await, &desk.site()).await;
            // A check that cannot even list says what the API server said.
            if let Ok(found) = found {
                let level = if rule.weight == Weight::Must { Level::Problem } else { Level::Warning };
                let finding = found.findings.iter().find(|finding| {
                    finding.check == "rights" && named.iter().all(|word| finding.message.contains(word))
                });
                let finding = finding.unwrap_or_else(|| panic!("{verb} {}: {found:#?}", rule.resource));
                assert_eq!(finding.level, level, "{finding:?}");
                assert!(finding.hint.as_ref().is_some_and(|hint| hint.contains(&rule.line())), "{finding:?}");
            }
            desk.cluster.allow_all();
        }
    }
    assert!(must >= 25, "{must} rights are needed");
}

#[test]
fn the_printed_roles_are_what_kubectl_takes_and_hold_no_rule_that_nothing_needs() {
    let home = Home::new();
    let text = home.graylane(&["rbac", "production"]).expect(0).stdout;
    let objects = parse("roles", &text).unwrap_or_else(|problems| panic!("{problems:?}\n{text}"));
    let list = home.graylane(&["rbac", "production", "-o", "json"]).expect(0).json();
    assert_eq!(Value::from(objects.clone()), list["items"], "both say the same");
    let kinds: Vec<&str> = objects.iter().filter_map(|object| object["kind"].as_str()).collect();
    assert_eq!(kinds, ["Role", "RoleBinding"], "nothing is asked of the whole cluster");
    assert_eq!(objects[1]["subjects"][0]["name"], "graylane");
    let resources = |text: &str| -> Vec<String> {
        let lines = text.lines().filter_map(|line| line.trim().strip_prefix("resources: "));
        lines.map(|line| line.trim_matches(['[', ']', '"']).to_owned()).collect()
    };
    assert!(text.contains("# For: lanes, production.") && text.contains("# Stolen: "), "{text}");
    assert!(resources(&text).contains(&"secrets".to_owned()), "spring-a has a Secret: {text}");
    assert!(!resources(&text).contains(&"jobs".to_owned()), "{text}");
    let jobs =
        home.graylane(&["rbac", "production", "--with", "jobs,adopt", "--user", "ann"]).expect(0).stdout;
    assert!(resources(&jobs).contains(&"jobs".to_owned()) && jobs.contains("name: ann"), "{jobs}");

    // Without a Secret and a ConfigMap in any manifest nobody needs to see one.
    for service in ["nacos", "spring-a", "spring-b", "spring-c"] {
        let file = format!("config/services/{service}.yaml");
        let text = std::fs::read_to_string(home.path(&file)).expect("readable");
        let objects = parse(&file, &text).expect("valid");
        let rest =
            objects.iter().filter(|object| object["kind"] != "Secret" && object["kind"] != "ConfigMap");
        let rest: Vec<String> = rest.map(graylane_tasks::manifest::yaml).collect();
        home.write(&file, &rest.join("---\n"));
    }
    let less = home.graylane(&["rbac", "production"]).expect(0).stdout;
    assert!(!resources(&less).iter().any(|one| one == "secrets" || one == "configmaps"), "{less}");
    let wrong = home.graylane(&["rbac", "producton"]).expect(2);
    assert!(wrong.stderr.contains("did you mean `production`?"), "{wrong:?}");
}

const LANE: &str = r#"name: lane
tasks:
  deploy:
    type: mse-gray-deploy
    timeout: 2m
    with:
      environment: real
      tag: gray
      images: { spring-a: "spring-cloud-a:0.2", spring-c: "spring-cloud-c:0.2" }
      entry: { service: spring-a, header: { name: x-user-id, value: "100" } }
  verify:
    type: generic-verify
    needs: [deploy]
    timeout: 2m
    with: { environment: real, tag: gray, checks: [{ name: the lane is up, rollout: {} }] }
  promote:
    type: prod-deploy
    needs: [verify]
    timeout: 2m
    with: { environment: real, images: "${{ tasks.deploy.outputs.images }}" }
  offline:
    type: mse-gray-offline
    needs: [promote]
    timeout: 2m
    with: { environment: real, tag: gray, drain: 100ms }
"#;

struct Rbac {
    admin: kube::Client,
    namespace: String,
}

impl Rbac {
    fn api(&self, object: &Value) -> Api<DynamicObject> {
        let kind = object["kind"].as_str().expect("a kind");
        let gvk = GroupVersionKind::gvk("rbac.authorization.k8s.io", "v1", kind);
        let plural = format!("{}s", kind.to_lowercase());
        Api::namespaced_with(
            self.admin.clone(),
            &self.namespace,
            &ApiResource::from_gvk_with_plural(&gvk, &plural),
        )
    }

    async fn put(&self, object: &Value) {
        let name = object["metadata"]["name"].as_str().expect("a name");
        let params = PatchParams::apply("test").force();
        self.api(object).patch(name, &params, &Patch::Apply(object)).await.expect("applied");
    }

    /// A kubeconfig of a ServiceAccount that has nothing but what it is given.
    async fn identity(&self, admin: &Path, to: &Path) {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.admin.clone(), &self.namespace);
        let made = serde_json::from_value(json!({ "metadata": { "name": "graylane" } })).expect("an account");
        accounts.create(&PostParams::default(), &made).await.expect("created");
        let request = TokenRequest {
            spec: TokenRequestSpec {
                audiences: Vec::new(),
                expiration_seconds: Some(3600),
                ..TokenRequestSpec::default()
            },
            ..TokenRequest::default()
        };
        let answer = accounts
            .create_token_request("graylane", &PostParams::default(), &request)
            .await
            .expect("a token");
        let token = answer.status.expect("answered").token;
        let file = kube::config::Kubeconfig::read_from(admin).expect("a kubeconfig");
        let mut file = serde_json::to_value(file).expect("json");
        let name = file["users"][0]["name"].clone();
        file["users"] = json!([{ "name": name, "user": { "token": token } }]);
        std::fs::write(to, file.to_string()).expect("written");
    }

    async fn lane_objects(&self) -> usize {
        let mut count = 0;
        for (group, kind, plural) in [
            ("apps", "Deployment", "deployments"),
            ("", "Service", "services"),
            ("", "Secret", "secrets"),
            ("coordination.k8s.io", "Lease", "leases"),
        ] {
            let gvk = GroupVersionKind::gvk(group, "v1", kind);
            let resource = ApiResource::from_gvk_with_plural(&gvk, plural);
            let api: Api<DynamicObject> =
                Api::namespaced_with(self.admin.clone(), &self.namespace, &resource);
            let params = if kind == "Lease" {
                ListParams::default()
            } else {
                ListParams::default().labels("zadigx-release-type=mse-gray")
            };
            count += api.list(&params).await.expect("listed").items.len();
        }
        count
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_real_api_server_the_printed_role_is_enough_and_none_of_it_can_be_left_out() {
    let Some(admin) = std::env::var_os("GRAYLANE_TEST_KUBECONFIG").map(PathBuf::from) else {
        say("least rights: not on a real API server (GRAYLANE_TEST_KUBECONFIG is not set)");
        return;
    };
    let rbac = Rbac { admin: client(&admin).await, namespace: format!("rbac-{}", std::process::id()) };
    let namespaces: Api<Namespace> = Api::all(rbac.admin.clone());
    let made =
        serde_json::from_value(json!({ "metadata": { "name": rbac.namespace } })).expect("a namespace");
    namespaces.create(&PostParams::default(), &made).await.expect("created");
    let home = Home::new();
    let kubeconfig = home.path("kubeconfig");
    rbac.identity(&admin, &kubeconfig).await;
    home.write("workflows/lane.yaml", LANE);
    home.real(&kubeconfig, &rbac.namespace, "allow: { workflows: [lane] }");
    for service in ["nacos", "spring-a", "spring-b", "spring-c"] {
        let file = home.path(&format!("config/services/{service}.yaml"));
        graylane_tasks::cluster::create_all(&rbac.admin, &rbac.namespace, &file).await.expect("created");
    }

    let nothing = home.graylane(&["run", "workflows/lane.yaml"]).expect(1).stdout;
    assert!(nothing.contains("cannot list resource"), "an identity without any right: {nothing}");
    let account = format!("{}/graylane", rbac.namespace);
    let printed =
        home.graylane(&["rbac", "real", "--service-account", &account, "-o", "json"]).expect(0).json();
    for object in printed["items"].as_array().expect("a list") {
        rbac.put(object).await;
    }
    // The API server's authorizer learns of a Role a moment later.
    let mut ran = home.graylane(&["run", "workflows/lane.yaml"]);
    for _ in 0..20 {
        if ran.code == 0 || !ran.stdout.contains("cannot ") {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(250)).await;
        ran = home.graylane(&["run", "workflows/lane.yaml"]);
    }
    let ran = ran.expect(0);
    assert!(!ran.stdout.contains("may not"), "{}", ran.stdout);
    assert_eq!(rbac.lane_objects().await, 0, "the story took everything down");

    let gathered = gather(&home.path("config/environments"), &DigestKey::new([7; 32]));
    let site = Site::load(&gathered.bundle, "real").expect("a site");
    let role = printed["items"][0].clone();
    let all = role["rules"].as_array().expect("rules").clone();
    let rules = rules(&site, &rbac.namespace, &[]);
    assert_eq!(all.len(), rules.len());
    for (at, rule) in rules.iter().enumerate() {
        let mut less = role.clone();
        less["rules"].as_array_mut().expect("rules").remove(at);
        rbac.put(&less).await;
        let mut said = String::new();
        let named = |said: &str| {
            said.contains(&rule.resource)
                && said.contains(&rule.line())
                && rule.verbs.iter().all(|verb| said.contains(verb))
        };
        for _ in 0..20 {
            // Exit code 1 in any case: there is no gateway.
            said = home.graylane(&["environment", "check", "real"]).stdout;
            if named(&said) || said.is_empty() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        assert!(named(&said) || said.is_empty(), "{}: {said}", rule.line());
        if rule.weight == Weight::Must {
            let plan = home.graylane(&["plan", "workflows/lane.yaml"]).stdout;
            assert!(plan.contains(&rule.resource), "{}: {plan}", rule.line());
            let line = format!("resources: [\"{}\"]", rule.resource);
            assert!(plan.contains(&line), "the rule to add, {}: {plan}", rule.line());
        }
    }
    assert_eq!(rbac.lane_objects().await, 0, "nothing was written without a right");
    say(&format!("least rights: {} rules on a real API server, none too much", rules.len()));
}
