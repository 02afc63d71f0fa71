//! Which addresses are the internet's, and neither this machine's nor its network's.
//!
//! Of IPv6 only what is given out for hosts (2000::/3) can pass, so every form that embeds an IPv4 address and has a
//! prefix of its own (mapped, compatible, NAT64) is out before it is looked into; so are 6to4 and Teredo, whatever they
//! embed. The ranges are those of IANA's special-purpose registries that are not globally reachable, with what clouds
//! keep for themselves at addresses that look public.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use ipnet::{Ipv4Net, Ipv6Net};

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(a: u16, b: u16, c: u16, prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0), prefix)
}

/// What of IPv4 is refused.
const REFUSED: [Ipv4Net; 16] = [
    // This network, and its unspecified address.
    v4(0, 0, 0, 0, 8),
    // Private.
    v4(10, 0, 0, 0, 8),
    v4(172, 16, 0, 0, 12),
    v4(192, 168, 0, 0, 16),
    // Between a carrier and its customers; some clouds' metadata.
    v4(100, 64, 0, 0, 10),
    // Loopback.
    v4(127, 0, 0, 0, 8),
    // Link-local; most clouds' metadata.
    v4(169, 254, 0, 0, 16),
    // Azure's host, which answers for metadata and DNS.
    v4(168, 63, 129, 16, 32),
    // Protocol assignments; one cloud's metadata.
    v4(192, 0, 0, 0, 24),
    // 6to4's relays.
    v4(192, 88, 99, 0, 24),
    // Documentation.
    v4(192, 0, 2, 0, 24),
    v4(198, 51, 100, 0, 24),
    v4(203, 0, 113, 0, 24),
    // Benchmarks.
    v4(198, 18, 0, 0, 15),
    // Multicast.
    v4(224, 0, 0, 0, 4),
    // Reserved, and the broadcast address.
    v4(240, 0, 0, 0, 4),
];

/// What of IPv6 is given out for hosts.
const GIVEN_OUT: Ipv6Net = v6(0x2000, 0, 0, 3);

/// What of that is refused.
const REFUSED_OF_V6: [Ipv6Net; 4] = [
    // Protocol assignments: Teredo, ORCHID, benchmarks.
    v6(0x2001, 0, 0, 23),
    // Documentation.
    v6(0x2001, 0xdb8, 0, 32),
    v6(0x3fff, 0, 0, 20),
    // 6to4.
    v6(0x2002, 0, 0, 16),
];

/// Whether an address is one of the internet.
#[must_use]
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !REFUSED.iter().any(|range| range.contains(&address)),
        IpAddr::V6(address) => {
            GIVEN_OUT.contains(&address)
                && !REFUSED_OF_V6.iter().any(|range| range.contains(&address))
                && isatap(address).is_none_or(|embedded| is_public(embedded.into()))
        }
    }
}

/// The IPv4 address in an interface identifier of ISATAP, which can stand behind any prefix.
fn isatap(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [.., kind, mark, high, low] = address.segments();
    let [[a, b], [c, d]] = [high, low].map(u16::to_be_bytes);
    (matches!(kind, 0 | 0x0200) && mark == 0x5efe).then(|| Ipv4Addr::new(a, b, c, d))
}

/// Whether an address is this machine's own, whatever it looks like: the kernel would answer from the address itself.
/// Nothing is sent to find that out.
#[must_use]
pub fn is_own(address: IpAddr) -> bool {
    let any: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let source = UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect((address, 443))?;
        socket.local_addr()
    });
    match source {
        Ok(source) => source.ip() == address,
        // No such protocol and no way there are for the connection to find out. A network's broadcast address is not
        // permitted; whatever cannot be judged is not either.
        Err(error) => {
            let none = error.raw_os_error() == Some(nix::libc::EAFNOSUPPORT);
            let no_way = [ErrorKind::NetworkUnreachable, ErrorKind::HostUnreachable, ErrorKind::AddrNotAvailable];
            !none && !no_way.contains(&error.kind())
        }
    }
}

/// Whether a connection may go to an address.
#[must_use]
pub fn may_be_reached(address: IpAddr) -> bool {
    is_public(address) && !is_own(address)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn public(text: &str) -> bool {
        is_public(text.parse().unwrap())
    }

    #[test]
    fn the_internet_passes_and_every_other_range_is_refused_from_its_first_to_its_last_address() {
        let good = "1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 93.184.216.34 100.63.255.255 100.128.0.0 126.255.255.255 \
            128.0.0.0 168.63.129.15 168.63.129.17 169.253.255.255 169.255.0.0 172.15.255.255 172.32.0.0 \
            191.255.255.255 192.0.1.0 192.0.3.0 192.167.255.255 192.169.0.0 198.17.255.255 198.20.0.0 \
            198.51.99.255 198.51.101.0 203.0.112.255 203.0.114.0 223.255.255.255 2000:: 2001:200::1 \
            2606:2800:220:1::1 2a00:1450:4001:801::200e 2001:db7:ffff::1 2001:db9:: 2003::1 3ffe:ffff::1 \
            2a00::5efe:808:808";
        for good in good.split_whitespace() {
            assert!(public(good), "{good}");
        }
        for (range, bad) in [
            ("this network", "0.0.0.0 0.0.0.1 0.255.255.255"),
            ("private", "10.0.0.0 10.255.255.255 172.16.0.0 172.31.255.255 192.168.0.0 192.168.255.255"),
            ("carrier", "100.64.0.0 100.100.100.200 100.127.255.255"),
            ("loopback", "127.0.0.0 127.0.0.1 127.255.255.255"),
            (
                "link-local, metadata",
                "169.254.0.0 169.254.169.254 169.254.169.253 169.254.170.2 169.254.255.255 168.63.129.16 192.0.0.192 \
                192.0.0.0 192.0.0.170 192.0.0.255",
            ),
            ("6to4", "192.88.99.0 192.88.99.255"),
            (
                "documentation, benchmarks",
                "192.0.2.0 192.0.2.255 198.51.100.0 198.51.100.255 203.0.113.0 203.0.113.255 198.18.0.0 \
                198.19.255.255",
            ),
            ("multicast, reserved, broadcast", "224.0.0.0 239.255.255.255 240.0.0.0 255.255.255.254 255.255.255.255"),
            (
                "unspecified, loopback, compatible, mapped, translated",
                ":: ::1 ::127.0.0.1 ::8.8.8.8 ::ffff:127.0.0.1 ::ffff:8.8.8.8 ::ffff:0:8.8.8.8",
            ),
            ("NAT64", "64:ff9b:: 64:ff9b::127.0.0.1 64:ff9b::8.8.8.8 64:ff9b:1:: 64:ff9b:1:ffff::1"),
            (
                "discard, link-local, site-local, unique local, metadata, multicast",
                "100::1 fe80::1 febf::1 fec0::1 feff::1 fc00::1 fd00::1 fd00:ec2::254 fdff::1 fd20:ce::254 ff00:: \
                ff02::1 ff05::2 ffff::1",
            ),
            (
                "Teredo, ORCHID, benchmarks, 6to4, documentation, segment routing",
                "2001:: 2001::1 2001:0:7f00:1:: 2001:10::1 2001:20::1 2001:2::1 2001:1ff:ffff::1 2002:: \
                2002:7f00:1::1 2002:a00:1:: 2002:808:808::1 2001:db8::1 2001:db8:ffff::1 3fff::1 3fff:fff::1 5f00::1 \
                4000::1 1fff::1",
            ),
            ("ISATAP", "2a00::5efe:7f00:1 2a00::5efe:a9fe:a9fe 2a00::200:5efe:10.0.0.1"),
        ] {
            for bad in bad.split_whitespace() {
                assert!(!public(bad), "{range}: {bad}");
            }
        }
    }

    proptest! {
        #[test]
        fn whatever_embeds_an_address_that_is_refused_is_refused(address in any::<u32>(), prefix in any::<[u16; 3]>()) {
            let embedded = Ipv4Addr::from(address);
            let [high, low] = [(address >> 16) as u16, address as u16];
            let [a, b, c] = prefix;
            let forms = [
                embedded.to_ipv6_mapped(),
                embedded.to_ipv6_compatible(),
                Ipv6Addr::new(0, 0, 0, 0, 0xffff, 0, high, low),
                Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low),
                Ipv6Addr::new(0x64, 0xff9b, 1, b, c, 0, high, low),
                Ipv6Addr::new(0x2002, high, low, a, 0, 0, b, c),
                Ipv6Addr::new(0x2001, 0, high, low, a, b, c, 0),
                Ipv6Addr::new(0x2001, 0, a, b, c, 0, !high, !low),
                Ipv6Addr::new(a, b, c, 0, 0, 0x5efe, high, low),
                Ipv6Addr::new(a, b, c, 0, 0x200, 0x5efe, high, low),
            ];
            for form in forms {
                prop_assert!(!is_public(form.into()) || is_public(embedded.into()), "{form}");
            }
        }

        /// Of what is refused nothing is refused by halves: a range's whole is out.
        #[test]
        fn no_address_of_a_refused_range_passes(bits in any::<u128>()) {
            for range in REFUSED {
                let host = (bits as u32).checked_shr(u32::from(range.prefix_len())).unwrap_or(0);
                prop_assert!(!is_public(Ipv4Addr::from(u32::from(range.network()) | host).into()));
            }
            for range in REFUSED_OF_V6 {
                let host = bits >> u32::from(range.prefix_len());
                prop_assert!(!is_public(Ipv6Addr::from(u128::from(range.network()) | host).into()));
            }
        }
    }

    #[test]
    fn this_machines_own_addresses_are_known_by_the_kernels_word() {
        for own in ["127.0.0.1", "::1"] {
            let own: IpAddr = own.parse().unwrap();
            // Without IPv6 there is no ::1.
            assert_eq!(is_own(own), UdpSocket::bind((own, 0)).is_ok(), "{own}");
        }
        assert!(!is_own("93.184.216.34".parse().unwrap()) && !is_own("2606:2800:220:1::1".parse().unwrap()));
    }
}
