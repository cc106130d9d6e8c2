//! Devices: enrolled once with a one-time token, known by a public key, revoked for good.

use serde::Serialize;
use serde_json::{Value as Json, json};

use super::{Event, Fleet, random_id};
use crate::sql::{Row, SqlError, Transaction};
use crate::time::now;
use crate::values;

/// A device as it asks to be enrolled.
#[derive(Debug, Clone, Copy)]
pub struct NewDevice<'a> {
    /// Its name, for people.
    pub name: &'a str,
    /// Its public key, 64 hex digits.
    pub public_key: &'a str,
    /// Digest of the access token it will have.
    pub access_hash: &'a str,
}

/// An enrolled device.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Device {
    /// Its id.
    pub id: String,
    /// Its name, for people.
    pub name: String,
    /// Its group.
    pub group: String,
    /// Its public key, 64 hex digits.
    pub public_key: String,
    /// When it was enrolled, milliseconds since 1970.
    pub enrolled: i64,
    /// When it was revoked.
    pub revoked: Option<i64>,
    /// When it was last heard of.
    pub last_seen: Option<i64>,
    /// The last status that it sent.
    pub status: Option<Json>,
}

impl Device {
    /// Its public key.
    ///
    /// # Errors
    /// [`SqlError`] where the registry holds none.
    pub fn key(&self) -> Result<[u8; 32], SqlError> {
        let key = hex::decode(&self.public_key).ok().and_then(|key| key.try_into().ok());
        key.ok_or_else(|| SqlError::corrupt(format!("the public key of device {}", self.id)))
    }
}

/// Why a device is not enrolled.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// The token is not one, or no longer.
    #[error("the enrolment token {0}: ask the owner for another one")]
    Token(&'static str),
    /// A device with this key is enrolled, or was.
    #[error("a device with this public key was enrolled before: remove the agent's state, so that it makes a new key")]
    KnownKey,
    /// The database.
    #[error(transparent)]
    Sql(#[from] SqlError),
}

const COLUMNS: &str = "id, name, device_group, public_key, enrolled, revoked, last_seen, status";

fn read(row: &Row) -> Result<Device, SqlError> {
    Ok(Device {
        id: row.get(0)?,
        name: row.get(1)?,
        group: row.get(2)?,
        public_key: row.get(3)?,
        enrolled: row.get(4)?,
        revoked: row.get(5)?,
        last_seen: row.get(6)?,
        status: row.get(7)?,
    })
}

impl Fleet {
    /// Enrols a device with the token of this digest, which is used up by it. A refusal is audited.
    ///
    /// # Errors
    /// [`EnrolError`].
    pub fn enrol(&self, token_hash: &str, new: NewDevice<'_>) -> Result<Device, EnrolError> {
        let enrolled = self.database.transaction(|t| self.try_enrol(t, token_hash, new));
        if let Err(error @ (EnrolError::Token(_) | EnrolError::KnownKey)) = &enrolled {
            let event = json!({ "code": "token", "reason": error.to_string(), "name": new.name });
            self.note(&Event::new("enrolment refused", event))?;
        }
        enrolled
    }

    fn try_enrol(&self, t: &mut Transaction<'_>, token_hash: &str, new: NewDevice<'_>) -> Result<Device, EnrolError> {
        let id = random_id()?;
        let time = now();
        // The condition makes it one-time, whoever else asks at this moment.
        let taken = t.row(
            "UPDATE enrolment_tokens SET used = $1, device = $2 WHERE hash = $3 AND used IS NULL AND expires > $1 RETURNING device_group",
            values![time, &id, token_hash],
        )?;
        let Some(taken) = taken else {
            let used = t.row("SELECT used FROM enrolment_tokens WHERE hash = $1", values![token_hash])?;
            return Err(EnrolError::Token(match used.map(|row| row.get::<Option<i64>>(0)).transpose()? {
                None => "is not known",
                Some(None) => "has expired",
                Some(Some(_)) => "was used before",
            }));
        };
        let device = Device {
            id,
            name: new.name.to_owned(),
            group: taken.get(0)?,
            public_key: new.public_key.to_owned(),
            enrolled: time,
            revoked: None,
            last_seen: None,
            status: None,
        };
        let added = t.execute(
            "INSERT INTO devices (id, name, device_group, public_key, access_hash, enrolled) VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT (public_key) DO NOTHING",
            values![&device.id, &device.name, &device.group, &device.public_key, new.access_hash, time],
        )?;
        if added == 0 {
            return Err(EnrolError::KnownKey);
        }
        let event =
            json!({ "device": device.id, "name": device.name, "group": device.group, "public_key": device.public_key });
        self.audited(t, &Event::new("device enrolled", event))?;
        Ok(device)
    }

    /// The device with the access token of this digest, revoked or not.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn device_by_token(&self, hash: &str) -> Result<Option<Device>, SqlError> {
        let sql = format!("SELECT {COLUMNS} FROM devices WHERE access_hash = $1");
        self.read(|t| t.row(&sql, values![hash])?.as_ref().map(read).transpose())
    }

    /// A device.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn device(&self, id: &str) -> Result<Option<Device>, SqlError> {
        self.read(|t| device(t, id))
    }

    /// All devices, by group and name.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn devices(&self) -> Result<Vec<Device>, SqlError> {
        let sql = format!("SELECT {COLUMNS} FROM devices ORDER BY device_group, name, id");
        self.read(|t| t.query(&sql, &[])?.iter().map(read).collect())
    }

    /// Notes that a device was heard of, and the status that it sent.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn seen(&self, device: &str, status: Option<&Json>) -> Result<(), SqlError> {
        let sql = "UPDATE devices SET last_seen = $1, status = coalesce($2, status) WHERE id = $3";
        self.read(|t| t.execute(sql, values![now(), status, device])).map(|_| ())
    }

    /// Forgets the results of a device that no honest one sends, so that it is served again; says whether there is such a device.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn readmit(&self, id: &str) -> Result<bool, SqlError> {
        self.read(|t| {
            let sql = "UPDATE usage SET released = 0 WHERE scope = 'device-violations' AND subject = $1";
            // `subrosa decrypt` knows devices that are not enrolled.
            let known = t.execute(sql, values![id])? > 0 || device(t, id)?.is_some();
            if known {
                self.audited(t, &Event::new("device readmitted", json!({ "device": id })))?;
            }
            Ok(known)
        })
    }

    /// Revokes a device; says whether it was enrolled and not revoked before.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn revoke(&self, id: &str) -> Result<bool, SqlError> {
        self.read(|t| {
            let sql = "UPDATE devices SET revoked = $1 WHERE id = $2 AND revoked IS NULL";
            let revoked = t.execute(sql, values![now(), id])? > 0;
            if revoked {
                self.audited(t, &Event::new("device revoked", json!({ "device": id })))?;
            }
            Ok(revoked)
        })
    }
}

/// A device.
pub(super) fn device(t: &mut Transaction<'_>, id: &str) -> Result<Option<Device>, SqlError> {
    t.row(&format!("SELECT {COLUMNS} FROM devices WHERE id = $1"), values![id])?.as_ref().map(read).transpose()
}
