//! What whoever is woken at 3 a.m. must know: what stands still, what failed, what is frozen, and the commands for it.
//!
//! Everything is read from what the engine knows; only lanes are asked of clusters, and not for long. Nothing is changed.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State as Given;
use futures::StreamExt as _;
use graylane_engine::clock::{Timestamp, parse_duration};
use graylane_engine::journal::Query;
use graylane_engine::trigger;
use graylane_engine::view::{Next, RunSummary, RunView};
use graylane_tasks::environment::{ClusterAt, Site, names};
use graylane_tasks::inventory;

use super::caller::Caller;
use super::error::ApiError;
use super::schedules::reaches;
use super::wire::{
    Expiring, Failed, JournalState, LanesOf, Paused, Schedules, Status, UndecidedSlot, Unfinished,
};
use super::{State, bundles, freezes, runs};

/// How long one cluster may take.
const CLUSTER_WITHIN: Duration = Duration::from_secs(3);
/// How many clusters are asked at a time.
const CLUSTERS: usize = 8;
/// How many failures are shown.
const FAILURES: usize = 5;

pub(super) async fn status(Given(state): Given<State>, caller: Caller) -> Result<Json<Status>, ApiError> {
    let journal = match state.engine.trouble() {
        None => JournalState { writable: true, since: None, why: None },
        Some((since, why)) => {
            JournalState { writable: false, since: Some(since), why: Some(why.to_string()) }
        }
    };
    let standing = state.engine.standing();
    let paused = standing.paused.iter().filter(|(workflow, _)| caller.reach_workflow(workflow.name.as_str()));
    let paused = paused.map(|(workflow, pause)| Paused {
        workflow: workflow.to_string(),
        since: pause.since,
        by: pause.by.clone(),
        reason: pause.reason.clone(),
    });
    Ok(Json(Status {
        at: state.parts.clock.now(),
        carried_on: state.working,
        journal,
        unfinished: unfinished(&state, &caller).await?,
        failed: failed(&state, &caller).await?,
        paused: paused.collect(),
        frozen: freezes::frozen(&state, &caller),
        schedules: schedules(&state, &caller).await?,
        lanes: lanes(&state, &caller).await?,
    }))
}

async fn unfinished(state: &State, caller: &Caller) -> Result<Vec<Unfinished>, ApiError> {
    let mut found = Vec::new();
    for summary in state.engine.unfinished() {
        if runs::reaches(caller, &summary).is_err() {
            continue;
        }
        let Some(view) = view(state, &summary).await? else { continue };
        let mut next = view.next.clone();
        if !state.working {
            next.push(Next::nobody(&view));
        }
        let needs_somebody = !state.working || next.iter().any(|next| next.asks);
        found.push(Unfinished { run: view.summary, needs_somebody, next });
    }
    // What waits for people stands first.
    found.sort_by_key(|run| (!run.needs_somebody, run.run.id));
    Ok(found)
}

async fn view(state: &State, run: &RunSummary) -> Result<Option<RunView>, ApiError> {
    state.engine.view(run.id).await.map_err(|error| ApiError::store(error.to_string()))
}

async fn failed(state: &State, caller: &Caller) -> Result<Vec<Failed>, ApiError> {
    let query = Query { status: Some("failed".into()), limit: 50, ..Query::default() };
    let page = state.engine.runs(&query).map_err(|error| ApiError::store(error.to_string()))?;
    let mut found = Vec::new();
    for summary in page.runs.iter().filter(|run| runs::reaches(caller, run).is_ok()).take(FAILURES) {
        let Some(view) = view(state, summary).await? else { continue };
        let task = view.tasks.iter().find(|task| task.status == "failed");
        let why = task.and_then(|task| task.error.as_ref()).map(|error| error.message.clone());
        let why = why.or_else(|| view.reason.clone()).unwrap_or_else(|| "it failed".into());
        found.push(Failed {
            task: task.map(|task| task.name.to_string()),
            why: why.lines().next().unwrap_or_default().to_owned(),
            undone_by: view.undone_by,
            command: format!("graylane runs show {}", summary.id),
            run: summary.clone(),
        });
    }
    Ok(found)
}

async fn schedules(state: &State, caller: &Caller) -> Result<Schedules, ApiError> {
    let (journal, known) = (Arc::clone(&state.parts.journal), Arc::clone(&state.catalogue.borrow()));
    let (caller, now) = (caller.clone(), state.parts.clock.now());
    let decides = !known.sources.is_empty();
    let read = tokio::task::spawn_blocking(move || {
        trigger::figures(&*journal, &known, now, |key| reaches(&caller, &key.to_string()))
    });
    let read = read.await.map_err(|error| ApiError::store(error.to_string()))?;
    let figures = read.map_err(|error| ApiError::store(error.to_string()))?;
    let undecided = figures.oldest_undecided.map(|oldest| {
        let history = format!("graylane schedule history {}", oldest.schedule);
        let (why, command) = match oldest.why {
            // Who reads no sources decides no slots.
            _ if !decides => {
                ("nobody decides it: no daemon holds this store".to_owned(), "graylane serve".to_owned())
            }
            _ if state.engine.broken().is_some() => ("the journal cannot be written".to_owned(), history),
            Some(why) => (why, history),
            None => ("it is being decided".to_owned(), history),
        };
        UndecidedSlot { schedule: oldest.schedule, slot: oldest.slot, why, command }
    });
    let outcomes = figures.outcomes.into_iter().map(|(outcome, count)| (outcome.to_owned(), count));
    Ok(Schedules { known: figures.schedules, outcomes: outcomes.collect(), undecided })
}

/// How long before its end a lane is named: a quarter of its time, a day at most.
fn soon(ttl: Duration) -> Duration {
    (ttl / 4).min(Duration::from_secs(24 * 60 * 60))
}

/// The lanes whose time is up, or soon is.
fn expiring(site: &Site, lanes: &[inventory::Lane], now: Timestamp) -> Vec<Expiring> {
    let environment = &site.environment.name;
    let Some((written, ttl)) =
        site.environment.ttl.as_ref().and_then(|ttl| Some((ttl, parse_duration(ttl).ok()?)))
    else {
        return Vec::new();
    };
    let near = lanes.iter().filter_map(|lane| {
        let expires: Timestamp = lane.expires.as_ref()?.parse().ok()?;
        (expires <= now.plus(soon(ttl))).then(|| Expiring {
            tag: lane.tag.clone(),
            expires,
            expired: expires <= now,
            command: format!("graylane lanes renew {} --environment {environment} --for {written}", lane.tag),
        })
    });
    let mut near: Vec<Expiring> = near.collect();
    near.sort_by_key(|lane| lane.expires);
    near
}

async fn lanes(state: &State, caller: &Caller) -> Result<Vec<LanesOf>, ApiError> {
    let bundle = bundles::operators(state, caller).await?;
    let mut sites = Vec::new();
    for name in names(&bundle) {
        match Site::load(&bundle, &name) {
            // Where it was never played there is nothing, and looking must not begin it.
            Ok(site)
                if site.environment.cluster == ClusterAt::Rehearsal
                    && !state.settings.rehearsal_folder().exists() => {}
            Ok(site) => sites.push((name, Ok(site))),
            Err(why) => sites.push((name, Err(why))),
        }
    }
    let now = state.parts.clock.now();
    let asked = sites.into_iter().map(|(environment, site)| async move {
        let looked = match site {
            Err(why) => Err(why),
            Ok(site) => look(state, &site).await.map(|lanes| (expiring(&site, &lanes, now), lanes)),
        };
        match looked {
            Ok((expiring, lanes)) => LanesOf { environment, lanes, expiring, trouble: None },
            Err(why) => LanesOf { environment, lanes: Vec::new(), expiring: Vec::new(), trouble: Some(why) },
        }
    });
    let mut found: Vec<LanesOf> = futures::stream::iter(asked).buffer_unordered(CLUSTERS).collect().await;
    found.sort_by(|a, b| a.environment.cmp(&b.environment));
    Ok(found)
}

async fn look(state: &State, site: &Site) -> Result<Vec<inventory::Lane>, String> {
    let looked = async {
        let cluster = state.clusters.connect(site).await?;
        inventory::lanes(&cluster, site, state.parts.clock.now()).await
    };
    match tokio::time::timeout(CLUSTER_WITHIN, looked).await {
        Ok(found) => found.map_err(|error| error.message),
        Err(_) => Err(format!("its cluster has not answered within {} s", CLUSTER_WITHIN.as_secs())),
    }
}
