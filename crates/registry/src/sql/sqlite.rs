//! The embedded database: one SQLite file.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{ErrorCode, ToSql};

use super::schema::{NEWEST, migrations};
use super::{Connect, Connection, Row, SqlError, SqlErrorKind, Value};

/// "SRDB": tells our database from anyone else's.
const APPLICATION_ID: i32 = 0x5352_4442;

/// A SQLite file.
pub(crate) struct SqliteFile {
    path: PathBuf,
    /// Whether files of models lie beside it: they cannot belong to a database that is only now created.
    has_models: bool,
    ready: OnceLock<()>,
}

impl SqliteFile {
    pub(crate) fn new(path: PathBuf, has_models: bool) -> Self {
        Self { path, has_models, ready: OnceLock::new() }
    }
}

impl Connect for SqliteFile {
    fn connect(&self) -> Result<Box<dyn Connection>, SqlError> {
        let mut connection = Sqlite(rusqlite::Connection::open(&self.path).map_err(explain)?);
        // Long enough for another process's commit, which waits for the disk.
        connection.0.busy_timeout(Duration::from_secs(30)).map_err(explain)?;
        // A write-ahead log, so that readers and a writer do not wait for each other; FULL makes each commit durable.
        connection.batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA trusted_schema = OFF;")?;
        if self.ready.get().is_none() {
            connection.prepare(self.has_models)?;
            // Another thread may have been first.
            let _ = self.ready.set(());
        }
        Ok(Box::new(connection))
    }

    fn place(&self) -> String {
        self.path.display().to_string()
    }

    fn skip_locked(&self) -> &'static str {
        ""
    }
}

struct Sqlite(rusqlite::Connection);

impl Sqlite {
    /// Brings the file to the newest schema and looks for damage.
    fn prepare(&mut self, has_models: bool) -> Result<(), SqlError> {
        self.begin()?;
        if let Err(error) = self.migrate(has_models) {
            let _ = self.roll_back();
            return Err(error);
        }
        self.commit()?;
        let verdict: String = self.number("PRAGMA quick_check(1)")?;
        if verdict == "ok" { Ok(()) } else { Err(SqlError::corrupt(verdict)) }
    }

    fn migrate(&mut self, has_models: bool) -> Result<(), SqlError> {
        let application: i32 = self.number("PRAGMA application_id")?;
        let version: i64 = self.number("PRAGMA user_version")?;
        let tables: i64 = self.number("SELECT count(*) FROM sqlite_schema")?;
        if application != APPLICATION_ID && (application != 0 || version != 0 || tables != 0) {
            return Err(SqlError::text(SqlErrorKind::Foreign, "not a Subrosa registry"));
        }
        if tables == 0 && has_models {
            return Err(SqlError::text(SqlErrorKind::Missing, "an empty database"));
        }
        if version < 0 {
            return Err(SqlError::corrupt(format!("schema version {version}")));
        }
        let newer = || SqlError::text(SqlErrorKind::Newer(version), "a newer schema");
        for migration in migrations(version, false).ok_or_else(newer)? {
            self.batch(&migration)?;
        }
        if version < NEWEST {
            self.batch(&format!("PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {NEWEST};"))?;
        }
        Ok(())
    }

    fn number<T: rusqlite::types::FromSql>(&self, sql: &str) -> Result<T, SqlError> {
        self.0.query_row(sql, [], |row| row.get(0)).map_err(explain)
    }

    fn batch(&self, sql: &str) -> Result<(), SqlError> {
        self.0.execute_batch(sql).map_err(explain)
    }
}

impl Connection for Sqlite {
    fn query(&mut self, sql: &str, values: &[Value]) -> Result<Vec<Row>, SqlError> {
        let mut statement = self.0.prepare_cached(&numbered(sql)).map_err(explain)?;
        let columns = statement.column_count();
        let mut rows = statement.query(rusqlite::params_from_iter(values)).map_err(explain)?;
        let mut out = Vec::new();
        while let Some(row) = rows.next().map_err(explain)? {
            let value = |i| row.get_ref(i).map_err(explain).and_then(read);
            out.push(Row::new((0..columns).map(value).collect::<Result<_, _>>()?));
        }
        Ok(out)
    }

    fn execute(&mut self, sql: &str, values: &[Value]) -> Result<u64, SqlError> {
        let mut statement = self.0.prepare_cached(&numbered(sql)).map_err(explain)?;
        statement.execute(rusqlite::params_from_iter(values)).map(|count| count as u64).map_err(explain)
    }

    fn begin(&mut self) -> Result<(), SqlError> {
        self.batch("BEGIN IMMEDIATE")
    }

    fn commit(&mut self) -> Result<(), SqlError> {
        self.batch("COMMIT")
    }

    fn roll_back(&mut self) -> Result<(), SqlError> {
        self.batch("ROLLBACK")
    }

    fn is_alive(&self) -> bool {
        // Within a transaction that could neither be committed nor given up it is of no use.
        self.0.is_autocommit()
    }
}

/// SQLite numbers values with `?`; with `$` they would be names.
fn numbered(sql: &str) -> String {
    sql.replace('$', "?")
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Integer(x) => ValueRef::Integer(*x),
            Self::Real(x) => ValueRef::Real(*x),
            Self::Text(x) => ValueRef::Text(x.as_bytes()),
            Self::Blob(x) => ValueRef::Blob(x),
        }))
    }
}

fn read(value: ValueRef<'_>) -> Result<Value, SqlError> {
    Ok(match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(x) => Value::Integer(x),
        ValueRef::Real(x) => Value::Real(x),
        ValueRef::Text(x) => {
            Value::Text(String::from_utf8(x.to_vec()).map_err(|e| SqlError::new(SqlErrorKind::Corrupt, e))?)
        }
        ValueRef::Blob(x) => Value::Blob(x.to_vec()),
    })
}

fn explain(source: rusqlite::Error) -> SqlError {
    let kind = match source.sqlite_error_code() {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => SqlErrorKind::Corrupt,
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => SqlErrorKind::Again,
        _ => SqlErrorKind::Failed,
    };
    SqlError::new(kind, source)
}
