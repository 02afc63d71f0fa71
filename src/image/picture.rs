//! Whether bytes are an image: of a known type, of a sane size, and whole. Nothing is decoded and nothing changed.
//!
//! The bytes come from an upstream that may be broken or lie, so a page of HTML, another type under the name of this one,
//! and what breaks off are told from an image by their structure. Whether the pixels are any good is for the eye to say.

use imagesize::ImageType;

use super::wish::Format;

/// The most pixels of a side.
const MAX_SIDE: usize = 8192;

/// Checks that `bytes` are an image of this type; gives its width and height in pixels.
///
/// # Errors
/// What is wrong with it.
pub fn check(bytes: &[u8], format: Format) -> Result<(usize, usize), &'static str> {
    let found = match imagesize::image_type(bytes) {
        Ok(ImageType::Png) => Format::Png,
        Ok(ImageType::Jpeg) => Format::Jpeg,
        Ok(ImageType::Webp) => Format::Webp,
        _ => return Err("it is no PNG, JPEG or WebP"),
    };
    if found != format {
        return Err("it is of another type than was asked for");
    }
    let whole = match format {
        Format::Png => is_whole_png(bytes),
        Format::Jpeg => bytes.ends_with(&[0xff, 0xd9]),
        Format::Webp => is_whole_webp(bytes),
    };
    if !whole {
        return Err("it is not whole");
    }
    let size = imagesize::blob_size(bytes).map_err(|_| "its size cannot be read")?;
    let sane = |side: usize| (1..=MAX_SIDE).contains(&side);
    if sane(size.width) && sane(size.height) { Ok((size.width, size.height)) } else { Err("its size is not sane") }
}

/// A signature and chunks: a header first, data in between, an end last, and nothing behind it.
fn is_whole_png(bytes: &[u8]) -> bool {
    let mut rest = bytes.get(8..).unwrap_or_default();
    let (mut first, mut data) = (true, false);
    loop {
        // Length, name, content, checksum.
        let Some((length, behind)) = rest.split_first_chunk::<4>() else { return false };
        let Some((name, behind)) = behind.split_first_chunk::<4>() else { return false };
        let whole = (u32::from_be_bytes(*length) as usize).saturating_add(4);
        let Some(next) = behind.get(whole..) else { return false };
        if first != (name == b"IHDR") {
            return false;
        }
        first = false;
        data |= name == b"IDAT";
        if name == b"IEND" {
            return data && next.is_empty();
        }
        rest = next;
    }
}

/// A container that says how long it is; a byte to an even length may follow.
fn is_whole_webp(bytes: &[u8]) -> bool {
    let length = bytes.get(4..8).and_then(|field| field.first_chunk::<4>());
    length.is_some_and(|length| (u32::from_le_bytes(*length) as usize).saturating_add(8) == bytes.len())
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use proptest::prelude::*;

    use super::*;

    /// A PNG of 2 by 3 pixels.
    pub const PNG: &str = "iVBORw0KGgoAAAANSUhEUgAAAAIAAAADCAIAAAA2iEnWAAAAFElEQVR4nGM8ESDCwMDAxMDAgKAAF0wBMnFkAlUAAAAASUVORK5C\
        YII=";
    const JPEG: &str = "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDABsSFBcUERsXFhceHBsgKEIrKCUlKFE6PTBCYFVlZF9VXVtqeJmBanGQc1tdhbWGkJ6j\
        q62rZ4C8ybqmx5moq6T/2wBDARweHigjKE4rK06kbl1upKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSk\
        pKSkpKSkpKT/wAARCAADAAIDASIAAhEBAxEB/8QAFQABAQAAAAAAAAAAAAAAAAAAAAP/xAAUEAEAAAAAAAAAAAAAAAAAAAAA/8QA\
        FQEBAQAAAAAAAAAAAAAAAAAABAX/xAAUEQEAAAAAAAAAAAAAAAAAAAAA/9oADAMBAAIRAxEAPwCIAKm//9k=";
    const WEBP: &str = "UklGRh4AAABXRUJQVlA4TBEAAAAvAYAAAAdQqCKXov+BiOh/AAA=";

    fn bytes(text: &str) -> Vec<u8> {
        STANDARD.decode(text).unwrap()
    }

    #[test]
    fn images_are_told_from_everything_else() {
        let all = [(PNG, Format::Png), (JPEG, Format::Jpeg), (WEBP, Format::Webp)];
        for (text, format) in all {
            let image = bytes(text);
            assert_eq!(check(&image, format), Ok((2, 3)), "{format:?}");
            for other in all.map(|(_, other)| other).into_iter().filter(|other| *other != format) {
                assert!(check(&image, other).is_err(), "{format:?} is no {other:?}");
            }
            for end in 0..image.len() {
                assert!(check(&image[..end], format).is_err(), "{format:?} cut at {end}");
            }
            assert!(check(&[&image, b"<html>".as_slice()].concat(), format).is_err(), "{format:?} with a tail");
        }
        for bad in [&b""[..], b"<!doctype html><html></html>", b"GIF89a", b"<svg/>", b"\x89PNG\r\n\x1a\n"] {
            assert!(check(bad, Format::Png).is_err());
        }
        let mut huge = bytes(PNG);
        huge[16..20].copy_from_slice(&100_000_u32.to_be_bytes());
        assert_eq!(check(&huge, Format::Png), Err("its size is not sane"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged_without_a_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..200), which in 0_usize..3, at in 0_usize..40,
        ) {
            let mut image = self::bytes([PNG, JPEG, WEBP][which]);
            let at = at.min(image.len());
            image.splice(at..at, bytes.iter().copied());
            for format in [Format::Png, Format::Jpeg, Format::Webp] {
                let _ = (check(&image, format), check(&bytes, format));
            }
        }
    }
}
