//! Traffic: lanes by header, leaks without the agent, drains that come too late.

use std::time::Duration;

use serde_json::json;

use super::support::*;
use crate::{Delays, Rehearsal, RehearsalOptions};

const BASELINE: &str = "A[config=base] -> B -> C";
const GRAY: &str = "Agray[config=base] -> B -> Cgray";
const PATIENCE: Duration = Duration::from_secs(20);

async fn up() -> Rehearsal {
    let rehearsal = fast().await;
    assert!(rehearsal.seed(SPACE, &enrolled(), baseline(), "platform").await.unwrap());
    rehearsal.wait_ready(SPACE, PATIENCE).await.unwrap();
    answers(&rehearsal, &[], BASELINE).await;
    rehearsal
}

/// Waits until a request with the headers is answered in the shape given.
async fn answers(rehearsal: &Rehearsal, headers: &[(&str, &str)], expected: &str) {
    let gateway = rehearsal.gateway_addr();
    eventually(expected, || async move {
        let answer = get(gateway, "/a", headers).await;
        (answer.status == 200 && shape(&answer.body) == expected).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_gray_lane_takes_its_user_and_nobody_else_in_200_of_200_requests() {
    let rehearsal = up().await;
    let gateway = rehearsal.gateway_addr();
    assert_eq!(shape(&get(gateway, "/a", &[("x-user-id", "100")]).await.body), BASELINE);
    apply(&rehearsal.client(), SPACE, gray_lane()).await;
    rehearsal.wait_ready(SPACE, PATIENCE).await.unwrap();
    answers(&rehearsal, &[("x-user-id", "100")], GRAY).await;
    for _ in 0..100 {
        assert_eq!(shape(&get(gateway, "/a", &[]).await.body), BASELINE);
        let gray = get(gateway, "/a", &[("x-user-id", "100")]).await;
        assert_eq!((gray.status, shape(&gray.body).as_str()), (200, GRAY));
        assert_eq!(gray.route, format!("{SPACE}/spring-cloud-a-mse-gray"));
        assert!(
            gray.chain.starts_with(&format!(
                "spring-cloud-a={REGISTRY}/spring-cloud-a:v2@spring-cloud-a-mse-gray-"
            )),
            "{}",
            gray.chain
        );
    }
    for other in ["101", "always", "never"] {
        assert_eq!(shape(&get(gateway, "/a", &[("x-user-id", other)]).await.body), BASELINE);
    }
    assert_eq!(get_from(gateway, "nowhere.org", "/a", &[]).await.status, 404);
    assert_eq!(get_from(gateway, "example.com:8080", "/a", &[]).await.status, 200);
    rehearsal.shutdown().await;
}

#[tokio::test]
async fn without_the_agent_a_lane_leaks_into_production() {
    let rehearsal = up().await;
    rehearsal.cluster().set_agent(false);
    apply(&rehearsal.client(), SPACE, vec![deployment("c", "gray", "v2")]).await;
    rehearsal.wait_ready(SPACE, PATIENCE).await.unwrap();
    answers(&rehearsal, &[], "A[config=base] -> B -> Cgray").await;
    rehearsal.shutdown().await;
}

#[tokio::test]
async fn a_marked_request_keeps_its_tag_through_a_hop_that_is_on_no_lane() {
    let rehearsal = up().await;
    apply(&rehearsal.client(), SPACE, vec![deployment("c", "gray", "v2")]).await;
    rehearsal.wait_ready(SPACE, PATIENCE).await.unwrap();
    answers(&rehearsal, &[("x-mse-tag", "gray")], "A[config=base] -> B -> Cgray").await;
    assert_eq!(shape(&get(rehearsal.gateway_addr(), "/a", &[]).await.body), BASELINE);
    rehearsal.shutdown().await;
}

#[tokio::test]
async fn a_pod_named_by_digest_answers_with_the_tag_that_it_was_built_under() {
    let rehearsal = up().await;
    let id = rehearsal.cluster().objects("pods", SPACE).iter().find_map(|pod| {
        let id = pod["status"]["containerStatuses"][0]["imageID"].as_str()?;
        id.contains("spring-cloud-c").then(|| id.to_owned())
    });
    let id = id.unwrap();
    assert_eq!(rehearsal.cluster().tag_of(&id).unwrap(), format!("{REGISTRY}/spring-cloud-c:0.1-SNAPSHOT"));
    let mut by_digest = deployment("c", "", "x");
    by_digest["spec"]["template"]["spec"]["containers"][0]["image"] = id.into();
    apply(&rehearsal.client(), SPACE, vec![by_digest]).await;
    rehearsal.wait_ready(SPACE, PATIENCE).await.unwrap();
    let gateway = rehearsal.gateway_addr();
    eventually("the new pod answers", || async move {
        let answer = get(gateway, "/a", &[]).await;
        answer
            .chain
            .contains(&format!("spring-cloud-c={REGISTRY}/spring-cloud-c:0.1-SNAPSHOT@"))
            .then_some(())
    })
    .await;
    rehearsal.shutdown().await;
}

#[tokio::test]
async fn a_dying_pod_refuses_connections_before_the_gateway_knows() {
    let mut delays = Delays::fast();
    delays.gateway_endpoints = crate::Span::millis(400, 400);
    let rehearsal =
        Rehearsal::start(RehearsalOptions { delays, ..RehearsalOptions::default() }).await.unwrap();
    rehearsal.seed(SPACE, &enrolled(), baseline(), "platform").await.unwrap();
    rehearsal.wait_ready(SPACE, PATIENCE).await.unwrap();
    answers(&rehearsal, &[], BASELINE).await;
    apply(&rehearsal.client(), SPACE, vec![deployment("a", "", "v3")]).await;
    let gateway = rehearsal.gateway_addr();
    let failed = eventually("a failed request", || async move {
        let answer = get(gateway, "/a", &[]).await;
        (answer.status != 200).then_some(answer)
    })
    .await;
    assert_eq!(failed.status, 502, "{}", failed.body);
    answers(&rehearsal, &[], BASELINE).await;
    rehearsal.shutdown().await;
}

#[tokio::test]
async fn services_answer_as_the_demo_does() {
    let rehearsal = up().await;
    let gateway = rehearsal.gateway_addr();
    let body = get(gateway, "/a", &[]).await.body;
    let address = |text: &str| text.starts_with("10.244.") && !text.contains(' ');
    let parts: Vec<&str> = body.split(['[', ']']).collect();
    assert!(address(parts[1]) && address(parts[5]) && address(parts[7]), "{body}");
    assert_eq!(
        shape(&get(gateway, "/a2bc", &[]).await.body),
        "A[config=base] -> C\nA[config=base] -> B -> C"
    );
    assert_eq!(get(gateway, "/unknown", &[]).await.status, 404);
    let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"value": "gray-config"}});
    let mut changed = deployment("a", "", "v2");
    changed["spec"]["template"]["spec"]["containers"][0]["env"] = json!([{"name": "custom.config.value", "valueFrom": {"configMapKeyRef": {"name": "a", "key": "value"}}}]);
    apply(&rehearsal.client(), SPACE, vec![config, changed]).await;
    answers(&rehearsal, &[], "A[config=gray-config] -> B -> C").await;
    rehearsal.shutdown().await;
}

#[tokio::test]
async fn a_sleep_before_the_stop_lets_the_gateway_learn_and_nobody_notices_the_rollout() {
    let mut delays = Delays::fast();
    delays.gateway_endpoints = crate::Span::millis(200, 200);
    delays.probes = 1.0;
    let rehearsal =
        Rehearsal::start(RehearsalOptions { delays, ..RehearsalOptions::default() }).await.unwrap();
    let with_sleep = |image: &str| {
        let mut manifest = deployment("a", "", image);
        let hook = json!({"preStop": {"exec": {"command": ["sh", "-c", "sleep 1"]}}});
        manifest["spec"]["template"]["spec"]["containers"][0]["lifecycle"] = hook;
        manifest
    };
    let manifests = baseline().into_iter().map(|manifest| {
        if manifest["kind"] == "Deployment" && manifest["metadata"]["name"] == "spring-cloud-a" {
            with_sleep("v1")
        } else {
            manifest
        }
    });
    rehearsal.seed(SPACE, &enrolled(), manifests.collect(), "platform").await.unwrap();
    rehearsal.wait_ready(SPACE, PATIENCE).await.unwrap();
    answers(&rehearsal, &[], BASELINE).await;
    apply(&rehearsal.client(), SPACE, vec![with_sleep("v2")]).await;
    let until = tokio::time::Instant::now() + Duration::from_millis(2500);
    let mut last = String::new();
    while tokio::time::Instant::now() < until {
        let answer = get(rehearsal.gateway_addr(), "/a", &[]).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        last = answer.chain;
    }
    assert!(last.contains("spring-cloud-a:v2@"), "{last}");
    rehearsal.shutdown().await;
}

#[tokio::test]
async fn the_whole_story_with_realistic_delays_takes_less_than_fifteen_seconds() {
    let start = tokio::time::Instant::now();
    let rehearsal = Rehearsal::start(RehearsalOptions { retry_connect: true, ..RehearsalOptions::default() })
        .await
        .unwrap();
    rehearsal.seed(SPACE, &enrolled(), baseline(), "platform").await.unwrap();
    rehearsal.wait_ready(SPACE, PATIENCE).await.unwrap();
    answers(&rehearsal, &[], BASELINE).await;
    apply(&rehearsal.client(), SPACE, gray_lane()).await;
    rehearsal.wait_ready(SPACE, PATIENCE).await.unwrap();
    answers(&rehearsal, &[("x-user-id", "100")], GRAY).await;
    apply(&rehearsal.client(), SPACE, vec![deployment("c", "", "v2"), deployment("a", "", "v2")]).await;
    rehearsal.wait_ready(SPACE, PATIENCE).await.unwrap();
    let gateway = rehearsal.gateway_addr();
    eventually("production runs v2", || async move {
        let chain = get(gateway, "/a", &[]).await.chain;
        (chain.contains("spring-cloud-a:v2@") && chain.contains("spring-cloud-c:v2@")).then_some(())
    })
    .await;
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    rehearsal.shutdown().await;
}

#[tokio::test]
async fn a_canary_without_endpoints_falls_back_and_a_base_without_them_is_unavailable() {
    let rehearsal = fast().await;
    let mut lane = gray_lane();
    let routes = lane.split_off(2);
    let mut manifests = baseline();
    manifests.extend(routes);
    rehearsal.seed(SPACE, &enrolled(), manifests, "platform").await.unwrap();
    rehearsal.wait_ready(SPACE, PATIENCE).await.unwrap();
    // The route is there and marks the request; nothing of the lane runs.
    answers(&rehearsal, &[("x-user-id", "100")], BASELINE).await;
    let mut none = deployment("a", "", "0.1-SNAPSHOT");
    none["spec"]["replicas"] = 0.into();
    apply(&rehearsal.client(), SPACE, vec![none]).await;
    let gateway = rehearsal.gateway_addr();
    eventually("503", || async move { (get(gateway, "/a", &[]).await.status == 503).then_some(()) }).await;
    rehearsal.shutdown().await;
}
