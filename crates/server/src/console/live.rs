//! Pages that keep themselves up to date: their parts, made anew on the server and sent when they changed.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Extension, Path, State};
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use maud::Markup;
use serde_json::json;

use super::session::{self, SignedIn};
use super::{Console, Problem, Shown, pages};
use crate::error::{Answer, ApiError};
use crate::state::App;
use crate::stop::Stop;

/// How often it is looked whether something changed. The registry is asked, since other processes change it too.
const PERIOD: Duration = Duration::from_secs(1);

/// Parts of a page by the ids of their elements.
pub(super) type Regions = Vec<(&'static str, Markup)>;

/// What makes the parts of a page.
type Make = fn(&App, &SignedIn) -> Answer<Regions>;

/// Sends a page's parts, now and whenever they change.
pub(super) async fn events(
    State(console): State<Arc<Console>>,
    Extension(session): Extension<SignedIn>,
    Path(page): Path<String>,
) -> Shown<Response> {
    let make: Make = match page.as_str() {
        "protect" => pages::protect::regions,
        "devices" => pages::devices::regions,
        "results" => pages::results::regions,
        "alarms" => pages::alarms::regions,
        _ => return Err(Problem(ApiError::missing("there is no such page"))),
    };
    let Ok(permit) = Arc::clone(&console.streams).try_acquire_owned() else {
        let detail = "too many pages are kept up to date: close some";
        return Err(Problem(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, detail)));
    };
    let (app, stop) = (Arc::clone(&console.app), console.stop.clone());
    let (sent, changes) = (HashMap::new(), VecDeque::new());
    let follower = Follower { app, session, make, sent, stop, changes, first: true, _permit: permit };
    let events = stream::unfold(Some(follower), |follower| async move {
        let mut follower = follower?;
        let (event, over) = follower.next().await;
        Some((Ok::<_, Infallible>(event), (!over).then_some(follower)))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::default()).into_response())
}

struct Follower {
    app: Arc<App>,
    session: SignedIn,
    make: Make,
    /// What the page shows, by the ids of elements.
    sent: HashMap<&'static str, String>,
    stop: Stop,
    /// Changes that are not sent yet.
    changes: VecDeque<Event>,
    first: bool,
    _permit: tokio::sync::OwnedSemaphorePermit,
}

impl Follower {
    /// The next change, and whether it is the last event.
    async fn next(&mut self) -> (Event, bool) {
        loop {
            if let Some(change) = self.changes.pop_front() {
                return (change, false);
            }
            if !std::mem::take(&mut self.first) {
                tokio::select! {
                    () = tokio::time::sleep(PERIOD) => {}
                    // The browser asks again, the next process.
                    () = self.stop.wait() => return (Event::default().comment("stopping"), true),
                }
            }
            match session::open(&self.app, self.session.hash.clone(), false).await {
                Ok(Some(_)) => {}
                Ok(None) => return (Event::default().event("end").data("signed out"), true),
                // Asked again in a moment.
                Err(_) => continue,
            }
            let (make, session) = (self.make, self.session.clone());
            let Ok(regions) = self.app.blocking(move |app| make(app, &session)).await else { continue };
            for (id, markup) in regions {
                let html = markup.into_string();
                if self.sent.get(id) != Some(&html) {
                    let data = json!({ "id": id, "html": html }).to_string();
                    self.sent.insert(id, html);
                    self.changes.push_back(Event::default().event("region").data(data));
                }
            }
        }
    }
}
