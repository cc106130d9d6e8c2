//! Tells the parts of a process that it is to end.

use tokio::sync::watch;

/// Says stop.
pub(crate) struct Stopper(watch::Sender<bool>);

/// Hears it.
#[derive(Clone)]
pub(crate) struct Stop(watch::Receiver<bool>);

pub(crate) fn pair() -> (Stopper, Stop) {
    let (sender, receiver) = watch::channel(false);
    (Stopper(sender), Stop(receiver))
}

impl Stopper {
    pub fn stop(&self) {
        // Nobody may be left to hear it.
        let _ = self.0.send(true);
    }
}

impl Stop {
    pub fn is_set(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until it is said; also ends if who could say it is gone.
    pub async fn wait(&mut self) {
        let _ = self.0.wait_for(|stop| *stop).await;
    }
}
