//! Connections: how many, whether they are encrypted, how long one may take to ask and to listen, and
//! how they end.
//!
//! HTTP/1 and HTTP/2 are told apart by how the client begins.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use crate::patient::Patient;
use crate::tls::Tls;
use crate::{App, TimeLimits};

/// Connections at once; more wait in the system's queue.
const MAX_CONNECTIONS: usize = 1024;
/// How long a client may take to send the head of its request.
const MAX_HEAD_TIME: Duration = Duration::from_secs(30);
/// Of the head of a request.
const MAX_HEAD_BYTES: usize = 64 << 10;
/// Requests at once on one connection of HTTP/2.
const MAX_STREAMS: u32 = 256;
/// After an error of the listener, such as too many open files.
const PAUSE: Duration = Duration::from_millis(100);

/// Where clients come in.
pub(crate) struct Entrance {
    pub(crate) listener: TcpListener,
    pub(crate) tls: Option<Arc<Tls>>,
    pub(crate) limits: TimeLimits,
    /// Where connections are counted, if they are.
    pub(crate) app: Option<App>,
}

/// Answers connections until `stop` resolves, and returns what still runs.
pub(crate) async fn accept(
    Entrance { listener, tls, limits, app }: Entrance,
    router: Router,
    stop: impl Future<Output = ()>,
) -> GracefulShutdown {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(MAX_HEAD_TIME)
        .max_buf_size(MAX_HEAD_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEAD_BYTES as u32)
        .keep_alive_interval(MAX_HEAD_TIME)
        .keep_alive_timeout(MAX_HEAD_TIME);
    let running = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut stop = std::pin::pin!(stop);
    loop {
        let accepted = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            accepted = accepted => accepted,
            () = &mut stop => return running,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        // Small pieces of text are to arrive when they are written.
        let _ = stream.set_nodelay(true);
        let stream = Patient::new(stream, limits.reading);
        let acceptor = tls.as_ref().map(|tls| TlsAcceptor::from(tls.current()));
        let connections = Connections { builder: builder.clone(), router: router.clone() };
        let watcher = running.watcher();
        let counted = app.as_ref().map(Open::begin);
        tokio::spawn(async move {
            match acceptor {
                None => connections.answer(stream, watcher).await,
                Some(acceptor) => {
                    let shaking_hands =
                        tokio::time::timeout(MAX_HEAD_TIME, acceptor.accept(stream));
                    // One that does not speak TLS, or not in time, is no fault of the server.
                    if let Ok(Ok(stream)) = shaking_hands.await {
                        connections.answer(stream, watcher).await;
                    }
                }
            }
            drop((place, counted));
        });
    }
}

/// Counts a connection while it is open.
struct Open(App);

impl Open {
    fn begin(app: &App) -> Self {
        app.metrics.connections.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(app))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.metrics.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What answers the requests of a connection.
struct Connections {
    builder: Builder<TokioExecutor>,
    router: Router,
}

impl Connections {
    async fn answer<S>(self, stream: S, watcher: Watcher)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let has_asked = Arc::new(AtomicBool::new(false));
        let asking = Arc::clone(&has_asked);
        let router = TowerToHyperService::new(self.router);
        let service = service_fn(move |request: Request<Incoming>| {
            asking.store(true, Ordering::Relaxed);
            router.call(request)
        });
        let connection = self.builder.serve_connection(TokioIo::new(stream), service).into_owned();
        let mut connection = std::pin::pin!(watcher.watch(connection));
        let silence = tokio::time::sleep(MAX_HEAD_TIME);
        // A client that breaks its connection is no fault of the server.
        tokio::select! {
            _ = &mut connection => {}
            // Nothing else limits how long the protocol may stay undecided.
            () = silence => if has_asked.load(Ordering::Relaxed) {
                let _ = connection.await;
            },
        }
    }
}
