//! Connections: accepted up to a bound, each with little time for its handshake and its requests' heads.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use crate::state::App;
use crate::stop::Stop;

/// How long requests that are under way may take when the process is to end.
const GRACE: Duration = Duration::from_secs(20);

/// Serves until it is told to stop, then finishes the requests that are under way.
pub(crate) async fn serve(
    app: Arc<App>,
    listener: TcpListener,
    tls: Option<Arc<rustls::ServerConfig>>,
    router: Router,
    mut stop: Stop,
) {
    let acceptor = tls.map(TlsAcceptor::from);
    let slots = Arc::new(Semaphore::new(app.limits.connections));
    let graceful = GracefulShutdown::new();
    loop {
        let slot = tokio::select! {
            slot = Arc::clone(&slots).acquire_owned() => slot,
            () = stop.wait() => break,
        };
        let Ok(slot) = slot else { break };
        let (stream, peer) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, or the client is gone already.
                    tracing::warn!(%error, "a connection was not accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            () = stop.wait() => break,
        };
        let connection = Connection {
            app: Arc::clone(&app),
            router: router.clone(),
            watcher: graceful.watcher(),
            head_timeout: app.limits.head_timeout,
            peer: Peer(peer.ip()),
        };
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            connection.app.metrics.connections.inc();
            let app = Arc::clone(&connection.app);
            connection.run(stream, acceptor).await;
            app.metrics.connections.dec();
            drop(slot);
        });
    }
    drop(listener);
    if tokio::time::timeout(GRACE, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests that did not end in time were cut off");
    }
}

struct Connection {
    app: Arc<App>,
    router: Router,
    watcher: hyper_util::server::graceful::Watcher,
    head_timeout: Duration,
    peer: Peer,
}

/// Who sent a request; an extension of it.
#[derive(Clone, Copy)]
pub(crate) struct Peer(pub IpAddr);

impl Connection {
    async fn run(self, stream: TcpStream, acceptor: Option<TlsAcceptor>) {
        // Small answers are not held back.
        let _ = stream.set_nodelay(true);
        match acceptor {
            None => self.http(stream).await,
            Some(acceptor) => match tokio::time::timeout(self.head_timeout, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => self.http(stream).await,
                Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
                Err(_) => tracing::debug!("a TLS handshake did not end in time"),
            },
        }
    }

    async fn http(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let mut builder = http1::Builder::new();
        // Also the time between two requests: an idle connection is closed.
        builder.timer(TokioTimer::new()).header_read_timeout(self.head_timeout).max_buf_size(64 << 10).keep_alive(true);
        let (router, peer) = (TowerToHyperService::new(self.router), self.peer);
        let service = service_fn(move |mut request: hyper::Request<Incoming>| {
            request.extensions_mut().insert(peer);
            router.call(request)
        });
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        if let Err(error) = self.watcher.watch(connection).await {
            tracing::debug!(%error, "a connection ended");
        }
    }
}
