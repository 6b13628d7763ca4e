//! Who may do what, written down by hand: every operation of the API, every kind of caller, and the answer.
//!
//! The table is what was meant, and shares nothing with the one that routes are made of. Where a caller may, the answer is
//! the good one: every operation is carried out under every role that may.

use serde_json::{Value, json};

use crate::support::daemon::{Daemon, QUICK, Reply, WAITS, submission};
use crate::support::{Home, until};

/// Callers: nobody, viewer, operator, approver, admin, and the owner over the socket.
const TABLE: &[(&str, [u16; 6])] = &[
    // operation         nobody viewer operator approver admin owner
    ("getHealth", [200, 200, 200, 200, 200, 200]),
    ("getDocument", [200, 200, 200, 200, 200, 200]),
    ("isAlive", [200, 200, 200, 200, 200, 200]),
    ("isReady", [200, 200, 200, 200, 200, 200]),
    ("getMetrics", [401, 200, 200, 200, 200, 200]),
    ("listWorkflows", [401, 200, 200, 200, 200, 200]),
    ("getWorkflow", [401, 200, 200, 200, 200, 200]),
    ("getWorkflowHistory", [401, 200, 200, 200, 200, 200]),
    ("runWorkflow", [401, 403, 200, 403, 200, 200]),
    ("pauseWorkflow", [401, 403, 200, 403, 200, 200]),
    ("unpauseWorkflow", [401, 403, 200, 403, 200, 200]),
    ("getMe", [401, 200, 200, 200, 200, 200]),
    ("listRuns", [401, 200, 200, 200, 200, 200]),
    ("getRun", [401, 200, 200, 200, 200, 200]),
    ("diffRuns", [401, 200, 200, 200, 200, 200]),
    ("getStatus", [401, 200, 200, 200, 200, 200]),
    ("listFreezes", [401, 200, 200, 200, 200, 200]),
    ("freezeEnvironment", [401, 403, 200, 403, 200, 200]),
    ("thawEnvironment", [401, 403, 200, 403, 200, 200]),
    ("getRunLog", [401, 200, 200, 200, 200, 200]),
    ("followRun", [401, 200, 200, 200, 200, 200]),
    ("streamRun", [401, 200, 200, 200, 200, 200]),
    ("streamEvents", [401, 200, 200, 200, 200, 200]),
    ("getPlan", [401, 200, 200, 200, 200, 200]),
    ("listLanes", [401, 200, 200, 200, 200, 200]),
    ("showLane", [401, 200, 200, 200, 200, 200]),
    ("renewLane", [401, 403, 200, 403, 200, 200]),
    ("listEnvironments", [401, 200, 200, 200, 200, 200]),
    ("checkEnvironment", [401, 200, 200, 200, 200, 200]),
    ("fixEnvironment", [401, 403, 403, 403, 200, 200]),
    ("planAdoption", [401, 200, 200, 200, 200, 200]),
    ("stepAdoption", [401, 403, 403, 403, 200, 200]),
    ("renderCopy", [401, 200, 200, 200, 200, 200]),
    ("listAudit", [401, 200, 200, 200, 200, 200]),
    ("getAuditHead", [401, 200, 200, 200, 200, 200]),
    ("verifyAudit", [401, 200, 200, 200, 200, 200]),
    ("listSchedules", [401, 200, 200, 200, 200, 200]),
    ("listSlots", [401, 200, 200, 200, 200, 200]),
    ("getStore", [401, 200, 200, 200, 200, 200]),
    ("cancelRun", [401, 403, 200, 403, 200, 200]),
    ("answerRun", [401, 403, 200, 403, 200, 200]),
    ("followUpRun", [401, 403, 200, 403, 200, 200]),
    ("approveRun", [401, 403, 403, 200, 200, 200]),
    ("submitRun", [401, 403, 403, 403, 200, 200]),
    ("previewRun", [401, 403, 403, 403, 200, 200]),
    ("checkStore", [401, 403, 403, 403, 200, 200]),
    ("pruneStore", [401, 403, 403, 403, 200, 200]),
    ("compactStore", [401, 403, 403, 403, 200, 200]),
    ("listTokens", [401, 403, 403, 403, 200, 200]),
    ("createToken", [401, 403, 403, 403, 200, 200]),
    ("revokeToken", [401, 403, 403, 403, 200, 200]),
    ("backUpStore", [401, 403, 403, 403, 403, 200]),
];

/// One that is held until somebody says how it goes on.
const HELD: &str = "name: release\ninputs:\n  tag: { type: string, default: Gray }\ntasks:\n  down: { type: mse-gray-offline, on_failure: hold, with: { environment: production, tag: \"${{ inputs.tag }}\" } }\n";

/// Which kind of run an operation is about, and how it stands then.
fn about(operation: &str) -> (&'static str, &'static str) {
    match operation {
        "cancelRun" | "approveRun" => (WAITS, "waiting"),
        "answerRun" => (HELD, "waiting"),
        _ => (QUICK, "succeeded"),
    }
}

const PAUSE: &str = "/api/v1/workflows/workflows/quick/pause";
const UNPAUSE: &str = "/api/v1/workflows/workflows/quick/unpause";
const FREEZE: &str = "/api/v1/environments/production/freeze";
const THAW: &str = "/api/v1/environments/production/thaw";

/// Brings about what an operation needs: what can be done only once is made ready for each caller.
fn arrange(operation: &str, daemon: &Daemon, admin: &str) {
    let (path, body) = match operation {
        "pauseWorkflow" => (UNPAUSE, json!({})),
        "unpauseWorkflow" => (PAUSE, json!({})),
        "thawEnvironment" => (FREEZE, json!({ "reason": "for the table" })),
        _ => return,
    };
    // It may be like that already.
    daemon.post(path, admin, &body);
}

/// Takes back what would stand in the way of others.
fn tidy(operation: &str, daemon: &Daemon, admin: &str) {
    let path = match operation {
        "pauseWorkflow" => UNPAUSE,
        "freezeEnvironment" | "thawEnvironment" => THAW,
        _ => return,
    };
    daemon.post(path, admin, &json!({}));
}

fn body(operation: &str, home: &Home, turn: usize) -> Option<Value> {
    Some(match operation {
        "listLanes" | "checkEnvironment" | "fixEnvironment" => json!({ "environment": "production" }),
        "showLane" => json!({ "environment": "production", "tag": "gray" }),
        "renewLane" => json!({ "environment": "production", "tag": "gray", "for": "8h" }),
        "planAdoption" | "stepAdoption" => json!({ "environment": "production", "service": "spring-a" }),
        "renderCopy" => {
            json!({ "request": { "environment": "production", "service": "spring-a", "tag": "gray" } })
        }
        "freezeEnvironment" => json!({ "reason": "for the table" }),
        "thawEnvironment" | "pruneStore" | "listEnvironments" => json!({}),
        "verifyAudit" => json!({ "heads": [] }),
        "cancelRun" | "revokeToken" => json!({ "reason": "for the table" }),
        "answerRun" => json!({ "answer": "fail" }),
        "approveRun" => json!({ "agrees": true, "actor": "somebody" }),
        "runWorkflow" | "pauseWorkflow" | "unpauseWorkflow" => json!({}),
        "followUpRun" => json!({ "how": "rerun" }),
        "submitRun" | "previewRun" => submission(QUICK),
        "createToken" => json!({ "name": format!("made-{turn}"), "role": "viewer", "expires": "1h" }),
        "backUpStore" => json!({ "path": home.path(&format!("backup-{turn}")) }),
        _ => return None,
    })
}

/// Brings a lane up; gives its plan, which everybody may look at.
fn lane(daemon: &Daemon, home: &Home, admin: &str) -> String {
    let file = std::fs::read_to_string(home.path("workflows/mse-gray-workflow.yaml")).expect("readable");
    let run = daemon.submit(admin, &file);
    let mut digest = None;
    until("there is a plan", || {
        let view = daemon.get(&format!("/api/v1/runs/{run}"), admin).json();
        digest = view["tasks"][0]["plan"].as_str().map(str::to_owned);
        digest.is_some()
    });
    daemon.until(admin, &run, "succeeded");
    digest.expect("a plan")
}

#[test]
fn whoever_may_is_answered_with_the_good_answer_in_every_row() {
    for (operation, row) in TABLE {
        let may: Vec<&u16> = row.iter().filter(|status| ![401, 403].contains(*status)).collect();
        assert!(!may.is_empty(), "{operation}: nobody may");
        assert!(
            may.iter().all(|status| (200..300).contains(*status)),
            "{operation}: a row without a good answer"
        );
        assert_eq!(TABLE.iter().filter(|(other, _)| other == operation).count(), 1, "{operation}: two rows");
    }
}

#[test]
fn every_operation_answers_every_caller_as_the_table_says() {
    let home = Home::new();
    let admin = home.token("boss", "admin", &[]);
    let tokens: Vec<Option<String>> =
        [None, Some("viewer"), Some("operator"), Some("approver"), Some("admin")]
            .into_iter()
            .map(|role| role.map(|role| home.token(&format!("the-{role}"), role, &[])))
            .collect();
    home.write("workflows/quick.yaml", &QUICK.replace("name: release", "name: quick"));
    // A lane's life can be lengthened where it has an end, and runs go where they are not kept for ever.
    home.edit(
        "config/environments/production.yaml",
        "services: ../services\n",
        "services: ../services\nttl: 8h\n",
    );
    home.edit("config/graylane.yaml", "retention: {}", "retention: { runs: 10000 }");
    let daemon = home.serve(&[]);
    until("the sources were read", || daemon.get("/api/v1/workflows/workflows/quick", &admin).status == 200);
    let document = daemon.ask("GET", "/api/v1/openapi.json", None, None).json();
    let plan = lane(&daemon, &home, &admin);
    let mut wrong = Vec::new();
    let mut turn = 0;
    let mut operated = std::collections::BTreeSet::new();
    for (path, operations) in document["paths"].as_object().expect("paths") {
        for (method, operation) in operations.as_object().expect("operations") {
            let id = operation["operationId"].as_str().expect("a name");
            let Some((_, expected)) = TABLE.iter().find(|(name, _)| *name == id) else {
                wrong.push(format!("{id} has no row"));
                continue;
            };
            operated.insert(id.to_owned());
            for (column, expected) in expected.iter().enumerate() {
                turn += 1;
                let path = if path.contains("{run}") {
                    let (workflow, status) = about(id);
                    // Each has a lane of its own: nobody waits for one that was not answered.
                    let run = daemon.submit(&admin, &workflow.replace("Gray", &format!("Gray{turn}")));
                    daemon.until(&admin, &run, status);
                    path.replace("{run}", &run).replace("{other}", &run)
                } else if path.contains("{token}") {
                    let made = json!({ "name": format!("victim-{turn}"), "role": "viewer" });
                    let made = daemon.post("/api/v1/tokens", &admin, &made).json();
                    path.replace("{token}", made["id"].as_str().expect("an id"))
                } else {
                    path.replace("{digest}", &plan)
                        .replace("{environment}", "production")
                        .replace("{source}", "workflows")
                        .replace("{workflow}", "quick")
                };
                let method = method.to_uppercase();
                let body = body(id, &home, turn);
                arrange(id, &daemon, &admin);
                if id == "streamEvents" {
                    // It goes on for ever: only its head is waited for.
                    let status = daemon.head(&home, &path, tokens.get(column).map(Option::as_deref));
                    if status != *expected {
                        wrong.push(format!("{id}, column {column}: {status} instead of {expected}"));
                    }
                    continue;
                }
                let reply = match tokens.get(column) {
                    Some(token) => daemon.ask(&method, &path, token.as_deref(), body.as_ref()),
                    None => daemon.ask_socket(&home, &method, &path, body.as_ref()),
                };
                if reply.status != *expected {
                    wrong.push(format!(
                        "{id}, column {column}: {} instead of {expected}: {}",
                        reply.status, reply.body
                    ));
                }
                tidy(id, &daemon, &admin);
            }
        }
    }
    wrong.extend(
        TABLE.iter().filter(|(id, _)| !operated.contains(*id)).map(|(id, _)| format!("{id} is no operation")),
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn protected(home: &Home) {
    let file = "config/environments/production.yaml";
    home.edit(file, "namespace: mse-customer\n", "namespace: mse-customer\nprotected: true\n");
    home.write(
        "workflows/guarded.yaml",
        "name: prod-workflow\ntasks:\n  agree: { type: approval, with: { from: [\"role:leads\"] } }\n  deploy:\n    type: prod-deploy\n    needs: [agree]\n    with: { environment: production, images: { spring-c: \"registry.cn-shanghai.aliyuncs.com/yizhan/spring-cloud-c:0.2-SNAPSHOT\" } }\n",
    );
    home.edit("config/graylane.yaml", "roles: {}", "roles: { leads: [ann, the-socket] }");
}

#[test]
fn a_protected_environment_takes_the_word_of_a_token_and_of_nobody_else() {
    let home = Home::new();
    protected(&home);
    let boss = home.token("boss", "admin", &[]);
    let ann = home.token("ann", "approver", &[]);
    let bob = home.token("bob", "approver", &[]);
    let daemon = home.serve(&[]);
    let file = std::fs::read_to_string(home.path("workflows/guarded.yaml")).expect("readable");
    let run = daemon.submit(&boss, &file);
    daemon.until(&boss, &run, "waiting");
    let path = format!("/api/v1/runs/{run}/approval");
    let agree = |who: &str| json!({ "agrees": true, "actor": who });
    let refused = |reply: Reply, says: &str| {
        assert_eq!(reply.code(), "not-allowed");
        assert!(reply.body.contains(says), "{reply:?}");
    };
    refused(daemon.ask_socket(&home, "POST", &path, Some(&agree("the-socket"))), "proved who they are");
    // A name that is said beside a token counts for nothing.
    refused(daemon.post(&path, &bob, &agree("ann")), "bob may not answer");
    let reply = daemon.post(&path, &ann, &agree("bob"));
    assert_eq!(reply.status, 200, "{reply:?}");
    daemon.until(&boss, &run, "succeeded");
    let log = daemon.get(&format!("/api/v1/runs/{run}/follow"), &boss).body;
    let consent = log.lines().find(|line| line.contains("\"approved\"")).expect("it is recorded");
    assert!(consent.contains("\"actor\":\"ann\"") && consent.contains("\"authenticated\":true"), "{consent}");
}

#[test]
fn a_token_reaches_no_further_than_its_environments_and_workflows() {
    let home = Home::new();
    let boss = home.token("boss", "admin", &[]);
    let elsewhere = home.token("elsewhere", "admin", &["--environment", "staging"]);
    let other = home.token("other", "admin", &["--workflow", "nightly"]);
    let here = home.token("here", "viewer", &["--environment", "production", "--workflow", "release"]);
    let daemon = home.serve(&[]);
    let file = std::fs::read_to_string(home.path("workflows/release.yaml")).expect("readable");
    let run = daemon.submit(&boss, &file);
    for token in [&elsewhere, &other] {
        for path in ["", "/log", "/follow"] {
            assert_eq!(daemon.get(&format!("/api/v1/runs/{run}{path}"), token).code(), "not-allowed");
        }
        assert_eq!(
            daemon.post(&format!("/api/v1/runs/{run}/cancel"), token, &json!({})).code(),
            "not-allowed"
        );
        assert_eq!(daemon.get("/api/v1/runs", token).json()["runs"], json!([]));
        for path in ["/api/v1/audit", "/api/v1/tokens"] {
            assert_eq!(daemon.get(path, token).code(), "not-allowed", "{path}");
        }
        let made = json!({ "name": "wider", "role": "admin" });
        assert_eq!(daemon.post("/api/v1/tokens", token, &made).code(), "not-allowed");
    }
    // Its own files meet no environment but its own: `production` is not there for it.
    let reply = daemon.post("/api/v1/runs", &elsewhere, &submission(&file));
    assert_eq!(reply.status, 422, "{reply:?}");
    assert_eq!(daemon.post("/api/v1/runs", &other, &submission(QUICK)).code(), "not-allowed");
    assert_eq!(
        daemon.post("/api/v1/lanes", &elsewhere, &json!({ "environment": "production" })).code(),
        "refused"
    );
    assert_eq!(daemon.get(&format!("/api/v1/runs/{run}"), &here).status, 200);
    assert_eq!(daemon.get("/api/v1/runs", &here).json()["runs"].as_array().map(Vec::len), Some(1));
}

/// Over TCP a bundle's environments are not looked at: who may send a file may not say what production is.
#[test]
fn environments_variables_and_secrets_of_a_strangers_bundle_count_for_nothing() {
    let home = Home::new();
    let admin = home.token("boss", "admin", &[]);
    let daemon = home.serve(&[]);
    // It allows itself, on a cluster of its own.
    let environment = r#"{"name":"production","cluster":"in-cluster","namespace":"kube-system","gateway":{"kind":"mse","address":"http://127.0.0.1:9","ingress_class":"mse"},"services":"../services","allow":{"workflows":["mine"]}}"#;
    let workflow = "name: mine\ntasks:\n  offline: { type: mse-gray-offline, with: { environment: production, tag: gray } }\n";
    let mut asked = submission(workflow);
    use base64::Engine as _;
    let encoded = base64::prelude::BASE64_STANDARD.encode(environment);
    asked["bundle"]["files"]["environments/production.json"] = encoded.into();
    asked["secrets"] = json!(["stolen"]);
    asked["vars"] = json!({ "x": 1 });
    let reply = daemon.post("/api/v1/runs", &admin, &asked);
    assert_eq!(reply.status, 422, "{reply:?}");
    assert!(reply.body.contains("does not allow the workflow `mine`"), "{reply:?}");
}
