//! Tokens: the owner's, and those with which devices enrol. Only their digests are kept.

use serde::Serialize;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::{Event, Fleet, random_id};
use crate::sql::{Row, SqlError, SqlErrorKind};
use crate::time::now;
use crate::values;

/// A new token: a prefix that tells what it is for, and 32 random bytes in hex.
///
/// # Errors
/// [`SqlError`] where the operating system gives no randomness.
pub fn new_token(prefix: &str) -> Result<Zeroizing<String>, SqlError> {
    let mut bytes = Zeroizing::new([0; 32]);
    getrandom::fill(bytes.as_mut_slice()).map_err(|e| {
        SqlError::text(SqlErrorKind::Failed, format!("the operating system gives no random bytes: {e}"))
    })?;
    let digits = Zeroizing::new(hex::encode(bytes.as_slice()));
    Ok(Zeroizing::new(format!("{prefix}{}", digits.as_str())))
}

/// What is kept of a token. They are random, so a plain hash is enough, and a look-up by it says nothing about others.
pub fn digest(token: &str) -> String {
    hex::encode(Sha256::digest(token.as_bytes()))
}

/// An enrolment token, without what makes it one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TokenRow {
    /// Its id.
    pub id: String,
    /// Group of the device that uses it.
    pub group: String,
    /// When it was made, milliseconds since 1970.
    pub created: i64,
    /// When it expires.
    pub expires: i64,
    /// When it was used.
    pub used: Option<i64>,
    /// By which device.
    pub device: Option<String>,
}

/// One of the owner's tokens, without what makes it one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OwnerToken {
    /// Its name.
    pub name: String,
    /// When it was made, milliseconds since 1970.
    pub created: i64,
}

fn read(row: &Row) -> Result<TokenRow, SqlError> {
    Ok(TokenRow {
        id: row.get(0)?,
        group: row.get(1)?,
        created: row.get(2)?,
        expires: row.get(3)?,
        used: row.get(4)?,
        device: row.get(5)?,
    })
}

impl Fleet {
    /// Keeps the digest of an owner's token under a name; says whether the name was free.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn add_owner_token(&self, name: &str, hash: &str) -> Result<bool, SqlError> {
        self.read(|t| {
            let sql =
                "INSERT INTO owner_tokens (name, hash, created) VALUES ($1, $2, $3) ON CONFLICT (name) DO NOTHING";
            let added = t.execute(sql, values![name, hash, now()])? > 0;
            if added {
                self.audited(t, &Event::new("owner token made", serde_json::json!({ "name": name })))?;
            }
            Ok(added)
        })
    }

    /// Removes an owner's token; says whether there was one.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn remove_owner_token(&self, name: &str) -> Result<bool, SqlError> {
        self.read(|t| {
            let removed = t.execute("DELETE FROM owner_tokens WHERE name = $1", values![name])? > 0;
            if removed {
                self.audited(t, &Event::new("owner token removed", serde_json::json!({ "name": name })))?;
            }
            Ok(removed)
        })
    }

    /// The owner's tokens.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn owner_tokens(&self) -> Result<Vec<OwnerToken>, SqlError> {
        self.read(|t| {
            let rows = t.query("SELECT name, created FROM owner_tokens ORDER BY created, name", &[])?;
            rows.iter().map(|row| Ok(OwnerToken { name: row.get(0)?, created: row.get(1)? })).collect()
        })
    }

    /// Name of the owner's token with this digest.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn owner_token(&self, hash: &str) -> Result<Option<String>, SqlError> {
        self.read(|t| {
            t.row("SELECT name FROM owner_tokens WHERE hash = $1", values![hash])?.map(|row| row.get(0)).transpose()
        })
    }

    /// Keeps the digest of a new enrolment token.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn add_enrolment_token(&self, hash: &str, group: &str, expires: i64) -> Result<TokenRow, SqlError> {
        let row =
            TokenRow { id: random_id()?, group: group.to_owned(), created: now(), expires, used: None, device: None };
        self.read(|t| {
            t.execute(
                "INSERT INTO enrolment_tokens (hash, id, device_group, created, expires) VALUES ($1, $2, $3, $4, $5)",
                values![hash, &row.id, group, row.created, expires],
            )?;
            self.audited(t, &Event::new("enrolment token made", serde_json::json!({ "token": row.id, "group": group })))
        })?;
        Ok(row)
    }

    /// All enrolment tokens, newest first.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn enrolment_tokens(&self) -> Result<Vec<TokenRow>, SqlError> {
        let sql = "SELECT id, device_group, created, expires, used, device FROM enrolment_tokens ORDER BY created DESC, id LIMIT 1000";
        self.read(|t| t.query(sql, &[])?.iter().map(read).collect())
    }

    /// Withdraws an enrolment token that was not used; says whether there was one.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn remove_enrolment_token(&self, id: &str) -> Result<bool, SqlError> {
        self.read(|t| {
            let removed = t.execute("DELETE FROM enrolment_tokens WHERE id = $1 AND used IS NULL", values![id])? > 0;
            if removed {
                self.audited(t, &Event::new("enrolment token withdrawn", serde_json::json!({ "token": id })))?;
            }
            Ok(removed)
        })
    }
}
