//! Waits between attempts, with jitter, so that a fleet does not come back all at once.

use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// First wait after a failure.
const FIRST: Duration = Duration::from_millis(250);

/// Doubles with every failure up to a limit; each wait is a random half to whole of it.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    limit: Duration,
}

impl Backoff {
    pub fn new(limit: Duration) -> Self {
        Self { next: FIRST.min(limit), limit }
    }

    /// It worked.
    pub fn reset(&mut self) {
        self.next = FIRST.min(self.limit);
    }

    /// The next wait: at least what the other side asks for, up to the limit.
    pub fn next(&mut self, asked: Option<Duration>) -> Duration {
        let wait = self.next.max(asked.unwrap_or_default()).min(self.limit);
        self.next = (self.next * 2).min(self.limit);
        jittered(wait, 0.5)
    }
}

/// `wait` less a random share of it.
pub(crate) fn jittered(wait: Duration, share: f64) -> Duration {
    // Without randomness there is no jitter, which is no reason to stop.
    let random = getrandom::u32().map_or(0.0, |r| f64::from(r) / f64::from(u32::MAX));
    wait.mul_f64(1.0 - share * random)
}

/// Sleeps; `false` if the agent is to end meanwhile.
pub(crate) async fn sleep(stop: &CancellationToken, wait: Duration) -> bool {
    tokio::select! {
        () = stop.cancelled() => false,
        () = tokio::time::sleep(wait) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_limit_and_begin_again() {
        let mut backoff = Backoff::new(Duration::from_secs(2));
        for expected in [0.25, 0.5, 1.0, 2.0, 2.0] {
            let wait = backoff.next(None).as_secs_f64();
            assert!((expected / 2.0..=expected).contains(&wait), "{wait} of {expected}");
        }
        backoff.reset();
        assert!(backoff.next(None) <= FIRST);
        assert!(backoff.next(Some(Duration::from_secs(100))) <= Duration::from_secs(2));
    }
}
