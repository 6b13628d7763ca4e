//! Tells others that a run has ended, or that slots of a schedule were skipped: a POST of JSON to each address of the settings, tried a few times.
//!
//! Nothing waits for it but the end of the process, and that only for a moment; what could not be told is in the log.

use std::time::Duration;

use bytes::Bytes;
use graylane_engine::audit::Head;
use graylane_engine::clock::Timestamp;
use graylane_engine::id::RunId;
use graylane_engine::run::Outcome;
use graylane_engine::schedule::{Skip, Skipped, SlotOutcome};
use graylane_engine::scheduler::SlotNews;
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde::Serialize;
use tokio::sync::mpsc;

use crate::notary::Signed;

const TRIES: u32 = 4;
const WITHIN: Duration = Duration::from_secs(10);
/// How long the end of the process waits for what is under way.
const AT_END: Duration = Duration::from_secs(5);
/// More than that is not queued: an address that does not answer must not fill the memory.
const QUEUE: usize = 1_024;

/// What is told.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Notice {
    run: RunId,
    #[serde(skip_serializing_if = "Option::is_none")]
    workflow: Option<String>,
    outcome: Outcome,
    at: String,
    /// The head of the audit log, which covers the run.
    head: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    signature: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    public_key: Option<String>,
}

impl Notice {
    pub(crate) fn of(
        run: RunId,
        workflow: Option<String>,
        outcome: Outcome,
        at: Timestamp,
        head: Head,
        signed: Option<&Signed>,
    ) -> Notice {
        Notice {
            run,
            workflow,
            outcome,
            at: at.to_string(),
            head: signed.map_or_else(|| head.to_string(), |signed| signed.head.clone()),
            signature: signed.map(|signed| signed.signature.clone()),
            public_key: signed.map(|signed| signed.public_key.clone()),
        }
    }
}

/// What is told of slots that were skipped: the first of those that follow for the same reason.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct SlotNotice {
    /// Source, workflow and trigger.
    schedule: String,
    slot: String,
    until: String,
    count: u64,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

impl SlotNotice {
    /// None for what somebody has asked for: a pause.
    pub(crate) fn of(news: &SlotNews) -> Option<SlotNotice> {
        let Skipped { from, to, count, skip, why } = &news.skipped;
        (*skip != Skip::Paused).then(|| SlotNotice {
            schedule: news.key.to_string(),
            slot: from.to_string(),
            until: to.to_string(),
            count: *count,
            outcome: SlotOutcome::Skipped(*skip).word(),
            why: why.clone(),
        })
    }
}

/// Anything that is told.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub(crate) enum Told {
    Run(Notice),
    Slot(SlotNotice),
}

impl Told {
    /// What it is about, for the log.
    fn about(&self) -> String {
        match self {
            Told::Run(notice) => notice.run.to_string(),
            Told::Slot(notice) => notice.schedule.clone(),
        }
    }
}

/// Sends notices to every address, each in its own time.
pub(crate) struct Notifier {
    queues: Vec<(String, mpsc::Sender<Told>, tokio::task::JoinHandle<()>)>,
}

impl Notifier {
    pub(crate) fn start(addresses: &[String]) -> Notifier {
        let queues = addresses.iter().map(|address| {
            let (queue, notices) = mpsc::channel(QUEUE);
            (address.clone(), queue, tokio::spawn(post_all(address.clone(), notices)))
        });
        Notifier { queues: queues.collect() }
    }

    /// Queues a notice; never waits.
    pub(crate) fn send(&self, notice: Told) {
        for (address, queue, _) in &self.queues {
            if queue.try_send(notice.clone()).is_err() {
                tracing::warn!(
                    address,
                    about = notice.about(),
                    "a notification was dropped: the address does not keep up"
                );
            }
        }
    }

    /// Waits a moment for what is queued.
    pub(crate) async fn close(self) {
        let deadline = tokio::time::Instant::now() + AT_END;
        for (address, queue, sender) in self.queues {
            drop(queue);
            if tokio::time::timeout_at(deadline, sender).await.is_err() {
                tracing::warn!(address, "notifications were not sent: the address does not answer");
            }
        }
    }
}

async fn post_all(address: String, mut notices: mpsc::Receiver<Told>) {
    let connector =
        hyper_rustls::HttpsConnectorBuilder::new().with_webpki_roots().https_or_http().enable_http1().build();
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build(connector);
    while let Some(notice) = notices.recv().await {
        let body = Bytes::from(serde_json::to_vec(&notice).unwrap_or_default());
        let mut wait = Duration::from_millis(500);
        for attempt in 1..=TRIES {
            let request = hyper::Request::post(&address)
                .header("content-type", "application/json")
                .body(Full::new(body.clone()));
            let answer = match request {
                Ok(request) => tokio::time::timeout(WITHIN, client.request(request)).await,
                Err(error) => {
                    tracing::warn!(address, %error, "a notification could not be made");
                    break;
                }
            };
            let why = match answer {
                Ok(Ok(response)) if response.status().is_success() => {
                    // The connection is used again when its answer was read.
                    let _ = tokio::time::timeout(WITHIN, response.into_body().collect()).await;
                    break;
                }
                Ok(Ok(response)) => response.status().to_string(),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer in time".to_owned(),
            };
            if attempt == TRIES {
                tracing::warn!(address, about = notice.about(), why, "a notification could not be sent");
            } else {
                tokio::time::sleep(wait).await;
                wait *= 4;
            }
        }
    }
}
