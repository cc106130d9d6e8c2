use std::{
    fs,
    path::{Path, PathBuf},
    thread,
};

use tempfile::TempDir;

use super::file_names;
use crate::{OwnerIdentity, Passphrase, RestoreInfo, Vault, VaultError};
use subrosa_program::container::Signer;

fn phrase(text: &str) -> Passphrase {
    Passphrase::new(text.to_owned()).unwrap()
}

fn vault(home: &Path) -> Vault {
    Vault::create_or_open_for_tests(home, &phrase("open sesame")).unwrap()
}

fn home() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn file(home: &TempDir, name: &str) -> PathBuf {
    home.path().join("vault").join(name)
}

const KEY: &[u8] = b"a private key of forty-two bytes, or so ...";

#[test]
fn secrets_come_back_in_another_process_and_never_lie_in_clear() {
    let home = home();
    assert!(!Vault::exists(home.path()));
    assert!(matches!(Vault::open(home.path(), &phrase("x")), Err(VaultError::NoVault { .. })));
    let unlocked = vault(home.path());
    let large: Vec<u8> = (0..200_000u32).map(|i| (i.wrapping_mul(i) >> 7) as u8).collect();
    unlocked.put("model", KEY).unwrap();
    unlocked.put("large", &large).unwrap();
    unlocked.put("empty", &[]).unwrap();
    assert!(Vault::exists(home.path()));

    drop(unlocked);
    let unlocked = Vault::open(home.path(), &phrase("open sesame")).unwrap();
    assert_eq!(unlocked.list().unwrap(), ["empty", "large", "model"]);
    assert_eq!(unlocked.get("model").unwrap().as_slice(), KEY);
    assert_eq!(*unlocked.get("large").unwrap(), large);
    assert!(unlocked.get("empty").unwrap().is_empty());

    unlocked.put("model", KEY).unwrap();
    assert!(matches!(unlocked.put("model", b"another"), Err(VaultError::Exists { .. })));
    assert_eq!(unlocked.get("model").unwrap().as_slice(), KEY);
    unlocked.remove("large").unwrap();
    assert!(matches!(unlocked.remove("large"), Err(VaultError::NoSecret { .. })));
    assert!(matches!(unlocked.get("large"), Err(VaultError::NoSecret { .. })));
    for name in ["", "identity", ".hidden", "a/b", "../x", &"x".repeat(65)] {
        assert!(matches!(unlocked.put(name, KEY), Err(VaultError::BadName { .. })), "{name}");
    }

    for name in file_names(&home.path().join("vault")) {
        let bytes = fs::read(file(&home, &name)).unwrap();
        assert!(!bytes.windows(16).any(|window| window == &KEY[..16]), "{name} shows the key");
        assert!(!bytes.windows(10).any(|window| window == b"AGE-SECRET"), "{name} shows the identity");
    }
    let shown = format!("{unlocked:?} {:?}", phrase("open sesame"));
    assert!(!shown.contains("sesame") && !shown.contains("AGE-"), "{shown}");
}

#[cfg(unix)]
#[test]
fn nobody_else_may_read_the_vault() {
    use std::os::unix::fs::PermissionsExt;
    let home = home();
    vault(home.path()).put("model", KEY).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&home.path().join("vault")), 0o700);
    assert_eq!(mode(&file(&home, "model.age")), 0o600);
    assert_eq!(mode(&file(&home, "identity.age")), 0o600);
}

#[test]
fn a_wrong_passphrase_is_told_from_damage() {
    let home = home();
    drop(vault(home.path()));
    for wrong in ["open sesame ", "Open sesame", "x"] {
        let error = Vault::open(home.path(), &phrase(wrong)).unwrap_err();
        assert!(matches!(error, VaultError::WrongPassphrase { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("identity.age: wrong passphrase: try again"), "{text}");
    }
    assert!(matches!(Passphrase::new(String::new()), Err(VaultError::EmptyPassphrase)));
}

#[test]
fn every_truncated_or_altered_file_is_refused() {
    let home = home();
    let unlocked = vault(home.path());
    unlocked.put("model", KEY).unwrap();
    let path = file(&home, "model.age");
    let good = fs::read(&path).unwrap();
    for length in 0..good.len() {
        fs::write(&path, &good[..length]).unwrap();
        let error = unlocked.get("model").unwrap_err();
        assert!(matches!(error, VaultError::Damaged { .. }), "{length}: {error}");
        assert!(error.to_string().contains("model.age is damaged"), "{error}");
    }
    for bit in 0..good.len() * 8 {
        let mut bytes = good.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, &bytes).unwrap();
        let error = unlocked.get("model").unwrap_err();
        assert!(matches!(error, VaultError::Damaged { .. } | VaultError::Foreign { .. }), "bit {bit}: {error}");
    }
    fs::write(&path, good).unwrap();
    assert_eq!(unlocked.get("model").unwrap().as_slice(), KEY);

    let path = file(&home, "identity.age");
    let good = fs::read(&path).unwrap();
    for length in (0..good.len()).step_by(5) {
        fs::write(&path, &good[..length]).unwrap();
        let error = Vault::open(home.path(), &phrase("open sesame")).unwrap_err();
        assert!(matches!(error, VaultError::Damaged { .. }), "{length}: {error}");
    }
    for position in 0..good.len() {
        let mut bytes = good.clone();
        bytes[position] ^= 1 << (position % 3);
        fs::write(&path, &bytes).unwrap();
        assert!(Vault::open(home.path(), &phrase("open sesame")).is_err(), "byte {position}");
    }
}

#[test]
fn a_secret_exchanged_or_planted_by_someone_without_the_passphrase_is_refused() {
    let (home, other) = (home(), home());
    let unlocked = vault(home.path());
    unlocked.put("mine", KEY).unwrap();
    unlocked.put("also", b"second").unwrap();
    vault(other.path()).put("mine", b"the attacker's").unwrap();
    let foreign = |name: &str| matches!(unlocked.get(name), Err(VaultError::Foreign { .. }));

    fs::copy(file(&home, "mine.age"), file(&home, "also.age")).unwrap();
    assert!(foreign("also"), "a file under another name");
    fs::copy(file(&other, "mine.age"), file(&home, "mine.age")).unwrap();
    assert!(foreign("mine"), "another vault's file");
    let recipient: age::x25519::Recipient =
        fs::read_to_string(file(&home, "recipient.txt")).unwrap().trim().parse().unwrap();
    let forged = [b"subrosa-secret-v1\n".as_slice(), &[0; 32], b"the attacker's"].concat();
    fs::write(file(&home, "mine.age"), age::encrypt(&recipient, &forged).unwrap()).unwrap();
    assert!(foreign("mine"), "encrypted to the public recipient");

    fs::copy(file(&other, "recipient.txt"), file(&home, "recipient.txt")).unwrap();
    assert!(matches!(Vault::open(home.path(), &phrase("open sesame")), Err(VaultError::Foreign { .. })));
    fs::remove_file(file(&home, "recipient.txt")).unwrap();
    Vault::open(home.path(), &phrase("open sesame")).unwrap();
    assert!(fs::read_to_string(file(&home, "recipient.txt")).unwrap().starts_with("age1"));
}

#[test]
fn a_changed_passphrase_opens_the_same_secrets_and_the_old_one_nothing() {
    let home = home();
    let unlocked = vault(home.path());
    unlocked.put("model", KEY).unwrap();
    let sealed = fs::read(file(&home, "model.age")).unwrap();
    let (old, new) = (phrase("open sesame"), phrase("better words"));
    assert!(matches!(unlocked.change_passphrase(&new, &new), Err(VaultError::WrongPassphrase { .. })));
    Vault::open(home.path(), &old).unwrap();
    unlocked.change_passphrase(&old, &new).unwrap();
    assert!(matches!(Vault::open(home.path(), &old), Err(VaultError::WrongPassphrase { .. })));
    assert_eq!(Vault::open(home.path(), &new).unwrap().get("model").unwrap().as_slice(), KEY);
    assert_eq!(fs::read(file(&home, "model.age")).unwrap(), sealed, "only the identity's file changes");
}

#[test]
fn a_passphrase_change_killed_before_its_rename_changes_nothing() {
    let home = home();
    vault(home.path()).put("model", KEY).unwrap();
    // What a kill leaves: a temporary sibling, complete or not, and the old identity.
    fs::write(file(&home, ".identity.age.q1w2e3.tmp"), "age-encryption.org/v1\n-> scr").unwrap();
    let unlocked = Vault::open(home.path(), &phrase("open sesame")).unwrap();
    assert_eq!(unlocked.get("model").unwrap().as_slice(), KEY);
    assert_eq!(file_names(&home.path().join("vault")), ["identity.age", "lock", "model.age", "recipient.txt"]);
}

#[test]
fn a_vault_that_lost_its_identity_is_not_started_afresh() {
    let home = home();
    vault(home.path()).put("model", KEY).unwrap();
    fs::remove_file(file(&home, "identity.age")).unwrap();
    let again = Vault::create_or_open_for_tests(home.path(), &phrase("open sesame"));
    assert!(matches!(again, Err(VaultError::NoIdentity { .. })));
}

#[test]
fn a_backup_restores_everything_in_another_home() {
    let (home, other) = (home(), home());
    let unlocked = vault(home.path());
    unlocked.put("model", KEY).unwrap();
    unlocked.put("large", &vec![7; 150_000]).unwrap();
    let identity = OwnerIdentity::load_or_create(&unlocked).unwrap();
    let out = home.path().join("keys.backup");
    let info = unlocked.backup(&out, &phrase("the backup's")).unwrap();
    assert_eq!((info.entries, info.bytes), (3, fs::metadata(&out).unwrap().len()));
    assert!(matches!(unlocked.backup(&out, &phrase("x")), Err(VaultError::BackupExists { .. })));

    // The static way: one passphrase, and a home without a vault.
    let wrong = Vault::restore(other.path(), &out, &phrase("x"), false).unwrap_err();
    assert!(matches!(&wrong, VaultError::WrongPassphrase { path } if *path == out), "{wrong}");
    assert!(!Vault::exists(other.path()), "nothing is created before the backup is read");
    let all = RestoreInfo { restored: 3, skipped: 0, conflicts: vec![] };
    assert_eq!(Vault::restore(other.path(), &out, &phrase("the backup's"), false).unwrap(), all);
    let restored = Vault::open(other.path(), &phrase("the backup's")).unwrap();
    assert_eq!(restored.list().unwrap(), ["large", "model", "signing"]);
    assert_eq!(restored.get("model").unwrap().as_slice(), KEY);
    assert_eq!(OwnerIdentity::load(&restored).unwrap().signer(), identity.signer());

    // Again: everything is there. After one more, a damaged and a removed secret: exactly those come back.
    let none = RestoreInfo { restored: 0, skipped: 3, conflicts: vec![] };
    assert_eq!(restored.restore_from(&out, &phrase("the backup's"), false).unwrap(), none);
    restored.remove("model").unwrap();
    fs::write(file(&other, "large.age"), "damaged").unwrap();
    let two = RestoreInfo { restored: 2, skipped: 1, conflicts: vec![] };
    assert_eq!(restored.restore_from(&out, &phrase("the backup's"), false).unwrap(), two);
    assert_eq!(*restored.get("large").unwrap(), vec![7; 150_000]);
}

#[test]
fn a_restore_overwrites_a_different_secret_only_by_force_and_otherwise_does_nothing() {
    let (home, other) = (home(), home());
    let source = vault(home.path());
    source.put("a", b"backup's").unwrap();
    source.put("b", b"backup's").unwrap();
    let out = home.path().join("keys.backup");
    source.backup(&out, &phrase("p")).unwrap();
    let target = vault(other.path());
    target.put("b", b"different").unwrap();
    target.put("c", b"unrelated").unwrap();

    let error = target.restore_from(&out, &phrase("p"), false).unwrap_err();
    assert!(matches!(&error, VaultError::Conflicts { names } if names == &["b"]), "{error}");
    assert_eq!(target.list().unwrap(), ["b", "c"]);
    assert_eq!(target.get("b").unwrap().as_slice(), b"different");

    let info = target.restore_from(&out, &phrase("p"), true).unwrap();
    assert_eq!(info, RestoreInfo { restored: 2, skipped: 0, conflicts: vec!["b".to_owned()] });
    assert_eq!(target.list().unwrap(), ["a", "b", "c"]);
    assert_eq!(target.get("b").unwrap().as_slice(), b"backup's");
    assert_eq!(target.get("c").unwrap().as_slice(), b"unrelated");
}

#[test]
fn a_truncated_altered_or_foreign_backup_changes_nothing() {
    let home = home();
    let unlocked = vault(home.path());
    unlocked.put("model", KEY).unwrap();
    let out = home.path().join("keys.backup");
    unlocked.backup(&out, &phrase("p")).unwrap();
    unlocked.remove("model").unwrap();
    let good = fs::read(&out).unwrap();
    let refused = |bytes: &[u8]| {
        fs::write(&out, bytes).unwrap();
        let error = unlocked.restore_from(&out, &phrase("p"), true).unwrap_err();
        assert!(unlocked.list().unwrap().is_empty());
        error
    };
    for length in (0..good.len()).step_by(37).chain([good.len() - 1]) {
        let error = refused(&good[..length]);
        assert!(matches!(error, VaultError::NotABackup { .. }), "{length}: {error}");
    }
    for position in (300..good.len()).step_by(101) {
        let mut bytes = good.clone();
        bytes[position] ^= 0x10;
        assert!(matches!(refused(&bytes), VaultError::NotABackup { .. }), "byte {position}");
    }
    let secret = fs::read(file(&home, "recipient.txt")).unwrap();
    assert!(matches!(refused(&secret), VaultError::NotABackup { .. }), "some other file");

    let sealed = |content: &[u8]| {
        let mut recipient = age::scrypt::Recipient::new("p".to_owned().into());
        recipient.set_work_factor(10);
        age::encrypt(&recipient, content).unwrap()
    };
    assert!(matches!(refused(&sealed(b"")), VaultError::NotABackup { .. }), "an age file without an archive");
    let archive = |entries: &[(&str, &str)]| {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, content) in entries {
            let mut header = tar::Header::new_ustar();
            header.set_size(content.len() as u64);
            // Past the builder's own checks of the path.
            header.as_ustar_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_cksum();
            builder.append(&header, content.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap()
    };
    let manifest = ("subrosa-vault-backup", "1\n");
    for bad in ["secrets/../../x", "secrets/identity", "/etc/passwd", "secrets/.x", "model"] {
        assert!(matches!(refused(&sealed(&archive(&[manifest, (bad, "x")]))), VaultError::NotABackup { .. }), "{bad}");
    }
    let twice = archive(&[manifest, ("secrets/a", "x"), ("secrets/a", "y")]);
    assert!(matches!(refused(&sealed(&twice)), VaultError::NotABackup { .. }));
    assert!(matches!(refused(&sealed(&archive(&[("secrets/a", "x")]))), VaultError::NotABackup { .. }));
    let newer = refused(&sealed(&archive(&[("subrosa-vault-backup", "2\n")])));
    assert!(matches!(&newer, VaultError::NewerBackup { version, .. } if version == "2"), "{newer}");

    // Cut where the archive has ended already but the file has not.
    let mut long = archive(&[manifest, ("secrets/a", "x")]);
    long.resize(long.len() + 200_000, 0);
    let long = sealed(&long);
    assert!(matches!(refused(&long[..long.len() - 70_000]), VaultError::NotABackup { .. }));

    fs::write(&out, good).unwrap();
    assert_eq!(unlocked.restore_from(&out, &phrase("p"), false).unwrap().restored, 1);
}

#[test]
fn an_interrupted_restore_is_dropped_before_its_decision_and_finished_after() {
    let home = home();
    let unlocked = vault(home.path());
    unlocked.put("b", b"old").unwrap();
    let staged = |name: &str| (name.to_owned(), zeroize::Zeroizing::new(b"restored".to_vec()));
    let secrets = [staged("a"), staged("b")];

    unlocked.stage(&secrets).unwrap();
    assert_eq!(unlocked.list().unwrap(), ["b"]);
    assert_eq!(unlocked.get("b").unwrap().as_slice(), b"old");
    assert!(!file(&home, "restore.partial").exists());

    unlocked.stage(&secrets).unwrap();
    fs::rename(file(&home, "restore.partial"), file(&home, "restore.commit")).unwrap();
    // The crash came when one of the two was in its place already.
    fs::rename(file(&home, "restore.commit/a.age"), file(&home, "a.age")).unwrap();
    assert_eq!(unlocked.list().unwrap(), ["a", "b"]);
    for name in ["a", "b"] {
        assert_eq!(unlocked.get(name).unwrap().as_slice(), b"restored");
    }
    assert!(!file(&home, "restore.commit").exists());
}

#[test]
fn creating_a_vault_and_an_identity_at_the_same_time_loses_nothing() {
    let home = home();
    let workers: Vec<_> = (0..6)
        .map(|worker| {
            let path = home.path().to_owned();
            // A lock belongs to an opening of its file, so threads exclude each other as processes do.
            thread::spawn(move || {
                let unlocked = vault(&path);
                unlocked.put(&format!("worker-{worker}"), &[worker; 9]).unwrap();
                OwnerIdentity::load_or_create(&unlocked).unwrap().signer()
            })
        })
        .collect();
    let signers: Vec<Signer> = workers.into_iter().map(|worker| worker.join().unwrap()).collect();
    assert!(signers.iter().all(|signer| *signer == signers[0]), "{signers:?}");
    let unlocked = vault(home.path());
    for worker in 0..6 {
        assert_eq!(*unlocked.get(&format!("worker-{worker}")).unwrap(), [worker; 9]);
    }
}

#[test]
fn the_owner_signs_what_its_public_key_file_verifies() {
    let home = home();
    let unlocked = vault(home.path());
    assert!(matches!(OwnerIdentity::load(&unlocked), Err(VaultError::NoSecret { .. })));
    let identity = OwnerIdentity::load_or_create(&unlocked).unwrap();
    let signature = identity.sign(b"message");
    let trusted = Signer::parse(&identity.signer().to_file_text("me")).unwrap();
    assert!(trusted.verifies(b"message", &signature));
    assert!(!trusted.verifies(b"massage", &signature));
    let other = OwnerIdentity::load_or_create(&vault(self::home().path())).unwrap();
    assert!(!other.signer().verifies(b"message", &signature));
    assert!(!format!("{identity:?}").contains("SigningKey"));

    unlocked.remove("signing").unwrap();
    unlocked.put("signing", b"short").unwrap();
    assert!(matches!(OwnerIdentity::load(&unlocked), Err(VaultError::Damaged { .. })));
}
