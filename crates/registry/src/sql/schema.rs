//! The schema, as migrations that both databases take.

/// Entry i leads from version i to i + 1. Entries are never changed, only appended. In the words of SQLite; [`in_postgres_words`] translates.
const MIGRATIONS: &[&str] = &[MODELS, SERVICE, CONSOLE];

/// The schema's version of this program.
pub(crate) const NEWEST: i64 = MIGRATIONS.len() as i64;

const MODELS: &str = "
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
";

/// Times are milliseconds since 1970.
const SERVICE: &str = "
    ALTER TABLE models ADD COLUMN retired INTEGER;
    CREATE TABLE counters (
        name  TEXT PRIMARY KEY,
        value INTEGER NOT NULL
    ) STRICT;
    INSERT INTO counters (name, value) VALUES ('generation', 0), ('audit', 0);
    CREATE TABLE owner_tokens (
        name    TEXT PRIMARY KEY,
        hash    TEXT NOT NULL UNIQUE,       -- SHA-256 of the token in hex
        created INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE enrolment_tokens (
        hash         TEXT PRIMARY KEY,
        id           TEXT NOT NULL UNIQUE,
        device_group TEXT NOT NULL,
        created      INTEGER NOT NULL,
        expires      INTEGER NOT NULL,
        used         INTEGER,
        device       TEXT
    ) STRICT;
    CREATE TABLE devices (
        id           TEXT PRIMARY KEY,
        name         TEXT NOT NULL,
        device_group TEXT NOT NULL,
        public_key   TEXT NOT NULL UNIQUE,
        access_hash  TEXT NOT NULL UNIQUE,
        enrolled     INTEGER NOT NULL,
        revoked      INTEGER,
        last_seen    INTEGER,
        status       TEXT                   -- the last that it sent, JSON
    ) STRICT;
    CREATE INDEX devices_group ON devices (device_group);
    CREATE TABLE deployments (
        generation  INTEGER PRIMARY KEY,    -- of all targets together
        target_kind TEXT NOT NULL,          -- device or group
        target      TEXT NOT NULL,
        model       TEXT,                   -- nothing: a group stops, a device follows its group
        action      TEXT NOT NULL,
        created     INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX deployments_target ON deployments (target_kind, target, generation);
    CREATE TABLE bundles (
        model   TEXT PRIMARY KEY REFERENCES models (id) ON DELETE CASCADE,
        sha256  TEXT NOT NULL UNIQUE,
        bytes   INTEGER NOT NULL,
        created INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE results (
        id          TEXT PRIMARY KEY,
        model       TEXT NOT NULL,
        version     INTEGER NOT NULL,
        device      TEXT NOT NULL,
        sequence    INTEGER NOT NULL,
        origin      TEXT NOT NULL,
        sample      TEXT NOT NULL,
        label       TEXT NOT NULL,
        taken       INTEGER NOT NULL,
        received    INTEGER NOT NULL,
        digest      TEXT NOT NULL,          -- SHA-256 of the record
        object      TEXT,                   -- in the store; nothing once it is no longer kept
        start       INTEGER NOT NULL,       -- of the record in the object
        length      INTEGER NOT NULL,
        state       TEXT NOT NULL,          -- stored, released or refused
        code        TEXT,                   -- why it was refused
        reason      TEXT,
        class       INTEGER,
        prediction  TEXT,                   -- a JSON object
        decided     INTEGER,
        lease       TEXT,
        lease_until INTEGER NOT NULL,
        attempts    INTEGER NOT NULL,
        UNIQUE (device, sequence)
    ) STRICT;
    CREATE INDEX results_state ON results (state, lease_until);
    CREATE INDEX results_received ON results (received, id);
    CREATE INDEX results_model ON results (model, received, id);
    CREATE INDEX results_object ON results (object);
    CREATE TABLE usage (
        scope    TEXT NOT NULL,             -- device, model, their totals, device-violations
        subject  TEXT NOT NULL,
        day      INTEGER NOT NULL,          -- since 1970; 0 for totals
        released INTEGER NOT NULL,
        PRIMARY KEY (scope, subject, day)
    ) STRICT;
    CREATE TABLE audit (
        sequence INTEGER PRIMARY KEY,
        time     INTEGER NOT NULL,
        event    TEXT NOT NULL,             -- JSON, as it was hashed
        previous BLOB NOT NULL,
        hash     BLOB NOT NULL
    ) STRICT;
    CREATE TABLE uploads (
        id      TEXT PRIMARY KEY,
        name    TEXT NOT NULL,
        bytes   INTEGER NOT NULL,
        sha256  TEXT NOT NULL,
        created INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE jobs (
        id          TEXT PRIMARY KEY,
        kind        TEXT NOT NULL,
        request     TEXT NOT NULL,          -- JSON
        state       TEXT NOT NULL,          -- queued, running, done or failed
        step        TEXT NOT NULL,
        progress    REAL NOT NULL,          -- of the step, 0 to 1
        result      TEXT,                   -- JSON
        error       TEXT,
        created     INTEGER NOT NULL,
        started     INTEGER,
        finished    INTEGER,
        lease       TEXT,
        lease_until INTEGER NOT NULL,
        attempts    INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX jobs_state ON jobs (state, lease_until);
";

const CONSOLE: &str = "
    CREATE TABLE sessions (
        hash    TEXT PRIMARY KEY,           -- SHA-256 of the cookie in hex
        token   TEXT NOT NULL,              -- SHA-256 of the owner token that opened it
        created INTEGER NOT NULL,
        expires INTEGER NOT NULL,           -- at the latest
        seen    INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE label_counts (
        model  TEXT NOT NULL,
        day    INTEGER NOT NULL,            -- since 1970
        device TEXT NOT NULL,
        class  INTEGER NOT NULL,            -- -1: of all classes those near another one
        count  INTEGER NOT NULL,
        PRIMARY KEY (model, day, device, class)
    ) STRICT;
    CREATE TABLE label_alarms (
        id           TEXT PRIMARY KEY,
        model        TEXT NOT NULL,
        day          INTEGER NOT NULL,
        device       TEXT NOT NULL,
        reference    TEXT NOT NULL,         -- calibration or fleet
        text         TEXT NOT NULL,
        bits         REAL NOT NULL,         -- chance does this once in 2^bits
        raised       INTEGER NOT NULL,
        acknowledged INTEGER,
        UNIQUE (model, day, device, reference)
    ) STRICT;
    CREATE INDEX label_alarms_raised ON label_alarms (raised);
";

/// The migrations that lead from a version to the newest, in SQLite's words or in PostgreSQL's; nothing where the version is newer than this program.
pub fn migrations(from: i64, postgres: bool) -> Option<Vec<String>> {
    let done = usize::try_from(from).ok().filter(|&done| done <= MIGRATIONS.len())?;
    let words = |sql: &&str| if postgres { in_postgres_words(sql) } else { (*sql).to_owned() };
    Some(MIGRATIONS.iter().skip(done).map(words).collect())
}

/// PostgreSQL's names of the types.
fn in_postgres_words(sql: &str) -> String {
    let mut out = String::with_capacity(sql.len());
    for line in sql.lines() {
        // Comments may hold the same words.
        let (code, comment) = line.split_once("--").unwrap_or((line, ""));
        let code = code
            .replace("INTEGER", "BIGINT")
            .replace(" REAL", " DOUBLE PRECISION")
            .replace(" BLOB", " BYTEA")
            .replace(") STRICT", ")");
        out.push_str(&code);
        if !comment.is_empty() {
            out.push_str("--");
            out.push_str(comment);
        }
        out.push('\n');
    }
    out
}
