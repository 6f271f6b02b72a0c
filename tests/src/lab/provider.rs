//! A provider of identities that is not ours: it serves the Workload API to whoever asks, with
//! one SVID.

use std::{
    convert::Infallible,
    fs,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    thread::{self, JoinHandle},
};

use anyhow::{Context, Result};
use enforcer::identity::workload_api::wire::{X509Svid, X509SvidRequest, X509SvidResponse};
use futures::{Stream, StreamExt as _, future::BoxFuture, stream};
use hyper::{Request as HttpRequest, body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, server::ServerStreamingService};
use tonic_prost::ProstCodec;

use super::authority::Files;

/// A running provider. Dropping it stops it.
pub struct Provider {
    socket: PathBuf,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Provider {
    /// Serves an SVID, and the roots of its trust domain.
    pub fn start(socket: &Path, id: &str, svid: &Files, roots: &Path) -> Result<Self> {
        let mut message = X509Svid::default();
        id.clone_into(&mut message.spiffe_id);
        message.x509_svid = CertificateDer::from_pem_file(&svid.certificate)?.to_vec();
        let key = PrivateKeyDer::from_pem_file(&svid.key)?;
        message.x509_svid_key = key.secret_der().to_vec();
        message.bundle = CertificateDer::from_pem_file(roots)?.to_vec();
        let answer = Arc::new(X509SvidResponse {
            svids: vec![message],
            ..X509SvidResponse::default()
        });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let listener = {
            let _runtime = runtime.enter();
            UnixListener::bind(socket).context("the provider's socket")?
        };
        let stop = CancellationToken::new();
        let until = stop.clone();
        let thread = thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = until.cancelled() => {}
                    () = serve(listener, answer) => {}
                }
            });
        });
        Ok(Self {
            socket: socket.to_owned(),
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = fs::remove_file(&self.socket);
    }
}

async fn serve(listener: UnixListener, answer: Arc<X509SvidResponse>) {
    while let Ok((stream, _)) = listener.accept().await {
        let answer = answer.clone();
        let service = service_fn(move |request: HttpRequest<Incoming>| {
            let answer = answer.clone();
            async move {
                let codec = ProstCodec::<X509SvidResponse, X509SvidRequest>::default();
                let mut grpc = tonic::server::Grpc::new(codec);
                let response = grpc.server_streaming(Once(answer), request).await;
                Ok::<_, Infallible>(response)
            }
        });
        tokio::spawn(
            http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service),
        );
    }
}

/// Says it once, and keeps the stream open.
struct Once(Arc<X509SvidResponse>);

impl ServerStreamingService<X509SvidRequest> for Once {
    type Response = X509SvidResponse;
    type ResponseStream = Pin<Box<dyn Stream<Item = Result<X509SvidResponse, Status>> + Send>>;
    type Future = BoxFuture<'static, Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, _request: Request<X509SvidRequest>) -> Self::Future {
        let answer = X509SvidResponse::clone(&self.0);
        let messages = stream::once(async { Ok(answer) }).chain(stream::pending());
        let messages: Self::ResponseStream = Box::pin(messages);
        Box::pin(async { Ok(Response::new(messages)) })
    }
}
