//! What a check may never do, at a desk: each rule by the API's log of requests, and each with its control, in which the same thing
//! happens once the guard is off.

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use graylane_engine::task::{Plan, TaskContext};
use serde_json::{Value, json};

use crate::support::desk::{Desk, NAMESPACE, shown};
use crate::support::{Home, until};

const VERIFY: &str = "generic-verify";
const ENVIRONMENT: &str = "config/environments/production.yaml";

/// A lane judged by one check.
fn one(check: &Value) -> Value {
    let mut check = check.clone();
    check["name"] = "guarded".into();
    json!({ "tag": "gray", "checks": [check] })
}

fn operator(home: &Home, more: &str) {
    home.edit(ENVIRONMENT, "allow: {", &format!("{more}\nallow: {{"));
}

fn allowing(more: &str) -> Home {
    let home = Home::new();
    operator(&home, more);
    home
}

/// What is refused, and the sentence with which it is; what the operator says is in front.
#[tokio::test(start_paused = true)]
async fn every_refusal_of_a_check_is_made_before_the_api_server_is_asked_to_change_anything() {
    let ask = |url: &str| json!({ "http": { "url": url } });
    let table: Vec<(&str, &str, Value, &str)> = vec![
        (
            "a lane without a route",
            "",
            json!({ "http": { "path": "/a", "as": "lane" } }),
            "lane `gray` has no route: nobody can enter it",
        ),
        (
            "a host that is not listed",
            "",
            ask("http://elsewhere.example.com/"),
            "the environment does not let checks ask `elsewhere.example.com`: ask the gateway by `path`, or let the operator add `elsewhere.example.com` to `checks.hosts`",
        ),
        (
            "another port of a host that is listed",
            "checks: { hosts: [www.example.com] }",
            ask("https://www.example.com:8443/"),
            "the environment does not let checks ask `www.example.com:8443`: ask the gateway by `path`, or let the operator add `www.example.com:8443` to `checks.hosts`",
        ),
        (
            "cloud metadata, although it is listed",
            "checks: { hosts: [169.254.169.254] }",
            ask("http://169.254.169.254/latest"),
            "`169.254.169.254` is a link-local address, and is never asked: ask the service itself, by a name that `checks.hosts` lists",
        ),
        (
            "a password in an address",
            "checks: { hosts: [www.example.com] }",
            ask("https://me:secret@www.example.com/"),
            "`https://me:secret@www.example.com/` holds a name or a password: send it in a header, as a secret: write `https://HOST/PATH`",
        ),
        (
            "a program, and none is listed",
            "",
            json!({ "command": { "run": ["/bin/sh"] } }),
            "the environment lists no program for command checks: the operator adds `/bin/sh` to `checks.commands`",
        ),
        (
            "a program that is not listed",
            "checks: { commands: [/bin/true] }",
            json!({ "command": { "run": ["/bin/sh"] } }),
            "the environment does not let checks run `/bin/sh`: the operator adds `/bin/sh` to `checks.commands`",
        ),
        (
            "a program by a search path",
            "checks: { commands: [sh] }",
            json!({ "command": { "run": ["sh"] } }),
            "`sh` is not a whole path: write `/usr/local/bin/NAME`",
        ),
        (
            "an image that is not listed",
            "checks: { images: [registry.example.com/qa/] }",
            json!({ "job": { "image": "evil.test/smoke:1" } }),
            "the environment does not let checks use the image `evil.test/smoke:1`: it begins with `registry.example.com/qa/`, or the operator adds it to `checks.images`",
        ),
        (
            "metrics, and no Prometheus",
            "",
            json!({ "prometheus": { "query": "up", "min": 1 } }),
            "the environment does not say where Prometheus is: the operator adds `prometheus: { address: ... }` to its file",
        ),
        (
            "a range of too many points",
            "prometheus: { address: \"http://127.0.0.1:9\" }",
            json!({ "prometheus": { "query": "up", "min": 1, "range": { "last": "8h", "step": "1s" } } }),
            "a range has at most 11000 points: use a longer `step`",
        ),
    ];
    for (what, more, check, words) in table {
        let desk = Desk::furnished(allowing(more)).await;
        let refused = desk.plan(VERIFY, &one(&check)).await.expect_err(what);
        assert_eq!(refused.message, format!("refused: check `guarded`: {words}"), "{what}");
        assert_eq!(desk.cluster.requests(), [], "{what}: not even tried");
        desk.cluster.shutdown().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_lane_that_nobody_is_sure_to_enter_is_not_asked_as_a_lane() {
    let desk = Desk::new().await;
    let entry = json!({ "service": "spring-a", "weight": 10 });
    let lane = json!({ "tag": "gray", "images": { "spring-a": "a:2" }, "entry": entry });
    desk.run("mse-gray-deploy", &lane).await;
    let as_lane = one(&json!({ "http": { "path": "/a", "as": "lane" } }));
    let refused = desk.refused(VERIFY, &as_lane).await;
    assert!(
        refused.message.starts_with(
            "refused: check `guarded`: no single request is sure to enter the lane: the route lets in 10 %"
        ),
        "{}",
        refused.message
    );
    // The control: by a header, one is.
    let entry = json!({ "service": "spring-a", "header": { "name": "x-user-id", "value": "100" } });
    desk.run("mse-gray-deploy", &json!({ "tag": "gray", "images": { "spring-a": "a:2" }, "entry": entry }))
        .await;
    desk.plan(VERIFY, &as_lane).await.expect("planned");
}

/// What a check would change is told, once a sample.
#[tokio::test(start_paused = true)]
async fn a_check_that_writes_is_told_with_its_number_of_samples() {
    let desk = Desk::furnished(Home::new()).await;
    let check = |method: &str| {
        let mut check = one(&json!({ "http": { "path": "/a", "method": method } }));
        check["checks"][0]["samples"] = 20.into();
        check
    };
    let plan = desk.plan(VERIFY, &check("POST")).await.expect("planned");
    assert_eq!(plan.warnings, ["check `guarded` sends POST 20 times: what it changes is not taken back"]);
    let plan = desk.plan(VERIFY, &check("GET")).await.expect("planned");
    assert_eq!(plan.warnings, Vec::<String>::new());
}

const SMOKE: &str = "echo begun\nsleep 30\necho done";

fn smoke() -> Value {
    one(&json!({ "job": { "image": "smoke:1", "script": SMOKE } }))
}

fn jobs(desk: &Desk) -> Vec<Value> {
    desk.cluster.objects("jobs.batch", NAMESPACE)
}

/// Carries a plan out until its script has begun, and does something then.
async fn once_begun<T>(
    desk: &Desk,
    context: &TaskContext,
    plan: &Plan,
    then: impl AsyncFnOnce() -> T,
) -> (T, Result<(), String>) {
    let task = desk.task(VERIFY);
    let running = task.run(context, plan);
    tokio::pin!(running);
    for _ in 0..1_000 {
        tokio::select! {
            ended = &mut running => panic!("it ended early: {ended:?}"),
            () = tokio::time::sleep(Duration::from_millis(20)) => {}
        }
        if desk.said().iter().any(|line| line == "guarded: begun") {
            let did = then().await;
            let ended = running.await;
            return (did, ended.map(drop).map_err(|error| error.message));
        }
    }
    panic!("the script never began: {:?}", desk.said());
}

#[tokio::test(start_paused = true)]
async fn a_check_that_is_cancelled_takes_its_job_along() {
    let desk = Desk::new().await;
    let context = desk.context(&smoke());
    let plan = desk.task(VERIFY).plan(&context).await.expect("planned");
    let (found, ended) = once_begun(&desk, &context, &plan, async || {
        let found = jobs(&desk);
        context.cancel.cancel();
        found
    })
    .await;
    assert_eq!(found.len(), 1, "there was one to take along");
    assert_eq!(ended, Err("stopped while checking: guarded".into()));
    assert_eq!(jobs(&desk), Vec::<Value>::new());
}

/// The control of the same: an attempt that has no time to tidy up leaves the Job, and the next one of its run takes it away.
#[tokio::test(start_paused = true)]
async fn control_a_check_that_is_cut_off_leaves_its_job_and_the_next_attempt_finds_it() {
    let desk = Desk::new().await;
    let context = desk.context(&smoke());
    let plan = desk.task(VERIFY).plan(&context).await.expect("planned");
    let cut = tokio::time::timeout(Duration::from_secs(5), desk.task(VERIFY).run(&context, &plan)).await;
    assert!(cut.is_err(), "it takes longer");
    let left = jobs(&desk);
    assert_eq!(left.len(), 1, "nobody took it along");
    let again = desk.task(VERIFY).run(&context, &plan).await.expect("done");
    assert!(again.report.iter().any(|line| line.contains("1 of 1")), "{:?}", again.report);
    assert!(desk.said().iter().any(|line| line.ends_with("is found again")), "{:?}", desk.said());
    assert_eq!(jobs(&desk), Vec::<Value>::new());
}

#[tokio::test(start_paused = true)]
async fn a_job_that_outlives_its_deadline_is_wrong_and_gone() {
    let desk = Desk::new().await;
    let spec = one(&json!({ "job": { "image": "smoke:1", "script": SMOKE, "deadline": "4s" } }));
    let context = desk.context(&spec);
    let plan = desk.task(VERIFY).plan(&context).await.expect("planned");
    let failed = desk.task(VERIFY).run(&context, &plan).await.expect_err("late");
    assert!(shown(&failed).contains("it did not end within 4.0s: begun"), "{}", shown(&failed));
    assert_eq!(jobs(&desk), Vec::<Value>::new());
    // The control: with time enough the same script is right.
    desk.run(VERIFY, &smoke()).await;
}

/// A Service that selects what pods of checks carry.
fn hungry() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "hungry" },
        "spec": { "selector": { "msePilotAutoEnable": "off" }, "ports": [{ "port": 80, "protocol": "TCP" }] },
    })
}

#[tokio::test(start_paused = true)]
async fn no_service_sends_requests_to_the_pod_of_a_check() {
    let desk = Desk::new().await;
    desk.create(&hungry(), "kubectl").await;
    assert_eq!(
        shown(&desk.refused(VERIFY, &smoke()).await),
        "refused: check `guarded`: Service hungry would send requests to the pod of the check\nhint: change the selector of Service hungry: it selects labels of checks"
    );
    desk.delete("Service", "hungry").await;
    // It comes between the plan and the pod: the pod goes at once.
    let plan = desk.plan(VERIFY, &smoke()).await.expect("planned");
    desk.create(&hungry(), "kubectl").await;
    let met = desk.carry_out(VERIFY, &smoke(), &plan).await.expect_err("met");
    assert_eq!(
        met.message,
        "check `guarded`: Service hungry sends requests to the pod of the check, which was removed"
    );
    assert_eq!(jobs(&desk), Vec::<Value>::new());
    desk.delete("Service", "hungry").await;
    // The control: it comes when nobody looks any more, and the cluster's own controller sends requests there.
    let context = desk.context(&smoke());
    let plan = desk.task(VERIFY).plan(&context).await.expect("planned");
    let (listed, ended) = once_begun(&desk, &context, &plan, async || {
        desk.create(&hungry(), "kubectl").await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        let all = desk.cluster.objects("endpoints", NAMESPACE);
        let found = all.into_iter().find(|one| one["metadata"]["name"] == "hungry").expect("there");
        let addresses = found.pointer("/subsets/0/addresses").and_then(Value::as_array).cloned();
        let pods = addresses.unwrap_or_default().into_iter();
        pods.filter(|address| address["targetRef"]["name"].to_string().contains("check-")).count()
    })
    .await;
    assert_eq!((listed, ended), (1, Ok(())), "it would have been met");
}

/// The pod of a check as the cluster has it: without a token, without the agent that every other pod of the namespace gets.
#[tokio::test(start_paused = true)]
async fn the_pod_of_a_check_gets_no_token_and_no_agent() {
    let desk = Desk::new().await;
    let context = desk.context(&smoke());
    let plan = desk.task(VERIFY).plan(&context).await.expect("planned");
    let (pods, _) =
        once_begun(&desk, &context, &plan, async || desk.cluster.objects("pods", NAMESPACE)).await;
    let has_agent = |pod: &Value| pod.to_string().contains("one-pilot-initcontainer");
    let (checks, others): (Vec<&Value>, Vec<&Value>) =
        pods.iter().partition(|pod| pod["metadata"]["labels"].get("graylane.dev/check").is_some());
    assert_eq!(checks.len(), 1);
    assert_eq!(checks[0]["spec"]["automountServiceAccountToken"], false);
    assert!(!has_agent(checks[0]), "{}", checks[0]);
    // The control: whoever does not say so gets it.
    let enrolled = others.iter().filter(|pod| has_agent(pod));
    assert!(enrolled.count() >= 3, "{others:?}");
}

/// A server that counts who connects.
fn counting() -> (String, Arc<AtomicUsize>) {
    use std::io::{Read as _, Write as _};
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = listener.local_addr().expect("an address").to_string();
    let met = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&met);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            counted.fetch_add(1, Ordering::SeqCst);
            let mut head = [0; 1024];
            let _ = stream.read(&mut head);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok");
        }
    });
    (address, met)
}

#[tokio::test]
async fn a_host_is_asked_only_where_the_operator_lists_it() {
    let (address, met) = counting();
    let check = one(&json!({ "http": { "url": format!("http://{address}/") } }));
    let desk = Desk::furnished(Home::new()).await;
    let refused = desk.refused(VERIFY, &check).await;
    assert!(refused.message.contains("does not let checks ask"), "{}", refused.message);
    assert_eq!(met.load(Ordering::SeqCst), 0, "nobody connected");
    // The control: the operator lists it, and it is asked.
    operator(&desk.home, &format!("checks: {{ hosts: [\"{address}\"] }}"));
    desk.run(VERIFY, &check).await;
    assert_eq!(met.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_program_runs_only_where_the_operator_lists_it() {
    let desk = Desk::furnished(Home::new()).await;
    let mark = desk.home.path("mark");
    let script = format!("echo here > {}", mark.display());
    let check = one(&json!({ "command": { "run": ["/bin/sh", "-c", script] } }));
    desk.refused(VERIFY, &check).await;
    assert!(!mark.exists(), "nothing ran");
    // The control: the operator lists it, and it runs.
    operator(&desk.home, "checks: { commands: [/bin/sh] }");
    desk.run(VERIFY, &check).await;
    assert!(mark.exists());
}

/// Whether a process does anything any more; one that only waits to be reaped does not.
fn is_alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid).join("stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// A program that starts another one, and says which.
fn helper(mark: &Path) -> String {
    format!("sleep 60 & echo $! > {}; wait", mark.display())
}

fn started(mark: &Path) -> String {
    let mut pid = String::new();
    until("the helper has started", || {
        pid = std::fs::read_to_string(mark).unwrap_or_default().trim().to_owned();
        !pid.is_empty()
    });
    pid
}

#[tokio::test]
async fn a_program_that_is_late_ends_with_everything_that_it_started() {
    let home = allowing("checks: { commands: [/bin/sh] }");
    let desk = Desk::furnished(home).await;
    let mark = desk.home.path("pid");
    let run = json!({ "run": ["/bin/sh", "-c", helper(&mark)], "deadline": "1s" });
    let plan = desk.plan(VERIFY, &one(&json!({ "command": run }))).await.expect("planned");
    let late = desk.carry_out(VERIFY, &one(&json!({ "command": run })), &plan).await.expect_err("late");
    assert!(shown(&late).contains("it did not end within 1.0s, and was killed"), "{}", shown(&late));
    let pid = started(&mark);
    until("the helper is gone", || !is_alive(&pid));
    // The control: without its group, the program goes and what it started stays.
    let mark = desk.home.path("other");
    let mut alone =
        std::process::Command::new("/bin/sh").args(["-c", &helper(&mark)]).spawn().expect("started");
    let pid = started(&mark);
    alone.kill().expect("killed");
    alone.wait().expect("waited for");
    assert!(is_alive(&pid), "nobody ended it");
    assert!(std::process::Command::new("kill").arg(&pid).status().expect("kill is there").success());
}
