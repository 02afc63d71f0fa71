//! A connection that leads out: every byte of it is counted, and it is ended when it has had its bytes or falls silent.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep, sleep};

use super::limits::Limits;

/// What is known of a line while somebody else has it.
#[derive(Debug, Default)]
pub struct Flow {
    up: AtomicU64,
    down: AtomicU64,
    stopped: OnceLock<&'static str>,
}

impl Flow {
    /// Bytes that went out.
    #[must_use]
    pub fn up(&self) -> u64 {
        self.up.load(Ordering::Relaxed)
    }

    /// Bytes that came in.
    #[must_use]
    pub fn down(&self) -> u64 {
        self.down.load(Ordering::Relaxed)
    }

    /// Why it was ended here, if it was.
    #[must_use]
    pub fn stopped(&self) -> Option<&'static str> {
        self.stopped.get().copied()
    }
}

/// The line.
#[derive(Debug)]
pub struct Line {
    stream: TcpStream,
    flow: Arc<Flow>,
    /// What the run has had, all its lines together.
    spent: Arc<AtomicU64>,
    limits: Limits,
    quiet: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

impl Line {
    /// Takes a connection; `spent` is what the run has had, `place` the line's place among all.
    #[must_use]
    pub fn new(
        stream: TcpStream,
        flow: Arc<Flow>,
        spent: Arc<AtomicU64>,
        limits: Limits,
        place: OwnedSemaphorePermit,
    ) -> Self {
        Self { stream, flow, spent, limits, quiet: Box::pin(sleep(limits.idle)), _place: place }
    }

    fn stop(&self, code: &'static str) -> io::Error {
        let _ = self.flow.stopped.set(code);
        io::Error::other(code)
    }

    /// Counts bytes that have passed. A limit is passed by one piece at most, which is as large as a buffer.
    fn count(&mut self, bytes: usize, direction: fn(&Flow) -> &AtomicU64) -> io::Result<()> {
        let bytes = bytes as u64;
        direction(&self.flow).fetch_add(bytes, Ordering::Relaxed);
        let spent = self.spent.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.quiet.as_mut().reset(after(self.limits.idle));
        if self.flow.up() + self.flow.down() > self.limits.connection_bytes {
            return Err(self.stop("connection_bytes"));
        }
        if spent > self.limits.run_bytes { Err(self.stop("run_bytes")) } else { Ok(()) }
    }

    /// Nothing passes at the moment; an error when that has been so for too long.
    fn wait<T>(&mut self, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        match self.quiet.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(self.stop("idle_timeout"))),
            Poll::Pending => Poll::Pending,
        }
    }
}

fn after(time: Duration) -> Instant {
    Instant::now() + time
}

impl AsyncRead for Line {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        match Pin::new(&mut self.stream).poll_read(context, buffer) {
            Poll::Ready(Ok(())) => Poll::Ready(self.count(buffer.filled().len() - before, |flow| &flow.down)),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => self.wait(context),
        }
    }
}

impl AsyncWrite for Line {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_write(context, bytes) {
            Poll::Ready(Ok(count)) => Poll::Ready(self.count(count, |flow| &flow.up).map(|()| count)),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => self.wait(context),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
