//! `--archive`: a report kept in the source tree, for figures to be compared with later ones.

use crate::failure::{failure, io};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};
use subrosa_owner::OwnerError;
use subrosa_terminal::{Failure, machine};

const DIRECTORY: &str = "benches/results";
const SECONDS_A_DAY: u64 = 86_400;

/// Where a report will be kept.
pub(super) struct Archive {
    directory: PathBuf,
    what: String,
}

impl Archive {
    /// The archive of the source tree around the current directory, if `wanted`; looked for before anything is measured.
    pub fn find(wanted: bool, what: impl Into<String>) -> Result<Option<Self>, Failure> {
        if !wanted {
            return Ok(None);
        }
        let here = std::env::current_dir().map_err(io("find", Path::new(".")))?;
        let tree = here.ancestors().find(|d| d.join(DIRECTORY).is_dir() && d.join("Cargo.toml").is_file());
        let tree = tree.ok_or_else(|| {
            Failure::usage(format!(
                "--archive keeps results in {DIRECTORY} of Subrosa's source tree, and {} is not inside of one: change there",
                here.display()
            ))
        })?;
        Ok(Some(Self { directory: tree.join(DIRECTORY), what: what.into() }))
    }

    /// Writes `DATE-WHAT-MACHINE.json`, with a number behind it if that exists: no file is overwritten.
    pub fn write(&self, report: &impl Serialize) -> Result<PathBuf, Failure> {
        let json = serde_json::to_string_pretty(report).map_err(Failure::failed)? + "\n";
        let stem = format!("{}-{}-{}", today(), self.what, slug(&machine::cpu_model()));
        let mut number = 1;
        loop {
            let suffix = if number == 1 { String::new() } else { format!("-{number}") };
            let path = self.directory.join(format!("{stem}{suffix}.json"));
            let created = std::fs::File::create_new(&path);
            match created.and_then(|mut file| std::io::Write::write_all(&mut file, json.as_bytes())) {
                Ok(()) => return Ok(path),
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
                Err(e) => return Err(failure(OwnerError::Io { action: "write", path, source: e })),
            }
        }
    }
}

/// Today's date, UTC, as 2026-11-23.
pub(super) fn today() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    date(since.as_secs() / SECONDS_A_DAY)
}

/// The date so many days after 1970-01-01 (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`).
fn date(days: u64) -> String {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02}")
}

/// A machine's name for a file: `AMD EPYC 9B14` gives `amd-epyc-9b14`.
fn slug(name: &str) -> String {
    let name = name.replace("(R)", "").replace("(TM)", "");
    let words = name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|w| !w.is_empty());
    words.map(str::to_ascii_lowercase).collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_right_around_leap_days_and_turns_of_the_year() {
        let days = [0, 59, 10_956, 11_016, 11_017, 20_512, 20_513, 20_780];
        let expected = [
            "1970-01-01",
            "1970-03-01",
            "1999-12-31",
            "2000-02-29",
            "2000-03-01",
            "2026-02-28",
            "2026-03-01",
            "2026-11-23",
        ];
        assert_eq!(days.map(date), expected);
    }

    #[test]
    fn machines_get_names_that_any_file_system_takes() {
        assert_eq!(slug("Intel(R) Xeon(R) Platinum 8375C CPU @ 2.90GHz"), "intel-xeon-platinum-8375c-cpu-2-90ghz");
        assert_eq!(slug("AMD EPYC"), "amd-epyc");
    }
}
