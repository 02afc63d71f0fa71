//! What may be handed over, by whom, and how often.

use std::net::UdpSocket;

use super::*;

#[test]
fn offers_that_break_the_rules_are_refused_with_a_sentence_and_the_next_good_one_is_taken() {
    let upstream = Fake::start(Mode::Whole);
    let bench = Bench::new(&upstream);
    let good = format!("1 model {}", Uuid::now_v7());
    let listener = bench.listener.as_fd();
    let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(elsewhere.local_addr().unwrap()).unwrap();
    let udp = UdpSocket::bind(("127.0.0.1", bench.port)).unwrap();
    let file = tempfile::tempfile().unwrap();
    let many = vec![listener; 64];
    for (message, fds, word) in [
        (good.as_str(), &[][..], "no descriptor"),
        (good.as_str(), &[listener, listener][..], "exactly one"),
        (good.as_str(), &many[..], "exactly one"),
        ("1 model", &[listener][..], "must be"),
        ("", &[listener][..], "must be"),
        ("1 model ../../etc", &[listener][..], "must be"),
        (&good.replace("model", "git"), &[listener][..], "must be"),
        (&format!("{good}{}", " ".repeat(300)), &[listener][..], "must be"),
        (good.as_str(), &[elsewhere.as_fd()][..], "port"),
        (good.as_str(), &[client.as_fd()][..], "does not listen"),
        (good.as_str(), &[udp.as_fd()][..], "not a TCP"),
        (good.as_str(), &[file.as_fd()][..], "not an IPv4"),
    ] {
        let answer = bench.offer(message, fds);
        assert!(answer.contains(word), "{message} with {}: {answer}", fds.len());
    }
    let (bench, _) = bench.handed_over();
    assert_eq!(status(&bench.post("", BODY)), 200);
}

#[test]
fn strangers_are_turned_away() {
    let upstream = Fake::start(Mode::Whole);
    let other = own_uid() + 1;
    let bench = Bench::with(&upstream.base(), waits(), other..=other + 9, |_| Vec::new());
    let peer = peer();
    rustix::net::connect(&peer, &SocketAddrUnix::new(bench.socket()).unwrap()).unwrap();
    assert!(receive(&peer).contains("users"), "an answer before any message");
    assert_eq!(receive(&peer), "", "and the connection is closed");
}

#[test]
fn a_silent_peer_is_ended_and_the_number_of_peers_is_bounded() {
    let upstream = Fake::start(Mode::Whole);
    let waits = relay_waits(|waits| waits.hand_over = Duration::from_secs(2));
    let bench = Bench::with(&upstream.base(), waits, own_uid()..=own_uid(), |_| Vec::new());
    let most = crate::relay::limits::MAX_PENDING_PER_USER;
    let peers: Vec<OwnedFd> = (0..=most)
        .map(|_| {
            let peer = peer();
            rustix::net::connect(&peer, &SocketAddrUnix::new(bench.socket()).unwrap()).unwrap();
            peer
        })
        .collect();
    assert!(receive(&peers[most]).contains("too many"), "the one too many is refused at once");
    for peer in &peers[..most] {
        assert!(receive(peer).contains("in time"));
    }
    let (bench, _) = bench.handed_over();
    assert_eq!(status(&bench.post("", BODY)), 200);
}

#[test]
fn a_second_listener_of_a_living_process_is_refused() {
    let upstream = Fake::start(Mode::Whole);
    let (bench, _) = Bench::new(&upstream).handed_over();
    let answer = bench.offer(&format!("1 model {}", Uuid::now_v7()), &[bench.listener.as_fd()]);
    assert!(answer.contains("already"), "{answer}");
    assert_eq!(status(&bench.post("", BODY)), 200, "the first one is not disturbed");
}

#[test]
fn the_same_listener_for_the_same_run_is_taken_again_by_saying_so() {
    let upstream = Fake::start(Mode::Whole);
    let (bench, run) = Bench::new(&upstream).handed_over();
    assert_eq!(bench.offer(&format!("1 model {run}"), &[bench.listener.as_fd()]), "ok");
    assert_eq!(status(&bench.post("", BODY)), 200, "and is served as before");
}

#[test]
fn a_left_behind_socket_is_replaced_and_another_file_is_not() {
    let upstream = Fake::start(Mode::Whole);
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let path = dir.path().join("s");
        drop(crate::relay::handover::Door::bind(&path, 0..=1).unwrap());
        assert!(path.exists());
        assert!(crate::relay::handover::Door::bind(&path, 0..=1).is_ok());
        let file = dir.path().join("f");
        std::fs::write(&file, "mine").unwrap();
        assert!(crate::relay::handover::Door::bind(&file, 0..=1).is_err());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "mine");
    });
    drop(upstream);
}
