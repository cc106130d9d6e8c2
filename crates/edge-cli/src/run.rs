//! `subrosa-edge run`: the edge agent as a service.

use serde::Serialize;
use std::fmt;
use std::io::IsTerminal as _;
use std::path::Path;
use std::time::Duration;
use subrosa_edge_service::{Config, Ended, ServiceError};
use subrosa_terminal::{Failure, Flags, text};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Threads of what only waits: connections, timers, files.
const WAITING_THREADS: usize = 2;

/// What the agent did before it ended.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub(crate) struct RunReport(Ended);

/// Runs the agent until SIGTERM or SIGINT.
///
/// # Errors
/// A configuration or a backend that cannot be used: exit code 2; what the system refuses: 1.
pub(crate) fn run(path: &Path, flags: &Flags) -> Result<RunReport, Failure> {
    let mut config = Config::read(path).map_err(failure)?;
    if let Some(threads) = flags.threads {
        config.threads = std::num::NonZeroUsize::new(usize::from(threads));
    } else if let Some(threads) = config.threads {
        let threads = u16::try_from(threads.get()).map_err(|_| Failure::usage("threads: at most 65535"))?;
        Flags { threads: Some(threads), ..flags.clone() }.start_threads()?;
    }
    log(flags);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WAITING_THREADS)
        .enable_all()
        .build()
        .map_err(|e| Failure::failed(format!("the system gives no threads: {e}")))?;
    let stop = CancellationToken::new();
    let ended = runtime.block_on(async {
        let signals = signals(stop.clone());
        tokio::select! {
            ended = subrosa_edge_service::run(&config, stop.clone()) => ended,
            error = signals => Err(error),
        }
    });
    // Reading standard input cannot be interrupted.
    runtime.shutdown_timeout(Duration::from_millis(100));
    ended.map(RunReport).map_err(failure)
}

/// Cancels at the first signal to end; comes back only where signals cannot be had.
async fn signals(stop: CancellationToken) -> ServiceError {
    let ended = async {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
            Ok::<_, std::io::Error>(())
        }
        #[cfg(not(unix))]
        tokio::signal::ctrl_c().await
    };
    match ended.await {
        Ok(()) => {
            tracing::info!("the agent ends");
            stop.cancel();
            std::future::pending().await
        }
        Err(e) => ServiceError::System(format!("signals cannot be had: {e}")),
    }
}

/// Logs to standard error: lines for people, with `--json` one object a line. RUST_LOG chooses what, as usual.
fn log(flags: &Flags) {
    let level = if flags.quiet {
        "error"
    } else if flags.verbose {
        "debug"
    } else {
        "info"
    };
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new(format!("warn,subrosa_edge={level},subrosa_edge_service={level}")));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // Fails only where a program that embeds this command line logs in its own way.
    let _ = if flags.json {
        builder.json().flatten_event(true).try_init()
    } else {
        builder.with_ansi(std::io::stderr().is_terminal()).try_init()
    };
}

fn failure(error: ServiceError) -> Failure {
    if error.is_usage() { Failure::usage(error) } else { Failure::failed(error) }
}

impl fmt::Display for RunReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ended = &self.0;
        let fields = [
            ("device", ended.device.clone()),
            ("evaluated", ended.evaluated.to_string()),
            ("delivered", ended.delivered.to_string()),
            ("refused by the backend", ended.refused.to_string()),
            ("rejected samples", ended.rejected.to_string()),
            ("given up", ended.shed.to_string()),
            ("waiting on disk", ended.queued.to_string()),
        ];
        f.write_str(&text::fields(&fields))
    }
}
