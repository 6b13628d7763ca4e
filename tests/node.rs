//! The seed's story on pods that really run, and what only a real node can say: images that cannot be pulled, containers that
//! end with words of their own, scripts that are run.
//!
//! The node is in a network of its own, so the test starts itself again inside. Where the machine cannot have such a node, the
//! test says why.

use std::path::{Path, PathBuf};

use crate::story::seeds_story;
use crate::support::node::Node;
use crate::support::stage::{DEPLOYMENTS, PLAIN, Stage, Wants, on_a_node};
use crate::support::{GRAY, Home, Load, ask, say, shape, until};

/// Set for the test that runs on the node: the cluster's kubeconfig.
const ON_THE_NODE: &str = "GRAYLANE_TEST_ON_THE_NODE";

#[tokio::test(flavor = "multi_thread")]
async fn the_seeds_story_on_pods_that_really_run() {
    if let Some(kubeconfig) = std::env::var_os(ON_THE_NODE).map(PathBuf::from) {
        return told(&kubeconfig).await;
    }
    let node = match Node::up() {
        Ok(node) => node,
        Err(why) => return say(&format!("a real node: not here: {why}")),
    };
    let this = std::env::current_exe().expect("a path");
    let status = node
        .inside(&this)
        .args(["--exact", "node::the_seeds_story_on_pods_that_really_run", "--nocapture"])
        .env(ON_THE_NODE, node.kubeconfig())
        .status()
        .expect("started");
    assert!(status.success(), "the stories on the node: {status}");
}

/// The example, as a team would have it on a cluster whose nodes have the images: pods are ready when they answer.
const ON_A_NODE: Wants<'static> = Wants { prepare: &as_on_a_node, ..PLAIN };

fn as_on_a_node(home: &Home) {
    // No registry answers on the node, and none will come back.
    home.edit(
        "config/environments/production.yaml",
        "cluster: rehearsal\n",
        "cluster: rehearsal\nrollout: { image: 5s, restarts: 2 }\n",
    );
    for service in ["nacos", "spring-a", "spring-b", "spring-c"] {
        let file = format!("config/services/{service}.yaml");
        home.edit(&file, "imagePullPolicy: Always", "imagePullPolicy: IfNotPresent");
    }
    for (service, port) in [("spring-a", 20001), ("spring-b", 20002), ("spring-c", 20003)] {
        let probe = format!(
            "        readinessProbe:\n          tcpSocket:\n            port: {port}\n          periodSeconds: 1\n        livenessProbe:\n"
        );
        home.edit(&format!("config/services/{service}.yaml"), "        livenessProbe:\n", &probe);
    }
}

async fn told(kubeconfig: &Path) {
    on_a_node(kubeconfig, ON_A_NODE, seeds_story).await;
    say("a real node: the seed's story");
    on_a_node(kubeconfig, ON_A_NODE, what_goes_wrong).await;
    say("a real node: what goes wrong");
}

const CHECK: &str = r#"name: release
tasks:
  verify:
    type: generic-verify
    with:
      environment: production
      tag: gray
      checks:
        - name: smoke
          job: { image: "tools:1", script: "echo begun as $(id -u)\nexit 4", exit_codes: [4] }
"#;

async fn what_goes_wrong(stage: &Stage) {
    let home = &stage.home;
    until("the baseline answers", || ask(&stage.gateway, "/a", &[]).status == 200);
    let load = Load::with(&stage.gateway, &[&[]]);
    let repository = "registry.cn-shanghai.aliyuncs.com/yizhan/spring-cloud";
    let a = format!("images.spring-a={repository}-a:0.2-SNAPSHOT");
    let c = |tag: &str| format!("images.spring-c={repository}-c:{tag}");

    let lane = ["run", "workflows/mse-gray-workflow.yaml", "-i", &a, "-i"];
    let missing = home.graylane(&[&lane[..], &[&c("missing")]].concat()).expect(1);
    for words in ["container spring-cloud-c: ", "ImagePull", "hint: check that image"] {
        assert!(missing.stdout.contains(words), "{words}: {}", missing.stdout);
    }
    let crashed = home.graylane(&["run", "workflows/prod-workflow.yaml", "-i", &c("crash")]).expect(1).stdout;
    for words in ["(exit code 3)", "the pool of connections is empty", "was rolled back to"] {
        assert!(crashed.contains(words), "{words}: {crashed}");
    }
    let production = stage.get(DEPLOYMENTS, "spring-cloud-c").await.expect("there");
    let container = &production["spec"]["template"]["spec"]["containers"][0]["image"];
    assert_eq!(container, &format!("{repository}-c:0.1-SNAPSHOT"));

    home.graylane(&["run", "workflows/mse-gray-workflow.yaml"]).expect(0);
    assert_eq!(shape(&ask(&stage.gateway, "/a", GRAY).body), "Agray -> B -> Cgray");
    home.write("workflows/check.yaml", CHECK);
    home.graylane(&["run", "workflows/check.yaml"]).expect(0);
    let log = home.graylane(&["runs", "logs", "latest"]).expect(0).stdout;
    assert!(log.contains("smoke: begun as ") && log.contains("exit code 4"), "{log}");
    home.graylane(&["run", "workflows/mse-gray-workflow.yaml", "-i", "mode=down"]).expect(0);

    let met = load.stop();
    let fine = met[0].keys().all(|answer| answer == "200 A -> B -> C");
    assert!(fine, "nobody else met any of it: {met:?}");
}
