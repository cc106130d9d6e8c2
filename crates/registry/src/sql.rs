//! One set of SQL statements for two databases: the embedded SQLite and, through [`Connect`], a PostgreSQL.
//!
//! Statements number their values `$1`, `$2`, ... and use what both understand: `ON CONFLICT`, `RETURNING`, `CAST`. Transactions are those of
//! SQLite's `IMMEDIATE` and PostgreSQL's `READ COMMITTED`: what must hold between two statements is guarded by a unique key, a conditional
//! `UPDATE`, or the lock of a row that was updated first.

pub(crate) mod schema;
pub(crate) mod sqlite;

use std::error::Error;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// A value of a statement or of a row.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Nothing.
    Null,
    /// A whole number.
    Integer(i64),
    /// A real number.
    Real(f64),
    /// Text.
    Text(String),
    /// Bytes.
    Blob(Vec<u8>),
}

macro_rules! value_from {
    ($($from:ty => |$x:ident| $value:expr;)*) => {
        $(impl From<$from> for Value {
            fn from($x: $from) -> Self {
                $value
            }
        })*
    };
}

value_from! {
    i64 => |x| Self::Integer(x);
    u32 => |x| Self::Integer(i64::from(x));
    f64 => |x| Self::Real(x);
    &str => |x| Self::Text(x.to_owned());
    String => |x| Self::Text(x);
    &String => |x| Self::Text(x.clone());
    Vec<u8> => |x| Self::Blob(x);
    &[u8] => |x| Self::Blob(x.to_vec());
    &serde_json::Value => |x| Self::Text(x.to_string());
}

impl<T: Into<Self>> From<Option<T>> for Value {
    fn from(x: Option<T>) -> Self {
        x.map_or(Self::Null, Into::into)
    }
}

/// The values of a statement, in the order of their numbers.
#[macro_export]
macro_rules! values {
    ($($value:expr),* $(,)?) => { &[$($crate::sql::Value::from($value)),*] };
}

/// A row of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Row(Vec<Value>);

impl Row {
    /// A row of these columns.
    pub fn new(columns: Vec<Value>) -> Self {
        Self(columns)
    }

    /// A column.
    ///
    /// # Errors
    /// [`SqlError`] where there is no such column, or it holds something else.
    pub fn get<T: Column>(&self, index: usize) -> Result<T, SqlError> {
        let value = self.0.get(index).unwrap_or(&Value::Null);
        T::of(value).ok_or_else(|| SqlError::corrupt(format!("column {index} of a row holds {value:?}")))
    }
}

/// What a column can be read as.
pub trait Column: Sized {
    /// The value, if it is of this kind.
    fn of(value: &Value) -> Option<Self>;
}

impl Column for i64 {
    fn of(value: &Value) -> Option<Self> {
        if let Value::Integer(x) = value { Some(*x) } else { None }
    }
}

impl Column for u64 {
    fn of(value: &Value) -> Option<Self> {
        i64::of(value).and_then(|x| x.try_into().ok())
    }
}

impl Column for u32 {
    fn of(value: &Value) -> Option<Self> {
        i64::of(value).and_then(|x| x.try_into().ok())
    }
}

impl Column for f64 {
    fn of(value: &Value) -> Option<Self> {
        if let Value::Real(x) = value { Some(*x) } else { None }
    }
}

impl Column for String {
    fn of(value: &Value) -> Option<Self> {
        if let Value::Text(x) = value { Some(x.clone()) } else { None }
    }
}

impl Column for Vec<u8> {
    fn of(value: &Value) -> Option<Self> {
        if let Value::Blob(x) = value { Some(x.clone()) } else { None }
    }
}

impl Column for [u8; 32] {
    fn of(value: &Value) -> Option<Self> {
        if let Value::Blob(x) = value { x.as_slice().try_into().ok() } else { None }
    }
}

impl Column for serde_json::Value {
    fn of(value: &Value) -> Option<Self> {
        if let Value::Text(x) = value { serde_json::from_str(x).ok() } else { None }
    }
}

impl<T: Column> Column for Option<T> {
    fn of(value: &Value) -> Option<Self> {
        if *value == Value::Null { Some(None) } else { T::of(value).map(Some) }
    }
}

/// What an error of the database calls for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SqlErrorKind {
    /// The transaction met another one, or the connection broke before it was committed: it can be repeated.
    Again,
    /// What is stored is not what was written.
    Corrupt,
    /// Written by a later release, with this schema version.
    Newer(i64),
    /// Not a Subrosa registry.
    Foreign,
    /// An empty database beside files of models.
    Missing,
    /// The database is not to be had with this address, certificate or password.
    Refused,
    /// Anything else: disk full, no permission, no connection, ...
    Failed,
}

/// An error of the database.
#[derive(Debug)]
pub struct SqlError {
    /// What it calls for.
    pub kind: SqlErrorKind,
    detail: String,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl SqlError {
    /// An error that something else caused.
    pub fn new(kind: SqlErrorKind, source: impl Error + Send + Sync + 'static) -> Self {
        let mut detail = source.to_string();
        let mut cause = source.source();
        while let Some(inner) = cause {
            let text = inner.to_string();
            if !detail.contains(&text) {
                detail = format!("{detail}: {text}");
            }
            cause = inner.source();
        }
        Self { kind, detail, source: Some(Box::new(source)) }
    }

    /// An error of this kind.
    pub fn text(kind: SqlErrorKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), source: None }
    }

    /// What is stored is not what was written.
    pub fn corrupt(detail: impl Into<String>) -> Self {
        Self::text(SqlErrorKind::Corrupt, detail)
    }
}

impl fmt::Display for SqlError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.detail)
    }
}

impl Error for SqlError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn Error + 'static))
    }
}

/// A connection to a database.
pub trait Connection: Send {
    /// Runs a statement, with its values, and gives the rows it answers.
    ///
    /// # Errors
    /// [`SqlError`].
    fn query(&mut self, sql: &str, values: &[Value]) -> Result<Vec<Row>, SqlError>;

    /// Runs a statement and gives the number of rows it changed.
    ///
    /// # Errors
    /// [`SqlError`].
    fn execute(&mut self, sql: &str, values: &[Value]) -> Result<u64, SqlError>;

    /// Begins a transaction that may write.
    ///
    /// # Errors
    /// [`SqlError`].
    fn begin(&mut self) -> Result<(), SqlError>;

    /// Makes the transaction durable.
    ///
    /// # Errors
    /// [`SqlError`].
    fn commit(&mut self) -> Result<(), SqlError>;

    /// Gives the transaction up.
    ///
    /// # Errors
    /// [`SqlError`].
    fn roll_back(&mut self) -> Result<(), SqlError>;

    /// Whether further statements can succeed.
    fn is_alive(&self) -> bool;
}

/// Where a database is.
pub trait Connect: Send + Sync {
    /// Connects, and brings the database to the newest schema (see [`migrations`]) if this process has not done so.
    ///
    /// # Errors
    /// [`SqlError`].
    fn connect(&self) -> Result<Box<dyn Connection>, SqlError>;

    /// For messages: a path, or a URL without its password.
    fn place(&self) -> String;

    /// What follows `FOR UPDATE`-like subqueries so that workers do not wait for each other; empty where one writes at a time anyway.
    fn skip_locked(&self) -> &'static str;
}

pub use schema::migrations;

/// The registry's database: a pool of connections. Cheap to clone.
#[derive(Clone)]
pub struct Database {
    connect: Arc<dyn Connect>,
    idle: Arc<Mutex<Vec<Box<dyn Connection>>>>,
}

/// Connections that are kept open while nobody uses them.
const IDLE: usize = 8;
/// How often a transaction is tried.
const TRIES: u32 = 6;

impl Database {
    /// Connects once, so that a database that cannot be used is found now.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn open(connect: Arc<dyn Connect>) -> Result<Self, SqlError> {
        let database = Self { connect, idle: Arc::default() };
        let first = database.connect.connect()?;
        database.give_back(first);
        Ok(database)
    }

    /// For messages: a path, or a URL without its password.
    pub fn place(&self) -> String {
        self.connect.place()
    }

    /// See [`Connect::skip_locked`].
    pub(crate) fn skip_locked(&self) -> &'static str {
        self.connect.skip_locked()
    }

    /// Runs `work` in a transaction: committed if it succeeds, given up if it fails, repeated if it met another one. `work` may run several times
    /// and must have no effects elsewhere.
    ///
    /// # Errors
    /// Those of `work`, and [`SqlError`].
    pub fn transaction<T, E: From<SqlError>>(
        &self,
        mut work: impl FnMut(&mut Transaction<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut tries = 0;
        loop {
            tries += 1;
            let mut connection = self.take()?;
            match attempt(connection.as_mut(), &mut work) {
                Ok(done) => {
                    self.give_back(connection);
                    return Ok(done);
                }
                Err((error, again)) => {
                    self.give_back(connection);
                    if !again || tries == TRIES {
                        return Err(error);
                    }
                    thread::sleep(Duration::from_millis(5 << tries));
                }
            }
        }
    }

    fn take(&self) -> Result<Box<dyn Connection>, SqlError> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        idle.map_or_else(|| self.connect.connect(), Ok)
    }

    fn give_back(&self, connection: Box<dyn Connection>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if connection.is_alive() && idle.len() < IDLE {
            idle.push(connection);
        }
    }
}

/// One attempt; a failure says whether another may succeed.
fn attempt<T, E: From<SqlError>>(
    connection: &mut dyn Connection,
    work: &mut impl FnMut(&mut Transaction<'_>) -> Result<T, E>,
) -> Result<T, (E, bool)> {
    let failed = |error: SqlError| {
        let again = error.kind == SqlErrorKind::Again;
        (E::from(error), again)
    };
    connection.begin().map_err(failed)?;
    let mut transaction = Transaction { connection, again: false };
    match work(&mut transaction) {
        // A commit whose answer was lost may have happened: it is not repeated, unless the database said that it did not.
        Ok(done) => connection.commit().map(|()| done).map_err(failed),
        Err(error) => {
            let again = transaction.again;
            // A connection that cannot even do this is not used again.
            let _ = connection.roll_back();
            Err((error, again))
        }
    }
}

/// A transaction under way.
pub struct Transaction<'a> {
    connection: &'a mut dyn Connection,
    again: bool,
}

impl Transaction<'_> {
    /// Runs a statement and gives the rows it answers.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn query(&mut self, sql: &str, values: &[Value]) -> Result<Vec<Row>, SqlError> {
        let answer = self.connection.query(sql, values);
        self.noted(answer)
    }

    /// Runs a statement that answers at most one row.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn row(&mut self, sql: &str, values: &[Value]) -> Result<Option<Row>, SqlError> {
        Ok(self.query(sql, values)?.into_iter().next())
    }

    /// Runs a statement that answers a row, and reads its first column.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn one<T: Column>(&mut self, sql: &str, values: &[Value]) -> Result<T, SqlError> {
        self.row(sql, values)?.ok_or_else(|| SqlError::corrupt("a row that must be there is missing"))?.get(0)
    }

    /// Runs a statement and gives the number of rows it changed.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn execute(&mut self, sql: &str, values: &[Value]) -> Result<u64, SqlError> {
        let answer = self.connection.execute(sql, values);
        self.noted(answer)
    }

    fn noted<T>(&mut self, answer: Result<T, SqlError>) -> Result<T, SqlError> {
        self.again |= answer.as_ref().is_err_and(|error| error.kind == SqlErrorKind::Again);
        answer
    }
}
