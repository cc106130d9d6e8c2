//! Which network runs where. Rows are only added; the newest of a target is what holds.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Device, Event, Fleet};
use crate::sql::{Row, SqlError, Transaction};
use crate::time::now;
use crate::values;

/// What a deployment is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// Every device of a group that has no deployment of its own.
    Group(String),
    /// One device, by its id.
    Device(String),
}

impl Target {
    fn parts(&self) -> (&'static str, &str) {
        match self {
            Self::Group(name) => ("group", name),
            Self::Device(id) => ("device", id),
        }
    }
}

/// A change of what a target is to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeploymentRow {
    /// Counts up with every change of any target.
    pub generation: u64,
    /// What it is for.
    pub target: Target,
    /// The network's id; nothing: a group stops, a device follows its group.
    pub model: Option<String>,
    /// `roll out`, `roll back` or `stop`.
    pub action: String,
    /// When, milliseconds since 1970.
    pub created: i64,
}

/// What a device is to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effective {
    /// Never less than before for this device.
    pub generation: u64,
    /// The network's id.
    pub model: String,
}

/// A network's bundle in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Bundle {
    /// The network's id.
    pub model: String,
    /// SHA-256 in hex.
    pub sha256: String,
    /// Its length.
    pub bytes: u64,
}

const COLUMNS: &str = "generation, target_kind, target, model, action, created";

fn read(row: &Row) -> Result<DeploymentRow, SqlError> {
    let (kind, target): (String, String) = (row.get(1)?, row.get(2)?);
    let target = if kind == "group" { Target::Group(target) } else { Target::Device(target) };
    Ok(DeploymentRow { generation: row.get(0)?, target, model: row.get(3)?, action: row.get(4)?, created: row.get(5)? })
}

/// The newest row of a target.
fn newest(t: &mut Transaction<'_>, target: &Target) -> Result<Option<DeploymentRow>, SqlError> {
    let (kind, name) = target.parts();
    let sql = format!(
        "SELECT {COLUMNS} FROM deployments WHERE target_kind = $1 AND target = $2 ORDER BY generation DESC LIMIT 1"
    );
    t.row(&sql, values![kind, name])?.as_ref().map(read).transpose()
}

impl Fleet {
    /// Has a target run a network, or nothing of its own.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn deploy(&self, target: &Target, model: Option<&str>) -> Result<DeploymentRow, SqlError> {
        let action = if model.is_some() { "roll out" } else { "stop" };
        self.read(|t| self.add(t, target, model, action))
    }

    /// Has a target run again what it ran before its newest deployment; nothing where there is no such thing.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn roll_back(&self, target: &Target) -> Result<Option<DeploymentRow>, SqlError> {
        let (kind, name) = target.parts();
        self.read(|t| {
            let Some(current) = newest(t, target)? else { return Ok(None) };
            // The last before it that was another network, retired ones left out.
            let before = t.row(
                "SELECT d.model FROM deployments d JOIN models m ON m.id = d.model
                 WHERE d.target_kind = $1 AND d.target = $2 AND d.generation < $3 AND d.model <> $4 AND m.retired IS NULL
                 ORDER BY d.generation DESC LIMIT 1",
                values![kind, name, current.generation as i64, current.model.as_deref().unwrap_or_default()],
            )?;
            let Some(before) = before else { return Ok(None) };
            let model: String = before.get(0)?;
            self.add(t, target, Some(&model), "roll back").map(Some)
        })
    }

    fn add(
        &self,
        t: &mut Transaction<'_>,
        target: &Target,
        model: Option<&str>,
        action: &str,
    ) -> Result<DeploymentRow, SqlError> {
        let (kind, name) = target.parts();
        let created = now();
        let generation: u64 =
            t.one("UPDATE counters SET value = value + 1 WHERE name = 'generation' RETURNING value", &[])?;
        t.execute(
            "INSERT INTO deployments (generation, target_kind, target, model, action, created) VALUES ($1, $2, $3, $4, $5, $6)",
            values![generation as i64, kind, name, model, action, created],
        )?;
        let event = json!({ "target": target, "model": model, "action": action, "generation": generation });
        self.audited(t, &Event::new("deployment", event))?;
        let (target, model, action) = (target.clone(), model.map(str::to_owned), action.to_owned());
        Ok(DeploymentRow { generation, target, model, action, created })
    }

    /// What a device is to run: its own newest deployment, else its group's.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn effective(&self, device: &Device) -> Result<Option<Effective>, SqlError> {
        self.read(|t| {
            let own = newest(t, &Target::Device(device.id.clone()))?;
            if let Some(DeploymentRow { generation, model: Some(model), .. }) = own {
                return Ok(Some(Effective { generation, model }));
            }
            let group = newest(t, &Target::Group(device.group.clone()))?;
            let Some(DeploymentRow { generation, model: Some(model), .. }) = group else { return Ok(None) };
            // The end of its own deployment may be newer than what its group runs.
            let generation = generation.max(own.map_or(0, |own| own.generation));
            Ok(Some(Effective { generation, model }))
        })
    }

    /// The newest deployments of all targets, or all that there ever were, newest first.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn deployments(&self, history: bool) -> Result<Vec<DeploymentRow>, SqlError> {
        let only = if history {
            ""
        } else {
            "WHERE generation IN (SELECT max(generation) FROM deployments GROUP BY target_kind, target)"
        };
        let sql = format!("SELECT {COLUMNS} FROM deployments {only} ORDER BY generation DESC LIMIT 1000");
        self.read(|t| t.query(&sql, &[])?.iter().map(read).collect())
    }

    /// The bundle of a network, if one was made.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn bundle(&self, model: &str) -> Result<Option<Bundle>, SqlError> {
        self.bundle_where("model", model)
    }

    /// The bundle with this SHA-256.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn bundle_by_hash(&self, sha256: &str) -> Result<Option<Bundle>, SqlError> {
        self.bundle_where("sha256", sha256)
    }

    fn bundle_where(&self, column: &str, value: &str) -> Result<Option<Bundle>, SqlError> {
        let sql = format!("SELECT model, sha256, bytes FROM bundles WHERE {column} = $1");
        self.read(|t| {
            let row = t.row(&sql, values![value])?;
            row.map(|row| Ok(Bundle { model: row.get(0)?, sha256: row.get(1)?, bytes: row.get(2)? })).transpose()
        })
    }

    /// Keeps what bundle a network has, unless another process was first; gives the one that is kept.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn add_bundle(&self, bundle: &Bundle) -> Result<Bundle, SqlError> {
        self.read(|t| {
            t.execute(
                "INSERT INTO bundles (model, sha256, bytes, created) VALUES ($1, $2, $3, $4) ON CONFLICT (model) DO NOTHING",
                values![&bundle.model, &bundle.sha256, bundle.bytes as i64, now()],
            )
        })?;
        Ok(self.bundle(&bundle.model)?.unwrap_or_else(|| bundle.clone()))
    }

    /// Whether a network is or was deployed to a device or to its group.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn was_deployed(&self, device: &Device, model: &str) -> Result<bool, SqlError> {
        let sql = "SELECT count(*) FROM deployments WHERE model = $1
                   AND ((target_kind = 'device' AND target = $2) OR (target_kind = 'group' AND target = $3))";
        self.read(|t| t.one::<i64>(sql, values![model, &device.id, &device.group])).map(|count| count > 0)
    }
}
