//! Errors as the HTTP interface answers them: `application/problem+json`, RFC 9457.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use subrosa_fleet::messages::Problem;
use subrosa_owner::OwnerError;
use subrosa_registry::RegistryError;
use subrosa_registry::fleet::EnrolError;
use subrosa_registry::sql::SqlError;

use crate::store::StoreError;

/// What a request failed of.
#[derive(Debug)]
pub(crate) struct ApiError {
    pub status: StatusCode,
    pub detail: String,
    /// What the log says and the client is not told.
    pub inside: Option<String>,
    pub retry_after: Option<u64>,
}

pub(crate) type Answer<T> = Result<T, ApiError>;

impl ApiError {
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), inside: None, retry_after: None }
    }

    pub fn bad(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    pub fn missing(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    pub fn conflict(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, detail)
    }

    pub fn unauthorized(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, detail)
    }

    pub fn too_large(limit: u64) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the body is larger than {limit} bytes: send less at once"))
    }

    /// The fault is here; the log says what.
    pub fn inside(what: impl std::fmt::Display) -> Self {
        let detail = "the backend could not do it; its log says why".to_owned();
        Self { status: StatusCode::INTERNAL_SERVER_ERROR, detail, inside: Some(what.to_string()), retry_after: None }
    }

    /// Not now.
    pub fn later(what: impl std::fmt::Display) -> Self {
        let detail = "the backend cannot do it now: try again".to_owned();
        let inside = Some(what.to_string());
        Self { status: StatusCode::SERVICE_UNAVAILABLE, detail, inside, retry_after: Some(2) }
    }
}

impl From<SqlError> for ApiError {
    fn from(error: SqlError) -> Self {
        Self::later(format!("the registry's database failed: {error}"))
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        Self::later(error)
    }
}

impl From<RegistryError> for ApiError {
    fn from(error: RegistryError) -> Self {
        match error {
            RegistryError::NotFound { .. } => Self::missing(error.to_string()),
            RegistryError::BadName { .. } | RegistryError::Ambiguous { .. } => Self::bad(error.to_string()),
            RegistryError::Database { .. } => Self::later(error),
            _ => Self::inside(error),
        }
    }
}

impl From<OwnerError> for ApiError {
    fn from(error: OwnerError) -> Self {
        match error {
            OwnerError::Registry(error) => error.into(),
            OwnerError::Network(_) | OwnerError::Plain(_) | OwnerError::Input(_) | OwnerError::Usage(_) => {
                Self::bad(error.to_string())
            }
            _ => Self::inside(error),
        }
    }
}

impl From<EnrolError> for ApiError {
    fn from(error: EnrolError) -> Self {
        match error {
            EnrolError::Token(_) => Self::new(StatusCode::FORBIDDEN, error.to_string()),
            EnrolError::KnownKey => Self::conflict(error.to_string()),
            EnrolError::Sql(error) => error.into(),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        if let Some(inside) = &self.inside {
            tracing::error!(status = self.status.as_u16(), error = %inside, "a request failed");
        }
        let title = self.status.canonical_reason().unwrap_or("Error").to_owned();
        let problem = Problem { title, status: self.status.as_u16(), detail: self.detail };
        let body = serde_json::to_vec(&problem).unwrap_or_default();
        let mut response = (self.status, [(header::CONTENT_TYPE, "application/problem+json")], body).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
