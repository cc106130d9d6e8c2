//! Progress bars on standard error.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, stderr};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// One bar at a time, for task after task; invisible unless standard error is a terminal.
pub struct Bars {
    visible: bool,
    bar: Mutex<Option<ProgressBar>>,
}

impl Bars {
    /// Bars that are shown if wanted and standard error is a terminal.
    pub fn new(wanted: bool) -> Self {
        Self { visible: wanted && stderr().is_terminal(), bar: Mutex::new(None) }
    }

    /// A task of `total` parts begins.
    pub fn begin(&self, task: &str, total: usize) {
        if !self.visible {
            return;
        }
        let bar = ProgressBar::with_draw_target(Some(total as u64), ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{msg} [{bar:32}] {pos}/{len}, {eta} left") {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_message(task.to_owned());
        *self.lock() = Some(bar);
    }

    /// So many more parts are done.
    pub fn advance(&self, parts: usize) {
        if let Some(bar) = self.lock().as_ref() {
            bar.inc(parts as u64);
        }
    }

    /// The task is done; its bar disappears.
    pub fn end(&self) {
        if let Some(bar) = self.lock().take() {
            bar.finish_and_clear();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<ProgressBar>> {
        self.bar.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
