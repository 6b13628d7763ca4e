//! Runs: list, submit, look at one, and what people say to one.

use axum::Json;
use axum::extract::{FromRequestParts, State as Given};
use axum::http::request::Parts;
use graylane_engine::id::{Digest, RunId, TaskName};
use graylane_engine::journal::{Page, Query};
use graylane_engine::logs::LogLine;
use graylane_engine::run::{Key, Trigger};
use graylane_engine::scheduler::{CancelAnswer, FollowUp, PersonAnswer, Submission};
use graylane_engine::task::Plan;
use graylane_engine::view::{Next, RunSummary, RunView};

use super::caller::Caller;
use super::error::{ApiError, Code};
use super::extract::{Asked, Body, In};
use super::route::{Operation, Part};
use super::{State, bundles, cursor, wire};

pub(super) async fn list(
    Given(state): Given<State>,
    caller: Caller,
    Asked(asked): Asked<wire::List>,
) -> Result<Json<wire::RunPage>, ApiError> {
    let list = cursor::list("runs", &asked);
    let mut page = if asked.unfinished {
        let mut runs = state.engine.unfinished();
        runs.reverse();
        Page { runs, more: false }
    } else {
        let mut asked = asked;
        if let Some(after) = asked.after.take() {
            asked.after = Some(one(&state, &caller, &after)?.id.to_string());
        }
        let after = asked.cursor.as_deref().map(|cursor| cursor::read(&list, cursor)).transpose()?;
        let mut query = asked.query().map_err(ApiError::bad_request)?;
        query.after = after.or(query.after);
        state.engine.runs(&query).map_err(|error| ApiError::store(error.to_string()))?
    };
    let next = page.runs.last().filter(|_| page.more).map(|last| cursor::write(&list, &last.id));
    page.runs.retain(|run| reaches(&caller, run).is_ok());
    Ok(Json(wire::RunPage { runs: page.runs, more: page.more, next }))
}

pub(super) async fn submit(
    Given(state): Given<State>,
    caller: Caller,
    key: IdempotencyKey,
    Body(asked): Body<wire::Submit>,
) -> Result<Json<wire::Submitted>, ApiError> {
    let key = key.of(&caller, &asked);
    if let Some(before) = granted(&state, key.as_ref()).await? {
        return Ok(before);
    }
    let submission = Submission { key, ..submission(&state, &caller, asked).await? };
    let id = state.engine.submit(submission).await?;
    Ok(Json(wire::Submitted { id: id.to_string() }))
}

/// What the caller calls this wish, so that asking twice gives one run, also after a crash.
pub(super) struct IdempotencyKey(Option<String>);

impl Part for IdempotencyKey {
    fn describe(operation: &mut Operation<'_>) {
        operation.key = true;
    }
}

impl<S: Send + Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<IdempotencyKey, ApiError> {
        let Some(value) = parts.headers.get("idempotency-key") else { return Ok(IdempotencyKey(None)) };
        let text = value.to_str().unwrap_or_default().trim();
        if text.is_empty() || text.len() > 255 {
            return Err(ApiError::bad_request("Idempotency-Key: 1 to 255 visible characters"));
        }
        Ok(IdempotencyKey(Some(text.to_owned())))
    }
}

impl IdempotencyKey {
    /// The key of this wish; one caller's keys are nothing to another.
    pub(super) fn of(&self, caller: &Caller, wish: &impl serde::Serialize) -> Option<Key> {
        let text = self.0.as_ref()?;
        let whose = match caller {
            Caller::Owner => "owner".to_owned(),
            Caller::Token { name, .. } => format!("token {name}"),
            Caller::Anonymous(_) => "anonymous".to_owned(),
        };
        let wish = serde_json::to_vec(wish).unwrap_or_default();
        Some(Key { name: Digest::of(format!("{whose}\n{text}").as_bytes()), request: Digest::of(&wish) })
    }
}

/// The run that was made for this wish before: nothing of it is looked at again, as files and runs may be others by now.
pub(super) async fn granted(
    state: &State,
    key: Option<&Key>,
) -> Result<Option<Json<wire::Submitted>>, ApiError> {
    let before = state.engine.granted(key).await?;
    Ok(before.map(|run| Json(wire::Submitted { id: run.to_string() })))
}

/// What is submitted, as far as the caller may bring it: variables and secrets are the operator's, as environments are.
pub(super) async fn submission(
    state: &State,
    caller: &Caller,
    asked: wire::Submit,
) -> Result<Submission, ApiError> {
    if let Caller::Token { workflows, .. } = caller
        && !workflows.is_empty()
    {
        // A file of one's own can carry any name.
        return Err(ApiError::not_allowed(
            "this token is for workflows of the catalogue, not for files of one's own",
        ));
    }
    let from = asked.from.as_deref().map(|text| one(state, caller, text)).transpose()?;
    let (vars, secrets) = if caller.is_owner() {
        (asked.vars, asked.secrets)
    } else {
        (state.settings.vars.clone(), state.settings.secret_names())
    };
    let bundle = bundles::sent(state, caller, Some(&asked.bundle)).await?;
    let mut inputs = asked.inputs;
    if !asked.set.is_empty() {
        inputs.extend(bundles::read_inputs(state, &bundle, &asked.set, &vars, &secrets)?);
    }
    Ok(Submission {
        bundle,
        inputs,
        only: asked.only,
        skip: asked.skip,
        from: from.map(|run| run.id),
        actor: caller.name(asked.actor),
        trigger: Trigger::Manual,
        source: None,
        key: None,
        vars,
        secrets,
    })
}

pub(super) async fn show(
    Given(state): Given<State>,
    caller: Caller,
    In(run): In<String>,
) -> Result<Json<RunView>, ApiError> {
    let id = one(&state, &caller, &run)?.id;
    let view = state.engine.view(id).await.map_err(|error| ApiError::store(error.to_string()))?;
    let mut view = view.ok_or_else(|| ApiError::not_found(format!("there is no run {id}")))?;
    if view.outcome.is_none() && !state.working {
        let nobody = Next::nobody(&view);
        view.next.push(nobody);
    }
    Ok(Json(view))
}

/// A run by its id, by the beginning of one that only one run has, or `latest`; where the caller's token is for it.
/// `latest` is the newest run; an undo that is over belongs to the run that it took back, and is passed over.
pub(super) fn one(state: &State, caller: &Caller, text: &str) -> Result<RunSummary, ApiError> {
    if text == "latest" {
        return latest(state, caller);
    }
    let query = Query { limit: 2, ..Query::beginning(text).map_err(|_| no_run(text))? };
    let page = state.engine.runs(&query).map_err(|error| ApiError::store(error.to_string()))?;
    let mut runs = page.runs.into_iter();
    match (runs.next(), runs.next()) {
        (Some(run), None) => {
            reaches(caller, &run)?;
            Ok(run)
        }
        (None, _) => Err(no_run(text)),
        (Some(_), Some(_)) => {
            Err(ApiError::not_found(format!("more than one run begins with `{text}`: give more of the id")))
        }
    }
}

fn latest(state: &State, caller: &Caller) -> Result<RunSummary, ApiError> {
    let mut query = Query::default();
    loop {
        let page = state.engine.runs(&query).map_err(|error| ApiError::store(error.to_string()))?;
        let passed = |run: &RunSummary| run.undoes.is_some() && run.is_final();
        let found = page.runs.iter().find(|run| !passed(run) && reaches(caller, run).is_ok());
        match (found, page.runs.last()) {
            (Some(found), _) => return Ok(found.clone()),
            (None, Some(last)) if page.more => query.after = Some(last.id),
            (None, _) => return Err(ApiError::not_found("there is no run yet")),
        }
    }
}

/// Refuses who is limited to other workflows or environments than this run's.
pub(super) fn reaches(caller: &Caller, run: &RunSummary) -> Result<(), ApiError> {
    caller.reach(Some(run.workflow.as_str()), run.environments.iter().map(String::as_str))
}

fn no_run(text: &str) -> ApiError {
    ApiError::not_found(format!("there is no run `{text}`"))
}

pub(super) async fn cancel(
    Given(state): Given<State>,
    caller: Caller,
    In(run): In<String>,
    Body(asked): Body<wire::Cancel>,
) -> Result<Json<wire::Cancelled>, ApiError> {
    let id = one(&state, &caller, &run)?.id;
    let answer = match state.engine.cancel(id, caller.name(asked.actor), asked.reason, asked.now).await {
        CancelAnswer::Cancelling => "cancelling",
        CancelAnswer::AlreadyCancelling => "already-cancelling",
        CancelAnswer::NotActive => "not-active",
        CancelAnswer::Broken(error) => return Err(ApiError::store(error.to_string())),
    };
    Ok(Json(wire::Cancelled { answer: answer.into() }))
}

pub(super) async fn answer(
    Given(state): Given<State>,
    caller: Caller,
    In(run): In<String>,
    Body(asked): Body<wire::Answer>,
) -> Result<Json<wire::Answered>, ApiError> {
    let id = one(&state, &caller, &run)?.id;
    let actor = caller.actor(&state.settings, asked.actor);
    let task = task_name(asked.task)?;
    let answered = state.engine.answer_hold(id, task, asked.answer, actor, asked.comment).await;
    taken(id, "held", answered)
}

pub(super) async fn approval(
    Given(state): Given<State>,
    caller: Caller,
    In(run): In<String>,
    Body(asked): Body<wire::Consent>,
) -> Result<Json<wire::Answered>, ApiError> {
    let id = one(&state, &caller, &run)?.id;
    let actor = caller.actor(&state.settings, asked.actor);
    let task = task_name(asked.task)?;
    let answered = state.engine.approve(id, task, asked.agrees, actor, asked.comment).await;
    taken(id, "waiting for approval", answered)
}

fn task_name(text: Option<String>) -> Result<Option<TaskName>, ApiError> {
    text.map(|text| text.parse()).transpose().map_err(|error| ApiError::bad_request(format!("{error}")))
}

fn taken(id: RunId, what: &str, answer: PersonAnswer) -> Result<Json<wire::Answered>, ApiError> {
    match answer {
        PersonAnswer::Taken(task) => Ok(Json(wire::Answered { task })),
        PersonAnswer::NotWaiting => {
            Err(ApiError::new(Code::NotWaiting, format!("no such task of run {id} is {what}")))
        }
        PersonAnswer::Several(tasks) => {
            let names: Vec<String> = tasks.iter().map(ToString::to_string).collect();
            let words = format!("{} of run {id} are {what}: say which with --task", names.join(" and "));
            Err(ApiError::new(Code::NotWaiting, words))
        }
        PersonAnswer::Refused(why) => Err(ApiError::not_allowed(why)),
        PersonAnswer::Broken(error) => Err(ApiError::store(error.to_string())),
    }
}

pub(super) async fn follow_up(
    Given(state): Given<State>,
    caller: Caller,
    key: IdempotencyKey,
    In(run): In<String>,
    Body(asked): Body<wire::FollowUp>,
) -> Result<Json<wire::Submitted>, ApiError> {
    // The wish is what was sent: `latest` is another run by now.
    let key = key.of(&caller, &(&run, &asked));
    if let Some(before) = granted(&state, key.as_ref()).await? {
        return Ok(before);
    }
    let id = one(&state, &caller, &run)?.id;
    let how = match asked.how {
        wire::How::Undo { force } => FollowUp::Undo { force },
        wire::How::Retry { from } => FollowUp::Retry { from: task_name(from)? },
        wire::How::Rerun => FollowUp::Rerun,
    };
    let id = state.engine.follow_up(id, how, caller.name(asked.actor), key).await?;
    Ok(Json(wire::Submitted { id: id.to_string() }))
}

pub(super) async fn log(
    Given(state): Given<State>,
    caller: Caller,
    In(run): In<String>,
) -> Result<Json<Vec<LogLine>>, ApiError> {
    let id = one(&state, &caller, &run)?.id;
    state.engine.log(id).map(Json).map_err(|error| ApiError::store(error.to_string()))
}

/// Whoever knows the digest has been shown the run.
pub(super) async fn plan(Given(state): Given<State>, In(digest): In<String>) -> Result<Json<Plan>, ApiError> {
    let digest: Digest = digest.parse().map_err(|error| ApiError::bad_request(format!("{error}")))?;
    state.engine.plan(&digest).map(Json).map_err(|error| ApiError::store(error.to_string()))
}
