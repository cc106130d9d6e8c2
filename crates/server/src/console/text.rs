//! Times and numbers for people.

use maud::{Markup, html};
use subrosa_registry::time::now;
use time::OffsetDateTime;
use time::macros::format_description;

/// A moment, milliseconds since 1970: `2026-11-30 07:41:08` (UTC).
pub(super) fn moment(milliseconds: i64) -> Markup {
    let Ok(time) = OffsetDateTime::from_unix_timestamp(milliseconds.div_euclid(1000)) else {
        return html! { (milliseconds) " ms" };
    };
    let written = |format| time.format(format).unwrap_or_default();
    let machine = written(format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z"));
    let people = written(format_description!("[year]-[month]-[day] [hour]:[minute]:[second]"));
    html! { time datetime=(machine) { (people) } }
}

/// How long ago something was: `12 s ago`.
pub(super) fn ago(milliseconds: i64) -> String {
    match (now() - milliseconds).max(0) / 1000 {
        s if s < 100 => format!("{s} s ago"),
        s if s < 100 * 60 => format!("{} min ago", s / 60),
        s if s < 48 * 3600 => format!("{} h ago", s / 3600),
        s => format!("{} days ago", s / 86_400),
    }
}

/// A whole number with spaces between its thousands.
pub(super) fn whole(number: u64) -> String {
    let digits = number.to_string();
    let first = digits.len() % 3;
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && i % 3 == first {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_numbers_read_well() {
        let shown = moment(1_764_488_468_123).into_string();
        assert_eq!(shown, "<time datetime=\"2025-11-30T07:41:08Z\">2025-11-30 07:41:08</time>");
        assert_eq!(moment(i64::MAX).into_string(), format!("{} ms", i64::MAX));
        assert_eq!([7, 999, 1000, 1_234_567].map(whole), ["7", "999", "1\u{202f}000", "1\u{202f}234\u{202f}567"]);
        assert_eq!(ago(now() - 5_500), "5 s ago");
        assert_eq!(ago(now() - 7_200_000), "2 h ago");
    }
}
