//! What goes wrong while there is a file `<root>/fault`. It has one line:
//!
//! * `status 503`: every answer has this status.
//! * `redirect 302 https://elsewhere/`: every answer sends the client there.
//! * `hang`: no request is answered.
//! * `slow 5000`: every answer begins this many milliseconds late.
//! * `cut`: every answer ends in its middle.

use std::path::Path;
use std::time::Duration;

/// A fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// This status.
    Status(u16),
    /// This status and this place.
    Redirect(u16, String),
    /// No answer.
    Hang,
    /// This much later.
    Slow(Duration),
    /// Half of the answer.
    Cut,
}

/// The fault that holds at present.
#[must_use]
pub fn present(root: &Path) -> Option<Fault> {
    let text = std::fs::read_to_string(root.join("fault")).ok()?;
    let words: Vec<&str> = text.split_whitespace().collect();
    match words.as_slice() {
        ["status", status] => status.parse().ok().map(Fault::Status),
        ["redirect", status, place] => status.parse().ok().map(|status| Fault::Redirect(status, (*place).to_owned())),
        ["hang"] => Some(Fault::Hang),
        ["slow", millis] => millis.parse().ok().map(|millis| Fault::Slow(Duration::from_millis(millis))),
        ["cut"] => Some(Fault::Cut),
        _ => None,
    }
}
