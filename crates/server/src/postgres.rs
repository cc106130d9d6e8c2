//! The registry on PostgreSQL, so that several processes can share it.

use std::ffi::OsString;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use bytes::BytesMut;
use percent_encoding::percent_decode_str;
use postgres::config::SslMode;
use postgres::error::SqlState;
use postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};
use postgres::{Client, NoTls};
use rustls::CertificateError;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use subrosa_registry::sql::{Connect, Connection, Row, SqlError, SqlErrorKind, Value, migrations};
use tokio_postgres_rustls::MakeRustlsConnect;

/// "SRDB": whoever migrates holds this lock.
const LOCK: i64 = 0x5352_4442;

/// A PostgreSQL database.
pub(crate) struct Postgres {
    config: postgres::Config,
    /// The URL without its password.
    place: String,
    tls: Option<MakeRustlsConnect>,
    ready: OnceLock<()>,
}

impl Postgres {
    /// The database of a URL, `postgres://USER:PASSWORD@HOST/DATABASE?sslmode=verify-full&sslrootcert=FILE` or the like. Where TLS is spoken the
    /// server's certificate and name are always checked: against the certificates of that file, else of the one that `PGSSLROOTCERT` names,
    /// else of the system.
    pub fn new(url: &str) -> Result<Self, String> {
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err(
                "--database: give a URL that begins with postgres://; without one it is SQLite in the home".into()
            );
        }
        let (known, roots) = without_own(url);
        // The library's text does not repeat the URL.
        let mut config: postgres::Config = known.parse().map_err(|e: postgres::Error| {
            let cause = std::error::Error::source(&e).map_or_else(|| e.to_string(), ToString::to_string);
            let modes = if cause.contains("sslmode") { ": disable, prefer, require or verify-full" } else { "" };
            format!("--database: the URL is not one of PostgreSQL: {cause}{modes}")
        })?;
        config.application_name("subrosa-serve").connect_timeout(std::time::Duration::from_secs(10));
        let tls = if config.get_ssl_mode() == SslMode::Disable { None } else { Some(tls(roots)?) };
        let place = crate::store::plain(url).split('?').next().unwrap_or_default().to_owned();
        Ok(Self { config, place, tls, ready: OnceLock::new() })
    }
}

/// A URL as the driver knows it, and the file of `sslrootcert`. TLS that is required is always verified in full.
fn without_own(url: &str) -> (String, Option<OsString>) {
    let Some((place, query)) = url.split_once('?') else { return (url.to_owned(), None) };
    let mut roots = None;
    let mut known = Vec::new();
    for parameter in query.split('&') {
        match parameter.split_once('=') {
            Some(("sslrootcert", file)) => {
                roots = Some(percent_decode_str(file).decode_utf8_lossy().into_owned().into());
            }
            Some(("sslmode", "verify-full")) => known.push("sslmode=require"),
            _ => known.push(parameter),
        }
    }
    (format!("{place}?{}", known.join("&")), roots)
}

fn tls(file: Option<OsString>) -> Result<MakeRustlsConnect, String> {
    let mut roots = rustls::RootCertStore::empty();
    let named = file.map(|file| ("--database: sslrootcert", file));
    if let Some((name, file)) = named.or_else(|| Some(("PGSSLROOTCERT", std::env::var_os("PGSSLROOTCERT")?))) {
        let place = Path::new(&file).display();
        let bad = |e: &dyn std::fmt::Display| format!("{name}: {place}: {e}");
        for certificate in CertificateDer::pem_file_iter(&file).map_err(|e| bad(&e))? {
            roots.add(certificate.map_err(|e| bad(&e))?).map_err(|e| bad(&e))?;
        }
        if roots.is_empty() {
            return Err(bad(&"it holds no certificate in PEM form"));
        }
    } else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| format!("TLS cannot be set up: {e}"))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}

impl Connect for Postgres {
    fn connect(&self) -> Result<Box<dyn Connection>, SqlError> {
        let client = match &self.tls {
            Some(tls) => self.config.connect(tls.clone()),
            None => self.config.connect(NoTls),
        };
        let mut connection = Connected { client: Some(client.map_err(not_connected)?) };
        if self.ready.get().is_none() {
            connection.migrate()?;
            // Another thread may have been first.
            let _ = self.ready.set(());
        }
        Ok(Box::new(connection))
    }

    fn place(&self) -> String {
        self.place.clone()
    }

    fn skip_locked(&self) -> &'static str {
        "FOR UPDATE SKIP LOCKED"
    }
}

struct Connected {
    client: Option<Client>,
}

impl Drop for Connected {
    fn drop(&mut self) {
        // Closing waits, which a thread of the runtime must not.
        if let Some(client) = self.client.take() {
            std::thread::spawn(move || drop(client));
        }
    }
}

impl Connected {
    fn client(&mut self) -> Result<&mut Client, SqlError> {
        self.client.as_mut().ok_or_else(|| SqlError::text(SqlErrorKind::Failed, "the connection is closed"))
    }

    fn migrate(&mut self) -> Result<(), SqlError> {
        let mut transaction = self.client()?.transaction().map_err(explain)?;
        transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK]).map_err(explain)?;
        transaction
            .batch_execute("CREATE TABLE IF NOT EXISTS subrosa_schema (version BIGINT NOT NULL)")
            .map_err(explain)?;
        let rows = transaction.query("SELECT version FROM subrosa_schema", &[]).map_err(explain)?;
        let version: i64 = rows.first().map_or(Ok(0), |row| row.try_get(0)).map_err(explain)?;
        let newer = || SqlError::text(SqlErrorKind::Newer(version), "a newer schema");
        let todo = migrations(version, true).ok_or_else(newer)?;
        if !todo.is_empty() {
            for migration in &todo {
                transaction.batch_execute(migration).map_err(explain)?;
            }
            transaction.execute("DELETE FROM subrosa_schema", &[]).map_err(explain)?;
            let newest = version + todo.len() as i64;
            transaction.execute("INSERT INTO subrosa_schema VALUES ($1)", &[&newest]).map_err(explain)?;
        }
        transaction.commit().map_err(explain)
    }

    fn batch(&mut self, sql: &str) -> Result<(), SqlError> {
        self.client()?.batch_execute(sql).map_err(explain)
    }
}

impl Connection for Connected {
    fn query(&mut self, sql: &str, values: &[Value]) -> Result<Vec<Row>, SqlError> {
        let sent: Vec<Sent<'_>> = values.iter().map(Sent).collect();
        let sent: Vec<&(dyn ToSql + Sync)> = sent.iter().map(|value| value as _).collect();
        let rows = self.client()?.query(sql, &sent).map_err(explain)?;
        let read = |row: postgres::Row| {
            let column = |i| row.try_get::<_, Got>(i).map(|got| got.0).map_err(explain);
            (0..row.len()).map(column).collect::<Result<Vec<_>, _>>().map(Row::new)
        };
        rows.into_iter().map(read).collect()
    }

    fn execute(&mut self, sql: &str, values: &[Value]) -> Result<u64, SqlError> {
        let sent: Vec<Sent<'_>> = values.iter().map(Sent).collect();
        let sent: Vec<&(dyn ToSql + Sync)> = sent.iter().map(|value| value as _).collect();
        self.client()?.execute(sql, &sent).map_err(explain)
    }

    fn begin(&mut self) -> Result<(), SqlError> {
        self.batch("BEGIN")
    }

    fn commit(&mut self) -> Result<(), SqlError> {
        self.batch("COMMIT").map_err(|error| match error.kind {
            // Nobody knows whether it was committed when the connection broke.
            SqlErrorKind::Again if !self.is_alive() => SqlError::new(SqlErrorKind::Failed, error),
            _ => error,
        })
    }

    fn roll_back(&mut self) -> Result<(), SqlError> {
        self.batch("ROLLBACK")
    }

    fn is_alive(&self) -> bool {
        self.client.as_ref().is_some_and(|client| !client.is_closed())
    }
}

/// A value on its way to the server, as the statement wants it.
#[derive(Debug)]
struct Sent<'a>(&'a Value);

type Failed = Box<dyn std::error::Error + Sync + Send>;

impl ToSql for Sent<'_> {
    fn to_sql(&self, kind: &Type, out: &mut BytesMut) -> Result<IsNull, Failed> {
        match self.0 {
            Value::Null => Ok(IsNull::Yes),
            Value::Integer(x) if *kind == Type::INT4 => i32::try_from(*x)?.to_sql(kind, out),
            Value::Integer(x) => x.to_sql_checked(kind, out),
            Value::Real(x) => x.to_sql_checked(kind, out),
            Value::Text(x) => x.to_sql_checked(kind, out),
            Value::Blob(x) => x.to_sql_checked(kind, out),
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

/// A value from the server.
struct Got(Value);

impl<'a> FromSql<'a> for Got {
    fn from_sql(kind: &Type, raw: &'a [u8]) -> Result<Self, Failed> {
        Ok(Self(match *kind {
            Type::INT8 => Value::Integer(i64::from_sql(kind, raw)?),
            Type::INT4 => Value::Integer(i32::from_sql(kind, raw)?.into()),
            Type::FLOAT8 => Value::Real(f64::from_sql(kind, raw)?),
            Type::BYTEA => Value::Blob(Vec::from_sql(kind, raw)?),
            _ => Value::Text(String::from_sql(kind, raw)?),
        }))
    }

    fn from_sql_null(_: &Type) -> Result<Self, Failed> {
        Ok(Self(Value::Null))
    }

    fn accepts(kind: &Type) -> bool {
        [Type::INT8, Type::INT4, Type::FLOAT8, Type::BYTEA, Type::TEXT, Type::VARCHAR].contains(kind)
    }
}

/// Why there is no connection.
fn not_connected(source: postgres::Error) -> SqlError {
    let refused = [
        SqlState::INVALID_PASSWORD,
        SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
        SqlState::INVALID_CATALOG_NAME,
        SqlState::INSUFFICIENT_PRIVILEGE,
    ];
    if source.code().is_some_and(|code| refused.contains(code)) {
        return SqlError::new(SqlErrorKind::Refused, source);
    }
    let io = std::error::Error::source(&source).and_then(|cause| cause.downcast_ref::<std::io::Error>());
    match io.and_then(|io| io.get_ref()?.downcast_ref()) {
        // A bad signature is that of another authority of the same name.
        Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature)) => {
            SqlError::text(
                SqlErrorKind::Refused,
                "the server's certificate is not of an authority that is trusted: name the right one by sslrootcert=FILE in the URL or by PGSSLROOTCERT",
            )
        }
        Some(rustls::Error::InvalidCertificate(error)) => {
            SqlError::text(SqlErrorKind::Refused, format!("the server's certificate is refused: {error}"))
        }
        // The server has no TLS.
        None if io.is_none() && source.to_string().contains("TLS") => SqlError::new(SqlErrorKind::Refused, source),
        _ => explain(source),
    }
}

fn explain(source: postgres::Error) -> SqlError {
    let kind = match source.code() {
        Some(&SqlState::T_R_SERIALIZATION_FAILURE | &SqlState::T_R_DEADLOCK_DETECTED) => SqlErrorKind::Again,
        // The server was restarted or the connection broke.
        Some(&SqlState::ADMIN_SHUTDOWN | &SqlState::CRASH_SHUTDOWN | &SqlState::CANNOT_CONNECT_NOW) => {
            SqlErrorKind::Again
        }
        None if source.is_closed() || std::error::Error::source(&source).is_some_and(|s| s.is::<std::io::Error>()) => {
            SqlErrorKind::Again
        }
        _ => SqlErrorKind::Failed,
    };
    SqlError::new(kind, source)
}
