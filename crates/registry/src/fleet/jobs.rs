//! Background jobs, and the files that were uploaded for them.

use serde::Serialize;
use serde_json::Value as Json;

use super::{Event, Fleet, random_id};
use crate::sql::{Row, SqlError};
use crate::time::now;
use crate::values;

/// A background job.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct JobRow {
    /// Its id.
    pub id: String,
    /// `protect`.
    pub kind: String,
    /// What was asked for.
    pub request: Json,
    /// `queued`, `running`, `done` or `failed`.
    pub state: String,
    /// What it is doing.
    pub step: String,
    /// How much of the step is done, 0 to 1.
    pub progress: f64,
    /// What came of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<Json>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// When it was asked for, milliseconds since 1970.
    pub created: i64,
    /// When it was begun.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started: Option<i64>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished: Option<i64>,
    /// How often it was begun.
    pub attempts: u32,
}

/// An uploaded file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UploadRow {
    /// Its id.
    pub id: String,
    /// The name it was given; its ending says what it is.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// SHA-256 in hex.
    pub sha256: String,
    /// When, milliseconds since 1970.
    pub created: i64,
}

const COLUMNS: &str = "id, kind, request, state, step, progress, result, error, created, started, finished, attempts";

fn read(row: &Row) -> Result<JobRow, SqlError> {
    Ok(JobRow {
        id: row.get(0)?,
        kind: row.get(1)?,
        request: row.get(2)?,
        state: row.get(3)?,
        step: row.get(4)?,
        progress: row.get(5)?,
        result: row.get(6)?,
        error: row.get(7)?,
        created: row.get(8)?,
        started: row.get(9)?,
        finished: row.get(10)?,
        attempts: row.get(11)?,
    })
}

fn read_upload(row: &Row) -> Result<UploadRow, SqlError> {
    Ok(UploadRow { id: row.get(0)?, name: row.get(1)?, bytes: row.get(2)?, sha256: row.get(3)?, created: row.get(4)? })
}

impl Fleet {
    /// Queues a job.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn queue(&self, kind: &str, request: &Json) -> Result<JobRow, SqlError> {
        let id = random_id()?;
        self.read(|t| {
            t.execute(
                "INSERT INTO jobs (id, kind, request, state, step, progress, created, lease_until, attempts)
                 VALUES ($1, $2, $3, 'queued', 'queued', 0.0, $4, 0, 0)",
                values![&id, kind, request, now()],
            )?;
            self.audited(t, &Event::new("job queued", serde_json::json!({ "job": id, "kind": kind })))
        })?;
        self.job(&id)?.ok_or_else(|| SqlError::corrupt("a job that was queued is missing"))
    }

    /// Takes the oldest job that nobody works on, for `lease` milliseconds. One whose worker vanished is begun anew, three times at most.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn claim_job(&self, worker: &str, lease: i64) -> Result<Option<JobRow>, SqlError> {
        let time = now();
        let sql = format!(
            "UPDATE jobs SET state = 'running', started = $1, lease = $2, lease_until = $3, attempts = attempts + 1
             WHERE lease_until <= $1 AND state IN ('queued', 'running') AND id IN
                 (SELECT id FROM jobs WHERE state IN ('queued', 'running') AND lease_until <= $1 AND attempts < 3
                  ORDER BY created, id LIMIT 1 {})
             RETURNING {COLUMNS}",
            self.database.skip_locked()
        );
        self.read(|t| {
            t.execute(
                "UPDATE jobs SET state = 'failed', finished = $1, error = 'the process that worked on it ended, three times'
                 WHERE state = 'running' AND lease_until <= $1 AND attempts >= 3",
                values![time],
            )?;
            t.row(&sql, values![time, worker, time + lease])?.as_ref().map(read).transpose()
        })
    }

    /// Notes how far a job of this worker is.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn progress(&self, worker: &str, job: &str, step: &str, progress: f64) -> Result<(), SqlError> {
        let sql = "UPDATE jobs SET step = $1, progress = $2 WHERE id = $3 AND lease = $4 AND state = 'running'";
        self.read(|t| t.execute(sql, values![step, progress, job, worker])).map(|_| ())
    }

    /// Keeps a job for another `lease` milliseconds; says whether it is still this worker's.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn keep_job(&self, worker: &str, job: &str, lease: i64) -> Result<bool, SqlError> {
        let sql = "UPDATE jobs SET lease_until = $1 WHERE id = $2 AND lease = $3 AND state = 'running'";
        self.read(|t| t.execute(sql, values![now() + lease, job, worker])).map(|count| count > 0)
    }

    /// Ends a job with what came of it, or with why it failed.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn finish(&self, worker: &str, job: &str, outcome: Result<&Json, &str>) -> Result<(), SqlError> {
        let state = if outcome.is_ok() { "done" } else { "failed" };
        self.read(|t| {
            let changed = t.execute(
                "UPDATE jobs SET state = $1, result = $2, error = $3, finished = $4, progress = 1.0, lease = NULL
                 WHERE id = $5 AND lease = $6 AND state = 'running'",
                values![state, outcome.ok(), outcome.err(), now(), job, worker],
            )?;
            if changed > 0 {
                let event =
                    serde_json::json!({ "job": job, "state": state, "result": outcome.ok(), "error": outcome.err() });
                self.audited(t, &Event::new("job ended", event))?;
            }
            Ok(())
        })
    }

    /// A job.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn job(&self, id: &str) -> Result<Option<JobRow>, SqlError> {
        let sql = format!("SELECT {COLUMNS} FROM jobs WHERE id = $1");
        self.read(|t| t.row(&sql, values![id])?.as_ref().map(read).transpose())
    }

    /// The newest jobs, newest first.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn jobs(&self, limit: u32) -> Result<Vec<JobRow>, SqlError> {
        let sql = format!("SELECT {COLUMNS} FROM jobs ORDER BY created DESC, id LIMIT $1");
        self.read(|t| t.query(&sql, values![limit])?.iter().map(read).collect())
    }

    /// Number of jobs in each state.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn job_counts(&self) -> Result<Vec<(String, u64)>, SqlError> {
        self.read(|t| {
            let rows = t.query("SELECT state, count(*) FROM jobs GROUP BY state ORDER BY state", &[])?;
            rows.iter().map(|row| Ok((row.get(0)?, row.get(1)?))).collect()
        })
    }

    /// Keeps that a file was uploaded, whose bytes lie in the store.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn add_upload(&self, upload: &UploadRow) -> Result<(), SqlError> {
        let sql = "INSERT INTO uploads (id, name, bytes, sha256, created) VALUES ($1, $2, $3, $4, $5)";
        let values = values![&upload.id, &upload.name, upload.bytes as i64, &upload.sha256, upload.created];
        self.read(|t| t.execute(sql, values)).map(|_| ())
    }

    /// An uploaded file.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn upload(&self, id: &str) -> Result<Option<UploadRow>, SqlError> {
        let sql = "SELECT id, name, bytes, sha256, created FROM uploads WHERE id = $1";
        self.read(|t| t.row(sql, values![id])?.as_ref().map(read_upload).transpose())
    }

    /// Uploaded files older than a time, oldest first.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn uploads_before(&self, time: i64) -> Result<Vec<UploadRow>, SqlError> {
        let sql = "SELECT id, name, bytes, sha256, created FROM uploads WHERE created < $1 ORDER BY created LIMIT 100";
        self.read(|t| t.query(sql, values![time])?.iter().map(read_upload).collect())
    }

    /// Forgets an uploaded file; says whether it was known.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn remove_upload(&self, id: &str) -> Result<bool, SqlError> {
        self.read(|t| t.execute("DELETE FROM uploads WHERE id = $1", values![id])).map(|count| count > 0)
    }
}
