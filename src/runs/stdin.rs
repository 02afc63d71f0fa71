//! The writing end of pi's standard input, a FIFO that its sandbox keeps open on both sides.
//!
//! The front writes without ever blocking: a task of its own feeds the pipe as fast as pi reads. No restart of the front
//! is an end of file for pi. A sandbox that is gone takes no input, and that is noticed elsewhere.

use std::path::Path;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio::time::sleep;

/// Commands that may wait for pi to read; more are dropped. A run needs six; the rest are answers to dialogs, which
/// only a hostile pi opens in such numbers.
const QUEUE: usize = 64;
/// The wait before the input is opened again, as long as the run is driven.
const RETRY: Duration = Duration::from_millis(20);

/// Sends commands to one agent. Dropping it ends the writing, not pi's input.
pub struct Stdin {
    queue: mpsc::Sender<Vec<u8>>,
}

impl Stdin {
    /// Opens the FIFO at `path`, as soon as somebody reads it.
    pub fn open(path: &Path) -> Self {
        let (queue, mut commands) = mpsc::channel::<Vec<u8>>(QUEUE);
        let path = path.to_owned();
        tokio::spawn(async move {
            // No reader: the sandbox is gone, which the driver sees on the cgroup, or systemd has not come to opening its
            // input yet, because the launcher that held it open died during the start.
            let mut sender = loop {
                match pipe::OpenOptions::new().open_sender(&path) {
                    Ok(sender) => break sender,
                    Err(_) if !commands.is_closed() => sleep(RETRY).await,
                    Err(error) => {
                        tracing::info!(path = %path.display(), %error, "the agent's input could not be opened");
                        return;
                    }
                }
            };
            while let Some(command) = commands.recv().await {
                if let Err(error) = sender.write_all(&command).await {
                    tracing::info!(%error, "the agent takes no more input");
                    return;
                }
            }
        });
        Stdin { queue }
    }

    /// Queues a command.
    pub fn send(&self, command: Vec<u8>) {
        if self.queue.try_send(command).is_err() {
            tracing::warn!("a command to the agent was dropped: it reads none");
        }
    }
}
