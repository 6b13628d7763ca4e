//! From an empty namespace to production, on both clusters: what is refused before there is a baseline, a lane that is updated
//! in place, production, its rollback, a lane that does not come up, and its end.

use serde_json::json;

use crate::support::stage::{
    DEPLOYMENTS, INGRESSES, JOBS, PLAIN, PODS, SECRETS, SERVICES, Stage, Wants, on_both,
};

const LANE: &str = r#"name: release
inputs:
  mode: { type: choice, options: [up, down, all, prod], default: up }
  images: { type: map, of: string, default: { spring-a: "spring-cloud-a:0.2", spring-c: "spring-cloud-c:0.2" } }
tasks:
  deploy:
    type: mse-gray-deploy
    when: ${{ inputs.mode == 'up' || inputs.mode == 'all' }}
    timeout: 2m
    with:
      environment: production
      tag: gray
      images: ${{ inputs.images }}
      entry: { service: spring-a, header: { name: x-user-id, value: "100" } }
  promote:
    type: prod-deploy
    needs: [deploy]
    when: ${{ inputs.mode == 'all' }}
    timeout: 2m
    with: { environment: production, images: "${{ tasks.deploy.outputs.images }}" }
  production:
    type: prod-deploy
    when: ${{ inputs.mode == 'prod' }}
    timeout: 2m
    with: { environment: production, images: "${{ inputs.images }}" }
  offline:
    type: mse-gray-offline
    when: ${{ inputs.mode == 'down' }}
    timeout: 2m
    with: { environment: production, tag: gray, drain: 100ms }
"#;

const ENVIRONMENT: &str = "config/environments/production.yaml";

async fn image(stage: &Stage, name: &str) -> String {
    let object = stage.get(DEPLOYMENTS, name).await.expect("there");
    object["spec"]["template"]["spec"]["containers"][0]["image"].as_str().expect("an image").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn from_an_empty_namespace_to_production_and_back() {
    on_both(Wants { baseline: false, ..PLAIN }, async |stage| {
        let (home, namespace) = (&stage.home, &stage.namespace);
        home.write("workflows/lane.yaml", LANE);
        let run = |arguments: &[&str]| home.graylane(&[&["run", "workflows/lane.yaml"], arguments].concat());

        home.edit(ENVIRONMENT, &format!("namespace: {namespace}\n"), "namespace: nowhere\n");
        let nowhere = run(&[]).expect(1).stdout;
        assert!(nowhere.contains("refused: there is no namespace nowhere on the cluster"), "{nowhere}");
        assert!(nowhere.contains("hint: create it"), "{nowhere}");
        home.edit(ENVIRONMENT, "namespace: nowhere\n", &format!("namespace: {namespace}\n"));
        let absent = run(&[]).expect(1).stdout;
        assert!(absent.contains("its baseline, Deployment"), "{absent}");
        assert!(absent.contains("is not on the cluster: deploy it to production first"), "{absent}");
        stage.furnish().await;
        stage.look("the baseline is up").await;

        let plan = home.graylane(&["plan", "workflows/lane.yaml"]).expect(0).stdout;
        let created = format!("+ create Deployment {namespace}/spring-cloud-a-mse-gray");
        assert!(plan.contains(&created), "{plan}");
        assert!(stage.get(DEPLOYMENTS, "spring-cloud-a-mse-gray").await.is_none(), "a plan changes nothing");

        run(&[]).expect(0);
        let first = stage.get(DEPLOYMENTS, "spring-cloud-a-mse-gray").await.expect("there");
        assert_eq!(first["status"]["availableReplicas"], 1);
        assert_eq!(image(stage, "spring-cloud-a-mse-gray").await, "spring-cloud-a:0.2");
        let secret = stage.get(SECRETS, "spring-cloud-a-mse-gray").await.expect("there");
        assert_eq!(secret["data"]["token"], "ZXhhbXBsZS10b2tlbi03ZjNhOWM=", "the cluster gets the value");
        let ingress = stage.get(INGRESSES, "spring-cloud-a-mse-gray").await.expect("there");
        let header =
            &ingress["metadata"]["annotations"]["nginx.ingress.kubernetes.io/canary-by-header-value"];
        assert_eq!(header, "100");
        stage.look("the lane is up").await;

        run(&["-i", "images.spring-a=spring-cloud-a:0.3"]).expect(0);
        let second = stage.get(DEPLOYMENTS, "spring-cloud-a-mse-gray").await.expect("there");
        assert_eq!(second["metadata"]["uid"], first["metadata"]["uid"], "updated in place");
        assert_eq!(image(stage, "spring-cloud-a-mse-gray").await, "spring-cloud-a:0.3");
        let created = "/metadata/annotations/graylane.dev~1created";
        assert_eq!(second.pointer(created), first.pointer(created), "the lane is as old as it was");
        stage.look("updated in place").await;

        run(&["-i", "mode=all", "-i", "images.spring-c=spring-cloud-c:0.4"]).expect(0);
        let promoted = image(stage, "spring-cloud-c").await;
        assert!(promoted.starts_with("spring-cloud-c") && !promoted.contains("0.1-SNAPSHOT"), "{promoted}");
        let production = stage.get(DEPLOYMENTS, "spring-cloud-c").await.expect("there");
        assert_eq!(production["status"]["availableReplicas"], 1);
        stage.look("promoted").await;

        let failed =
            run(&["-i", "mode=prod", "-i", "images.spring-c=spring-cloud-c:missing"]).expect(1).stdout;
        assert!(failed.contains("Deployment spring-cloud-c was rolled back to spring-cloud-c"), "{failed}");
        assert!(failed.contains("still up: lane `gray`"), "{failed}");
        assert_eq!(image(stage, "spring-cloud-c").await, promoted);
        stage.look("rolled back").await;
        run(&["-i", "mode=prod", "-i", "images.spring-c=spring-cloud-c:0.5"]).expect(0);
        assert_eq!(image(stage, "spring-cloud-c").await, "spring-cloud-c:0.5");

        let broken = run(&["-i", "images.spring-c=spring-cloud-c:missing"]).expect(1).stdout;
        for words in ["ImagePull", "check that image", "left to look at: Deployment spring-cloud-a-mse-gray, Deployment spring-cloud-c-mse-gray, Ingress"]
        {
            assert!(broken.contains(words), "{words}: {broken}");
        }
        stage.look("a lane that did not come up").await;

        run(&["-i", "mode=down"]).expect(0);
        for kind in [DEPLOYMENTS, SERVICES, INGRESSES, SECRETS, PODS] {
            let left = stage.list(kind, "zadigx-release-type=mse-gray").await;
            assert_eq!(left, Vec::<serde_json::Value>::new(), "{}", kind.1);
        }
        assert!(stage.get(DEPLOYMENTS, "spring-cloud-a").await.is_some(), "production stays");
        let missing = run(&["-i", "mode=down"]).expect(1).stdout;
        assert!(missing.contains("there is no lane `gray`"), "{missing}");
        let lanes = home.graylane(&["lanes", "production", "-o", "json"]).expect(0).json();
        assert_eq!(lanes, json!([]));
        home.assert_no_secret();
    })
    .await;
}

/// A lane with these checks over it, and production after it where it is asked for.
fn checked(stage: &Stage, entry: bool, checks: &str, promote: &str) {
    let entry = if entry {
        "\n      entry: { service: spring-a, header: { name: x-user-id, value: \"100\" } }"
    } else {
        ""
    };
    let text = format!(
        r#"name: release
tasks:
  deploy:
    type: mse-gray-deploy
    timeout: 2m
    with:
      environment: production
      tag: gray
      images: {{ spring-a: "spring-cloud-a:0.2", spring-c: "spring-cloud-c:0.2" }}{entry}
  verify:
    type: generic-verify
    needs: [deploy]
    timeout: 2m
    with: {{ environment: production, tag: gray, checks: [{checks}] }}
{promote}"#
    );
    stage.home.write("workflows/checked.yaml", &text);
}

const CHAIN: &str = "{ name: who enters stays, samples: 10, http: { path: /a, as: lane, expect: { status: 200, body_matches: '^Agray\\[.* -> B\\[.* -> Cgray\\[' } } }, \
    { name: nobody else meets it, samples: 10, http: { path: /a, as: baseline, expect: { status: 200, body_excludes: gray } } }";

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_is_verified_or_it_is_said_what_was_wrong() {
    on_both(PLAIN, async |stage| {
        let home = &stage.home;
        let run = || home.graylane(&["run", "workflows/checked.yaml"]);
        let none = Vec::<serde_json::Value>::new();

        checked(stage, false, CHAIN, "");
        let closed = run().expect(1).stdout;
        assert!(closed.contains("lane `gray` has no route"), "{closed}");

        let up = "{ name: up, rollout: {} }, { name: smoke, job: { image: \"smoke:1\" } }";
        checked(stage, true, &format!("{up}, {CHAIN}"), "");
        let right = run().expect(0).stdout;
        for words in ["who enters stays: 10 of 10", "nobody else meets it: 10 of 10"] {
            assert!(right.contains(words), "{words}: {right}");
        }
        assert_eq!(stage.list(JOBS, "").await, none, "the Job is gone");
        stage.look("verified").await;

        let wrong = "{ name: smoke, samples: 2, job: { image: \"smoke:exit3\" } }, { name: image, on_no_data: pass, job: { image: \"smoke:missing\" } }";
        checked(stage, true, wrong, "");
        let failed = run().expect(1).stdout;
        for words in ["check failed: smoke: 0 of 2 were right", "2 samples, the first is 1: exit code 3"] {
            assert!(failed.contains(words), "{words}: {failed}");
        }
        assert_eq!(stage.list(JOBS, "").await, none, "and so are those that failed");
    })
    .await;
}
