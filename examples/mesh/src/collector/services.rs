//! What the services say of themselves: their health, and what became of their spans.
//!
//! Each service answers on a port of its own (`service::Service`); this asks all of them every second, and keeps the latest
//! answer of each. One that does not answer any more stays in the list, with what it said last.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::{MissedTickBehavior, interval};

/// How often each service is asked.
const INTERVAL: Duration = Duration::from_secs(1);

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The services that are watched, in the order in which that began.
#[derive(Clone, Debug, Default)]
pub(crate) struct Services(Arc<Mutex<Vec<Watched>>>);

#[derive(Debug)]
struct Watched {
    address: String,
    answers: bool,
    latest: Option<(Instant, Status)>,
}

/// What a service answers.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Status {
    service: String,
    /// `healthy`, `degraded` or `misconfigured`.
    health: String,
    why: Option<String>,
    /// As the core counts them: `trace_core::Stats`.
    counters: Value,
}

/// What the page is told of a service.
#[derive(Debug, Serialize)]
pub(crate) struct Told {
    /// Where it was asked.
    address: String,
    /// Whether it answered when it was asked last.
    answers: bool,
    /// How long ago its latest answer came.
    seen_ms: Option<u64>,
    #[serde(flatten)]
    status: Option<Status>,
}

impl Services {
    /// Asks the service at this address from now on, as long as the runtime lives.
    pub(crate) fn watch(&self, address: String) {
        let index = {
            let mut services = self.lock();
            services.push(Watched { address: address.clone(), answers: false, latest: None });
            services.len() - 1
        };
        let services = self.clone();
        tokio::spawn(async move {
            let client = reqwest::Client::builder().timeout(TIMEOUT).no_proxy().build().unwrap_or_default();
            let mut next = interval(INTERVAL);
            next.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                next.tick().await;
                let answer = ask(&client, &address).await;
                // Nothing is ever taken out of the list.
                let watched = &mut services.lock()[index];
                watched.answers = answer.is_some();
                if let Some(status) = answer {
                    watched.latest = Some((Instant::now(), status));
                }
            }
        });
    }

    pub(crate) fn told(&self) -> Vec<Told> {
        let since = |at: Instant| u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX);
        let told = |watched: &Watched| Told {
            address: watched.address.clone(),
            answers: watched.answers,
            seen_ms: watched.latest.as_ref().map(|(at, _)| since(*at)),
            status: watched.latest.as_ref().map(|(_, status)| status.clone()),
        };
        self.lock().iter().map(told).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Watched>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn ask(client: &reqwest::Client, address: &str) -> Option<Status> {
    client.get(address).send().await.ok()?.error_for_status().ok()?.json().await.ok()
}
