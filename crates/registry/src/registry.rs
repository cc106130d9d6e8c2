//! The registry itself: staging, committing, finding and removing models.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use crate::{
    database::Database,
    home::{self, FileError, LockFile},
    record::{ModelId, NewModel, Record, is_plain_name, validate_name},
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
    /// SQLite failed: disk full, locked for too long, no permission, ...
    #[error("{}: the registry's database failed: {source}", path.display())]
    Database {
        /// The database file.
        path: PathBuf,
        /// SQLite's error.
        source: rusqlite::Error,
    },
    /// The database file is damaged.
    #[error(
        "{}: the registry's database is damaged ({detail}): put back a copy of the whole home directory; \
         models/ and vault/ beside it are untouched", path.display()
    )]
    Corrupt {
        /// The database file.
        path: PathBuf,
        /// What SQLite found.
        detail: String,
    },
    /// Somebody else's SQLite file.
    #[error("{} is not a Subrosa registry: choose another home directory", path.display())]
    ForeignDatabase {
        /// The database file.
        path: PathBuf,
    },
    /// Written by a later release.
    #[error(
        "{} has schema version {version}, and this program knows versions up to {supported}: update the program",
        path.display()
    )]
    NewerDatabase {
        /// The database file.
        path: PathBuf,
        /// The file's schema version.
        version: i64,
        /// The newest one this program knows.
        supported: i64,
    },
    /// Models' files without a database: a new, empty one would have them removed as leftovers.
    #[error(
        "{} is missing or empty although models/ beside it holds models: put back a copy of it, or move models/ away",
        path.display()
    )]
    DatabaseMissing {
        /// The database file.
        path: PathBuf,
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

/// The Trained and Protected DNN Database in one home directory.
///
/// Several processes may have it open at once. For use in several threads, open it once in each.
pub struct Registry {
    home: PathBuf,
    database: Database,
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
        for directory in ["models", "staging"] {
            home::create_directory(&home.join(directory))?;
        }
        let lock = LockFile::open(home.join("lock"))?;
        let alone = lock.try_exclusive()?;
        if !alone {
            lock.share()?;
        }
        let has_models = home::children(&home.join("models"))?.iter().any(|path| path.is_dir());
        let database = Database::open(home.join("registry.sqlite"), has_models)?;
        let registry = Self { home: home.to_owned(), database, lock: Arc::new(lock) };
        if alone {
            registry.remove_leftovers()?;
            // Whoever holds the lock alone in between finds nothing of ours to remove.
            registry.lock.share()?;
        }
        Ok(registry)
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
        let registered = self.register(id, model, passed);
        // A failing disk can report an error after the row became durable; then the files stay. What else is left over here,
        // the next opening removes.
        if registered.is_err() && self.database.contains(id).is_ok_and(|present| !present) {
            let _ = fs::remove_dir_all(&place);
        }
        registered
    }

    fn register(
        &self,
        id: ModelId,
        model: NewModel,
        passed: &mut dyn FnMut(&'static str),
    ) -> Result<Record, RegistryError> {
        passed("files moved");
        home::sync(&self.home.join("models"))?;
        home::sync(&self.home.join("staging"))?;
        passed("move durable");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
        let (record, pending) = self.database.insert(id, model, now)?;
        passed("row inserted");
        pending.commit()?;
        passed("row committed");
        Ok(record)
    }

    /// Every model, by name and version.
    ///
    /// # Errors
    /// [`RegistryError::Database`], [`RegistryError::Corrupt`].
    pub fn list(&self) -> Result<Vec<Record>, RegistryError> {
        self.database.all()
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
        if !self.database.delete(id)? {
            return Err(RegistryError::NotFound { wanted: id.to_string(), near: Vec::new() });
        }
        passed("row removed");
        let directory = self.directory(id);
        if directory.exists() {
            fs::remove_dir_all(&directory).map_err(FileError::at(&directory, "remove the model's files"))?;
        }
        Ok(())
    }

    /// The path of one of a model's files, which exists.
    ///
    /// # Errors
    /// [`RegistryError::MissingFile`] where it does not, or where `name` is not a plain file name.
    pub fn file(&self, record: &Record, name: &str) -> Result<PathBuf, RegistryError> {
        let path = self.directory(record.id).join(name);
        if is_plain_name(name) && path.is_file() { Ok(path) } else { Err(RegistryError::MissingFile { path }) }
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
