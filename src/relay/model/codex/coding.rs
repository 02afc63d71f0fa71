//! Bodies that come compressed with zstd, as pi always sends them here.
//!
//! A body is judged by what it holds and goes on as it came. That is sound because it is exactly one frame, whole, without
//! a dictionary and with nothing before or behind it: of such a frame every decoder makes the same bytes (RFC 8878). What
//! several frames, or bytes between them, mean is left to decoders, so they are refused. The memory that a body unfolds to
//! is taken from the budgets of all bodies before it is used.

use std::io::Read;

use hyper::StatusCode;
use tokio::sync::OwnedSemaphorePermit;

use super::limits::MAX_WINDOW_LOG;
use crate::relay::model::body::{Budget, shares};
use crate::relay::model::failure::Failure;
use crate::relay::model::limits::MAX_BODY;

/// What a frame begins with; a skippable one begins otherwise.
const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// The step in which memory is taken and filled, in bytes.
const STEP: usize = 256 * 1024;

/// What a body holds, with its share of the budgets.
#[derive(Debug)]
pub struct Unfolded {
    /// The bytes.
    pub bytes: Vec<u8>,
    _shares: Vec<[OwnedSemaphorePermit; 2]>,
}

/// Unfolds a body.
///
/// # Errors
/// It is not one frame, holds more than a body may, or no memory is free (worth another try).
pub fn unfold(body: &[u8], budgets: [&Budget; 2]) -> Result<Unfolded, Failure> {
    let bad = |message: &str| Failure::refused(StatusCode::BAD_REQUEST, "content_encoding", message);
    let none = |_| bad("the body is not one whole zstd frame");
    if !body.starts_with(&MAGIC) {
        return Err(bad("the body is not one whole zstd frame"));
    }
    let mut decoder = zstd::stream::read::Decoder::with_buffer(body).map_err(none)?.single_frame();
    decoder.window_log_max(MAX_WINDOW_LOG).map_err(none)?;
    let (mut bytes, mut held) = (Vec::new(), Vec::new());
    loop {
        held.push(shares(STEP as u64, budgets)?);
        bytes.reserve_exact(STEP);
        let read = (&mut decoder).take(STEP as u64).read_to_end(&mut bytes).map_err(none)?;
        if bytes.len() as u64 > MAX_BODY {
            let message = format!("the body may hold at most {MAX_BODY} bytes");
            return Err(Failure::refused(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message));
        }
        if read < STEP {
            break;
        }
    }
    if decoder.finish().is_empty() {
        Ok(Unfolded { bytes, _shares: held })
    } else {
        Err(bad("there is something behind the body's zstd frame"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use proptest::prelude::*;

    use super::*;

    fn unfolded(body: &[u8]) -> Result<Vec<u8>, String> {
        let budget = Budget::new(MAX_BODY as usize + 2 * STEP);
        unfold(body, [&budget, &budget.clone()]).map(|unfolded| unfolded.bytes).map_err(|failure| failure.code)
    }

    fn packed(bytes: &[u8]) -> Vec<u8> {
        zstd::bulk::compress(bytes, 3).unwrap()
    }

    #[test]
    fn one_frame_is_unfolded_and_nothing_else() {
        let one = packed(b"{\"a\":1}");
        assert_eq!(unfolded(&one).unwrap(), b"{\"a\":1}");
        let large = vec![b'x'; 3 * STEP];
        assert_eq!(unfolded(&packed(&large)).unwrap(), large);
        for cut in 0..one.len() {
            assert_eq!(unfolded(&one[..cut]), Err("content_encoding".to_owned()), "cut at {cut}");
        }
        let skipped = [&[0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, b'x'][..], &one].concat();
        let twice = [&one[..], &one].concat();
        let behind = [&one[..], b"x"].concat();
        for bad in [skipped, twice, behind, b"{}".to_vec(), b"\x1f\x8b".to_vec()] {
            assert_eq!(unfolded(&bad), Err("content_encoding".to_owned()), "{bad:?}");
        }
    }

    #[test]
    fn a_bomb_and_a_wide_window_are_refused_and_memory_is_taken_first() {
        let bomb = packed(&vec![0; MAX_BODY as usize + 1]);
        assert!(bomb.len() < 10_000);
        let (roomy, other) = (Budget::new(2 * MAX_BODY as usize), Budget::new(2 * MAX_BODY as usize));
        let refused = unfold(&bomb, [&roomy, &other]).unwrap_err();
        assert_eq!((refused.status.as_u16(), refused.code.as_str()), (413, "body_too_large"));
        let tight = Budget::new(STEP);
        let refused = unfold(&bomb, [&roomy, &tight]).unwrap_err();
        assert_eq!((refused.status.as_u16(), refused.code.as_str()), (503, "gateway_busy"));
        let mut encoder = zstd::stream::Encoder::new(Vec::new(), 3).unwrap();
        encoder.window_log(MAX_WINDOW_LOG + 1).unwrap();
        std::io::Write::write_all(&mut encoder, b"{}").unwrap();
        assert_eq!(unfolded(&encoder.finish().unwrap()), Err("content_encoding".to_owned()));
    }

    proptest! {
        #[test]
        fn what_is_unfolded_is_what_was_packed(bytes in proptest::collection::vec(any::<u8>(), 0..2000), level in 1i32..8) {
            prop_assert_eq!(unfolded(&zstd::bulk::compress(&bytes, level).unwrap()).unwrap(), bytes);
        }

        #[test]
        fn any_bytes_are_unfolded_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = unfolded(&[&MAGIC[..], &bytes].concat());
        }
    }
}
