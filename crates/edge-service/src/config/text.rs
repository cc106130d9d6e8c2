//! From TOML text to a [`Config`], with errors that name line and key.

use super::Config;

/// Parses a whole file.
///
/// # Errors
/// The first thing that is wrong: where, which key, what.
pub(super) fn parse(text: &str) -> Result<Config, String> {
    let at = |error: &toml::de::Error| {
        let line = error.span().map(|span| text.get(..span.start).unwrap_or_default().matches('\n').count() + 1);
        line.map(|line| format!("line {line}, ")).unwrap_or_default()
    };
    let one_line = |message: &str| message.lines().map(str::trim).collect::<Vec<_>>().join(" ");
    let read = toml::Deserializer::parse(text).map_err(|e| format!("{}{}", at(&e), one_line(e.message())))?;
    serde_path_to_error::deserialize(read).map_err(|error| {
        let (path, error) = (error.path().to_string(), error.into_inner());
        // The path of a whole file is a dot.
        let key = if path == "." { String::new() } else { format!("{path}: ") };
        format!("{}{key}{}", at(&error), one_line(error.message()))
    })
}
