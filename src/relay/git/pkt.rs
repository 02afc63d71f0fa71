//! The frames git speaks in: four hexadecimal digits with the length of the whole, then that much less four bytes.

/// Longest packet, in bytes, its length included (gitprotocol-common(5)).
pub const MAX_PACKET: usize = 65_520;

/// One packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packet<'a> {
    /// `0000`: the end of a list.
    Flush,
    /// `0001` or `0002`, which mean something in version 2 only.
    Special,
    /// What a packet holds.
    Data(&'a [u8]),
}

/// The packet at the beginning of `bytes` and its length; none when more bytes are needed.
///
/// # Errors
/// A sentence, when no packet begins like this.
pub fn next(bytes: &[u8]) -> Result<Option<(Packet<'_>, usize)>, &'static str> {
    let Some(digits) = bytes.get(..4) else {
        // What cannot become a length is refused before the rest of it comes.
        return if bytes.iter().all(u8::is_ascii_hexdigit) { Ok(None) } else { Err(NO_LENGTH) };
    };
    let mut length = 0;
    for digit in digits {
        length = length * 16 + char::from(*digit).to_digit(16).ok_or(NO_LENGTH)? as usize;
    }
    match length {
        0 => Ok(Some((Packet::Flush, 4))),
        1 | 2 => Ok(Some((Packet::Special, 4))),
        3 => Err(NO_LENGTH),
        4..=MAX_PACKET => Ok(bytes.get(4..length).map(|data| (Packet::Data(data), length))),
        _ => Err("a packet is longer than git allows"),
    }
}

const NO_LENGTH: &str = "a packet does not begin with its length";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lengths_are_four_hexadecimal_digits_of_any_case_and_nothing_else() {
        assert_eq!(next(b"0000rest"), Ok(Some((Packet::Flush, 4))));
        assert_eq!(next(b"0001"), Ok(Some((Packet::Special, 4))));
        assert_eq!(next(b"0002"), Ok(Some((Packet::Special, 4))));
        assert_eq!(next(b"0004"), Ok(Some((Packet::Data(b""), 4))));
        assert_eq!(next(b"000Aabcdefgh"), Ok(Some((Packet::Data(b"abcdef"), 10))));
        for short in [&b""[..], b"0", b"00a", b"000aabcde"] {
            assert_eq!(next(short), Ok(None), "{short:?}");
        }
        for bad in [&b"0003"[..], b"fff1", b"ffff", b"+004", b"00 4", b"0x04", b"PACK", b"g", b"-", b"\0\0\0\0"] {
            assert!(next(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_and_a_part_of_it_is_never_more(
            packets in prop::collection::vec(prop::option::of(prop::collection::vec(any::<u8>(), 0..40)), 0..8),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = Vec::new();
            for packet in &packets {
                match packet {
                    None => bytes.extend_from_slice(b"0000"),
                    Some(data) => {
                        bytes.extend_from_slice(format!("{:04x}", data.len() + 4).as_bytes());
                        bytes.extend_from_slice(data);
                    }
                }
            }
            let read = |mut bytes: &[u8]| {
                let mut found = Vec::new();
                while let Some((packet, length)) = next(bytes).unwrap() {
                    found.push(match packet {
                        Packet::Data(data) => Some(data.to_vec()),
                        _ => None,
                    });
                    bytes = &bytes[length..];
                }
                (found, bytes.len())
            };
            prop_assert_eq!(read(&bytes), (packets.clone(), 0));
            let part = read(&bytes[..cut.index(bytes.len() + 1)]).0;
            prop_assert!(packets.starts_with(&part));
        }

        #[test]
        fn any_bytes_give_a_packet_within_them_or_none(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(Some((_, length))) = next(&bytes) {
                prop_assert!((4..=bytes.len()).contains(&length));
            }
        }
    }
}
