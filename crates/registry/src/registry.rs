//! The registry itself: staging, committing, finding and removing models.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    home::{self, FileError, LockFile},
    models,
    record::{ModelId, NewModel, Record, is_plain_name, validate_name},
    sql::{Connect, Database, SqlError, SqlErrorKind, Transaction, schema::NEWEST, sqlite::SqliteFile},
    values,
};

/// Why the registry could not do what was asked. Every text names the place, the problem and the cure.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The system refused an operation on a file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The operating system's generator failed.
    #[error("the operating system gives no random bytes: {0}")]
    Random(getrandom::Error),
    /// The database failed: disk full, locked for too long, no permission, no connection, ...
    #[error("{place}: the registry's database failed: {source}")]
    Database {
        /// The database's file or URL.
        place: String,
        /// The database's error.
        source: SqlError,
    },
    /// The database is damaged.
    #[error(
        "{place}: the registry's database is damaged ({detail}): put back a copy of the whole home directory; \
         models/ and vault/ beside it are untouched"
    )]
    Corrupt {
        /// The database's file or URL.
        place: String,
        /// What was found.
        detail: String,
    },
    /// Somebody else's database.
    #[error("{place} is not a Subrosa registry: choose another home directory or database")]
    ForeignDatabase {
        /// The database's file or URL.
        place: String,
    },
    /// Written by a later release.
    #[error(
        "{place} has schema version {version}, and this program knows versions up to {supported}: update the program"
    )]
    NewerDatabase {
        /// The database's file or URL.
        place: String,
        /// The database's schema version.
        version: i64,
        /// The newest one this program knows.
        supported: i64,
    },
    /// Models' files without a database: a new, empty one would have them removed as leftovers.
    #[error(
        "{place} is missing or empty although models/ beside it holds models: put back a copy of it, or move models/ away"
    )]
    DatabaseMissing {
        /// The database file.
        place: String,
    },
    /// The store that several processes share failed.
    #[error("the store of large files failed on {key}: {source}")]
    Store {
        /// The file's key.
        key: String,
        /// The store's error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A name that cannot be a model's.
    #[error("'{name}' cannot be a model's name: use 1 to 64 letters, digits, '.', '_' and '-'")]
    BadName {
        /// The name asked for.
        name: String,
    },
    /// Nothing fits.
    #[error("the registry has no model '{wanted}'{}", suggestion(near))]
    NotFound {
        /// What was asked for.
        wanted: String,
        /// Ids or names that come near, best first.
        near: Vec<String>,
    },
    /// Several ids begin with this.
    #[error("'{wanted}' begins the ids of several models: {}; give more digits", matches.join(", "))]
    Ambiguous {
        /// What was asked for.
        wanted: String,
        /// The ids it could mean.
        matches: Vec<String>,
    },
    /// A file of a model is not there.
    #[error("{} is missing: the model's files were changed by hand; put the file back or protect the model again", path.display())]
    MissingFile {
        /// Where it should be.
        path: PathBuf,
    },
}

fn suggestion(near: &[String]) -> String {
    if near.is_empty() {
        ": 'subrosa models' lists what there is".to_owned()
    } else {
        format!(": did you mean {}?", near.join(" or "))
    }
}

/// Where the files of models lie that several machines share; each then keeps copies in its home.
pub trait SharedFiles: Send + Sync {
    /// Stores a file of the disk under a key; durable when it returns.
    ///
    /// # Errors
    /// The store's.
    fn put(&self, key: &str, file: &Path) -> Result<(), Box<dyn std::error::Error + Send + Sync>>;

    /// Copies what is stored under a key to a file of the disk; says whether there was such a key.
    ///
    /// # Errors
    /// The store's.
    fn fetch(&self, key: &str, file: &Path) -> Result<bool, Box<dyn std::error::Error + Send + Sync>>;

    /// Removes everything whose key begins so.
    ///
    /// # Errors
    /// The store's.
    fn remove_all(&self, prefix: &str) -> Result<(), Box<dyn std::error::Error + Send + Sync>>;
}

/// The Trained and Protected DNN Database: a home directory with an SQLite file, or one of several homes around a database and a store that they
/// share.
///
/// Several processes and threads may use it at once.
pub struct Registry {
    home: PathBuf,
    database: Database,
    shared: Option<Arc<dyn SharedFiles>>,
    lock: Arc<LockFile>,
}

impl Registry {
    /// Opens the registry in `home`, creating it where there is none.
    ///
    /// If no other process has it open, removes what crashed ones left: staged files, and models' files that never
    /// got or no longer have their row.
    ///
    /// # Errors
    /// [`RegistryError`]: the system's refusals, and a database that is damaged, foreign, newer or missing.
    pub fn open(home: &Path) -> Result<Self, RegistryError> {
        Self::open_with(home, None, None)
    }

    /// [`Registry::open`], on another database than the home's SQLite file, and with a store for models' files that several homes share.
    ///
    /// # Errors
    /// Those of [`Registry::open`].
    pub fn open_with(
        home: &Path,
        connect: Option<Arc<dyn Connect>>,
        shared: Option<Arc<dyn SharedFiles>>,
    ) -> Result<Self, RegistryError> {
        for directory in ["models", "staging"] {
            home::create_directory(&home.join(directory))?;
        }
        let lock = LockFile::open(home.join("lock"))?;
        let alone = lock.try_exclusive()?;
        if !alone {
            lock.share()?;
        }
        let has_models = home::children(&home.join("models"))?.iter().any(|path| path.is_dir());
        let connect = connect.unwrap_or_else(|| Arc::new(SqliteFile::new(home.join("registry.sqlite"), has_models)));
        let place = connect.place();
        let database = Database::open(connect).map_err(|source| explain(place, source))?;
        let registry = Self { home: home.to_owned(), database, shared, lock: Arc::new(lock) };
        if alone {
            registry.remove_leftovers()?;
            // Whoever holds the lock alone in between finds nothing of ours to remove.
            registry.lock.share()?;
        }
        Ok(registry)
    }

    /// The registry's database, for what is not about models.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// An error of the database, with where it is and what to do.
    pub fn failed(&self, source: SqlError) -> RegistryError {
        explain(self.database.place(), source)
    }

    /// Whether database and files are shared with other homes.
    pub fn is_shared(&self) -> bool {
        self.shared.is_some()
    }

    /// Begins a model: an id and an empty directory for its files.
    ///
    /// # Errors
    /// [`RegistryError::File`], [`RegistryError::Random`].
    pub fn begin(&self) -> Result<Staging, RegistryError> {
        let id = ModelId::random().map_err(RegistryError::Random)?;
        let directory = self.home.join("staging").join(id.to_string());
        home::create_directory(&directory)?;
        Ok(Staging { id, directory, _lock: Arc::clone(&self.lock) })
    }

    /// Makes a staged model's files durable and registers it, as the next version of its name: all of it or nothing.
    ///
    /// # Errors
    /// [`RegistryError::BadName`], [`RegistryError::File`], [`RegistryError::Database`]; the staged files are removed then.
    pub fn commit(&self, staging: Staging, model: NewModel) -> Result<Record, RegistryError> {
        self.commit_observed(staging, model, &mut |_| ())
    }

    /// [`Registry::commit`], telling an observer each point that it has passed: tests crash there.
    pub(crate) fn commit_observed(
        &self,
        staging: Staging,
        model: NewModel,
        passed: &mut dyn FnMut(&'static str),
    ) -> Result<Record, RegistryError> {
        validate_name(&model.name)?;
        home::sync_tree(&staging.directory)?;
        passed("files durable");
        let id = staging.id;
        let place = self.directory(id);
        home::rename(&staging.directory, &place)?;
        let registered = self.register(id, &model, passed);
        // A failing disk can report an error after the row became durable; then the files stay. What else is left over here,
        // the next opening removes.
        if registered.is_err() && self.transaction(|t| models::contains(t, id)).is_ok_and(|present| !present) {
            let _ = fs::remove_dir_all(&place);
            if let Some(shared) = &self.shared {
                let _ = shared.remove_all(&shared_prefix(id));
            }
        }
        registered
    }

    fn register(
        &self,
        id: ModelId,
        model: &NewModel,
        passed: &mut dyn FnMut(&'static str),
    ) -> Result<Record, RegistryError> {
        passed("files moved");
        home::sync(&self.home.join("models"))?;
        home::sync(&self.home.join("staging"))?;
        passed("move durable");
        let now = crate::time::seconds();
        if let Some(shared) = &self.shared {
            for path in home::children(&self.directory(id))? {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let key = shared_prefix(id) + &name;
                shared.put(&key, &path).map_err(|source| RegistryError::Store { key, source })?;
            }
        }
        let record = self.transaction(|transaction| {
            let record = models::insert(transaction, id, model, now)?;
            passed("row inserted");
            Ok(record)
        })?;
        passed("row committed");
        Ok(record)
    }

    /// Every model, by name and version.
    ///
    /// # Errors
    /// [`RegistryError::Database`], [`RegistryError::Corrupt`].
    pub fn list(&self) -> Result<Vec<Record>, RegistryError> {
        self.transaction(models::all)
    }

    /// Finds a model by its id, by `name@version`, by its name (the latest version), or by at least four digits that begin
    /// exactly one id; the first of these that fits.
    ///
    /// # Errors
    /// [`RegistryError::NotFound`] with what comes near, [`RegistryError::Ambiguous`], and those of [`Registry::list`].
    pub fn get(&self, wanted: &str) -> Result<Record, RegistryError> {
        let records = self.list()?;
        let exact = records.iter().find(|record| record.id.to_string() == wanted);
        let versioned = || records.iter().find(|record| record.versioned_name() == wanted);
        // The list is ordered by version, so the last of a name is its latest.
        let latest = || records.iter().rfind(|record| record.name == wanted);
        if let Some(record) = exact.or_else(versioned).or_else(latest) {
            return Ok(record.clone());
        }
        if wanted.len() >= 4 && wanted.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            let digits = wanted.to_ascii_lowercase();
            let begun: Vec<&Record> =
                records.iter().filter(|record| record.id.to_string().starts_with(&digits)).collect();
            match begun.as_slice() {
                [] => {}
                [one] => return Ok((*one).clone()),
                several => {
                    let matches = several.iter().map(|record| record.id.to_string()).collect();
                    return Err(RegistryError::Ambiguous { wanted: wanted.to_owned(), matches });
                }
            }
        }
        Err(RegistryError::NotFound { wanted: wanted.to_owned(), near: near(wanted, &records) })
    }

    /// Removes a model: its row first, then its files. Its private keys are the vault's affair.
    ///
    /// # Errors
    /// [`RegistryError::NotFound`]; [`RegistryError::File`] where files could not be removed, which the next opening tries again.
    pub fn remove(&self, id: ModelId) -> Result<(), RegistryError> {
        self.remove_observed(id, &mut |_| ())
    }

    pub(crate) fn remove_observed(
        &self,
        id: ModelId,
        passed: &mut dyn FnMut(&'static str),
    ) -> Result<(), RegistryError> {
        if !self.transaction(|transaction| models::delete(transaction, id))? {
            return Err(RegistryError::NotFound { wanted: id.to_string(), near: Vec::new() });
        }
        passed("row removed");
        let directory = self.directory(id);
        if directory.exists() {
            fs::remove_dir_all(&directory).map_err(FileError::at(&directory, "remove the model's files"))?;
        }
        if let Some(shared) = &self.shared {
            let key = shared_prefix(id);
            shared.remove_all(&key).map_err(|source| RegistryError::Store { key, source })?;
        }
        Ok(())
    }

    /// Retires a model: it is not deployed again, and results of it are no longer taken. Its files and its key stay. Says whether it was not retired before.
    ///
    /// # Errors
    /// [`RegistryError::Database`].
    pub fn retire(&self, id: ModelId) -> Result<bool, RegistryError> {
        let now = crate::time::seconds();
        let sql = "UPDATE models SET retired = $1 WHERE id = $2 AND retired IS NULL";
        self.transaction(|transaction| transaction.execute(sql, values![now, id.to_string()])).map(|count| count > 0)
    }

    /// The path of one of a model's files, which exists.
    ///
    /// # Errors
    /// [`RegistryError::MissingFile`] where it does not, or where `name` is not a plain file name.
    pub fn file(&self, record: &Record, name: &str) -> Result<PathBuf, RegistryError> {
        let path = self.directory(record.id).join(name);
        if !is_plain_name(name) {
            return Err(RegistryError::MissingFile { path });
        }
        if path.is_file() || self.fetched(record.id, name, &path)? {
            Ok(path)
        } else {
            Err(RegistryError::MissingFile { path })
        }
    }

    /// Copies a model's file from the shared store into this home; says whether it was there.
    fn fetched(&self, id: ModelId, name: &str, path: &Path) -> Result<bool, RegistryError> {
        let Some(shared) = &self.shared else { return Ok(false) };
        home::create_directory(&self.directory(id))?;
        let staged = self.begin()?;
        let copy = staged.dir().join(name);
        let key = shared_prefix(id) + name;
        if !shared.fetch(&key, &copy).map_err(|source| RegistryError::Store { key, source })? {
            return Ok(false);
        }
        home::rename(&copy, path)?;
        Ok(true)
    }

    fn transaction<T>(
        &self,
        work: impl FnMut(&mut Transaction<'_>) -> Result<T, SqlError>,
    ) -> Result<T, RegistryError> {
        self.database.transaction(work).map_err(|source| self.failed(source))
    }

    /// The home directory.
    pub fn home(&self) -> &Path {
        &self.home
    }

    fn directory(&self, id: ModelId) -> PathBuf {
        self.home.join("models").join(id.to_string())
    }

    /// Only while holding the lock alone: nobody is staging or committing then.
    fn remove_leftovers(&self) -> Result<(), RegistryError> {
        let known: Vec<PathBuf> = self.list()?.into_iter().map(|record| self.directory(record.id)).collect();
        let mut leftovers = home::children(&self.home.join("staging"))?;
        leftovers.extend(home::children(&self.home.join("models"))?.into_iter().filter(|path| {
            // Only what this program made: directories named by an id.
            let named_by_id = path.file_name().and_then(|name| name.to_str()?.parse::<ModelId>().ok()).is_some();
            named_by_id && !known.contains(path)
        }));
        for path in leftovers.iter().filter(|path| path.is_dir()) {
            fs::remove_dir_all(path).map_err(FileError::at(path, "remove what an interrupted run left"))?;
        }
        Ok(())
    }
}

/// Where a model's files lie in a shared store.
fn shared_prefix(id: ModelId) -> String {
    format!("models/{id}/")
}

/// The registry's error for one of its database.
pub(crate) fn explain(place: String, source: SqlError) -> RegistryError {
    match source.kind {
        SqlErrorKind::Corrupt => RegistryError::Corrupt { place, detail: source.to_string() },
        SqlErrorKind::Foreign => RegistryError::ForeignDatabase { place },
        SqlErrorKind::Missing => RegistryError::DatabaseMissing { place },
        SqlErrorKind::Newer(version) => RegistryError::NewerDatabase { place, version, supported: NEWEST },
        SqlErrorKind::Again | SqlErrorKind::Refused | SqlErrorKind::Failed => RegistryError::Database { place, source },
    }
}

/// At most three names (or versioned names, where the name fits and the version does not) that resemble `wanted`.
fn near(wanted: &str, records: &[Record]) -> Vec<String> {
    if let Some((name, _)) = wanted.split_once('@') {
        let versions: Vec<String> =
            records.iter().rev().filter(|record| record.name == name).map(Record::versioned_name).take(3).collect();
        if !versions.is_empty() {
            return versions;
        }
    }
    let plain = wanted.split('@').next().unwrap_or(wanted).to_lowercase();
    let mut names: Vec<(usize, &str)> = records
        .iter()
        .map(|record| {
            let name = record.name.to_lowercase();
            let related = plain.len() >= 3 && (name.contains(&plain) || plain.contains(&name));
            let distance = strsim::damerau_levenshtein(&plain, &name);
            (if related { distance.min(1) } else { distance }, record.name.as_str())
        })
        .filter(|&(distance, name)| distance <= 1 + name.len() / 4)
        .collect();
    names.sort_unstable();
    names.dedup();
    names.into_iter().take(3).map(|(_, name)| name.to_owned()).collect()
}

/// A model in the making: an id and a directory for its files. Dropped uncommitted, the directory is removed.
#[derive(Debug)]
pub struct Staging {
    id: ModelId,
    directory: PathBuf,
    // Keeps other processes from removing the directory as a leftover, even after the registry is closed.
    _lock: Arc<LockFile>,
}

impl Staging {
    /// The id the model will have.
    pub fn id(&self) -> ModelId {
        self.id
    }

    /// Where to write its files, under plain names.
    pub fn dir(&self) -> &Path {
        &self.directory
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // Gone after a commit; and if removing fails, the next opening does it.
        let _ = fs::remove_dir_all(&self.directory);
    }
}
