//! Small charts as SVG. Their figures stand beside them as text too.

use maud::{Markup, html};

/// A bar with its name and the text of its value.
pub(super) struct Bar {
    pub name: String,
    /// Its parts, one on the other.
    pub parts: Vec<f64>,
    pub text: String,
}

const COLUMN: f64 = 54.0;
const HEIGHT: f64 = 74.0;
const TOP: f64 = 18.0;
const BOTTOM: f64 = 20.0;

/// Columns side by side; what they show is said in `label`.
pub(super) fn columns(label: &str, bars: &[Bar]) -> Markup {
    let largest = bars.iter().map(|bar| bar.parts.iter().sum::<f64>()).fold(f64::MIN_POSITIVE, f64::max);
    let width = COLUMN * bars.len() as f64 + 8.0;
    let height = TOP + HEIGHT + BOTTOM;
    html! {
        svg role="img" aria-label=(label) width=(width) height=(height) viewBox={ "0 0 " (width) " " (height) } {
            line.line x1="0" x2=(width) y1=(TOP + HEIGHT) y2=(TOP + HEIGHT) {}
            @for (i, bar) in bars.iter().enumerate() {
                @let middle = 4.0 + COLUMN * (i as f64 + 0.5);
                @for (k, (from, to)) in stacked(&bar.parts).into_iter().enumerate() {
                    @let (low, high) = (TOP + HEIGHT * (1.0 - from / largest), TOP + HEIGHT * (1.0 - to / largest));
                    rect class=(if k == 0 { "bar" } else { "bar-2" }) x=(number(middle - 13.0)) width="26"
                        y=(number(high)) height=(number((low - high).max(0.0))) {}
                }
                @let top = TOP + HEIGHT * (1.0 - bar.parts.iter().sum::<f64>() / largest);
                text x=(number(middle)) y=(number(top - 5.0)) text-anchor="middle" { (bar.text) }
                text.axis x=(number(middle)) y=(number(height - 6.0)) text-anchor="middle" { (bar.name) }
            }
        }
    }
}

/// Two shares of each class side by side: those of a device and those that it is compared with.
pub(super) fn shares(label: &str, own: &[u64], reference: Option<&[u64]>) -> Markup {
    let classes = own.len().max(reference.map_or(0, <[u64]>::len)).min(64);
    let share = |counts: &[u64], class: usize| {
        let all: u64 = counts.iter().sum();
        counts.get(class).copied().unwrap_or(0) as f64 / all.max(1) as f64
    };
    let pairs: Vec<(f64, f64)> =
        (0..classes).map(|c| (share(own, c), reference.map_or(0.0, |r| share(r, c)))).collect();
    let largest = pairs.iter().map(|(a, b)| a.max(*b)).fold(f64::MIN_POSITIVE, f64::max);
    let (step, height) = (22.0, 48.0);
    let width = step * classes as f64 + 4.0;
    html! {
        svg role="img" aria-label=(label) width=(width) height=(height + 16.0)
            viewBox={ "0 0 " (width) " " (height + 16.0) } {
            line.line x1="0" x2=(width) y1=(height) y2=(height) {}
            @for (class, (a, b)) in pairs.iter().enumerate() {
                @let left = 2.0 + step * class as f64;
                rect.bar x=(number(left + 2.0)) width="9" y=(number(height * (1.0 - a / largest)))
                    height=(number(height * a / largest)) {}
                rect.bar-2 x=(number(left + 11.0)) width="7" y=(number(height * (1.0 - b / largest)))
                    height=(number(height * b / largest)) {}
                text.axis x=(number(left + 10.0)) y=(number(height + 12.0)) text-anchor="middle" { (class) }
            }
        }
    }
}

/// Where the parts of a bar begin and end.
fn stacked(parts: &[f64]) -> Vec<(f64, f64)> {
    parts
        .iter()
        .scan(0.0, |sum, part| {
            let from = *sum;
            *sum += part;
            Some((from, *sum))
        })
        .collect()
}

fn number(x: f64) -> String {
    format!("{x:.1}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_on_each_other_and_names_are_escaped() {
        let bar = |name: &str, parts: &[f64]| Bar { name: name.into(), parts: parts.to_vec(), text: "t".into() };
        let svg = columns("a \"label\"", &[bar("<b>", &[1.0, 1.0]), bar("v2", &[4.0])]).into_string();
        assert!(svg.contains("&lt;b&gt;") && !svg.contains("<b>") && svg.contains("a &quot;label&quot;"), "{svg}");
        // The highest fills the chart, the other's two parts a quarter of it each.
        assert!(svg.contains("y=\"18.0\" height=\"74.0\"") && svg.contains("height=\"18.5\""), "{svg}");
        assert!(!columns("nothing", &[]).into_string().contains("NaN"));
        assert!(!shares("nothing", &[], None).into_string().contains("NaN"));
    }
}
