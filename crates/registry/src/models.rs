//! The statements about models.

use crate::record::{ModelId, NewModel, Record};
use crate::sql::{Row, SqlError, Transaction};
use crate::values;

const COLUMNS: &str = "id, name, version, created_unix, scheme, security_bits, scope, input, log_n, report, retired";

/// Inserts a model under the next version of its name.
pub(crate) fn insert(
    transaction: &mut Transaction<'_>,
    id: ModelId,
    model: &NewModel,
    created_unix: i64,
) -> Result<Record, SqlError> {
    let version: u32 = transaction.one(
        "INSERT INTO names (name, last_version) VALUES ($1, 1)
         ON CONFLICT (name) DO UPDATE SET last_version = names.last_version + 1 RETURNING last_version",
        values![&model.name],
    )?;
    let NewModel { name, scheme, security_bits, scope, input, log_n, mut report } = model.clone();
    if let Some(keys) = report.as_object_mut() {
        keys.insert("id".to_owned(), id.to_string().into());
        keys.insert("name".to_owned(), name.clone().into());
        keys.insert("version".to_owned(), version.into());
    }
    transaction.execute(
        "INSERT INTO models (id, name, version, created_unix, scheme, security_bits, scope, input, log_n, report)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        values![
            id.to_string(),
            &name,
            version,
            created_unix,
            &scheme,
            security_bits,
            &scope,
            &input,
            log_n,
            report.to_string()
        ],
    )?;
    let retired_unix = None;
    Ok(Record { id, name, version, created_unix, scheme, security_bits, scope, input, log_n, report, retired_unix })
}

/// Every model, by name and version.
pub(crate) fn all(transaction: &mut Transaction<'_>) -> Result<Vec<Record>, SqlError> {
    let rows = transaction.query(&format!("SELECT {COLUMNS} FROM models ORDER BY name, version"), &[])?;
    rows.iter().map(read).collect()
}

/// Whether there is a row for this model.
pub(crate) fn contains(transaction: &mut Transaction<'_>, id: ModelId) -> Result<bool, SqlError> {
    let count: i64 = transaction.one("SELECT count(*) FROM models WHERE id = $1", values![id.to_string()])?;
    Ok(count > 0)
}

/// Removes a model's row; says whether there was one.
pub(crate) fn delete(transaction: &mut Transaction<'_>, id: ModelId) -> Result<bool, SqlError> {
    Ok(transaction.execute("DELETE FROM models WHERE id = $1", values![id.to_string()])? > 0)
}

fn read(row: &Row) -> Result<Record, SqlError> {
    let id: String = row.get(0)?;
    let report: String = row.get(9)?;
    Ok(Record {
        id: id.parse().map_err(|_| SqlError::corrupt(format!("'{id}' is not a model's id")))?,
        name: row.get(1)?,
        version: row.get(2)?,
        created_unix: row.get(3)?,
        scheme: row.get(4)?,
        security_bits: row.get(5)?,
        scope: row.get(6)?,
        input: row.get(7)?,
        log_n: row.get(8)?,
        report: serde_json::from_str(&report)
            .map_err(|_| SqlError::corrupt(format!("the report of {id} is not JSON")))?,
        retired_unix: row.get(10)?,
    })
}
