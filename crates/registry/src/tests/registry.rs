use std::{fs, thread};

use super::{FILE, assert_consistent, file_names, model, staged};
use crate::fleet::{AuditRow, Fleet};
use crate::{ModelId, Registry, RegistryError, validate_name};

#[test]
fn a_model_is_found_by_id_prefix_name_and_version() {
    let home = tempfile::tempdir().unwrap();
    let registry = Registry::open(home.path()).unwrap();
    let first = registry.commit(staged(&registry), model("cifar-cnn")).unwrap();
    let second = registry.commit(staged(&registry), model("cifar-cnn")).unwrap();
    let other = registry.commit(staged(&registry), model("mnist")).unwrap();
    assert_eq!((first.version, second.version, other.version), (1, 2, 1));
    assert_eq!(first.report["name"], "cifar-cnn");
    assert_eq!(second.report["version"], 2);
    assert_eq!(second.report["weights"], 421_642);

    drop(registry);
    let registry = Registry::open(home.path()).unwrap();
    assert_eq!(registry.list().unwrap(), [first.clone(), second.clone(), other.clone()]);
    assert_eq!(registry.get(&first.id.to_string()).unwrap(), first);
    assert_eq!(registry.get(&first.id.to_string()[..12].to_uppercase()).unwrap(), first);
    assert_eq!(registry.get("cifar-cnn").unwrap(), second);
    assert_eq!(registry.get("cifar-cnn@1").unwrap(), first);
    assert_consistent(home.path());

    let text = |wanted: &str| registry.get(wanted).unwrap_err().to_string();
    assert_eq!(text("cifar-cmn"), "the registry has no model 'cifar-cmn': did you mean cifar-cnn?");
    assert_eq!(text("CIFAR"), "the registry has no model 'CIFAR': did you mean cifar-cnn?");
    assert_eq!(
        text("cifar-cnn@7"),
        "the registry has no model 'cifar-cnn@7': did you mean cifar-cnn@2 or cifar-cnn@1?"
    );
    assert_eq!(text("zzzzzz"), "the registry has no model 'zzzzzz': 'subrosa models' lists what there is");
    assert!(registry.get(&first.id.to_string()[..3]).is_err(), "three digits are too few");
    assert!(registry.get("").is_err());

    let path = registry.file(&first, "network.onnx").unwrap();
    assert_eq!(fs::read(path).unwrap(), FILE);
    for absent in ["protected.srp", "../../registry.sqlite", ".", "extra"] {
        assert!(matches!(registry.file(&first, absent), Err(RegistryError::MissingFile { .. })), "{absent}");
    }
}

#[test]
fn a_prefix_that_fits_two_ids_is_ambiguous() {
    let home = tempfile::tempdir().unwrap();
    let registry = Registry::open(home.path()).unwrap();
    let connection = rusqlite::Connection::open(home.path().join("registry.sqlite")).unwrap();
    for version in 1..=2 {
        let record = registry.commit(staged(&registry), model("m")).unwrap();
        let id = format!("abcdef{version:026x}");
        connection.execute("UPDATE models SET id = ?1 WHERE id = ?2", [id, record.id.to_string()]).unwrap();
    }
    assert!(matches!(registry.get("abcd"), Err(RegistryError::Ambiguous { matches, .. }) if matches.len() == 2));
    assert_eq!(registry.get(&format!("abcdef{:026x}", 2)).unwrap().version, 2);
}

#[test]
fn a_version_is_never_given_twice() {
    let home = tempfile::tempdir().unwrap();
    let registry = Registry::open(home.path()).unwrap();
    for expected in 1..=3 {
        let record = registry.commit(staged(&registry), model("m")).unwrap();
        assert_eq!(record.version, expected);
        registry.remove(record.id).unwrap();
        assert!(matches!(registry.remove(record.id), Err(RegistryError::NotFound { .. })));
    }
    assert!(registry.list().unwrap().is_empty());
    assert_consistent(home.path());
}

#[test]
fn commits_at_the_same_time_get_versions_of_their_own() {
    let home = tempfile::tempdir().unwrap();
    let workers: Vec<_> = (0..4)
        .map(|_| {
            let home = home.path().to_owned();
            thread::spawn(move || {
                let commit = |_| {
                    let registry = Registry::open(&home).unwrap();
                    registry.commit(staged(&registry), model("m")).unwrap().version
                };
                (0..5).map(commit).collect::<Vec<u32>>()
            })
        })
        .collect();
    let mut versions: Vec<u32> = workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect();
    versions.sort_unstable();
    assert_eq!(versions, (1..=20).collect::<Vec<u32>>());
    assert_consistent(home.path());
}

#[test]
fn cleaning_spares_a_running_protect_and_removes_a_dead_one() {
    let home = tempfile::tempdir().unwrap();
    let running = Registry::open(home.path()).unwrap();
    let staging = staged(&running);
    drop(running); // the staging keeps the lock
    drop(Registry::open(home.path()).unwrap());
    assert_eq!(file_names(&home.path().join("staging")), [staging.id().to_string()]);
    // What a killed process leaves: a directory, and no lock.
    let dead = home.path().join("staging").join(ModelId::from([3; 16]).to_string());
    fs::create_dir(&dead).unwrap();
    fs::write(dead.join("network.onnx"), "half").unwrap();

    // Still somebody at work: nothing is removed.
    drop(Registry::open(home.path()).unwrap());
    assert_eq!(file_names(&home.path().join("staging")).len(), 2);
    drop(staging);
    drop(Registry::open(home.path()).unwrap());
    assert!(file_names(&home.path().join("staging")).is_empty());
}

#[test]
fn a_bad_name_or_an_unwritable_home_is_refused_with_its_place() {
    let home = tempfile::tempdir().unwrap();
    let registry = Registry::open(home.path()).unwrap();
    for name in ["", "a b", "a/b", "a@1", "ä", &"x".repeat(65)] {
        assert!(matches!(validate_name(name), Err(RegistryError::BadName { .. })), "{name}");
        assert!(matches!(registry.commit(staged(&registry), model(name)), Err(RegistryError::BadName { .. })));
    }
    validate_name(&"x".repeat(64)).unwrap();
    drop(registry);
    assert_consistent(home.path());

    let file = home.path().join("file");
    fs::write(&file, "").unwrap();
    let error = Registry::open(&file.join("home")).err().unwrap().to_string();
    assert!(error.contains("file/home/models: cannot create the directory: "), "{error}");
}

#[test]
fn a_damaged_foreign_newer_or_missing_database_is_refused_and_no_model_is_touched() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("registry.sqlite");
    let registry = Registry::open(home.path()).unwrap();
    let id = registry.commit(staged(&registry), model("m")).unwrap().id;
    drop(registry);
    let good = fs::read(&path).unwrap();
    let refused = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        let error = Registry::open(home.path()).err().expect("must be refused");
        assert!(error.to_string().contains("registry.sqlite"), "{error}");
        assert_eq!(file_names(&home.path().join("models")), [id.to_string()]);
        error
    };

    assert!(matches!(refused(&b"not a database, by far ".repeat(100)), RegistryError::Corrupt { .. }));
    let mut hole = good.clone();
    hole[4096..2 * 4096].fill(0);
    assert!(matches!(refused(&hole), RegistryError::Corrupt { .. }));
    assert!(matches!(refused(&good[..good.len() / 2]), RegistryError::Corrupt { .. }));
    assert!(matches!(refused(&[]), RegistryError::DatabaseMissing { .. }));
    fs::remove_file(&path).unwrap();
    assert!(matches!(Registry::open(home.path()), Err(RegistryError::DatabaseMissing { .. })));

    let with = |good: &[u8], pragma: &str| {
        fs::write(&path, good).unwrap();
        rusqlite::Connection::open(&path).unwrap().execute_batch(pragma).unwrap();
        fs::read(&path).unwrap()
    };
    let newer = with(&good, "PRAGMA user_version = 9");
    let error = refused(&newer);
    assert!(matches!(error, RegistryError::NewerDatabase { version: 9, supported: 3, .. }), "{error}");
    let foreign = with(&good, "PRAGMA application_id = 9");
    assert!(matches!(refused(&foreign), RegistryError::ForeignDatabase { .. }));
    let other = with(&[], "CREATE TABLE albums (title TEXT)");
    assert!(matches!(refused(&other), RegistryError::ForeignDatabase { .. }));

    fs::write(&path, good).unwrap();
    assert_consistent(home.path());
}

#[test]
fn a_registry_of_the_first_schema_is_migrated_with_all_that_is_in_it() {
    // As the first version wrote it.
    const FIRST: &str = "
        PRAGMA application_id = 1397900354;
        PRAGMA user_version = 1;
        CREATE TABLE names (name TEXT PRIMARY KEY, last_version INTEGER NOT NULL) STRICT;
        CREATE TABLE models (
            id TEXT PRIMARY KEY, name TEXT NOT NULL REFERENCES names (name), version INTEGER NOT NULL, created_unix INTEGER NOT NULL,
            scheme TEXT NOT NULL, security_bits INTEGER NOT NULL, scope TEXT NOT NULL, input TEXT NOT NULL, log_n INTEGER NOT NULL,
            report TEXT NOT NULL, UNIQUE (name, version)
        ) STRICT;
        INSERT INTO names VALUES ('m', 3);
        INSERT INTO models VALUES
            ('0123456789abcdef0123456789abcdef', 'm', 3, 1700000000, 'ckks', 128, 'last', 'plain', 13, '{\"id\": \"0123456789abcdef0123456789abcdef\"}');";
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("registry.sqlite");
    rusqlite::Connection::open(&path).unwrap().execute_batch(FIRST).unwrap();
    let files = home.path().join("models/0123456789abcdef0123456789abcdef");
    fs::create_dir_all(&files).unwrap();
    fs::write(files.join("network.onnx"), FILE).unwrap();

    assert_consistent(home.path());
    let registry = Registry::open(home.path()).unwrap();
    let record = registry.get("m").unwrap();
    assert_eq!((record.version, record.security_bits, record.created_unix), (3, 128, 1_700_000_000));
    assert_eq!(record.retired_unix, None);
    assert!(registry.retire(record.id).unwrap());
    // The next version goes on from there, and what came later is there too.
    assert_eq!(registry.commit(staged(&registry), model("m")).unwrap().version, 4);
    let link = |_: Option<&AuditRow>, time, event: &serde_json::Value| AuditRow {
        sequence: 1,
        time,
        event: event.to_string(),
        previous: [0; 32],
        hash: [1; 32],
    };
    let fleet = Fleet::new(registry.database().clone(), link);
    assert!(fleet.add_owner_token("first", "0").unwrap());
    assert!(fleet.open_session("1", "0", 1000).unwrap().is_some());
    assert_eq!((fleet.open_alarms().unwrap(), fleet.audit_head().unwrap()), (0, 2));
    drop((fleet, registry));
    let version: i64 =
        rusqlite::Connection::open(&path).unwrap().query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
    assert_eq!(version, 3);
    assert_consistent(home.path());
}
