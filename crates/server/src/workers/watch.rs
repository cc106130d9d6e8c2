//! The watch over labels: are a device's answers of today like those of calibration, and like those of the rest of the fleet? What stands
//! out raises an alarm, which is written into the audit log and told; it refuses nothing.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use subrosa_owner::release;
use subrosa_registry::fleet::NewAlarm;
use subrosa_registry::time::now;

use crate::error::Answer;
use crate::state::App;
use crate::stop::Stop;

/// How often it is looked.
const PERIOD: Duration = Duration::from_secs(1);
/// Milliseconds of a day.
pub(crate) const DAY: i64 = 86_400_000;

/// Whose labels changed since it was looked: day, network, device.
#[derive(Default)]
pub(crate) struct Changed(Mutex<BTreeSet<(i64, String, String)>>);

impl Changed {
    pub fn note(&self, model: &str, device: &str) {
        let mut changed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        changed.insert((now() / DAY, model.to_owned(), device.to_owned()));
    }

    fn take(&self) -> BTreeSet<(i64, String, String)> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Looks until it is told to stop, and once more then.
pub(crate) async fn run(app: Arc<App>, mut stop: Stop) {
    // What a process that ended had not looked at any more.
    let _ = app
        .blocking(|app| {
            let today = now() / DAY;
            for model in app.fleet.labelled_models(today)? {
                app.fleet.label_counts(&model, today)?.keys().for_each(|device| app.labels.note(&model, device));
            }
            Ok(())
        })
        .await;
    loop {
        tokio::select! {
            () = tokio::time::sleep(PERIOD) => {}
            () = stop.wait() => {}
        }
        for (day, model, device) in app.labels.take() {
            let (of, who) = (model.clone(), device.clone());
            if let Err(error) = app.blocking(move |app| look(app, day, &model, &device)).await {
                tracing::error!(
                    model = of,
                    device = who,
                    error = error.inside.as_deref().unwrap_or(&error.detail),
                    "labels were not looked at"
                );
            }
        }
        if stop.is_set() {
            return;
        }
    }
}

/// Looks at the labels of a device on a day.
fn look(app: &App, day: i64, model: &str, device: &str) -> Answer<()> {
    for (alarm, new) in release::look(&app.fleet, &*app.agent(model)?, day, device)? {
        if new {
            let NewAlarm { model, device, reference, text, .. } = alarm;
            tracing::warn!(model, device, reference, text, "labels stand out");
        }
    }
    Ok(())
}
