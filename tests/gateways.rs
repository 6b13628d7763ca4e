//! A lane by each kind of gateway, told on both clusters with real traffic; and what a gateway of another kind makes of it.

use crate::support::stage::{PLAIN, Stage, Wants, on_both, on_the_rehearsal};
use crate::support::{Home, ask, shape, until};

const BASELINE: &str = "A -> B -> C";
const LANE: &str = "Agray -> B -> Cgray";

const HTTP_ROUTE: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: spring-cloud-a
spec:
  parentRefs: [{ name: gateway }]
  hostnames: [example.com]
  rules:
    - matches: [{ path: { type: PathPrefix, value: / } }]
      backendRefs: [{ name: spring-cloud-a-base, port: 20001 }]
";

fn workflow(entry: &str) -> String {
    format!(
        r#"name: release
inputs:
  mode: {{ type: choice, options: [up, down], default: up }}
tasks:
  deploy:
    type: mse-gray-deploy
    when: ${{{{ inputs.mode == 'up' }}}}
    with:
      environment: production
      tag: gray
      images:
        spring-a: registry.cn-shanghai.aliyuncs.com/yizhan/spring-cloud-a:0.2-SNAPSHOT
        spring-c: registry.cn-shanghai.aliyuncs.com/yizhan/spring-cloud-c:0.2-SNAPSHOT
      entry: {{ service: spring-a, {entry} }}
  verify:
    type: generic-verify
    needs: [deploy]
    when: ${{{{ inputs.mode == 'up' }}}}
    with:
      environment: production
      tag: gray
      checks:
        - name: who enters stays on the lane
          samples: 20
          http: {{ path: /a, as: lane, expect: {{ body_matches: '^Agray\[.* -> B\[.* -> Cgray\[' }} }}
        - name: everybody else never meets it
          samples: 20
          http: {{ path: /a, as: baseline, expect: {{ body_excludes: gray }} }}
  offline:
    type: mse-gray-offline
    when: ${{{{ inputs.mode == 'down' }}}}
    with: {{ environment: production, tag: gray, drain: 500ms }}
"#
    )
}

/// Gives the environment a gateway of this kind, and routes production for this class.
pub(crate) fn prepare(home: &Home, kind: &str, class: &str, entry: &str) {
    home.edit(
        "config/environments/production.yaml",
        "gateway: { kind: mse, address: \"http://127.0.0.1:8080\", ingress_class: mse }",
        &format!(
            "gateway: {{ kind: {kind}, address: \"http://127.0.0.1:8080\", ingress_class: \"{class}\" }}"
        ),
    );
    if kind == "gateway-api" {
        let text = std::fs::read_to_string(home.path("config/services/spring-a.yaml")).expect("there");
        let documents = text.split("---\n").map(|document| {
            if document.contains("kind: Ingress") { HTTP_ROUTE.to_owned() } else { document.to_owned() }
        });
        home.write("config/services/spring-a.yaml", &documents.collect::<Vec<_>>().join("---\n"));
    } else {
        home.edit(
            "config/services/spring-a.yaml",
            "ingressClassName: mse",
            &format!("ingressClassName: {class}"),
        );
    }
    home.write("workflows/release.yaml", &workflow(entry));
}

/// How many of twenty requests with these headers are answered in this shape.
fn answered(stage: &Stage, headers: &[(&str, &str)], wanted: &str) -> usize {
    let right = |_: &usize| {
        let answer = ask(&stage.gateway, "/a", headers);
        answer.status == 200 && shape(&answer.body) == wanted
    };
    (0..20).filter(right).count()
}

/// Up, verified, met by those who enter and by nobody else, and down again.
async fn story(kind: &str, class: &str, entry: &str, enter: &[(&str, &str)], stay_out: &[&[(&str, &str)]]) {
    let prepare = |home: &Home| prepare(home, kind, class, entry);
    let wants = Wants { prepare: &prepare, http_routes: kind == "gateway-api", ..PLAIN };
    on_both(wants, async |stage| {
        let home = &stage.home;
        until("the baseline answers", || ask(&stage.gateway, "/a", &[]).status == 200);
        let met = answered(stage, enter, BASELINE);
        assert_eq!(met, 20, "{kind}: without a lane everybody meets the baseline");
        home.graylane(&["run", "workflows/release.yaml"]).expect(0);
        assert_eq!(answered(stage, enter, LANE), 20, "{kind}: who enters stays on the lane");
        for headers in stay_out {
            assert_eq!(answered(stage, headers, BASELINE), 20, "{kind}: {headers:?} stays out");
        }
        stage.look("the lane is up").await;
        home.graylane(&["run", "workflows/release.yaml", "-i", "mode=down"]).expect(0);
        assert_eq!(answered(stage, enter, BASELINE), 20, "{kind}: the lane is gone");
        let lanes = home.graylane(&["lanes", "production", "-o", "json"]).expect(0);
        assert!(!lanes.stdout.contains("gray"), "{}", lanes.stdout);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_behind_mse_by_cookie() {
    let entry = "cookie: { name: lane, value: \"a.b\" }";
    story(
        "mse",
        "mse",
        entry,
        &[("cookie", "lane=a.b")],
        &[&[], &[("cookie", "lane=a.c")], &[("cookie", "lane=axb")]],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_behind_higress_by_a_value_that_would_be_a_pattern() {
    let entry = "header: { name: x-version, value: \"1.0\" }";
    story("higress", "higress", entry, &[("x-version", "1.0")], &[&[], &[("x-version", "1x0")]]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_behind_ingress_nginx_by_the_tag_itself() {
    let entry = "header: { name: x-mse-tag, value: gray }";
    story("ingress-nginx", "nginx", entry, &[("x-mse-tag", "gray")], &[&[], &[("x-user-id", "100")]]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_behind_a_gateway_of_the_gateway_api() {
    let entry = "header: { name: x-user-id, value: \"100\" }";
    story("gateway-api", "mse", entry, &[("x-user-id", "100")], &[&[], &[("x-user-id", "1000")]]).await;
}

/// The control: what is written for MSE says too little to Higress, and traffic shows it.
#[tokio::test(flavor = "multi_thread")]
async fn a_route_that_was_written_for_another_kind_loses_the_tag() {
    let prepare = |home: &Home| {
        prepare(home, "mse", "higress", "header: { name: x-user-id, value: \"100\" }");
    };
    on_the_rehearsal(Wants { prepare: &prepare, ..PLAIN }, async |stage| {
        until("the baseline answers", || ask(&stage.gateway, "/a", &[]).status == 200);
        stage.home.graylane(&["run", "workflows/release.yaml", "--skip", "verify"]).expect(0);
        let enter = [("x-user-id", "100")];
        until("the route is known", || shape(&ask(&stage.gateway, "/a", &enter).body).starts_with("Agray"));
        let met = answered(stage, &enter, "Agray -> B -> C");
        assert_eq!(met, 20, "Higress does not read MSE's header control");
    })
    .await;
}
