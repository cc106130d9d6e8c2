//! The SQLite file: its schema, its migrations, and the few statements the registry needs.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, Row, Transaction, TransactionBehavior, params};

use crate::{
    record::{ModelId, NewModel, Record},
    registry::RegistryError,
};

/// "SRDB": tells our database from anyone else's.
const APPLICATION_ID: i32 = 0x5352_4442;

/// Entry i leads from `user_version` i to i + 1. Entries are never changed, only appended.
const MIGRATIONS: &[&str] = &["
    CREATE TABLE names (
        name         TEXT PRIMARY KEY,
        last_version INTEGER NOT NULL       -- highest ever used, so that no version is given twice
    ) STRICT;
    CREATE TABLE models (
        id            TEXT PRIMARY KEY,     -- 32 hex digits
        name          TEXT NOT NULL REFERENCES names (name),
        version       INTEGER NOT NULL,
        created_unix  INTEGER NOT NULL,
        scheme        TEXT NOT NULL,
        security_bits INTEGER NOT NULL,
        scope         TEXT NOT NULL,
        input         TEXT NOT NULL,
        log_n         INTEGER NOT NULL,
        report        TEXT NOT NULL,        -- a JSON object
        UNIQUE (name, version)
    ) STRICT;
"];

const COLUMNS: &str = "id, name, version, created_unix, scheme, security_bits, scope, input, log_n, report";

pub(crate) struct Database {
    connection: Connection,
    path: PathBuf,
}

impl Database {
    /// Opens or creates the file and brings it to the newest schema.
    ///
    /// `has_models` says whether files of models lie beside it: they cannot belong to a database that is only now created.
    pub(crate) fn open(path: PathBuf, has_models: bool) -> Result<Self, RegistryError> {
        let connection = Connection::open(&path).map_err(|source| explain(&path, source))?;
        let database = Self { connection, path };
        database.prepare(has_models)?;
        Ok(database)
    }

    fn prepare(&self, has_models: bool) -> Result<(), RegistryError> {
        let path = || self.path.clone();
        // Long enough for another process's commit, which waits for the disk.
        self.run(|connection| connection.busy_timeout(Duration::from_secs(30)))?;
        // A rollback journal keeps the database one file; EXTRA is FULL and also makes the journal's removal durable.
        self.run(|connection| {
            connection.execute_batch(
                "PRAGMA journal_mode = DELETE; PRAGMA synchronous = EXTRA; PRAGMA foreign_keys = ON; PRAGMA trusted_schema = OFF;",
            )
        })?;
        let transaction = self.transaction()?;
        let application: i32 = self.run(|connection| connection.pragma_query_one(None, "application_id"))?;
        let version: i64 = self.run(|connection| connection.pragma_query_one(None, "user_version"))?;
        let tables: i64 =
            self.run(|connection| connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)))?;
        if application != APPLICATION_ID && (application != 0 || version != 0 || tables != 0) {
            return Err(RegistryError::ForeignDatabase { path: path() });
        }
        if tables == 0 && has_models {
            return Err(RegistryError::DatabaseMissing { path: path() });
        }
        let supported = MIGRATIONS.len() as i64;
        if version > supported {
            return Err(RegistryError::NewerDatabase { path: path(), version, supported });
        }
        let done = usize::try_from(version)
            .map_err(|_| RegistryError::Corrupt { path: path(), detail: format!("schema version {version}") })?;
        for migration in MIGRATIONS.iter().skip(done) {
            self.run(|connection| connection.execute_batch(migration))?;
        }
        if version < supported {
            self.run(|connection| connection.pragma_update(None, "application_id", APPLICATION_ID))?;
            self.run(|connection| connection.pragma_update(None, "user_version", supported))?;
        }
        transaction.commit().map_err(|source| explain(&self.path, source))?;

        let verdict: String =
            self.run(|connection| connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)))?;
        if verdict == "ok" { Ok(()) } else { Err(RegistryError::Corrupt { path: path(), detail: verdict }) }
    }

    /// Inserts a model under the next version of its name. Nothing is kept unless the returned transaction is committed.
    pub(crate) fn insert(
        &self,
        id: ModelId,
        model: NewModel,
        created_unix: i64,
    ) -> Result<(Record, Pending<'_>), RegistryError> {
        let transaction = self.transaction()?;
        let version: u32 = self.run(|connection| {
            connection.query_row(
                "INSERT INTO names (name, last_version) VALUES (?1, 1)
                 ON CONFLICT (name) DO UPDATE SET last_version = last_version + 1 RETURNING last_version",
                [&model.name],
                |row| row.get(0),
            )
        })?;
        let NewModel { name, scheme, security_bits, scope, input, log_n, mut report } = model;
        if let Some(keys) = report.as_object_mut() {
            keys.insert("id".to_owned(), id.to_string().into());
            keys.insert("name".to_owned(), name.clone().into());
            keys.insert("version".to_owned(), version.into());
        }
        let record = Record { id, name, version, created_unix, scheme, security_bits, scope, input, log_n, report };
        self.run(|connection| {
            connection.execute(
                &format!("INSERT INTO models ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)"),
                params![
                    id.to_string(),
                    record.name,
                    version,
                    created_unix,
                    record.scheme,
                    security_bits,
                    record.scope,
                    record.input,
                    log_n,
                    record.report.to_string()
                ],
            )
        })?;
        Ok((record, Pending { transaction, path: &self.path }))
    }

    /// Every model, by name and version.
    pub(crate) fn all(&self) -> Result<Vec<Record>, RegistryError> {
        let rows: Vec<Result<Record, String>> = self.run(|connection| {
            let mut statement = connection.prepare(&format!("SELECT {COLUMNS} FROM models ORDER BY name, version"))?;
            statement.query_map([], read)?.collect()
        })?;
        let corrupt = |detail| RegistryError::Corrupt { path: self.path.clone(), detail };
        rows.into_iter().map(|row| row.map_err(corrupt)).collect()
    }

    /// Whether there is a row for this model.
    pub(crate) fn contains(&self, id: ModelId) -> Result<bool, RegistryError> {
        self.run(|connection| {
            connection.query_row("SELECT count(*) FROM models WHERE id = ?1", [id.to_string()], |row| row.get(0))
        })
    }

    /// Removes a model's row; says whether there was one.
    pub(crate) fn delete(&self, id: ModelId) -> Result<bool, RegistryError> {
        self.run(|connection| connection.execute("DELETE FROM models WHERE id = ?1", [id.to_string()]))
            .map(|count| count > 0)
    }

    fn transaction(&self) -> Result<Transaction<'_>, RegistryError> {
        Transaction::new_unchecked(&self.connection, TransactionBehavior::Immediate)
            .map_err(|source| explain(&self.path, source))
    }

    fn run<T>(&self, statement: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, RegistryError> {
        statement(&self.connection).map_err(|source| explain(&self.path, source))
    }
}

/// An inserted row that is not committed; rolled back on drop.
pub(crate) struct Pending<'a> {
    transaction: Transaction<'a>,
    path: &'a Path,
}

impl Pending<'_> {
    pub(crate) fn commit(self) -> Result<(), RegistryError> {
        self.transaction.commit().map_err(|source| explain(self.path, source))
    }
}

/// The inner error is a row whose text is not what was written.
fn read(row: &Row<'_>) -> rusqlite::Result<Result<Record, String>> {
    let id: String = row.get(0)?;
    let report: String = row.get(9)?;
    let Ok(parsed) = id.parse() else {
        return Ok(Err(format!("'{id}' is not a model's id")));
    };
    let Ok(report) = serde_json::from_str(&report) else {
        return Ok(Err(format!("the report of {id} is not JSON")));
    };
    Ok(Ok(Record {
        id: parsed,
        name: row.get(1)?,
        version: row.get(2)?,
        created_unix: row.get(3)?,
        scheme: row.get(4)?,
        security_bits: row.get(5)?,
        scope: row.get(6)?,
        input: row.get(7)?,
        log_n: row.get(8)?,
        report,
    }))
}

fn explain(path: &Path, source: rusqlite::Error) -> RegistryError {
    let path = path.to_owned();
    match source.sqlite_error_code() {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
            RegistryError::Corrupt { path, detail: source.to_string() }
        }
        _ => RegistryError::Database { path, source },
    }
}
