//! Signing in with one of the owner's tokens, and out.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Body;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use maud::{Markup, html};
use subrosa_registry::fleet::{Event, digest, new_token};
use subrosa_registry::time::now;

use super::session::{self, Asked};
use super::{Console, Problem, Shown, pages};
use crate::auth::OWNER_PREFIX;
use crate::error::ApiError;
use crate::metrics::Metrics;
use crate::net::Peer;

/// Most addresses that are told apart in a minute.
const ADDRESSES: usize = 10_000;

/// Wrong tokens in the minute that is counted, by address.
#[derive(Default)]
pub(super) struct Attempts(Mutex<(i64, HashMap<IpAddr, u32>)>);

impl Attempts {
    /// Takes an attempt, before it is looked at, so that many at once do not slip through.
    fn take(&self, peer: IpAddr, limit: u32) -> bool {
        let minute = now() / 60_000;
        let mut attempts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if attempts.0 != minute {
            *attempts = (minute, HashMap::new());
        }
        if attempts.1.len() >= ADDRESSES && !attempts.1.contains_key(&peer) {
            return false;
        }
        let count = attempts.1.entry(peer).or_insert(0);
        *count += 1;
        *count <= limit
    }

    /// Gives one back that was right.
    fn give_back(&self, peer: IpAddr) {
        let mut attempts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = attempts.1.get_mut(&peer) {
            *count = count.saturating_sub(1);
        }
    }
}

/// The address that attempts are counted for: of IPv6 the network, since who has one has 2^64 addresses in it.
fn counted(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6((u128::from(ip) & !u128::from(u64::MAX)).into()),
        ip => ip,
    }
}

fn page(problem: Option<&str>) -> Markup {
    pages::bare(
        "Sign in",
        &html! {
            div.card.login {
                p.brand {
                    img src="/console/assets/icon.svg" alt="" width="22" height="22";
                    "Subrosa"
                }
                h1 { "Sign in" }
                @if let Some(problem) = problem {
                    p.notice.bad role="alert" id="problem" { (problem) }
                }
                form method="post" action="/console/login" {
                    // For password managers; there is one owner.
                    input type="text" name="user" value="owner" autocomplete="username" hidden;
                    p {
                        label for="token" { "Owner's token" }
                        input id="token" name="token" type="password" required autocomplete="current-password"
                            autofocus spellcheck="false" aria-describedby="token-hint";
                    }
                    p.hint id="token-hint" {
                        "The one of the first start, or one that " code { "subrosa-serve token new" } " made."
                    }
                    p { button type="submit" { "Sign in" } }
                }
            }
        },
    )
}

pub(super) async fn show(State(console): State<Arc<Console>>, headers: HeaderMap) -> Shown<Response> {
    Ok(match session::of(&console, &headers, false).await? {
        Some(_) => Redirect::to("/console").into_response(),
        None => page(None).into_response(),
    })
}

pub(super) async fn login(
    State(console): State<Arc<Console>>,
    peer: Option<Extension<Peer>>,
    headers: HeaderMap,
    body: Body,
) -> Shown<Response> {
    let app = &console.app;
    let peer = counted(peer.map_or(Ipv4Addr::UNSPECIFIED.into(), |Extension(Peer(ip))| ip));
    if !console.attempts.take(peer, app.limits.logins_per_minute) {
        Metrics::count(&app.metrics.denied, "console");
        let detail = "too many wrong tokens from this address: wait a minute";
        let error = ApiError { retry_after: Some(60), ..ApiError::new(StatusCode::TOO_MANY_REQUESTS, detail) };
        return Err(Problem(error));
    }
    let fields = session::fields(app, &headers, body).await?;
    let token = fields.get("token").map(|token| token.trim()).unwrap_or_default();
    let right_form = token.starts_with(OWNER_PREFIX) && token.len() == OWNER_PREFIX.len() + 64;
    // Looked up by digest, as every token: how long it takes says nothing about others.
    let token = digest(token);
    let cookie = new_token(session::PREFIX)?;
    let hash = digest(&cookie);
    let life = i64::try_from(app.limits.session_life.as_millis()).unwrap_or(i64::MAX);
    let opened = app
        .blocking(move |app| {
            let opened = if right_form { app.fleet.open_session(&hash, &token, life)? } else { None };
            // A new session for each login; the one before ends.
            if opened.is_none() && app.may_note("console") {
                app.fleet.note(&Event::new("console refused", serde_json::json!({ "code": "token" })))?;
            }
            Ok(opened)
        })
        .await?;
    if opened.is_none() {
        Metrics::count(&app.metrics.denied, "console");
        let problem = page(Some("This is not a token of the owner, or it was removed."));
        return Ok((StatusCode::FORBIDDEN, problem).into_response());
    }
    console.attempts.give_back(peer);
    if let Some(before) = session::cookie(&console, &headers) {
        let before = digest(&before);
        app.blocking(move |app| Ok(app.fleet.close_session(&before)?)).await?;
    }
    let cookie = session::set_cookie(&console, &headers, Some(&cookie));
    Ok(([(header::SET_COOKIE, cookie)], Redirect::to("/console")).into_response())
}

pub(super) async fn logout(
    State(console): State<Arc<Console>>,
    headers: HeaderMap,
    Asked { app, session, .. }: Asked,
) -> Shown<Response> {
    app.blocking(move |app| Ok(app.fleet.close_session(&session.hash)?)).await?;
    let cookie = session::set_cookie(&console, &headers, None);
    Ok(([(header::SET_COOKIE, cookie)], Redirect::to("/console/login")).into_response())
}
