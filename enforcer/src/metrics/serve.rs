//! `GET /metrics`. A door for one scraper, not a web server: few connections, one request
//! each, and a time limit, so that whoever reaches the port can take nothing else away.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ALLOW, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Mutex, Semaphore},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// Where metrics are served unless a flag says otherwise.
pub const DEFAULT_ADDRESS: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9464);

/// Connections at a time; more wait in the listen queue.
const CONNECTIONS: usize = 8;

/// For a whole exchange.
const PATIENCE: Duration = Duration::from_secs(30);

/// Pause after `accept` failed, for want of file descriptors for example.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

const OPENMETRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

/// The metrics cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve metrics at {address}: choose another address with --metrics, or off")]
pub struct ServeError {
    address: SocketAddr,
    source: std::io::Error,
}

/// A bound address.
#[derive(Debug)]
pub struct MetricsServer {
    listener: TcpListener,
    address: SocketAddr,
}

impl MetricsServer {
    /// Takes the address.
    pub async fn bind(address: SocketAddr) -> Result<Self, ServeError> {
        let error = |source| ServeError { address, source };
        let listener = TcpListener::bind(address).await.map_err(error)?;
        let address = listener.local_addr().map_err(error)?;
        Ok(Self { listener, address })
    }

    /// The address, with the port that was really taken.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `stop`.
    pub async fn run(self, metrics: Arc<Metrics>, stop: CancellationToken) {
        let scrape = Arc::new(Scrape {
            metrics,
            one_at_a_time: Mutex::new(()),
        });
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let accept = async {
                // Never closed, so there is always a permit to wait for.
                let place = Arc::clone(&places).acquire_owned().await.ok();
                (place, self.listener.accept().await)
            };
            let (place, accepted) = tokio::select! {
                () = stop.cancelled() => return,
                accepted = accept => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let scrape = Arc::clone(&scrape);
                    let stop = stop.clone();
                    tokio::spawn(async move {
                        tokio::select! {
                            () = stop.cancelled() => {}
                            () = converse(stream, scrape) => {}
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection for metrics");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// Serves `metrics` at `address` until `stop`.
pub async fn serve(
    address: SocketAddr,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) -> Result<(), ServeError> {
    MetricsServer::bind(address).await?.run(metrics, stop).await;
    Ok(())
}

async fn converse(stream: TcpStream, scrape: Arc<Scrape>) {
    let service = service_fn(move |request| {
        let scrape = Arc::clone(&scrape);
        async move { Ok::<_, Infallible>(scrape.answer(request).await) }
    });
    let connection = http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(16 << 10)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(PATIENCE, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a connection for metrics broke"),
        Err(_) => tracing::debug!("a connection for metrics took too long"),
    }
}

#[derive(Debug)]
struct Scrape {
    metrics: Arc<Metrics>,
    /// Reading the kernel costs; readers take turns.
    one_at_a_time: Mutex<()>,
}

impl Scrape {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        if request.uri().path() != "/metrics" {
            return plain(StatusCode::NOT_FOUND, "only /metrics is here\n");
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut answer = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
            let allowed = HeaderValue::from_static("GET, HEAD");
            answer.headers_mut().insert(ALLOW, allowed);
            return answer;
        }
        let _turn = self.one_at_a_time.lock().await;
        let metrics = Arc::clone(&self.metrics);
        let text = tokio::task::spawn_blocking(move || metrics.encode()).await;
        let Ok(Ok(text)) = text else {
            return plain(StatusCode::INTERNAL_SERVER_ERROR, "cannot gather metrics\n");
        };
        let mut answer = Response::new(Full::from(text));
        answer.headers_mut().insert(CONTENT_TYPE, OPENMETRICS);
        answer
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::from(text));
    *answer.status_mut() = status;
    answer
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::metrics::tests::metrics;

    async fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn metrics_are_served_and_nothing_else() {
        let server = MetricsServer::bind("127.0.0.1:0".parse().unwrap())
            .await
            .unwrap();
        let (address, stop) = (server.address(), CancellationToken::new());
        let task = tokio::spawn(server.run(Arc::new(metrics()), stop.clone()));
        // More silent connections than places, less one: the next is still answered.
        let mut silent = Vec::new();
        for _ in 1..CONNECTIONS {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let answer = ask(address, "GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(answer.contains("application/openmetrics-text"));
        assert!(answer.ends_with("# EOF\n"));
        let answer = ask(address, "GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
        let answer = ask(address, "POST /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
        let answer = ask(address, "nonsense\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        stop.cancel();
        task.await.unwrap();
    }

    #[tokio::test]
    async fn a_taken_address_is_an_error_that_names_it() {
        let server = MetricsServer::bind("127.0.0.1:0".parse().unwrap())
            .await
            .unwrap();
        let error = MetricsServer::bind(server.address()).await.unwrap_err();
        assert!(error.to_string().contains(&server.address().to_string()));
    }
}
