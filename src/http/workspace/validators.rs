//! `ETag`, `Last-Modified` and the headers that ask about them, as RFC 9110 says, section 13.

use std::time::{Duration, UNIX_EPOCH};

use axum::http::{HeaderMap, header};
use headers::{ETag, Header, IfMatch, IfModifiedSince, IfNoneMatch, IfRange, IfUnmodifiedSince, LastModified};

use crate::http::problem::{self, Problem};
use crate::worker::message::Version;

/// What a conditional request comes to.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Answer it.
    Go,
    /// The caller has it: 304.
    NotModified,
    /// It is not what the caller thinks: 412.
    Failed,
}

/// The strong validator of a version of a file. Every write by the API makes a new inode; a write by the agent changes
/// times and size. It says nothing about the content itself.
pub fn etag(version: &Version) -> String {
    format!("\"{:x}-{:x}-{:x}-{:x}\"", version.inode, version.size, version.modified, version.changed)
}

/// When a version was made.
pub fn timestamp(version: &Version) -> jiff::Timestamp {
    jiff::Timestamp::from_nanosecond(i128::from(version.modified)).unwrap_or_default()
}

/// `Last-Modified` of a version: whole seconds, none before 1970.
pub fn last_modified(version: &Version) -> LastModified {
    let seconds = u64::try_from(version.modified / 1_000_000_000).unwrap_or(0);
    LastModified::from(UNIX_EPOCH + Duration::from_secs(seconds))
}

/// A header, when it is there and well-formed.
///
/// # Errors
/// A problem when it is there and not well-formed: to ignore it would do what the caller wanted to prevent.
fn header_of<H: Header>(headers: &HeaderMap) -> Result<Option<H>, Box<Problem>> {
    let mut values = headers.get_all(H::name()).iter().peekable();
    if values.peek().is_none() {
        return Ok(None);
    }
    let name = H::name();
    H::decode(&mut values).map(Some).map_err(|_| {
        Problem::new(problem::INVALID_PARAMETER, format!("{name}: not of the form that RFC 9110 gives it."))
    })
}

/// Judges a request by the version that is there, None when nothing is; in the order of RFC 9110, section 13.2.2.
///
/// # Errors
/// A header that is not well-formed.
pub fn judge(headers: &HeaderMap, version: Option<&Version>, reads: bool) -> Result<Verdict, Box<Problem>> {
    let tag: Option<ETag> = version.and_then(|version| etag(version).parse().ok());
    let modified = version.map(|version| UNIX_EPOCH + Duration::from_nanos(version.modified.max(0).unsigned_abs()));
    let whole = modified.map(|time| {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        UNIX_EPOCH + Duration::from_secs(since.as_secs())
    });
    if let Some(wanted) = header_of::<IfMatch>(headers)? {
        if !tag.as_ref().is_some_and(|tag| wanted.precondition_passes(tag)) {
            return Ok(Verdict::Failed);
        }
    } else if let Some(wanted) = header_of::<IfUnmodifiedSince>(headers)?
        && !whole.is_some_and(|whole| wanted.precondition_passes(whole))
    {
        return Ok(Verdict::Failed);
    }
    if let Some(unwanted) = header_of::<IfNoneMatch>(headers)? {
        if tag.as_ref().is_some_and(|tag| !unwanted.precondition_passes(tag)) {
            return Ok(if reads { Verdict::NotModified } else { Verdict::Failed });
        }
    } else if reads
        && let Some(since) = header_of::<IfModifiedSince>(headers)?
        && whole.is_some_and(|whole| !since.is_modified(whole))
    {
        return Ok(Verdict::NotModified);
    }
    Ok(Verdict::Go)
}

/// Whether a write depends on what is there.
pub fn is_conditional(headers: &HeaderMap) -> bool {
    [header::IF_MATCH, header::IF_NONE_MATCH, header::IF_UNMODIFIED_SINCE].iter().any(|name| headers.contains_key(name))
}

/// Whether `Range` counts: without `If-Range`, or with one that names this version by its `ETag`. A date does not: a file
/// that is written twice within a second has the same one, and the parts of two versions would be put together.
///
/// # Errors
/// A header that is not well-formed.
pub fn range_counts(headers: &HeaderMap, version: &Version) -> Result<bool, Box<Problem>> {
    let Some(condition) = header_of::<IfRange>(headers)? else { return Ok(true) };
    let tag: Option<ETag> = etag(version).parse().ok();
    Ok(!condition.is_modified(tag.as_ref(), None))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const THERE: Version = Version { inode: 7, size: 3, modified: 1_700_000_000_500_000_000, changed: -1 };

    fn judged(name: &str, value: &str, version: Option<&Version>, reads: bool) -> Verdict {
        let mut headers = HeaderMap::new();
        headers.insert(header::HeaderName::try_from(name).unwrap(), value.parse().unwrap());
        judge(&headers, version, reads).unwrap()
    }

    #[test]
    fn conditions_are_judged_as_rfc_9110_says() {
        let (tag, there) = (etag(&THERE), Some(&THERE));
        let (then, later) = ("Tue, 14 Nov 2023 22:13:20 GMT", "Tue, 14 Nov 2023 22:13:21 GMT");
        let before = "Tue, 14 Nov 2023 22:13:19 GMT";
        for (name, value, version, reads, verdict) in [
            ("if-match", tag.as_str(), there, true, Verdict::Go),
            ("if-match", "*", there, false, Verdict::Go),
            ("if-match", "*", None, false, Verdict::Failed),
            ("if-match", "\"other\"", there, true, Verdict::Failed),
            ("if-match", &format!("\"other\", {tag}"), there, false, Verdict::Go),
            ("if-match", &format!("W/{tag}"), there, false, Verdict::Failed),
            ("if-none-match", &tag, there, true, Verdict::NotModified),
            ("if-none-match", &format!("W/{tag}"), there, true, Verdict::NotModified),
            ("if-none-match", &tag, there, false, Verdict::Failed),
            ("if-none-match", "*", there, false, Verdict::Failed),
            ("if-none-match", "*", None, false, Verdict::Go),
            ("if-none-match", "\"other\"", there, true, Verdict::Go),
            ("if-modified-since", then, there, true, Verdict::NotModified),
            ("if-modified-since", before, there, true, Verdict::Go),
            ("if-modified-since", then, there, false, Verdict::Go),
            ("if-unmodified-since", then, there, false, Verdict::Go),
            ("if-unmodified-since", later, there, true, Verdict::Go),
            ("if-unmodified-since", before, there, false, Verdict::Failed),
        ] {
            assert_eq!(judged(name, value, version, reads), verdict, "{name}: {value}");
        }
        let mut bad = HeaderMap::new();
        bad.insert(header::IF_MATCH, "no quotes".parse().unwrap());
        assert_eq!(judge(&bad, there, false).unwrap(), Verdict::Failed, "what is no tag is no tag of ours");
    }

    #[test]
    fn a_range_of_another_version_is_no_range() {
        let mut headers = HeaderMap::new();
        assert!(range_counts(&headers, &THERE).unwrap());
        headers.insert(header::IF_RANGE, etag(&THERE).parse().unwrap());
        assert!(range_counts(&headers, &THERE).unwrap());
        headers.insert(header::IF_RANGE, "\"other\"".parse().unwrap());
        assert!(!range_counts(&headers, &THERE).unwrap());
        for date in ["Tue, 14 Nov 2023 22:13:20 GMT", "Tue, 14 Nov 2023 22:13:21 GMT"] {
            headers.insert(header::IF_RANGE, date.parse().unwrap());
            assert!(!range_counts(&headers, &THERE).unwrap(), "{date}: another version may have been there then");
        }
    }
}
