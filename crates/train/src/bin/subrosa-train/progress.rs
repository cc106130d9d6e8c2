//! What is seen of a training while it runs.

use std::io::{IsTerminal, Write, stderr};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use subrosa_terminal::text;
use subrosa_train::{Epoch, Observer};

/// A bar for each epoch on a terminal, and a line for each epoch that is over.
pub(crate) struct Bars {
    bar: Option<ProgressBar>,
    visible: bool,
    silent: bool,
    epochs: usize,
    /// Seconds of the epochs so far.
    seconds: f64,
    done: usize,
}

impl Bars {
    /// `quiet` shows nothing at all.
    pub fn new(epochs: usize, quiet: bool) -> Self {
        Bars { bar: None, visible: !quiet && stderr().is_terminal(), silent: quiet, epochs, seconds: 0.0, done: 0 }
    }

    /// Takes the bar away.
    pub fn close(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Observer for Bars {
    fn begin(&mut self, epoch: usize, samples: usize) {
        if !self.visible {
            return;
        }
        let bar = ProgressBar::with_draw_target(Some(samples as u64), ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{prefix} [{bar:32}] {pos}/{len}  {msg}  {eta} left of it") {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_prefix(format!("epoch {epoch}/{}", self.epochs));
        self.bar = Some(bar);
    }

    fn step(&mut self, samples: usize, loss: f64, accuracy: f64) {
        if let Some(bar) = &self.bar {
            bar.set_message(format!("loss {loss:.4}, accuracy {}", text::percent(accuracy)));
            bar.inc(samples as u64);
        }
    }

    fn end(&mut self, epoch: &Epoch) {
        self.close();
        self.done += 1;
        self.seconds += epoch.seconds;
        if self.silent {
            return;
        }
        let left = self.seconds / self.done as f64 * self.epochs.saturating_sub(epoch.epoch) as f64;
        // Who closed standard error does not want it.
        let _ = writeln!(
            stderr(),
            "epoch {}/{}: loss {:.4}, accuracy {} while training, {} on validation, {} on test; {}, about {} left",
            epoch.epoch,
            self.epochs,
            epoch.loss,
            text::percent(epoch.accuracy_train),
            text::percent(epoch.accuracy_validation),
            text::percent(epoch.accuracy_test),
            text::seconds(epoch.seconds),
            text::seconds(left),
        );
    }
}
