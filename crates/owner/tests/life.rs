//! The demo network through all agents.

mod common;

use common::{Home, digits};
use subrosa_fhe::security::SecurityLevel;
use subrosa_network::Scope;

#[test]
fn the_demo_network_agrees_with_itself_under_encryption() {
    let home = Home::new();
    let f = digits(50);
    for encrypted_input in [false, true] {
        let (report, found) =
            home.protect_and_verify(&f, &Scope::Classifier, "", encrypted_input, SecurityLevel::Bits128);
        println!("{}\n{}", serde_json::to_string(&report).unwrap(), serde_json::to_string(&found).unwrap());
        assert_eq!(found.agreement, 1.0);
        assert!(found.max_abs_error <= report.forecast.max_abs_error, "{found:?}");
        assert!(found.max_abs_error <= 1e-3 * found.largest_output, "{found:?}");
    }
}
