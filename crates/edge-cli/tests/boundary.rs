//! What the edge machine's programs may link.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests

use std::process::Command;

const FORBIDDEN: [&str; 7] = [
    "subrosa-secret",
    "subrosa-plan",
    "subrosa-owner",
    "subrosa-registry",
    "subrosa-network",
    "subrosa-train",
    "subrosa",
];

#[test]
fn the_edge_links_no_code_that_could_decrypt_plan_or_import_a_network() {
    for package in ["subrosa-edge", "subrosa-edge-agent", "subrosa-edge-service"] {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
        let output =
            cargo.args(["tree", "--offline", "-p", package, "-e", "normal", "--prefix", "none"]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let tree = String::from_utf8(output.stdout).unwrap();
        let linked: Vec<&str> = tree.lines().filter_map(|line| line.split_whitespace().next()).collect();
        assert!(linked.contains(&"subrosa-program") && linked.contains(&"subrosa-ring"), "{tree}");
        let found: Vec<&&str> = FORBIDDEN.iter().filter(|name| linked.contains(*name)).collect();
        assert!(found.is_empty(), "{package} links {found:?}");
    }
}
