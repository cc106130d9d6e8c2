//! Sessions: a random cookie of which the registry keeps the digest, and what proves that a form was sent from a page of it.

use std::collections::HashMap;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Path, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};
use sha2::{Digest, Sha256};
use subrosa_registry::fleet::digest;
use subtle::ConstantTimeEq;

use super::{Console, Problem, Shown};
use crate::body;
use crate::error::{Answer, ApiError};
use crate::state::App;

/// Begins the cookies' values.
pub(super) const PREFIX: &str = "srs_";
/// The field of forms that holds [`SignedIn::csrf`].
pub(super) const FIELD: &str = "csrf";

/// Who asks for a page; an extension of the request.
#[derive(Clone)]
pub(super) struct SignedIn {
    /// Digest of the cookie.
    pub hash: String,
    /// Name of the owner's token.
    pub name: String,
    /// What forms of this session carry: it is made from the cookie, which another site cannot read, and does not tell it.
    pub csrf: String,
}

impl SignedIn {
    /// Refuses a form that carries something else.
    pub fn check(&self, given: Option<&str>) -> Answer<()> {
        let same = given.is_some_and(|given| self.csrf.as_bytes().ct_eq(given.as_bytes()).into());
        let refused = "the form is not one of this session: load the page again and repeat it";
        if same { Ok(()) } else { Err(ApiError::new(StatusCode::FORBIDDEN, refused)) }
    }
}

/// What a form of the session asks for; extracted only if it carries [`SignedIn::csrf`].
pub(super) struct Asked {
    pub app: Arc<App>,
    pub session: SignedIn,
    /// What the address names; empty where it names nothing.
    pub id: String,
    /// The form's fields.
    pub fields: HashMap<String, String>,
}

impl FromRequest<Arc<Console>> for Asked {
    type Rejection = Problem;

    async fn from_request(request: Request, console: &Arc<Console>) -> Shown<Self> {
        let app = Arc::clone(&console.app);
        let (mut parts, body) = request.into_parts();
        // Who is not signed in does not get here.
        let session =
            parts.extensions.get::<SignedIn>().cloned().ok_or_else(|| ApiError::inside("a form without a session"))?;
        let id = Option::<Path<String>>::from_request_parts(&mut parts, console).await;
        let id = id.map_err(|_| ApiError::bad("the address is damaged"))?.map_or_else(String::new, |Path(id)| id);
        let fields = fields(&app, &parts.headers, body).await?;
        session.check(fields.get(FIELD).map(String::as_str))?;
        Ok(Self { app, session, id, fields })
    }
}

/// The fields of a form.
pub(super) async fn fields(app: &Arc<App>, headers: &HeaderMap, body: Body) -> Answer<HashMap<String, String>> {
    let held = body::held(app, headers, body, app.limits.open_bytes).await?;
    serde_urlencoded::from_bytes(&held.bytes).map_err(|_| ApiError::bad("the body is not that of a form"))
}

fn csrf(cookie: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(b"subrosa-csrf-v1\0");
    hash.update(cookie.as_bytes());
    hex::encode(hash.finalize())
}

/// Whether the browser talks TLS: to this process, or to a proxy on this machine that says so.
pub(super) fn encrypted(console: &Console, headers: &HeaderMap) -> bool {
    console.tls || headers.get("x-forwarded-proto").is_some_and(|scheme| scheme.as_bytes() == b"https")
}

fn cookie_name(encrypted: bool) -> &'static str {
    // With this prefix browsers let nobody set it who has not this very origin, with TLS.
    if encrypted { "__Host-subrosa" } else { "subrosa" }
}

/// The header that sets the cookie, or with `None` removes it.
pub(super) fn set_cookie(console: &Console, headers: &HeaderMap, value: Option<&str>) -> String {
    let encrypted = encrypted(console, headers);
    let (name, secure) = (cookie_name(encrypted), if encrypted { "; Secure" } else { "" });
    let age = if value.is_some() { console.app.limits.session_life.as_secs() } else { 0 };
    format!("{name}={}; Path=/; HttpOnly; SameSite=Strict; Max-Age={age}{secure}", value.unwrap_or_default())
}

/// The session's cookie, if one of the right form was sent.
pub(super) fn cookie(console: &Console, headers: &HeaderMap) -> Option<String> {
    let name = cookie_name(encrypted(console, headers));
    let sent = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = sent.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let (_, value) = pairs.find(|(key, _)| *key == name)?;
    (value.starts_with(PREFIX) && value.len() == PREFIX.len() + 64).then(|| value.to_owned())
}

/// Whether a request that changes something comes from a page of this very place: browsers say so, and no page can make them say otherwise.
pub(super) fn same_origin(console: &Console, headers: &HeaderMap) -> bool {
    let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    if headers.get("sec-fetch-site").is_some_and(|site| site.as_bytes() != b"same-origin") {
        return false;
    }
    let (Some(origin), Some(host)) = (text(header::ORIGIN), text(header::HOST)) else { return false };
    let scheme = if encrypted(console, headers) { "https://" } else { "http://" };
    origin.strip_prefix(scheme).is_some_and(|place| place.eq_ignore_ascii_case(host))
}

/// The session of a request, if there is an open one. `used`: a person did something.
pub(super) async fn of(console: &Console, headers: &HeaderMap, used: bool) -> Answer<Option<SignedIn>> {
    let Some(cookie) = cookie(console, headers) else { return Ok(None) };
    let (hash, csrf) = (digest(&cookie), csrf(&cookie));
    let found = open(&console.app, hash.clone(), used).await?;
    Ok(found.map(|name| SignedIn { hash, name, csrf }))
}

/// Name of the token of a session that is open.
pub(super) async fn open(app: &Arc<App>, hash: String, used: bool) -> Answer<Option<String>> {
    let idle = i64::try_from(app.limits.session_idle.as_millis()).unwrap_or(i64::MAX);
    let found = app.blocking(move |app| Ok(app.fleet.session(&hash, idle, used)?)).await?;
    Ok(found.map(|session| session.name))
}

/// Lets who signed in pass, and sends others to the login.
pub(super) async fn signed_in(State(console): State<Arc<Console>>, mut request: Request, next: Next) -> Response {
    let events = request.uri().path().starts_with("/console/events/");
    match of(&console, request.headers(), !events).await {
        Ok(Some(session)) => {
            request.extensions_mut().insert(session);
            next.run(request).await
        }
        // The script goes there itself.
        Ok(None) if events => StatusCode::UNAUTHORIZED.into_response(),
        Ok(None) if request.method() == Method::GET || request.method() == Method::POST => {
            Redirect::to("/console/login").into_response()
        }
        Ok(None) => StatusCode::UNAUTHORIZED.into_response(),
        Err(error) => Problem(error).into_response(),
    }
}
