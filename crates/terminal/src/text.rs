//! Numbers and tables for people.

/// A size: `512 B`, `3.6 MB`.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let name = UNITS.get(unit).copied().unwrap_or_default();
    if unit == 0 { format!("{bytes} {name}") } else { format!("{} {name}", three_digits(value)) }
}

/// A time: `85 µs`, `7.32 ms`, `1.20 s`, `2 min 5 s`.
pub fn seconds(seconds: f64) -> String {
    match seconds {
        s if s < 0.9995e-3 => format!("{} µs", three_digits(s * 1e6)),
        s if s < 0.9995 => format!("{} ms", three_digits(s * 1e3)),
        s if s < 119.5 => format!("{} s", three_digits(s)),
        s => format!("{} min {:.0} s", (s / 60.0).floor(), s % 60.0),
    }
}

/// A share of one as a percentage.
pub fn percent(share: f64) -> String {
    format!("{:.2} %", share * 100.0)
}

fn three_digits(value: f64) -> String {
    let decimals = match value {
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$}")
}

/// Rows in aligned columns, one line each, two spaces between columns.
pub fn table<R: AsRef<[String]>>(rows: &[R]) -> String {
    let columns = rows.iter().map(|r| r.as_ref().len()).max().unwrap_or(0);
    let width = |c: usize| rows.iter().filter_map(|r| r.as_ref().get(c)).map(|s| s.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &R| {
        let cells = row.as_ref().iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

/// Names and values in two columns.
pub fn fields(pairs: &[(&str, String)]) -> String {
    table(&pairs.iter().map(|(name, value)| [(*name).to_owned(), value.clone()]).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_read_well_at_the_edges_of_their_units() {
        let sizes: Vec<String> = [0, 999, 1000, 999_499, 999_600, 3_564_670].into_iter().map(bytes).collect();
        assert_eq!(sizes, ["0 B", "999 B", "1.00 kB", "999 kB", "1.00 MB", "3.56 MB"]);
        let times: Vec<String> = [8.5e-5, 0.99949, 1.2, 125.0].into_iter().map(seconds).collect();
        assert_eq!(times, ["85.0 µs", "999 ms", "1.20 s", "2 min 5 s"]);
    }

    #[test]
    fn tables_align_by_characters_not_bytes() {
        let rows =
            [["a".to_owned(), "µs".to_owned(), "x".to_owned()], ["long".to_owned(), "s".to_owned(), "y".to_owned()]];
        assert_eq!(table(&rows), "a     µs  x\nlong  s   y\n");
    }
}
