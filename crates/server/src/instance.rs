//! Which process this is: the one after another that died, or one beside it.

use std::fs::{File, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::Path;

/// The file in the home with the name that its processes have in common.
const FILE: &str = "serve.lock";
const LENGTH: usize = 16;

/// A home's process.
pub(crate) struct Instance {
    /// What the names of its workers begin with.
    pub prefix: String,
    /// Whether no other process serves this home: whoever has the prefix is dead.
    pub alone: bool,
    /// Locked as long as the process lives, whatever ends it.
    _file: File,
}

impl Instance {
    /// The process of a home.
    pub fn of(home: &Path) -> io::Result<Self> {
        let mut file = File::options().read(true).write(true).create(true).truncate(false).open(home.join(FILE))?;
        let alone = match file.try_lock() {
            Ok(()) => true,
            Err(TryLockError::WouldBlock) => false,
            Err(TryLockError::Error(error)) => return Err(error),
        };
        let mut prefix = String::new();
        file.read_to_string(&mut prefix)?;
        let known = prefix.len() == LENGTH && prefix.bytes().all(|c| c.is_ascii_hexdigit());
        if !known {
            prefix = random()?;
            if alone {
                file.set_len(0)?;
                file.rewind()?;
                file.write_all(prefix.as_bytes())?;
            }
        }
        Ok(Self { prefix, alone, _file: file })
    }

    /// A name for this process's workers.
    pub fn worker(&self) -> io::Result<String> {
        Ok(format!("{}-{}", self.prefix, random()?))
    }
}

fn random() -> io::Result<String> {
    let mut bytes = [0; LENGTH / 2];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(hex::encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_process_of_a_home_has_its_name_and_one_beside_it_is_not_alone() {
        let home = tempfile::tempdir().unwrap();
        let first = Instance::of(home.path()).unwrap();
        assert!(first.alone);
        let beside = Instance::of(home.path()).unwrap();
        assert!(!beside.alone && beside.prefix == first.prefix);
        let worker = first.worker().unwrap();
        assert!(worker.starts_with(&first.prefix) && worker != first.worker().unwrap());
        let prefix = first.prefix.clone();
        drop((first, beside));
        let next = Instance::of(home.path()).unwrap();
        assert!(next.alone && next.prefix == prefix);
    }
}
