//! The table of routes. A new one is a handler in a file of this folder and a row here; then
//! `graylane schema api > docs/openapi.json`, and a row in the table of roles (`tests/roles.rs`).

use super::caller::Who::{Admin, Anybody, Approver, Operator, Owner, Viewer};
use super::route::{Route, get, post};
use super::{
    audit, diff, environment, events, freezes, lanes, observe, runs, schedules, site, status, store, stream,
    system, tokens, workflows,
};

/// Every route: who may, its name, what it is for, the handler.
pub(crate) fn table() -> Vec<Route> {
    vec![
        get("/api/v1/health", Anybody, "getHealth", "Who answers", system::health),
        get("/api/v1/openapi.json", Anybody, "getDocument", "This document", system::document),
        get("/api/v1/runs", Viewer, "listRuns", "Runs, newest first", runs::list),
        post("/api/v1/runs", Admin, "submitRun", "Submit a run with files of one's own", runs::submit)
            .with_bundle(),
        get("/api/v1/runs/{run}", Viewer, "getRun", "Everything about a run", runs::show),
        get("/api/v1/runs/{run}/diff/{other}", Viewer, "diffRuns", "What made two runs differ", diff::diff),
        post("/api/v1/runs/{run}/cancel", Operator, "cancelRun", "Ask a run to end", runs::cancel),
        post("/api/v1/runs/{run}/answer", Operator, "answerRun", "Say how a held task goes on", runs::answer),
        post("/api/v1/runs/{run}/approval", Approver, "approveRun", "Agree, or do not", runs::approval),
        post(
            "/api/v1/runs/{run}/follow-up",
            Operator,
            "followUpRun",
            "Undo, retry or rerun",
            runs::follow_up,
        ),
        get("/api/v1/runs/{run}/log", Viewer, "getRunLog", "What the tasks of a run logged", runs::log),
        get(
            "/api/v1/runs/{run}/follow",
            Viewer,
            "followRun",
            "A run as it goes on, to its end",
            stream::follow,
        ),
        get(
            "/api/v1/runs/{run}/events",
            Viewer,
            "streamRun",
            "The same as server-sent events",
            events::of_run,
        ),
        get("/api/v1/events", Viewer, "streamEvents", "What is asked for, and how runs end", events::of_all),
        get("/healthz", Anybody, "isAlive", "Whether the process lives", observe::live),
        get("/readyz", Anybody, "isReady", "Whether runs can be taken", observe::ready),
        get("/metrics", Viewer, "getMetrics", "Numbers for Prometheus", observe::metrics),
        get("/api/v1/workflows", Viewer, "listWorkflows", "Workflows of all sources", workflows::list),
        get(
            "/api/v1/workflows/{source}/{workflow}",
            Viewer,
            "getWorkflow",
            "A workflow of a source",
            workflows::show,
        ),
        get(
            "/api/v1/workflows/{source}/{workflow}/history",
            Viewer,
            "getWorkflowHistory",
            "Its revisions and pauses",
            workflows::history,
        ),
        post(
            "/api/v1/workflows/{source}/{workflow}/runs",
            Operator,
            "runWorkflow",
            "Run its last good revision",
            workflows::run,
        ),
        post(
            "/api/v1/workflows/{source}/{workflow}/pause",
            Operator,
            "pauseWorkflow",
            "Let its triggers start nothing",
            workflows::pause,
        ),
        post(
            "/api/v1/workflows/{source}/{workflow}/unpause",
            Operator,
            "unpauseWorkflow",
            "Let its triggers start runs again",
            workflows::unpause,
        ),
        get("/api/v1/plans/{digest}", Viewer, "getPlan", "A plan that is on disk", runs::plan),
        post("/api/v1/preview", Admin, "previewRun", "What a run would do", site::preview_run).with_bundle(),
        post("/api/v1/lanes", Viewer, "listLanes", "The lanes of an environment", lanes::list).with_bundle(),
        post("/api/v1/lanes/chain", Viewer, "showLane", "A lane, hop by hop", lanes::chain).with_bundle(),
        post("/api/v1/lanes/renew", Operator, "renewLane", "Let a lane live longer", lanes::renew)
            .with_bundle()
            .long(),
        post(
            "/api/v1/environments",
            Viewer,
            "listEnvironments",
            "The environments that the caller may use",
            environment::list,
        )
        .with_bundle(),
        post(
            "/api/v1/environments/check",
            Viewer,
            "checkEnvironment",
            "Whether an environment is ready",
            environment::check,
        )
        .with_bundle()
        .long(),
        post(
            "/api/v1/environments/fix",
            Admin,
            "fixEnvironment",
            "Mend what can be mended safely",
            environment::fix,
        )
        .with_bundle()
        .long(),
        post(
            "/api/v1/environments/adoption",
            Viewer,
            "planAdoption",
            "What brings a baseline to the version label",
            environment::plan,
        )
        .with_bundle(),
        post("/api/v1/environments/adopt", Admin, "stepAdoption", "The next step of that", environment::step)
            .with_bundle()
            .long(),
        post("/api/v1/render", Viewer, "renderCopy", "The gray copy of a service", site::render)
            .with_bundle(),
        get(
            "/api/v1/status",
            Viewer,
            "getStatus",
            "What stands still, and the command for it",
            status::status,
        ),
        get("/api/v1/freezes", Viewer, "listFreezes", "Environments that people have frozen", freezes::list),
        post(
            "/api/v1/environments/{environment}/freeze",
            Operator,
            "freezeEnvironment",
            "Hold what would be deployed",
            freezes::freeze,
        ),
        post(
            "/api/v1/environments/{environment}/thaw",
            Operator,
            "thawEnvironment",
            "Let it be deployed to again",
            freezes::thaw,
        ),
        get("/api/v1/audit", Viewer, "listAudit", "Who did what, oldest first", audit::entries),
        get("/api/v1/audit/head", Viewer, "getAuditHead", "The end of the audit log", audit::head),
        post("/api/v1/audit/verify", Viewer, "verifyAudit", "Follow the whole history", audit::verify).long(),
        get("/api/v1/schedules", Viewer, "listSchedules", "How schedules stand", schedules::list),
        get("/api/v1/slots", Viewer, "listSlots", "What became of slots, newest first", schedules::slots),
        get("/api/v1/store", Viewer, "getStore", "What the store holds", store::statistics),
        post("/api/v1/store/check", Admin, "checkStore", "Read every byte that is kept", store::check).long(),
        post("/api/v1/store/backup", Owner, "backUpStore", "Write everything to a file here", store::backup)
            .long(),
        post("/api/v1/store/prune", Admin, "pruneStore", "Remove what retention does not keep", store::prune)
            .long(),
        post("/api/v1/store/compact", Admin, "compactStore", "Give back room", store::compact).long(),
        get("/api/v1/me", Viewer, "getMe", "Who calls, and what they may", tokens::me),
        get("/api/v1/tokens", Admin, "listTokens", "Who has a token", tokens::list),
        post("/api/v1/tokens", Admin, "createToken", "Make a token; it is shown once", tokens::create),
        post("/api/v1/tokens/{token}/revoke", Admin, "revokeToken", "End a token", tokens::revoke),
    ]
}
