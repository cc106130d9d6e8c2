//! Digits as text.

/// Pixels on a side of an MNIST digit.
pub(super) const SIDE: usize = 28;
/// Digits leave a margin of this many pixels.
const MARGIN: usize = 4;
const SHADES: [char; 5] = [' ', '.', '+', '#', '@'];

/// The first `count` digits beside one another, their classes below. A character is one pixel wide and two high.
pub(super) fn beside(pixels: &[u8], labels: &[usize], count: usize) -> String {
    let digits: Vec<&[u8]> = pixels.chunks_exact(SIDE * SIDE).take(count).collect();
    let at = |digit: &[u8], x: usize, y: usize| u16::from(digit.get(y * SIDE + x).copied().unwrap_or(0));
    let mut text = String::new();
    for y in (MARGIN..SIDE - MARGIN).step_by(2) {
        for digit in &digits {
            let shade = |x| usize::from((at(digit, x, y) + at(digit, x, y + 1)) / 2) * (SHADES.len() - 1) / 255;
            text.extend((MARGIN..SIDE - MARGIN).map(|x| SHADES.get(shade(x)).copied().unwrap_or(' ')));
            text.push_str("    ");
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    let width = SIDE - 2 * MARGIN;
    let names: String = labels.iter().take(count).map(|l| format!("{:^width$}    ", format!("-> {l}"))).collect();
    text + names.trim_end() + "\n"
}
