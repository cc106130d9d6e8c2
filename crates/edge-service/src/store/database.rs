//! The SQLite file of the queue: schema and statements. Everything here happens inside the caller's transaction.

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};
use std::path::Path;
use std::time::Duration;
use subrosa_fleet::{ResultId, SampleId};

/// "SREQ": tells our database from anyone else's.
const APPLICATION_ID: i32 = 0x5352_4551;

/// Entry i leads from `user_version` i to i + 1. Entries are never changed, only appended.
const MIGRATIONS: &[&str] = &["
    CREATE TABLE agent (                     -- one row
        next_sequence INTEGER NOT NULL,      -- of the next result; never used before
        runs          INTEGER NOT NULL       -- how often the agent was started
    ) STRICT;
    INSERT INTO agent VALUES (1, 0);
    CREATE TABLE results (                   -- wait to be delivered
        sequence INTEGER PRIMARY KEY,
        result   BLOB NOT NULL,              -- its id
        sample   BLOB NOT NULL,
        record   BLOB NOT NULL               -- the signed result as it is delivered
    ) STRICT;
    CREATE INDEX results_by_sample ON results (sample);
    CREATE TABLE done (                      -- samples that are not to be evaluated again
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        sample BLOB NOT NULL UNIQUE,
        result BLOB,                         -- id of its result, if it has one
        file   TEXT                          -- the file it is from, while that is in work
    ) STRICT;
    CREATE INDEX done_by_file ON done (file) WHERE file IS NOT NULL;
    CREATE TABLE files (                     -- of watched directories, all of whose samples are done
        source  TEXT NOT NULL,
        name    TEXT NOT NULL,
        size    INTEGER NOT NULL,
        changed INTEGER NOT NULL,            -- nanoseconds since 1970
        kept    INTEGER NOT NULL,            -- 1: it stays where it is, since not all of it could be used
        PRIMARY KEY (source, name)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE progress (                  -- how far sources are that count
        source   TEXT PRIMARY KEY,
        position INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
"];

/// Samples without a file that are remembered.
const REMEMBERED: i64 = 200_000;

/// A result as it waits in the queue.
#[derive(Debug, Clone)]
pub(crate) struct Queued {
    pub sequence: u64,
    pub result: ResultId,
    pub record: Vec<u8>,
}

/// A file of a watched directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileState {
    pub name: String,
    pub size: u64,
    /// Nanoseconds since 1970.
    pub changed: u64,
    /// It stays where it is, since not all of it could be used.
    pub kept: bool,
}

/// Where a sample that was seen before is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Its result, if it has one.
    pub result: Option<ResultId>,
    /// Its sequence number while it waits in the queue.
    pub queued: Option<u64>,
}

/// Opens or creates the file and brings it to the newest schema.
pub(crate) fn open(path: &Path) -> Result<Connection, String> {
    let text = |e: rusqlite::Error| match e.sqlite_error_code() {
        Some(rusqlite::ErrorCode::NotADatabase | rusqlite::ErrorCode::DatabaseCorrupt) => format!(
            "the queue is damaged ({e}): move the file away to begin with an empty one; what it held cannot be delivered"
        ),
        _ => format!("the queue cannot be opened: {e}"),
    };
    let mut connection = Connection::open(path).map_err(text)?;
    connection.busy_timeout(Duration::from_secs(30)).map_err(text)?;
    connection
        .execute_batch(
            "PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
             PRAGMA journal_size_limit = 67108864; PRAGMA trusted_schema = OFF;",
        )
        .map_err(text)?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(text)?;
    let application: i32 = transaction.pragma_query_value(None, "application_id", |row| row.get(0)).map_err(text)?;
    let version: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(text)?;
    let tables: i64 =
        transaction.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(text)?;
    if application != APPLICATION_ID && (application, version, tables) != (0, 0, 0) {
        return Err("it is another program's database: give the agent a state directory of its own".into());
    }
    let supported = MIGRATIONS.len() as i64;
    if version > supported {
        return Err(format!(
            "it was written by a newer agent (schema {version}, known here: {supported}): update the agent"
        ));
    }
    for migration in MIGRATIONS.iter().skip(usize::try_from(version).unwrap_or(0)) {
        transaction.execute_batch(migration).map_err(text)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID).map_err(text)?;
    transaction.pragma_update(None, "user_version", supported).map_err(text)?;
    transaction.commit().map_err(text)?;
    let verdict: String = connection.pragma_query_value(None, "quick_check", |row| row.get(0)).map_err(text)?;
    if verdict == "ok" { Ok(connection) } else { Err(format!("the queue is damaged ({verdict}): move the file away")) }
}

pub(super) type Sql<T> = Result<T, rusqlite::Error>;

/// Results that wait, and their bytes.
pub(super) fn level(connection: &Connection) -> Sql<(u64, u64)> {
    connection.query_row("SELECT count(*), coalesce(sum(length(record)), 0) FROM results", [], |row| {
        Ok((row.get::<_, i64>(0)? as u64, row.get::<_, i64>(1)? as u64))
    })
}

/// The number of this start.
pub(super) fn begin_run(connection: &Connection) -> Sql<u64> {
    connection.query_row("UPDATE agent SET runs = runs + 1 RETURNING runs", [], |row| Ok(row.get::<_, i64>(0)? as u64))
}

/// A sequence number that was never given before.
pub(super) fn next_sequence(t: &Transaction<'_>) -> Sql<u64> {
    t.prepare_cached("UPDATE agent SET next_sequence = next_sequence + 1 RETURNING next_sequence - 1")?
        .query_row([], |row| Ok(row.get::<_, i64>(0)? as u64))
}

/// Puts a result into the queue.
pub(super) fn push(t: &Transaction<'_>, sample: SampleId, queued: &Queued) -> Sql<()> {
    t.prepare_cached("INSERT INTO results (sequence, result, sample, record) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![queued.sequence as i64, queued.result.0, sample.0, queued.record])
        .map(drop)
}

/// Marks a sample as done.
pub(super) fn mark(t: &Transaction<'_>, sample: SampleId, result: Option<ResultId>, file: Option<&str>) -> Sql<()> {
    t.prepare_cached("INSERT INTO done (sample, result, file) VALUES (?1, ?2, ?3)")?.execute(params![
        sample.0,
        result.map(|r| r.0),
        file
    ])?;
    t.prepare_cached("DELETE FROM done WHERE number <= ?1 AND file IS NULL")?
        .execute([t.last_insert_rowid() - REMEMBERED])
        .map(drop)
}

/// Whether a sample is done, and where its result is.
pub(super) fn seen(connection: &Connection, sample: SampleId) -> Sql<Option<Seen>> {
    connection
        .prepare_cached(
            "SELECT done.result, results.sequence FROM done LEFT JOIN results USING (sample) WHERE done.sample = ?1",
        )?
        .query_row([sample.0], |row| {
            Ok(Seen {
                result: row.get::<_, Option<[u8; 16]>>(0)?.map(ResultId),
                queued: row.get::<_, Option<i64>>(1)?.map(|s| s as u64),
            })
        })
        .optional()
}

/// The oldest results, up to a number and a size, but at least one.
pub(super) fn oldest(connection: &Connection, results: usize, bytes: u64) -> Sql<Vec<Queued>> {
    let mut statement =
        connection.prepare_cached("SELECT sequence, result, record FROM results ORDER BY sequence LIMIT ?1")?;
    let mut rows = statement.query([i64::try_from(results).unwrap_or(i64::MAX)])?;
    let (mut out, mut size) = (Vec::new(), 0u64);
    while let Some(row) = rows.next()? {
        let record: Vec<u8> = row.get(2)?;
        size += record.len() as u64;
        if size > bytes && !out.is_empty() {
            break;
        }
        out.push(Queued { sequence: row.get::<_, i64>(0)? as u64, result: ResultId(row.get(1)?), record });
    }
    Ok(out)
}

/// Takes a result out of the queue; its size, if it was there.
pub(super) fn take(t: &Transaction<'_>, sequence: u64) -> Sql<Option<u64>> {
    t.prepare_cached("DELETE FROM results WHERE sequence = ?1 RETURNING length(record)")?
        .query_row([sequence as i64], |row| Ok(row.get::<_, i64>(0)? as u64))
        .optional()
}

/// 1 if a result with this sequence number waits in the queue, else 0.
pub(super) fn holds(connection: &Connection, sequence: u64) -> Sql<u64> {
    connection
        .prepare_cached("SELECT count(*) FROM results WHERE sequence = ?1")?
        .query_row([sequence as i64], |row| Ok(row.get::<_, i64>(0)? as u64))
}

/// Takes the oldest result out of the queue; its sequence number and size.
pub(super) fn take_oldest(t: &Transaction<'_>) -> Sql<Option<(u64, u64)>> {
    t.prepare_cached(
        "DELETE FROM results WHERE sequence = (SELECT min(sequence) FROM results) RETURNING sequence, length(record)",
    )?
    .query_row([], |row| Ok((row.get::<_, i64>(0)? as u64, row.get::<_, i64>(1)? as u64)))
    .optional()
}

/// Files of a source that are done.
pub(super) fn files(connection: &Connection, source: &str) -> Sql<Vec<FileState>> {
    let mut statement = connection.prepare_cached("SELECT name, size, changed, kept FROM files WHERE source = ?1")?;
    let rows = statement.query_map([source], |row| {
        Ok(FileState {
            name: row.get(0)?,
            size: row.get::<_, i64>(1)? as u64,
            changed: row.get::<_, i64>(2)? as u64,
            kept: row.get(3)?,
        })
    })?;
    rows.collect()
}

/// Remembers a file as done, and forgets its samples, which it stands for now.
pub(super) fn file_done(t: &Transaction<'_>, source: &str, file: &FileState, key: &str) -> Sql<()> {
    t.prepare_cached(
        "INSERT INTO files (source, name, size, changed, kept) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT DO UPDATE SET size = excluded.size, changed = excluded.changed, kept = excluded.kept",
    )?
    .execute(params![source, file.name, file.size as i64, file.changed as i64, file.kept])?;
    t.prepare_cached("DELETE FROM done WHERE file = ?1")?.execute([key]).map(drop)
}

/// Forgets files that are gone.
pub(super) fn forget_file(t: &Transaction<'_>, source: &str, name: &str) -> Sql<()> {
    t.prepare_cached("DELETE FROM files WHERE source = ?1 AND name = ?2")?.execute([source, name]).map(drop)
}

/// How far a source is.
pub(super) fn progress(connection: &Connection, source: &str) -> Sql<u64> {
    let found = connection
        .prepare_cached("SELECT position FROM progress WHERE source = ?1")?
        .query_row([source], |row| Ok(row.get::<_, i64>(0)? as u64))
        .optional()?;
    Ok(found.unwrap_or(0))
}

/// A source is so far, or farther.
pub(super) fn advance(t: &Transaction<'_>, source: &str, position: u64) -> Sql<()> {
    t.prepare_cached(
        "INSERT INTO progress (source, position) VALUES (?1, ?2)
         ON CONFLICT DO UPDATE SET position = max(position, excluded.position)",
    )?
    .execute(params![source, position as i64])
    .map(drop)
}
