//! A git server on loopback, by HTTP or HTTPS: `git http-backend` for each request, or something
//! that means no good.

use std::{
    fmt,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use super::{Place, authority::Files, git::Repository};

/// Where Debian, and who builds git himself, has it.
const BACKENDS: [&str; 3] = [
    "/usr/lib/git-core/git-http-backend",
    "/usr/libexec/git-core/git-http-backend",
    "/usr/local/libexec/git-core/git-http-backend",
];
/// How long a silent server keeps a connection.
const SILENCE: Duration = Duration::from_secs(10);

/// How a server is. Plain HTTP without a login, as it should be, where nothing else is said.
#[derive(Clone, Debug, Default)]
pub struct Manner {
    /// The port [default: any].
    pub port: u16,
    /// Its certificate, for HTTPS.
    pub tls: Option<Files>,
    /// The value of the header `Authorization` that it demands.
    pub login: Option<String>,
    /// What it says.
    pub answer: Answer,
}

/// What a server says to whoever may ask.
#[derive(Clone, Debug, Default)]
pub enum Answer {
    /// What git says of the repository.
    #[default]
    Repository,
    /// Go and ask there.
    Elsewhere(String),
    /// Nothing, for some time.
    Silence,
    /// One reference after the other, for ever.
    Endless,
    /// What is no git.
    Noise,
}

/// A running server. Dropping it ends it.
pub struct GitServer {
    address: SocketAddr,
    scheme: &'static str,
    asked: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for GitServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.address)
    }
}

impl GitServer {
    /// Serves the repositories in the folder of this one, on the loopback of a place.
    pub fn start(place: &Place, repository: &Repository, manner: Manner) -> Result<Self> {
        let port = manner.port;
        let listener = place.enter(|| TcpListener::bind(("127.0.0.1", port)))??;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let tls = manner.tls.as_ref().map(configuration).transpose()?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::new(AtomicUsize::new(0));
        let root = repository.folder().to_owned();
        let (stopped, count) = (stop.clone(), asked.clone());
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        count.fetch_add(1, Ordering::Relaxed);
                        if let Err(error) = receive(stream, tls.clone(), &manner, &root) {
                            eprintln!("git server: {error:#}");
                        }
                    }
                    Err(_) => thread::sleep(Duration::from_millis(5)),
                }
            }
        });
        Ok(Self {
            address,
            scheme,
            asked,
            stop,
            thread: Some(thread),
        })
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Address and port, as in an URL.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// How many connections there were.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    /// The URL of its repository.
    pub fn url(&self) -> String {
        format!("{}://{}/policy.git", self.scheme, self.address)
    }

    /// For `--policies`: its repository, with a fragment.
    pub fn policies(&self, fragment: &str) -> PathBuf {
        format!("git+{}{fragment}", self.url()).into()
    }
}

impl Drop for GitServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn configuration(files: &Files) -> Result<Arc<ServerConfig>> {
    let certificate = CertificateDer::from_pem_file(&files.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&files.key)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)?;
    Ok(Arc::new(config))
}

fn receive(
    stream: TcpStream,
    tls: Option<Arc<ServerConfig>>,
    manner: &Manner,
    root: &Path,
) -> Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.set_write_timeout(Some(Duration::from_secs(10)))?;
    match tls {
        None => serve(stream, manner, root),
        Some(config) => {
            let mut stream = StreamOwned::new(ServerConnection::new(config)?, stream);
            serve(&mut stream, manner, root)?;
            stream.conn.send_close_notify();
            Ok(stream.flush()?)
        }
    }
}

/// One request.
fn serve(stream: impl Read + Write, manner: &Manner, root: &Path) -> Result<()> {
    let mut reader = BufReader::new(stream);
    let request = Request::read(&mut reader)?;
    let stream = reader.get_mut();
    if manner.login.is_some() && manner.login != request.authorization {
        let refusal = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"git\"\r\n\
                       Content-Length: 0\r\nConnection: close\r\n\r\n";
        return Ok(stream.write_all(refusal.as_bytes())?);
    }
    let head = "HTTP/1.1 200 OK\r\nConnection: close\r\n\
                Content-Type: application/x-git-upload-pack-advertisement\r\n\r\n";
    match &manner.answer {
        Answer::Repository => {
            let answer = request.ask_backend(root)?;
            Ok(stream.write_all(&answer)?)
        }
        Answer::Elsewhere(url) => {
            let (path, query) = (&request.path, &request.query);
            let rest = path.split_once(".git").map_or("", |(_, rest)| rest);
            Ok(write!(
                stream,
                "HTTP/1.1 302 Found\r\nLocation: {url}{rest}?{query}\r\nContent-Length: 0\r\n\
                 Connection: close\r\n\r\n",
            )?)
        }
        Answer::Silence => {
            thread::sleep(SILENCE);
            Ok(())
        }
        Answer::Noise => {
            let noise = "<html>This is no repository.</html>";
            Ok(write!(stream, "{head}{noise}")?)
        }
        Answer::Endless => {
            write!(stream, "{head}001e# service=git-upload-pack\n0000")?;
            // 0x48: the length of all of it.
            let line = format!("0048{} refs/heads/{}\n", "1".repeat(40), "x".repeat(15));
            let lines = line.repeat(4096);
            // Until whoever reads has enough.
            loop {
                if stream.write_all(lines.as_bytes()).is_err() {
                    return Ok(());
                }
            }
        }
    }
}

/// A request of git.
struct Request {
    method: String,
    path: String,
    query: String,
    authorization: Option<String>,
    /// Variables of CGI for its headers.
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl Request {
    fn read(reader: &mut impl BufRead) -> Result<Self> {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let mut words = line.split_ascii_whitespace();
        let method = words.next().context("method")?.to_owned();
        let target = words.next().context("target")?;
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut request = Self {
            method,
            path: path.to_owned(),
            query: query.to_owned(),
            authorization: None,
            headers: Vec::new(),
            body: Vec::new(),
        };
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            let Some((name, value)) = header.trim().split_once(':') else {
                break;
            };
            let value = value.trim().to_owned();
            let variable = match name.to_ascii_lowercase().as_str() {
                "authorization" => {
                    request.authorization = Some(value);
                    continue;
                }
                "content-length" => {
                    request.body = vec![0; value.parse()?];
                    "CONTENT_LENGTH"
                }
                "content-type" => "CONTENT_TYPE",
                "git-protocol" => "GIT_PROTOCOL",
                "content-encoding" => "HTTP_CONTENT_ENCODING",
                _ => continue,
            };
            request.headers.push((variable, value));
        }
        reader.read_exact(&mut request.body)?;
        Ok(request)
    }

    /// As CGI (RFC 3875).
    fn ask_backend(self, root: &Path) -> Result<Vec<u8>> {
        let backend = BACKENDS.iter().find(|path| Path::new(path).exists());
        let backend = backend.context("git http-backend is not on this machine")?;
        let mut child = Command::new(backend)
            .env("GIT_PROJECT_ROOT", root)
            .env("GIT_HTTP_EXPORT_ALL", "1")
            .env("REMOTE_ADDR", "127.0.0.1")
            .env("REQUEST_METHOD", self.method)
            .env("PATH_INFO", self.path)
            .env("QUERY_STRING", self.query)
            .envs(self.headers)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut stdin = child.stdin.take().context("stdin")?;
        let feed = thread::spawn(move || stdin.write_all(&self.body));
        let output = child.wait_with_output()?;
        let _ = feed.join();
        let end = output
            .stdout
            .windows(4)
            .position(|bytes| bytes == b"\r\n\r\n")
            .context("the backend says nothing")?;
        let (head, body) = (&output.stdout[..end], &output.stdout[end + 4..]);
        let head = String::from_utf8_lossy(head);
        let status = head.lines().find_map(|l| l.strip_prefix("Status: "));
        let status = status.unwrap_or("200 OK");
        let mut answer =
            format!("HTTP/1.1 {status}\r\n{head}\r\nConnection: close\r\n\r\n").into_bytes();
        answer.extend_from_slice(body);
        Ok(answer)
    }
}
