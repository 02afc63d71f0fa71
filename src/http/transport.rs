//! What a connection's bytes go through: memory is written, parts of files are sent by the kernel from its own memory.
//!
//! hyper knows bytes only. A part of a file stands among them as a placeholder ([`Outbox::put`]): a slice of a constant,
//! whose place within that constant names the part. Where hyper would write it, the part is sent by sendfile(2) instead,
//! which copies nothing into this process. What cannot be true ends the connection: a placeholder that is not that of the
//! next part, and a file that has ended before its part, so that a wrong body is never a complete one.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use axum::body::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use super::limits;

/// The most bytes of a part.
pub const PART: usize = 2 << 20;
/// How many parts are put before a name is used again: far more than hyper has at a time, which is less than 16.
const NAMES: usize = 4096;
/// Addresses rather than bytes: nothing reads them, so the kernel never gives them memory.
static PLACEHOLDERS: LazyLock<Vec<u8>> = LazyLock::new(|| vec![0; PART + NAMES]);

/// The parts of files that a connection has still to send, in their order.
#[derive(Clone, Default)]
pub struct Outbox(Arc<Mutex<Queue>>);

#[derive(Default)]
struct Queue {
    parts: VecDeque<Part>,
    put: usize,
}

struct Part {
    file: Arc<File>,
    from: u64,
    /// Where its placeholder begins among all, and how long it is; both without what has been sent.
    name: usize,
    length: usize,
}

impl Outbox {
    /// Puts a part of at most [`PART`] bytes last; gives what stands for it in the answer's body. Whoever asks for it must
    /// hand it to hyper next, and know that the file has it in memory: sending waits for no disk.
    pub fn put(&self, file: &Arc<File>, from: u64, length: usize) -> Bytes {
        let mut queue = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (name, length) = (queue.put % NAMES, length.min(PART));
        queue.put = queue.put.wrapping_add(1);
        queue.parts.push_back(Part { file: file.clone(), from, name, length });
        Bytes::from_static(&PLACEHOLDERS[name..name + length])
    }

    /// Sends what it can of the next part, which must be the one that `placeholder` stands for.
    fn send(&self, stream: &TcpStream, placeholder: (usize, usize)) -> io::Result<usize> {
        let mut queue = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(part) = queue.parts.front_mut().filter(|part| (part.name, part.length) == placeholder) else {
            return Err(io::Error::other("a placeholder stands for no part of a file, or not for the next"));
        };
        let sent = rustix::fs::sendfile(stream, &part.file, Some(&mut part.from), part.length)?;
        if sent == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file has ended before the answer"));
        }
        (part.name, part.length) = (part.name + sent, part.length.saturating_sub(sent));
        if part.length == 0 {
            queue.parts.pop_front();
        }
        Ok(sent)
    }
}

/// Where a slice begins among the placeholders, and its length; None when it is none of them.
fn placeholder(slice: &[u8]) -> Option<(usize, usize)> {
    let within = slice.as_ptr().addr().checked_sub(PLACEHOLDERS.as_ptr().addr())?;
    (within < PLACEHOLDERS.len() && !slice.is_empty()).then_some((within, slice.len()))
}

/// A client's connection.
pub struct Transport {
    stream: TcpStream,
    outbox: Outbox,
    /// What the kernel may hold unsent at present.
    unsent: u32,
}

impl Transport {
    /// A connection that sends from memory, and what is put into this outbox from files.
    pub fn new(stream: TcpStream, outbox: Outbox) -> Self {
        Transport { stream, outbox, unsent: 0 }
    }

    /// Lets the kernel hold so much unsent.
    fn hold(&mut self, unsent: u32) -> io::Result<()> {
        if self.unsent != unsent {
            socket2::SockRef::from(&self.stream).set_tcp_notsent_lowat(unsent)?;
            self.unsent = unsent;
        }
        Ok(())
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, placeholder: (usize, usize)) -> Poll<io::Result<usize>> {
        self.hold(limits::UNSENT_FILE)?;
        loop {
            ready!(self.stream.poll_write_ready(cx))?;
            match self.stream.try_io(Interest::WRITABLE, || self.outbox.send(&self.stream, placeholder)) {
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                sent => return Poll::Ready(sent),
            }
        }
    }
}

impl AsyncRead for Transport {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Transport {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match placeholder(bytes) {
            Some(placeholder) => self.poll_send(cx, placeholder),
            None => {
                self.hold(limits::UNSENT)?;
                Pin::new(&mut self.stream).poll_write(cx, bytes)
            }
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let first = slices.iter().enumerate().find_map(|(index, slice)| Some((index, placeholder(slice)?)));
        let memory = match first {
            Some((0, placeholder)) => return self.poll_send(cx, placeholder),
            Some((before, _)) => &slices[..before],
            None => slices,
        };
        self.hold(limits::UNSENT)?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, memory)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::convert::Infallible;
    use std::io::Write;

    use axum::body::Body;
    use axum::extract::Extension;
    use axum::routing::get;
    use futures_util::stream;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::sync::watch;

    use super::*;
    use crate::http::server::serve;

    const SIZE: usize = 2 * PART + 12_345;

    fn content() -> Vec<u8> {
        (0..SIZE).map(|at| ((at * 7919) >> 3) as u8).collect()
    }

    /// Everything that a server answers to `requests` requests on one connection whose bodies `make` gives.
    async fn answered(make: fn(&Outbox, &Arc<File>) -> Vec<Bytes>, requests: usize, shrink: bool) -> Vec<u8> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&content()).unwrap();
        if shrink {
            file.set_len(PART as u64 + 1).unwrap();
        }
        let file = Arc::new(file);
        let answer = move |Extension(outbox): Extension<Outbox>| async move {
            let mut parts = make(&outbox, &file).into_iter();
            Body::from_stream(stream::iter(std::iter::from_fn(move || parts.next().map(Ok::<_, Infallible>))))
        };
        let router = axum::Router::new().route("/", get(answer));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (end, ending) = watch::channel(false);
        let server = tokio::spawn(serve(listener, router, ending));
        let mut client = TcpStream::connect(address).await.unwrap();
        let keep = "GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(requests - 1);
        client.write_all(format!("{keep}GET / HTTP/1.0\r\n\r\n").as_bytes()).await.unwrap();
        let mut all = Vec::new();
        // A connection that was ended in the middle may end with an error.
        let _ = client.read_to_end(&mut all).await;
        end.send(true).unwrap();
        server.await.unwrap();
        all
    }

    fn bodies(all: &[u8]) -> &[u8] {
        &all[all.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4..]
    }

    /// Parts between memory, of every length that is odd somewhere.
    fn mixed(outbox: &Outbox, file: &Arc<File>) -> Vec<Bytes> {
        let part = |from: usize, length| outbox.put(file, from as u64, length);
        vec![
            Bytes::from_static(b"before"),
            part(0, 1),
            part(1, PART),
            Bytes::from_static(b"between"),
            part(PART + 1, PART),
            part(2 * PART + 1, SIZE - 2 * PART - 1),
            Bytes::from_static(b"after"),
        ]
    }

    #[tokio::test]
    async fn parts_of_files_and_memory_arrive_in_their_order_byte_by_byte() {
        let (all, content) = (answered(mixed, 1, false).await, content());
        let wanted = [b"before", &content[..PART + 1], b"between", &content[PART + 1..], b"after"].concat();
        assert!(bodies(&all) == wanted, "{} bytes for {}", bodies(&all).len(), wanted.len());
    }

    #[tokio::test]
    async fn many_answers_on_one_connection_have_their_own_parts() {
        let all = answered(|outbox, file| vec![outbox.put(file, 5, 100_000), outbox.put(file, 7, 3)], 300, false).await;
        let wanted = [&content()[5..100_005], &content()[7..10]].concat();
        let last = &all[all.len() - wanted.len()..];
        assert!(last == wanted);
        let found = all.windows(64).filter(|bytes| *bytes == &wanted[..64]).count();
        assert!(found >= 300, "{found} answers");
    }

    #[tokio::test]
    async fn a_file_that_has_ended_ends_the_connection_and_nothing_is_sent_in_its_place() {
        let (all, content) = (answered(mixed, 1, true).await, content());
        let wanted = [b"before", &content[..PART + 1], b"between"].concat();
        assert!(bodies(&all) == wanted, "{} bytes for {}", bodies(&all).len(), wanted.len());
    }

    #[tokio::test]
    async fn a_part_that_was_never_sent_is_not_sent_for_another() {
        fn lost(outbox: &Outbox, file: &Arc<File>) -> Vec<Bytes> {
            drop(outbox.put(file, 0, 1000));
            vec![Bytes::from_static(b"so far"), outbox.put(file, 2000, 1000)]
        }
        assert_eq!(bodies(&answered(lost, 1, false).await), b"so far");
    }
}
