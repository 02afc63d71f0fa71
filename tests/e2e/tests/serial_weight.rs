//! One user who sends or asks for much at once: the front keeps to its memory, and everybody else is served.

use std::io::Write;
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use pi_gateway_e2e::wire::{connect, front_memory, rest, statuses};
use pi_gateway_e2e::{User, sh, testhost};
use serde_json::json;

/// What the front may take at most: `MemoryMax=` of its unit is 1 GiB, and beyond it the kernel would kill it.
const MOST_KIB: usize = 800 << 10;

fn process() -> String {
    sh("systemctl show -p MainPID -p NRestarts pi-gateway")
}

/// Watches the front for a while as another user, who must be served.
fn others_are_served(seconds: u64, before: &str) -> usize {
    let other = User::new("other");
    let mut peak = 0;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(seconds) {
        assert_eq!(other.get("/runs").status, 200);
        assert_eq!(other.post("/runs", &[], &json!({"prompt": ""})).status, 422);
        peak = peak.max(front_memory());
        thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(process(), before, "the front was killed");
    assert!(peak < MOST_KIB, "{peak} KiB");
    peak
}

#[test]
fn a_user_who_uploads_sixty_large_bodies_at_once_holds_up_nobody_else() {
    testhost();
    let (user, before) = (User::new("heavy"), process());
    let head = format!(
        "POST /runs HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n",
        user.token,
        32 << 20
    );
    let piece = vec![b' '; 1 << 20];
    thread::scope(|scope| {
        let upload = || {
            let mut stream = connect();
            stream.write_all(head.as_bytes()).unwrap();
            stream.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
            // All but the last byte, as far as it is taken.
            for part in 0..32 {
                let end = if part == 31 { piece.len() - 1 } else { piece.len() };
                if stream.write_all(&piece[..end]).is_err() {
                    break;
                }
            }
            stream
        };
        let uploads: Vec<_> = (0..60).map(|_| scope.spawn(upload)).collect();
        println!("at most {} KiB", others_are_served(8, &before));
        drop(uploads.into_iter().map(|upload| upload.join().unwrap()).collect::<Vec<TcpStream>>());
    });
}

#[test]
fn a_user_who_asks_for_a_hundred_large_answers_and_reads_none_holds_up_nobody_else() {
    testhost();
    let (user, before) = (User::new("greedy"), process());
    // Each character becomes six in JSON.
    let id = user.start(&format!("[[say done]]{}", "\u{1}".repeat(5 << 20)));
    user.post(&format!("/runs/{id}/cancel"), &[], &json!({}));
    user.finished(&id);
    let request = format!("GET /runs/{id} HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {}\r\n\r\n", user.token);
    let unread: Vec<TcpStream> = (0..100)
        .map(|_| {
            let mut stream = connect();
            stream.write_all(request.as_bytes()).unwrap();
            stream
        })
        .collect();
    println!("at most {} KiB", others_are_served(8, &before));
    drop(unread);
}

/// Sends a chunked body without end to `/workspace/files`; gives the answer's status and how much was taken.
fn endless(user: &User, content_type: &str, begin: &[u8]) -> (u16, usize) {
    let mut stream = connect();
    let head = format!(
        "POST /workspace/files HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {}\r\nContent-Type: {content_type}\r\n\
         Transfer-Encoding: chunked\r\n\r\n{:x}\r\n",
        user.token,
        begin.len()
    );
    stream.write_all(&[head.as_bytes(), begin, b"\r\n"].concat()).unwrap();
    let piece = [b"10000\r\n".as_slice(), &[b'x'; 1 << 16], b"\r\n"].concat();
    let mut taken = 0;
    while taken < 2 << 30 && stream.write_all(&piece).is_ok() {
        taken += 1 << 16;
    }
    (statuses(&rest(&mut stream)).first().copied().unwrap_or(0), taken)
}

#[test]
fn a_body_without_end_is_refused_before_it_weighs_anything() {
    testhost();
    let (user, before) = (User::new("endless"), process());
    for (what, content_type, begin) in [
        ("JSON", "application/json", b"{\"op\": \"mkdir\", \"path\": \"".as_slice()),
        ("what stands before the first part", "multipart/form-data; boundary=b", b"x"),
        ("a part's headers", "multipart/form-data; boundary=b", b"--b\r\nContent-Disposition: form-data; filename=\""),
    ] {
        let began = Instant::now();
        let (status, taken) = endless(&user, content_type, begin);
        println!("{what}: {status} after {} KiB and {:?}", taken >> 10, began.elapsed());
        // A client that goes on sending may be reset before it has read the answer.
        assert!([413, 0].contains(&status), "{what}: {status}");
        assert!(taken < 64 << 20, "{what}: {taken} bytes were taken");
    }
    assert_eq!(process(), before, "the front was killed");
    others_are_served(1, &before);
}
