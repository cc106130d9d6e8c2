//! `subrosa-serve`: flags, start, tokens, end.

use std::ffi::OsString;
use std::fmt;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Serialize;
use subrosa_owner::OwnerError;
use subrosa_owner::release::{POLICY_FILE, ReleasePolicy};
use subrosa_program::container::{Access, AtomicFile};
use subrosa_registry::fleet::{Fleet, OwnerToken, digest, new_token};
use subrosa_registry::sql::SqlErrorKind;
use subrosa_registry::{Passphrase, RegistryError, default_home};
use subrosa_terminal::{Failure, Flags, GLOBAL, Terminal};
use tokio::runtime::Runtime;

use crate::auth::OWNER_PREFIX;
use crate::config::{Config, Limits, Transport};
use crate::serve::{Opened, ServeError, Server, open};

/// The variable with the vault's passphrase.
const VARIABLE: &str = "SUBROSA_PASSPHRASE";
/// The owner's token of the first start, in the home.
const TOKEN_FILE: &str = "owner.token";

/// Serves the backend: models, devices, deployments and decrypted results over HTTP
#[derive(Parser)]
#[command(name = "subrosa-serve", version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(flatten)]
    flags: Flags,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    serve: Serve,
    #[command(subcommand)]
    command: Option<Command>,
}

/// Where everything lies.
#[derive(Args)]
struct Place {
    /// The home directory: registry, key vault, encrypted networks [default: in the platform's data directory]
    #[arg(long, global = true, help_heading = GLOBAL, value_name = "DIR", env = "SUBROSA_HOME", hide_env_values = true)]
    home: Option<PathBuf>,
    /// File with the vault's passphrase; else the variable SUBROSA_PASSPHRASE
    #[arg(long, global = true, help_heading = GLOBAL, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// A PostgreSQL that several processes share, postgres://USER@HOST/NAME [default: SQLite in the home]
    #[arg(long, global = true, help_heading = GLOBAL, value_name = "URL", env = "SUBROSA_DATABASE", hide_env_values = true)]
    database: Option<String>,
    /// Where large files lie: a directory or s3://BUCKET/PREFIX [default: store in the home]
    #[arg(long, global = true, help_heading = GLOBAL, value_name = "URL", env = "SUBROSA_STORE")]
    store: Option<String>,
}

#[derive(Args)]
struct Serve {
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8443")]
    listen: SocketAddr,
    /// Certificate chain, PEM [default: one of its own, made at the first start: HOME/tls/cert.pem]
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its private key, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// A name or address for the certificate of its own, besides localhost; may be repeated; only at the first start
    #[arg(long = "name", value_name = "NAME", conflicts_with = "tls_cert")]
    names: Vec<String>,
    /// HTTP without TLS; for loopback addresses only, behind a proxy
    #[arg(long, conflicts_with_all = ["tls_cert", "names"])]
    plain_http: bool,
    /// What is released of results: a JSON file {"reveal": "label", "budget": {...}} [default: HOME/release.json, else labels and the default budget]
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Threads that decrypt; 0 leaves it to other processes
    #[arg(long, value_name = "N", default_value_t = 1)]
    decrypt_workers: usize,
    /// Leave background jobs to other processes
    #[arg(long)]
    no_jobs: bool,
    /// Days for which ciphertexts of decrypted results are kept
    #[arg(long, value_name = "DAYS", default_value_t = 7)]
    keep_results: u32,
    /// Connections at once
    #[arg(long, value_name = "N", default_value_t = Limits::default().connections, value_parser = connections)]
    max_connections: usize,
    /// Largest upload in bytes
    #[arg(long, value_name = "BYTES", default_value_t = Limits::default().upload_bytes)]
    max_upload: u64,
    /// Metrics without a token; for loopback addresses only
    #[arg(long)]
    open_metrics: bool,
    /// Form of the log on standard error
    #[arg(long, value_enum, default_value_t = LogForm::Text)]
    log: LogForm,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogForm {
    /// Lines for people
    Text,
    /// One JSON object a line
    Json,
}

#[derive(Subcommand)]
enum Command {
    /// Makes, lists and removes the owner's tokens
    Token {
        #[command(subcommand)]
        command: TokenCommand,
    },
}

#[derive(Subcommand)]
enum TokenCommand {
    /// Makes a token and prints it; only its digest is kept
    New {
        /// Its name
        name: String,
    },
    /// Lists the names of tokens
    List,
    /// Removes a token
    Remove {
        /// Its name
        name: String,
    },
}

fn connections(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| (1..=1_000_000).contains(n)).ok_or_else(|| "1 to 1000000".into())
}

/// Runs the command line.
///
/// # Errors
/// The [`Failure`] to end with.
pub fn run(arguments: impl IntoIterator<Item = OsString>, out: &mut dyn Write) -> Result<(), Failure> {
    let Arguments { flags, place, serve, command } = subrosa_terminal::parse(arguments)?;
    flags.start_threads()?;
    // For the client of S3, which takes the process's own.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Failure::failed(format!("no threads can be had: {e}")))?;
    let mut terminal = Terminal::new(out, flags);
    let done = match command {
        None => serve_until_stopped(&runtime, &mut terminal, &place, serve),
        Some(Command::Token { command }) => tokens(&runtime, &mut terminal, &place, command),
    };
    // A job may be in the middle of something; it is begun anew at the next start.
    runtime.shutdown_timeout(Duration::from_secs(2));
    done
}

impl Place {
    fn config(&self, listen: SocketAddr) -> Result<Config, Failure> {
        let none = || {
            Failure::usage("the system names no data directory: say where your keys and networks live with --home DIR")
        };
        let home = self.home.clone().or_else(default_home).ok_or_else(none)?;
        let (database, store) = (self.database.clone(), self.store.clone());
        Ok(Config { database, store, ..Config::new(home, listen) })
    }

    fn passphrase(&self) -> Result<Passphrase, Failure> {
        let failed = |error| failure(ServeError::Vault(error));
        match (&self.passphrase_file, std::env::var(VARIABLE)) {
            (Some(file), _) => Passphrase::read(file).map_err(failed),
            (None, Ok(text)) => Passphrase::new(text).map_err(failed),
            (None, Err(std::env::VarError::NotUnicode(_))) => {
                Err(Failure::usage(format!("{VARIABLE} is not valid UTF-8")))
            }
            (None, Err(std::env::VarError::NotPresent)) => Err(Failure::usage(format!(
                "no passphrase of the key vault was given: use --passphrase-file FILE or set {VARIABLE}"
            ))),
        }
    }
}

/// How a command ends with this error.
fn failure(error: ServeError) -> Failure {
    match &error {
        ServeError::Registry(RegistryError::Database { source, .. }) if source.kind == SqlErrorKind::Refused => {
            Failure::usage(error)
        }
        ServeError::Registry(RegistryError::Database { .. })
        | ServeError::Owner(OwnerError::Registry(RegistryError::Database { .. }))
        | ServeError::Listen { .. }
        | ServeError::Store(crate::StoreError::Store(_))
        | ServeError::Inside(_) => Failure::failed(error),
        _ => Failure::of(&error),
    }
}

/// What is printed once requests are answered.
#[derive(Serialize)]
struct Ready {
    ready: bool,
    url: String,
    console: String,
    address: SocketAddr,
    certificate: Option<PathBuf>,
    owner_token_file: Option<PathBuf>,
    database: String,
    store: String,
}

impl fmt::Display for Ready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "serving on {}", self.url)?;
        writeln!(f, "console {}", self.console)?;
        writeln!(f, "registry {}, store {}", self.database, self.store)?;
        if let Some(certificate) = &self.certificate {
            writeln!(f, "edges trust {}", certificate.display())?;
        }
        if let Some(file) = &self.owner_token_file {
            writeln!(f, "the owner's first token was written to {}", file.display())?;
        }
        Ok(())
    }
}

fn serve_until_stopped(runtime: &Runtime, terminal: &mut Terminal, place: &Place, serve: Serve) -> Result<(), Failure> {
    log(&serve, terminal.flags());
    let passphrase = place.passphrase()?;
    let transport = match (serve.plain_http, serve.tls_cert, serve.tls_key) {
        (true, ..) => Transport::Plain,
        (_, Some(certificate), Some(key)) => Transport::Tls { certificate, key },
        _ => Transport::SelfSigned { names: serve.names },
    };
    let base = place.config(serve.listen)?;
    let policy = match serve.policy {
        Some(file) => read_policy(&file)?,
        // That of 'subrosa decrypt', if there is one.
        None => match base.home.join(POLICY_FILE) {
            file if file.exists() => read_policy(&file)?,
            _ => ReleasePolicy::default(),
        },
    };
    let config = Config {
        transport,
        policy,
        limits: Limits { connections: serve.max_connections, upload_bytes: serve.max_upload, ..Limits::default() },
        decrypt_workers: serve.decrypt_workers,
        jobs: !serve.no_jobs,
        keep_results: Duration::from_secs(u64::from(serve.keep_results) * 86_400),
        open_metrics: serve.open_metrics,
        ..base
    };
    let home = config.home.clone();
    runtime.block_on(async {
        // Before anything is begun, so that a signal at any moment ends in order.
        let mut signals = Signals::new()?;
        let server = Server::start(config, passphrase).await.map_err(failure)?;
        let first = server.first_token().await.map_err(failure)?;
        let owner_token_file = first.map(|token| write_token(&home.join(TOKEN_FILE), &token)).transpose()?;
        let (database, store) = server.places();
        terminal.report(&Ready {
            ready: true,
            url: server.url(),
            console: format!("{}/console", server.url()),
            address: server.address(),
            certificate: server.certificate().cloned(),
            owner_token_file,
            database,
            store,
        })?;
        terminal.flush()?;
        signals.wait().await;
        tracing::info!("stopping");
        server.stop().await;
        Ok(())
    })
}

/// The log on standard error. Nothing secret is ever given to it.
fn log(serve: &Serve, flags: &Flags) {
    let level = if flags.quiet {
        "error"
    } else if flags.verbose {
        "subrosa_server=debug,warn"
    } else {
        "subrosa_server=info,warn"
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("SUBROSA_LOG").unwrap_or_else(|_| level.into());
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(false);
    // Set once in a process.
    let _ = match serve.log {
        LogForm::Text => log.try_init(),
        LogForm::Json => log.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init(),
    };
}

fn read_policy(path: &Path) -> Result<ReleasePolicy, Failure> {
    let text = std::fs::read(path).map_err(|e| Failure::of(&e).at(path.display()))?;
    serde_json::from_slice(&text).map_err(|e| Failure::usage(format!("{}: no release policy: {e}", path.display())))
}

fn write_token(path: &Path, token: &str) -> Result<PathBuf, Failure> {
    let written = AtomicFile::begin(path, Access::Private).and_then(|mut file| {
        writeln!(file, "{token}")?;
        file.replace()
    });
    written.map_err(|e| Failure::failed(format!("{}: the owner's token cannot be written: {e}", path.display())))?;
    Ok(path.to_owned())
}

/// SIGTERM and SIGINT.
struct Signals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            let terminate = signal(SignalKind::terminate());
            Ok(Self { terminate: terminate.map_err(|e| Failure::failed(format!("signals cannot be heard: {e}")))? })
        }
        #[cfg(not(unix))]
        Ok(Self {})
    }

    async fn wait(&mut self) {
        #[cfg(unix)]
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        #[cfg(not(unix))]
        let _ = tokio::signal::ctrl_c().await;
    }
}

#[derive(Serialize)]
struct Made {
    name: String,
    token: String,
}

impl fmt::Display for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.token)
    }
}

#[derive(Serialize)]
struct Listed {
    tokens: Vec<OwnerToken>,
}

impl fmt::Display for Listed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.tokens.iter().try_for_each(|token| writeln!(f, "{}", token.name))
    }
}

#[derive(Serialize)]
struct Removed {
    removed: String,
}

impl fmt::Display for Removed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "removed {}", self.removed)
    }
}

/// Makes a token of the owner under a name that is free.
pub(crate) fn make_token(fleet: &Fleet, name: &str) -> Result<Option<String>, subrosa_registry::sql::SqlError> {
    let token = new_token(OWNER_PREFIX)?;
    Ok(fleet.add_owner_token(name, &digest(&token))?.then(|| token.to_string()))
}

fn tokens(runtime: &Runtime, terminal: &mut Terminal, place: &Place, command: TokenCommand) -> Result<(), Failure> {
    let config = place.config(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    let passphrase = place.passphrase()?;
    let work = move || {
        let Opened { owner, .. } = open(&config, &passphrase).map_err(failure)?;
        let fleet = owner.fleet().map_err(|e| failure(e.into()))?;
        let sql = |e: subrosa_registry::sql::SqlError| Failure::failed(format!("the registry's database failed: {e}"));
        Ok(match command {
            TokenCommand::New { name } => {
                subrosa_registry::validate_name(&name)
                    .map_err(|_| Failure::usage("a token's name has 1 to 64 letters, digits, '.', '_' and '-'"))?;
                let token = make_token(&fleet, &name).map_err(sql)?;
                let token = token.ok_or_else(|| {
                    Failure::usage(format!("there is a token '{name}': remove it first, or choose another name"))
                })?;
                Outcome::Made(Made { name, token })
            }
            TokenCommand::List => Outcome::Listed(Listed { tokens: fleet.owner_tokens().map_err(sql)? }),
            TokenCommand::Remove { name } => {
                if !fleet.remove_owner_token(&name).map_err(sql)? {
                    return Err(Failure::usage(format!(
                        "there is no token '{name}': 'subrosa-serve token list' lists them"
                    )));
                }
                Outcome::Removed(Removed { removed: name })
            }
        })
    };
    let done = runtime.block_on(async { tokio::task::spawn_blocking(work).await });
    match done.map_err(|e| Failure::failed(format!("internal error: {e}")))?? {
        Outcome::Made(report) => terminal.report(&report),
        Outcome::Listed(report) => terminal.report(&report),
        Outcome::Removed(report) => terminal.report(&report),
    }
}

enum Outcome {
    Made(Made),
    Listed(Listed),
    Removed(Removed),
}
