//! Images as text.

use subrosa_input::Samples;

const SHADES: [char; 5] = [' ', '.', '+', '#', '@'];

/// The first `count` images beside one another without their margin, their classes below. A character is one pixel wide and two high.
pub(super) fn beside(images: &Samples, margin: usize, classes: &[String], count: usize) -> String {
    let Samples::Pixels { height, width, channels, data } = images else { return String::new() };
    let (height, width, channels) = (*height, *width, (*channels).max(1));
    let grey = |pixels: &[u8]| pixels.iter().map(|&p| u32::from(p)).sum::<u32>() / channels as u32;
    let images = data.chunks_exact((height * width * channels).max(1)).take(count);
    let images: Vec<Vec<u32>> = images.map(|image| image.chunks_exact(channels).map(grey).collect()).collect();
    let at = |image: &[u32], x: usize, y: usize| image.get(y * width + x).copied().unwrap_or(0);
    let mut text = String::new();
    for y in (margin..height.saturating_sub(margin)).step_by(2) {
        for image in &images {
            let shade = |x| ((at(image, x, y) + at(image, x, y + 1)) / 2) as usize * (SHADES.len() - 1) / 255;
            let columns = margin..width.saturating_sub(margin);
            text.extend(columns.map(|x| SHADES.get(shade(x)).copied().unwrap_or(' ')));
            text.push_str("    ");
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    let width = width - 2 * margin.min(width / 2);
    let names: String = classes.iter().take(count).map(|c| format!("{:^width$}    ", format!("-> {c}"))).collect();
    text + names.trim_end() + "\n"
}
