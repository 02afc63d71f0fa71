//! Where a request wants to go: what stands in its first line, read once, by the rules that browsers read URLs by.
//!
//! Those rules make one thing of a host, whatever it is written like: a number in any notation is the address that it is,
//! a name is lower-case ASCII. What they do not understand is refused.

use std::fmt;
use std::net::IpAddr;

use hyper::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use hyper::http::request::Parts;
use hyper::{Method, StatusCode};
use reqwest::Url;

use super::config::Allowed;
use crate::relay::failure::Failure;

/// Longest name, in bytes.
const MAX_NAME: usize = 253;
/// Longest part of a name, in bytes.
const MAX_LABEL: usize = 63;

/// A host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// A name: lower case, with a dot in it and none at its end.
    Name(String),
    /// An address.
    Address(IpAddr),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(address) => address.fmt(f),
        }
    }
}

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The host.
    pub host: Host,
    /// The port.
    pub port: u16,
    /// Whether a tunnel is asked for.
    pub tunnel: bool,
}

/// Reads and judges where a request wants to go, as far as that is known before its name is resolved.
///
/// # Errors
/// What is wrong with it.
pub fn read(head: &Parts, allowed: &Allowed, ports: &[u16]) -> Result<Target, Failure> {
    let tunnel = head.method == Method::CONNECT;
    let Some(authority) = head.uri.authority().map(|authority| authority.as_str()) else {
        let message = "this is a proxy: send CONNECT, or a whole URL that begins with http://";
        return Err(Failure::bad("not_a_proxy_request", message));
    };
    if tunnel && [CONTENT_LENGTH, TRANSFER_ENCODING].iter().any(|name| head.headers.contains_key(name)) {
        return Err(Failure::bad("body_not_allowed", "CONNECT has no body"));
    }
    if !tunnel && head.uri.scheme_str() != Some("http") {
        return Err(Failure::bad("scheme_not_allowed", "only http:// is forwarded; for https:// send CONNECT"));
    }
    if tunnel && head.uri.port().is_none() {
        return Err(Failure::bad("host_not_valid", "CONNECT wants HOST:PORT"));
    }
    let (host, port) = parse(authority).ok_or_else(|| Failure::bad("host_not_valid", "this is no host and port"))?;
    let refused = |code, message: String| Err(Failure::new(StatusCode::FORBIDDEN, code, message));
    if !ports.contains(&port) {
        let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
        return refused("port_not_allowed", format!("only these ports may be reached: {}", ports.join(", ")));
    }
    if !allowed.permits(&host.to_string()) {
        return refused("host_not_allowed", format!("SANDBOX_INTERNET_ALLOW does not have {host}"));
    }
    Ok(Target { host, port, tunnel })
}

/// The host and port of an authority without a user; the port is 80 when there is none.
fn parse(authority: &str) -> Option<(Host, u16)> {
    if authority.contains('@') {
        return None;
    }
    let url = Url::parse(&format!("http://{authority}/")).ok()?;
    let (text, port) = (url.host_str()?, url.port_or_known_default()?);
    if let Ok(address) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Some((Host::Address(address), port));
    }
    let name = text.strip_suffix('.').unwrap_or(text);
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
    let label = |label: &str| (1..=MAX_LABEL).contains(&label.len()) && label.bytes().all(plain);
    // A name without a dot is one of this machine or its network.
    let whole = name.len() <= MAX_NAME && name.contains('.') && name.split('.').all(label);
    whole.then(|| (Host::Name(name.to_owned()), port))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use hyper::Request;
    use proptest::prelude::*;

    use super::*;

    fn judged(method: &str, uri: &str, allow: &str) -> String {
        let Ok(request) = Request::builder().method(method).uri(uri).body(()) else { return "no URI".to_owned() };
        let read = read(&request.into_parts().0, &Allowed::new(allow).unwrap(), &[80, 443, 8080]);
        read.map_or_else(|failure| failure.code.to_owned(), |target| format!("{} {}", target.host, target.port))
    }

    #[test]
    fn every_notation_of_an_address_is_the_address_that_it_is() {
        for (written, expected) in [
            ("127.0.0.1", "127.0.0.1"),
            ("127.1", "127.0.0.1"),
            ("127.0.1", "127.0.0.1"),
            ("0x7f.1", "127.0.0.1"),
            ("0X7F.0.0.1", "127.0.0.1"),
            ("0177.0.0.1", "127.0.0.1"),
            ("2130706433", "127.0.0.1"),
            ("017700000001", "127.0.0.1"),
            ("0x7f000001", "127.0.0.1"),
            ("127.0.0.1.", "127.0.0.1"),
            ("0", "0.0.0.0"),
            ("0x0", "0.0.0.0"),
            ("169.254.43518", "169.254.169.254"),
            ("0xa9fea9fe", "169.254.169.254"),
            ("[::1]", "::1"),
            ("[0:0:0:0:0:0:0:1]", "::1"),
            ("[::ffff:127.0.0.1]", "::ffff:127.0.0.1"),
            ("[::FFFF:7f00:1]", "::ffff:127.0.0.1"),
            ("[64:ff9b::7f00:1]", "64:ff9b::7f00:1"),
        ] {
            assert_eq!(judged("CONNECT", &format!("{written}:443"), ""), format!("{expected} 443"), "{written}");
            assert_eq!(judged("GET", &format!("http://{written}/x"), ""), format!("{expected} 80"), "{written}");
        }
    }

    #[test]
    fn names_are_lower_case_ascii_without_a_dot_at_their_end() {
        for (written, expected) in [
            ("example.org", "example.org"),
            ("EXAMPLE.Org", "example.org"),
            ("example.org.", "example.org"),
            ("_x.example-1.org", "_x.example-1.org"),
            ("1.example.org", "1.example.org"),
        ] {
            assert_eq!(judged("CONNECT", &format!("{written}:443"), ""), format!("{expected} 443"), "{written}");
            assert_eq!(judged("GET", &format!("http://{written}:8080/"), ""), format!("{expected} 8080"), "{written}");
        }
    }

    #[test]
    fn what_is_encoded_is_what_it_decodes_to_where_it_gets_this_far_at_all() {
        for (written, expected) in [
            ("%31%32%37.0.0.1", "127.0.0.1"),
            ("127%2e0%2e0%2e1", "127.0.0.1"),
            // Digits and dots of other scripts.
            ("%ef%bc%91%ef%bc%92%ef%bc%97.0.0.1", "127.0.0.1"),
            ("127%e3%80%820%e3%80%820%e3%80%821", "127.0.0.1"),
            ("%e2%91%a0%e2%91%a1%e2%91%a6.0.0.1", "127.0.0.1"),
            ("%65xample.org", "example.org"),
            ("%ef%bd%85xample.org", "example.org"),
            ("ex%c3%a4mple.org", "xn--exmple-cua.org"),
        ] {
            assert_eq!(parse(written).unwrap().0.to_string(), expected, "{written}");
            assert_eq!(judged("CONNECT", &format!("{written}:443"), ""), "no URI", "{written}");
        }
    }

    #[test]
    fn what_is_no_host_or_no_request_for_a_proxy_is_refused() {
        let long = format!("{}.org", "a".repeat(64));
        let longer = format!("{}org", "a23456789.".repeat(26));
        let hosts = "localhost metadata router localhost. 256.0.0.1 1.2.3.4.5 0x7g.1 1.2.3.08 a..org .org a.org.. \
            example.org.1 user@example.org example.org:99999 user:pw@example.org 127.0.0.1@example.org \
            [fe80::1%25eth0] [fe80::1%eth0] [::1 ::1 [127.0.0.1] [::1]x %00.org a%20b.org a%2fb.org \
            a%40b.org a%3ab.org a%25b.org a*b.org a,b.org a~b.org a'b.org *";
        for host in hosts.split(' ').chain([long.as_str(), &longer]) {
            for (method, uri) in [("CONNECT", format!("{host}:443")), ("GET", format!("http://{host}/"))] {
                let judged = judged(method, &uri, "");
                let expected = ["host_not_valid", "not_a_proxy_request", "no URI", "scheme_not_allowed"];
                assert!(expected.contains(&judged.as_str()), "{method} {uri}: {judged}");
            }
        }
        for (method, uri, expected) in [
            ("GET", "/", "not_a_proxy_request"),
            ("OPTIONS", "*", "not_a_proxy_request"),
            ("GET", "https://example.org/", "scheme_not_allowed"),
            ("GET", "ftp://example.org/", "scheme_not_allowed"),
            ("GET", "ws://example.org/", "scheme_not_allowed"),
            ("CONNECT", "example.org", "host_not_valid"),
            ("CONNECT", "[::1]", "host_not_valid"),
            ("CONNECT", "example.org:0", "port_not_allowed"),
            ("CONNECT", "example.org:22", "port_not_allowed"),
            ("CONNECT", "example.org:25", "port_not_allowed"),
            ("GET", "http://example.org:6379/", "port_not_allowed"),
            ("GET", "http://example.org:443/", "example.org 443"),
            ("CONNECT", "example.org:080", "example.org 80"),
        ] {
            assert_eq!(judged(method, uri, ""), expected, "{method} {uri}");
        }
        let request = Request::builder().method("CONNECT").uri("example.org:443").header("content-length", "1");
        let head = request.body(()).unwrap().into_parts().0;
        assert_eq!(read(&head, &Allowed::default(), &[443]).unwrap_err().code, "body_not_allowed");
    }

    #[test]
    fn with_a_list_only_what_is_on_it_may_be_reached() {
        let list = "registry.example.net, *.Example.org,93.184.216.34";
        for (host, permitted) in [
            ("registry.example.net", true),
            ("REGISTRY.example.net.", true),
            ("example.net", false),
            ("x.registry.example.net", false),
            ("a.example.org", true),
            ("a.b.example.org", true),
            ("example.org", false),
            ("evilexample.org", false),
            ("example.org.evil.net", false),
            ("93.184.216.34", true),
            ("0x5db8d822", true),
            ("93.184.216.35", false),
            ("[2606:2800:220:1::1]", false),
        ] {
            let judged = judged("CONNECT", &format!("{host}:443"), list);
            assert_eq!(judged != "host_not_allowed", permitted, "{host}: {judged}");
        }
    }

    proptest! {
        /// Whatever is written, what comes out is an address or a plain name, and stays what it is when it is read again.
        #[test]
        fn what_is_read_is_read_the_same_again(host in "[a-z0-9.%xX\\[\\]:@_~-]{1,24}|[0-9a-fx.]{1,16}|\\PC{1,12}") {
            if let Some((host, port)) = parse(&host) {
                let again = match &host {
                    Host::Address(IpAddr::V6(address)) => format!("[{address}]:{port}"),
                    host => format!("{host}:{port}"),
                };
                prop_assert_eq!(parse(&again), Some((host.clone(), port)));
                if let Host::Name(name) = host {
                    prop_assert!(name.parse::<IpAddr>().is_err());
                    prop_assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b)));
                    let last = name.rsplit('.').next().unwrap();
                    prop_assert!(!last.bytes().all(|b| b.is_ascii_digit()), "{}", name);
                }
            }
        }
    }
}
