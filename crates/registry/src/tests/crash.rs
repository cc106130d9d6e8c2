//! The test binary runs itself as a child that dies at a chosen moment; the parent then looks at what is left.

use std::{
    env,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{self, Command, Stdio},
    thread,
    time::Duration,
};

use super::{assert_consistent, model, staged};
use crate::Registry;

const HOME: &str = "SUBROSA_TEST_CRASH_HOME";
const POINT: &str = "SUBROSA_TEST_CRASH_POINT";

// Signal numbers: a panic of the child's own ends without one.
const ABORTED: i32 = 6;
const KILLED: i32 = 9;

fn child(home: &Path, point: &str) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", "tests::crash::child_process"]).env(HOME, home).env(POINT, point);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Not a test by itself: does nothing unless a parent below has set the environment.
#[test]
fn child_process() {
    let (Ok(home), Ok(point)) = (env::var(HOME), env::var(POINT)) else { return };
    let home = Path::new(&home);
    let registry = Registry::open(home).unwrap();
    let mut die_at = |passed: &'static str| {
        if passed == point {
            process::abort()
        }
    };
    match point.as_str() {
        "for ever" => loop {
            let kept = registry.commit(staged(&registry), model("m")).unwrap();
            let removed = registry.commit(staged(&registry), model("m")).unwrap();
            registry.remove(removed.id).unwrap();
            assert_ne!(kept.id, removed.id);
        },
        "row removed" => {
            let id = registry.get("m").unwrap().id;
            registry.remove_observed(id, &mut die_at).unwrap();
        }
        _ => {
            let staging = staged(&registry);
            die_at("staged");
            registry.commit_observed(staging, model("m"), &mut die_at).unwrap();
        }
    }
    // Only reached where the point is not on the way: the parent expects a death.
}

#[test]
fn a_crash_at_any_point_of_a_commit_leaves_the_old_or_the_new_state() {
    for point in ["staged", "files durable", "files moved", "move durable", "row inserted", "row committed"] {
        let home = tempfile::tempdir().unwrap();
        let registry = Registry::open(home.path()).unwrap();
        let old = registry.commit(staged(&registry), model("m")).unwrap();
        drop(registry);
        let status = child(home.path(), point).status().unwrap();
        assert_eq!(status.signal(), Some(ABORTED), "the child did not die at '{point}'");

        let registry = Registry::open(home.path()).unwrap();
        let versions: Vec<u32> = registry.list().unwrap().iter().map(|record| record.version).collect();
        let expected: &[u32] = if point == "row committed" { &[1, 2] } else { &[1] };
        assert_eq!(versions, expected, "after a crash at '{point}'");
        assert_eq!(registry.get("m@1").unwrap(), old);
        drop(registry);
        assert_consistent(home.path());

        let registry = Registry::open(home.path()).unwrap();
        let next = registry.commit(staged(&registry), model("m")).unwrap();
        assert_eq!(next.version as usize, expected.len() + 1);
    }
}

#[test]
fn a_crash_within_a_removal_is_finished_by_the_next_opening() {
    let home = tempfile::tempdir().unwrap();
    let registry = Registry::open(home.path()).unwrap();
    let record = registry.commit(staged(&registry), model("m")).unwrap();
    drop(registry);
    let status = child(home.path(), "row removed").status().unwrap();
    assert_eq!(status.signal(), Some(ABORTED));
    assert!(home.path().join("models").join(record.id.to_string()).exists(), "the files were still there");
    assert_consistent(home.path());
    assert!(Registry::open(home.path()).unwrap().list().unwrap().is_empty());
}

#[test]
fn being_killed_at_odd_times_never_leaves_an_inconsistent_home() {
    let home = tempfile::tempdir().unwrap();
    let mut before = 0;
    for round in 0..12 {
        let mut running = child(home.path(), "for ever").spawn().unwrap();
        thread::sleep(Duration::from_millis(60 + 17 * round));
        running.kill().unwrap();
        assert_eq!(running.wait().unwrap().signal(), Some(KILLED), "the child failed by itself");
        assert_consistent(home.path());
        let models = Registry::open(home.path()).unwrap().list().unwrap();
        assert!(models.len() >= before, "a committed model vanished");
        before = models.len();
    }
    assert!(before > 0, "the children never got to commit");
}
