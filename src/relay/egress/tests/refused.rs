//! What a hostile agent may try: none of it connects anywhere.

use super::*;

#[test]
fn forbidden_addresses_ports_hosts_and_requests_are_refused_and_nobody_is_called() {
    let server = Server::start(Mode::Echo);
    let bench = Bench::new(&server);
    let port = server.port();
    // Without the judgement those of IPv4 would reach the server: it listens on all of loopback.
    TcpStream::connect(("127.0.0.2", port)).unwrap();
    for host in ["127.0.0.2", "127.2", "0x7f.2", "2130706434", "017700000002", "127.0.0.2.", "[::1]"] {
        for request in [
            format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: x\r\n\r\n"),
            format!("GET http://{host}:{port}/ HTTP/1.1\r\nHost: x\r\n\r\n"),
        ] {
            let answer = bench.raw(request.as_bytes());
            assert_eq!((status(&answer), code(&answer)), (403, "address_not_allowed"), "{request}: {answer}");
        }
    }
    for (line, expected, reason) in [
        (format!("CONNECT 127.0.0.1:{} HTTP/1.1", port ^ 1), 403, "port_not_allowed"),
        (format!("CONNECT localhost:{port} HTTP/1.1"), 400, "host_not_valid"),
        (format!("CONNECT user@127.0.0.1:{port} HTTP/1.1"), 400, "host_not_valid"),
        (format!("GET https://127.0.0.1:{port}/ HTTP/1.1"), 400, "scheme_not_allowed"),
        (format!("GET ftp://127.0.0.1:{port}/ HTTP/1.1"), 400, "scheme_not_allowed"),
        ("GET / HTTP/1.1".to_owned(), 400, "not_a_proxy_request"),
        ("GET /?http://127.0.0.1/ HTTP/1.1".to_owned(), 400, "not_a_proxy_request"),
        ("OPTIONS * HTTP/1.1".to_owned(), 400, "not_a_proxy_request"),
    ] {
        let answer = bench.raw(format!("{line}\r\nHost: x\r\n\r\n").as_bytes());
        assert_eq!((status(&answer), code(&answer)), (expected, reason), "{line}: {answer}");
    }
    for garbage in [
        &format!("CONNECT %31%32%37.0.0.1:{port} HTTP/1.1\r\n\r\n"),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01",
        "\x05\x01\x00",
        "\x04\x01\x01\x7f",
        "\r\n\r\n\r\n",
    ] {
        let answer = bench.raw(garbage.as_bytes());
        assert!(answer.is_empty() || (400..600).contains(&status(&answer)), "{garbage:?}: {answer}");
    }
    let with_body = format!("CONNECT 127.0.0.1:{port} HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc");
    assert_eq!(code(&bench.raw(with_body.as_bytes())), "body_not_allowed");
    assert_eq!(server.connections(), 1);
    // The same relay lets the honest request through, so that the refusals mean something.
    let mut stream = bench.connect();
    stream.write_all(format!("CONNECT 127.0.0.1:{port} HTTP/1.1\r\nHost: x\r\n\r\n!").as_bytes()).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(read_all(&mut stream).ends_with("\r\n\r\n!"));
    assert_eq!(server.connections(), 2);
}

#[test]
fn a_list_of_hosts_holds_for_addresses_as_well() {
    let server = Server::start(Mode::Echo);
    let bench = Bench::with(&server, limits(), "*.example.org");
    for host in ["127.0.0.1", "example.org", "example.org.evil.net"] {
        let answer = bench.raw(format!("CONNECT {host}:{} HTTP/1.1\r\nHost: x\r\n\r\n", server.port()).as_bytes());
        assert_eq!((status(&answer), code(&answer)), (403, "host_not_allowed"), "{host}: {answer}");
    }
    assert_eq!(server.connections(), 0);
}

#[test]
fn a_host_that_takes_no_connection_or_speaks_no_http_is_told() {
    let server = Server::start(Mode::Answer(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()));
    let bench = Bench::new(&server);
    // Port 80 of this machine, where nothing is expected to listen.
    if TcpStream::connect("127.0.0.1:80").is_err() {
        let answer = bench.raw(b"CONNECT 127.0.0.1:80 HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_eq!((status(&answer), code(&answer)), (502, "host_unreachable"), "{answer}");
    }
    for bytes in
        ["SSH-2.0-OpenSSH_9.2\r\n", "", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"]
    {
        let server = Server::start(Mode::Answer(bytes.as_bytes().to_vec()));
        let bench = Bench::new(&server);
        let answer = bench.raw(
            format!(
                "GET http://127.0.0.1:{}/ HTTP/1.1\r\nHost: x\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
                server.port()
            )
            .as_bytes(),
        );
        assert_eq!((status(&answer), code(&answer)), (502, "host_cut"), "{bytes:?}: {answer}");
        assert_eq!(bench.log(1)[0]["code"], "host_cut");
    }
}
