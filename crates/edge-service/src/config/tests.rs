use super::*;

#[test]
fn the_example_of_the_documentation_is_sound_and_complete() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/edge.toml");
    let text = std::fs::read_to_string(&example).unwrap();
    let config = Config::read(&example).unwrap();
    assert_eq!(config.backend.trust, example.parent().unwrap().join("owner.pub"));
    assert_eq!(config.state, Path::new("/var/lib/subrosa-edge"));
    // With the table that excludes the worker's, and the keys that exclude others, it is sound too.
    let worker = text.find("[worker]").unwrap();
    let acquirer = text[..worker].replace("# [acquirer]", "[acquirer]").replace("# stream", "stream");
    let acquirer = acquirer.replace("# max_samples", "max_samples").replace("# duplicate_window", "duplicate_window");
    text::parse(&acquirer).unwrap().check().unwrap();
    // Every key stands in docs/edge.md.
    let documentation = std::fs::read_to_string(example.with_extension("md")).unwrap();
    for line in text.lines().map(|l| l.trim_start_matches("# ")) {
        let Some((key, _)) = line.split_once(" = ") else { continue };
        assert!(documentation.contains(&format!("`{key}")) || documentation.contains(&format!(".{key}`")), "{key}");
    }
}

#[test]
fn defaults_are_those_of_the_documentation() {
    let least = "name = 'a'\nstate = 's'\n[backend]\nurl = 'https://b:1'\ntrust = 'o'\n[source.stdin]\n";
    let config = text::parse(least).unwrap();
    config.check().unwrap();
    assert_eq!((config.queue.policy, config.queue.max_results, config.queue.batch), (Policy::Block, 10_000, 64));
    assert_eq!(config.backend.poll_seconds, seconds(30));
    assert!(config.metrics.is_none() && config.nats.is_none());
}
