//! The transport of `relay://NAME/PATH`: git's smart protocol in HTTP/1.1, over the Unix socket with this abstract name.
//!
//! libgit2's own goes to addresses, and this sandbox has none. Each exchange is a connection: refs are asked for, or what
//! libgit2 has to say (a pack as well) is sent as it comes, and then the answer is read. A head, a list of refs and each
//! step have limits; nothing is followed or decompressed. What goes wrong is one sentence, which names the status of an
//! answer that is not 200 as [`super::remote`] expects it.

use std::convert::Infallible;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream as StdStream;
use std::pin::pin;
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_util::future::{Fuse, FusedFuture};
use futures_util::stream::poll_fn;
use futures_util::{FutureExt, StreamExt};
use git2::transport::{Service, SmartSubtransport, SmartSubtransportStream, Transport};
use git2::{Error, ErrorClass, ErrorCode};
use http_body_util::{BodyExt, Either, Empty, StreamBody};
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::relay::git::admit::{self, Call};
use crate::relay::git::answer;

/// How long the relay may take to take or to give the next piece, when it does not give up on Gitea itself before that.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long the end of an answer may take behind its last piece.
const LAST: Duration = Duration::from_secs(1);
/// The largest head of an answer, in bytes.
const MAX_HEAD: usize = 16 << 10;
/// The largest pack that is fetched, in bytes: what the unit may write into a file (`LimitFSIZE=`).
const MAX_PACK: u64 = 4 << 30;
/// How much is sent at a time, in bytes.
const PIECE: usize = 64 << 10;

/// Has libgit2 know the transport.
///
/// # Safety
/// Nothing else uses libgit2 meanwhile.
///
/// # Errors
/// It knows one already.
pub unsafe fn register() -> Result<(), Error> {
    // SAFETY: by the caller.
    unsafe { git2::transport::register("relay", |remote| Transport::smart(remote, true, Relay)) }
}

struct Relay;

impl SmartSubtransport for Relay {
    fn action(&self, url: &str, service: Service) -> Result<Box<dyn SmartSubtransportStream>, Error> {
        let exchange = Exchange::begin(url, service, PATIENCE);
        let exchange =
            exchange.map_err(|error| Error::new(ErrorCode::GenericError, ErrorClass::Net, error.to_string()));
        Ok(Box::new(exchange?))
    }

    fn close(&self) -> Result<(), Error> {
        Ok(())
    }
}

fn broken(told: impl std::fmt::Display) -> io::Error {
    io::Error::other(format!("the git relay {told}"))
}

fn late<T>(_: T) -> io::Error {
    broken("did nothing for too long")
}

/// One request and its answer.
struct Exchange {
    runtime: Runtime,
    patience: Duration,
    /// Takes the request's body, until the answer is read.
    body: Option<mpsc::Sender<Bytes>>,
    /// The head of the answer; once it is there it is looked at and gone.
    coming: Fuse<JoinHandle<hyper::Result<Response<Incoming>>>>,
    answer: Option<Incoming>,
    /// Of the answer, read and not given to libgit2 yet.
    piece: Bytes,
    media: String,
    /// How much more of the answer there may be, in bytes.
    left: u64,
}

impl Exchange {
    fn begin(url: &str, service: Service, patience: Duration) -> io::Result<Self> {
        let place = url.strip_prefix("relay://").and_then(|rest| rest.split_once('/'));
        let (name, path) = place.ok_or_else(|| broken("has no such URL"))?;
        let (asked, lists) = match service {
            Service::UploadPackLs => (admit::Service::UploadPack, true),
            Service::UploadPack => (admit::Service::UploadPack, false),
            Service::ReceivePackLs => (admit::Service::ReceivePack, true),
            Service::ReceivePack => (admit::Service::ReceivePack, false),
        };
        let call = Call { service: asked, asks_for_refs: lists, version: None, length: None, compressed: false };
        let (program, media, left) = (asked.name(), answer::media_type(call), answer::most(call, MAX_PACK));
        let (sender, mut pieces) = mpsc::channel::<Bytes>(1);
        let pieces = poll_fn(move |context| pieces.poll_recv(context));
        let pieces = StreamBody::new(pieces.map(|piece| Ok::<_, Infallible>(Frame::data(piece))));
        let request = Request::builder().header(HOST, "localhost");
        let request = if lists {
            request.uri(format!("/{path}/info/refs?service={program}")).body(Either::Left(Empty::new()))
        } else {
            let request = request.method(Method::POST).uri(format!("/{path}/{program}"));
            request.header(CONTENT_TYPE, format!("application/x-{program}-request")).body(Either::Right(pieces))
        };
        let request = request.map_err(broken)?;
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let socket = connect(name, patience).map_err(|error| broken(format_args!("cannot be reached: {error}")))?;
        // A task of a runtime that turns while one of the calls below waits.
        let coming = runtime.block_on(async {
            let socket = TokioIo::new(UnixStream::from_std(socket)?);
            let (mut sender, connection) =
                http1::Builder::new().max_buf_size(MAX_HEAD).handshake(socket).await.map_err(broken)?;
            tokio::spawn(connection);
            Ok::<_, io::Error>(tokio::spawn(async move { sender.send_request(request).await }).fuse())
        })?;
        let body = (!lists).then_some(sender);
        Ok(Exchange { runtime, patience, body, coming, answer: None, piece: Bytes::new(), media, left })
    }

    /// The next piece of the answer; None at its end.
    fn next(&mut self) -> io::Result<Option<Bytes>> {
        let Exchange { runtime, patience, coming, answer, media, .. } = self;
        let body = match answer {
            Some(body) => body,
            None if coming.is_terminated() => return Err(broken("has given no answer")),
            None => {
                let response = runtime.block_on(async { timeout(*patience, coming).await }).map_err(late)?;
                answer.insert(judge(response, media)?)
            }
        };
        let frame = runtime.block_on(async { timeout(*patience, body.frame()).await }).map_err(late)?;
        let Some(frame) = frame.transpose().map_err(|_| broken("broke its answer off"))? else { return Ok(None) };
        let piece = frame.into_data().unwrap_or_default();
        let length = u64::try_from(piece.len()).unwrap_or(u64::MAX);
        self.left = self.left.checked_sub(length).ok_or_else(|| broken("answers more than is taken"))?;
        Ok(Some(piece))
    }
}

/// The connection; one that nobody accepts yet is made all the same.
fn connect(name: &str, patience: Duration) -> io::Result<StdStream> {
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // With a full queue it would wait for ever.
    set_socket_timeout(&socket, Timeout::Send, Some(patience))?;
    rustix::net::connect(&socket, &SocketAddrUnix::new_abstract_name(name.as_bytes())?)?;
    let socket = StdStream::from(socket);
    socket.set_nonblocking(true)?;
    Ok(socket)
}

type Came = Result<hyper::Result<Response<Incoming>>, tokio::task::JoinError>;

/// The body of an answer that is one of git's.
fn judge(came: Came, media: &str) -> io::Result<Incoming> {
    let response = came.map_err(broken)?.map_err(|_| broken("broke off"))?;
    if response.status() != StatusCode::OK {
        return Err(broken(format_args!("refused, status code: {}", response.status().as_u16())));
    }
    if response.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes) != Some(media.as_bytes()) {
        return Err(broken("answers with another media type than git's"));
    }
    Ok(response.into_body())
}

impl Write for Exchange {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Exchange { runtime, patience, body, coming, answer, media, .. } = self;
        let Some(body) = body else { return Err(broken("was to get more after its answer")) };
        let piece = Bytes::copy_from_slice(&bytes[..bytes.len().min(PIECE)]);
        let length = piece.len();
        runtime.block_on(async {
            let mut sending = pin!(body.send(piece));
            let mut waiting = pin!(sleep(*patience));
            loop {
                tokio::select! {
                    biased;
                    // A refusal that did not wait for all of it, the end of the connection, or an answer that has begun.
                    came = &mut *coming => *answer = Some(judge(came, media)?),
                    sent = &mut sending => return sent.map(|()| length).map_err(|_| broken("takes no more")),
                    () = &mut waiting => return Err(late(())),
                }
            }
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Exchange {
    /// libgit2 knows where an answer ends by what is in it; the relay is to see that all of it was taken.
    fn drop(&mut self) {
        let Exchange { runtime, answer, .. } = self;
        if let Some(body) = answer.as_mut().filter(|body| !body.is_end_stream()) {
            let _ = runtime.block_on(async { timeout(LAST, body.frame()).await });
        }
    }
}

impl Read for Exchange {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // That is all of the request.
        self.body = None;
        while self.piece.is_empty() {
            match self.next()? {
                Some(piece) => self.piece = piece,
                None => return Ok(0),
            }
        }
        let length = self.piece.len().min(buffer.len());
        self.piece.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::{BufRead, BufReader};
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixListener};
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    const LIST: &str = "Content-Type: application/x-git-upload-pack-advertisement\r\n";
    const RESULT: &str = "Content-Type: application/x-git-receive-pack-result\r\n";

    /// A relay that has one connection dealt with like this; gives its URL.
    fn relay(deal: impl FnOnce(BufReader<StdStream>) + Send + 'static) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("transport-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        std::thread::spawn(move || deal(BufReader::new(listener.accept().unwrap().0)));
        format!("relay://{name}/alice/workspace.git")
    }

    fn head(stream: &mut BufReader<StdStream>) -> String {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(stream.read_line(&mut head).unwrap() > 0, "{head}");
        }
        head
    }

    fn says(answer: impl Into<Vec<u8>>) -> String {
        let answer = answer.into();
        relay(move |mut stream| {
            head(&mut stream);
            let _ = stream.get_mut().write_all(&answer);
        })
    }

    fn listed(url: &str, patience: u64) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        Exchange::begin(url, Service::UploadPackLs, Duration::from_millis(patience))?.read_to_end(&mut all)?;
        Ok(all)
    }

    #[test]
    fn refs_are_asked_for_and_a_pack_goes_out_in_pieces() {
        let (seen, heads) = std::sync::mpsc::channel();
        let asked = seen.clone();
        let url = relay(move |mut stream| {
            asked.send(head(&mut stream)).unwrap();
            write!(stream.get_mut(), "HTTP/1.1 200 OK\r\n{LIST}Content-Length: 4\r\n\r\nrefs").unwrap();
        });
        assert_eq!(listed(&url, 20_000).unwrap(), b"refs");
        let told = heads.recv().unwrap().to_ascii_lowercase();
        assert!(told.starts_with("get /alice/workspace.git/info/refs?service=git-upload-pack http/1.1\r\n"), "{told}");
        assert!(told.contains("host: localhost\r\n") && !told.contains("transfer-encoding"), "{told}");
        let url = relay(move |mut stream| {
            seen.send(head(&mut stream)).unwrap();
            let (mut all, mut line) = (0, String::new());
            while line != "0\r\n" {
                line.clear();
                stream.read_line(&mut line).unwrap();
                let length = usize::from_str_radix(line.trim(), 16).unwrap();
                let mut piece = vec![0; length + 2];
                stream.read_exact(&mut piece).unwrap();
                all += length;
            }
            write!(stream.get_mut(), "HTTP/1.1 200 OK\r\n{RESULT}Connection: close\r\n\r\n{all}").unwrap();
        });
        let mut exchange = Exchange::begin(&url, Service::ReceivePack, Duration::from_secs(20)).unwrap();
        exchange.write_all(b"command").unwrap();
        exchange.write_all(&vec![7; 1 << 20]).unwrap();
        let mut answer = String::new();
        exchange.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, (7 + (1 << 20)).to_string());
        assert!(exchange.write(b"more").is_err());
        let told = heads.recv().unwrap().to_ascii_lowercase();
        assert!(told.starts_with("post /alice/workspace.git/git-receive-pack http/1.1\r\n"), "{told}");
        assert!(told.contains("content-type: application/x-git-receive-pack-request\r\n"), "{told}");
        assert!(told.contains("transfer-encoding: chunked\r\n"), "{told}");
    }

    #[test]
    fn an_answer_that_is_not_one_is_an_error_with_its_reason() {
        let chunk = format!("{:x}\r\n{}\r\n", 1 << 20, "x".repeat(1 << 20));
        let long = format!("HTTP/1.1 200 OK\r\n{LIST}Transfer-Encoding: chunked\r\n\r\n{}0\r\n\r\n", chunk.repeat(17));
        for (answer, told) in [
            ("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_owned(), "status code: 404"),
            ("HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n".to_owned(), "status code: 302"),
            ("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 4\r\n\r\nrefs".to_owned(), "media type"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nrefs".to_owned(), "media type"),
            (format!("HTTP/1.1 200 OK\r\n{LIST}Content-Length: 9\r\n\r\nrefs"), "broke its answer off"),
            (format!("HTTP/1.1 200 OK\r\nX: {}\r\n{LIST}\r\n", "x".repeat(1 << 20)), "broke off"),
            ("SSH-2.0-x\r\n\r\n".to_owned(), "broke off"),
            (String::new(), "broke off"),
            (long, "more than is taken"),
        ] {
            let error = listed(&says(answer.as_bytes()), 20_000).unwrap_err().to_string();
            assert!(error.contains(told), "{}: {error}", &answer[..answer.len().min(60)]);
        }
        let nobody = listed("relay://transport-nobody/alice/workspace.git", 20_000).unwrap_err().to_string();
        assert!(nobody.contains("cannot be reached"), "{nobody}");
        assert!(listed("https://example.org/x", 1).is_err());
    }

    #[test]
    fn a_relay_that_does_nothing_is_given_up_at_each_step() {
        let (hold, held) = std::sync::mpsc::channel::<()>();
        let silent = relay(move |stream| {
            let _ = held.recv();
            drop(stream);
        });
        assert!(listed(&silent, 50).unwrap_err().to_string().contains("nothing for too long"));
        drop(hold);
        let (hold, held) = std::sync::mpsc::channel::<()>();
        let begun = relay(move |mut stream| {
            head(&mut stream);
            write!(stream.get_mut(), "HTTP/1.1 200 OK\r\n{LIST}Content-Length: 9\r\n\r\nrefs").unwrap();
            let _ = held.recv();
        });
        assert!(listed(&begun, 500).unwrap_err().to_string().contains("nothing for too long"));
        drop(hold);
        let (_hold, held) = std::sync::mpsc::channel::<()>();
        let full = relay(move |stream| {
            let _ = held.recv();
            drop(stream);
        });
        let mut exchange = Exchange::begin(&full, Service::ReceivePack, Duration::from_millis(50)).unwrap();
        let error = (0..10_000).find_map(|_| exchange.write_all(&[0; PIECE]).err()).unwrap();
        assert!(error.to_string().contains("nothing for too long"), "{error}");
    }

    #[test]
    fn an_answer_that_begins_before_the_request_has_ended_is_read_behind_it() {
        let url = relay(|mut stream| {
            head(&mut stream);
            write!(stream.get_mut(), "HTTP/1.1 200 OK\r\n{RESULT}Connection: close\r\n\r\n").unwrap();
            let mut all = Vec::new();
            while !all.ends_with(b"0\r\n\r\n") {
                let length = stream.fill_buf().unwrap().len();
                all.extend_from_slice(&stream.buffer()[..length]);
                stream.consume(length);
            }
            write!(stream.get_mut(), "{}", all.windows(2).filter(|pair| pair == b"77").count() > 1 << 19).unwrap();
        });
        let mut exchange = Exchange::begin(&url, Service::ReceivePack, Duration::from_secs(20)).unwrap();
        for _ in 0..16 {
            exchange.write_all(&[b'7'; PIECE]).unwrap();
        }
        let mut answer = String::new();
        exchange.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "true");
    }

    #[test]
    fn a_refusal_in_the_middle_of_a_pack_ends_it_with_its_status() {
        let url = relay(|mut stream| {
            head(&mut stream);
            stream.get_mut().write_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n").unwrap();
            // Reads on, so that the client gets to read why.
            let _ = io::copy(&mut stream, &mut io::sink());
        });
        let mut exchange = Exchange::begin(&url, Service::ReceivePack, Duration::from_secs(20)).unwrap();
        let error = (0..100_000).find_map(|_| exchange.write_all(&[0; PIECE]).err()).unwrap();
        assert!(error.to_string().ends_with("status code: 413"), "{error}");
        assert!(exchange.read(&mut [0]).is_err());
    }
}
