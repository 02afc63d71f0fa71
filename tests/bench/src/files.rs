//! Files in and out, beside nginx that serves and takes the same bytes from the same file system, with the same client;
//! and archives beside tar, zstd and zip.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use pi_gateway_e2e::host::{try_sh, until_ready};
use pi_gateway_e2e::http::ADDRESS;
use pi_gateway_e2e::operator::{FILE, Restore};
use pi_gateway_e2e::{User, sh};

use crate::nginx::{self, Nginx};
use crate::table::Table;

/// A large file, in bytes.
const LARGE: usize = 100_000_000;
/// Rounds of each comparison, ours and the rival's in turn.
const ROUNDS: usize = 9;
/// Small files that are asked for by each of [`CLIENTS`] at once, in one round.
const SMALL: usize = 1500;
const CLIENTS: usize = 4;
/// Files of the largest archive.
const MILLION: usize = 1_000_000;

/// A connection that is kept.
struct Client {
    reader: BufReader<TcpStream>,
    head: String,
}

impl Client {
    fn new(address: &str, token: &str) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        let authorization = if token.is_empty() { String::new() } else { format!("Authorization: Bearer {token}\r\n") };
        let reader = BufReader::with_capacity(256 << 10, stream);
        Client { reader, head: format!("Host: {address}\r\n{authorization}") }
    }

    /// Sends a request; reads the answer to its end and gives the length of its body.
    fn ask(&mut self, method: &str, path: &str, body: &[u8]) -> usize {
        let length = if method == "PUT" { format!("Content-Length: {}\r\n", body.len()) } else { String::new() };
        let head = format!("{method} {path} HTTP/1.1\r\n{}{length}\r\n", self.head);
        let stream = self.reader.get_mut();
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        let (mut line, mut status, mut left) = (String::new(), String::new(), 0);
        loop {
            line.clear();
            assert!(self.reader.read_line(&mut line).unwrap() > 0, "{path}: closed before the answer");
            if status.is_empty() {
                status = line.clone();
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                left = value.trim().parse().unwrap();
            }
            if line == "\r\n" {
                break;
            }
        }
        assert!(status.contains(" 200 ") || status.contains(" 201 ") || status.contains(" 204 "), "{path}: {status}");
        let length = left;
        while left > 0 {
            let count = self.reader.fill_buf().unwrap().len().min(left);
            assert!(count > 0, "{path} ended early");
            self.reader.consume(count);
            left -= count;
        }
        length
    }
}

fn content(name: &str) -> String {
    format!("/workspace/files/content?path={name}")
}

fn seconds(work: impl FnOnce()) -> f64 {
    let begun = Instant::now();
    work();
    begun.elapsed().as_secs_f64()
}

fn with_room() -> Restore {
    let restore = Restore::new();
    sh(&format!(
        "printf '%s\n' MAX_UPLOAD_MB=128 WORKSPACE_QUOTA_MB=16384 >>{FILE}; systemctl restart pi-gateway-launcher pi-gateway"
    ));
    until_ready();
    restore
}

fn workspace(user: &User) -> PathBuf {
    PathBuf::from(format!("/var/lib/pi-gateway/workspaces/{}", user.name))
}

fn own(user: &User) {
    let path = workspace(user);
    sh(&format!("chown -R --no-dereference --reference={0} {0}", path.display()));
}

/// Downloads, uploads and small files.
pub fn moving(table: &mut Table) {
    let _restore = with_room();
    let user = User::new("files");
    user.run("[[say hello]]");
    let Some(_nginx) = Nginx::start(2, "", "dav_methods PUT; create_full_put_path on;") else {
        return table.impossible("files, beside nginx", "there is no nginx (tests/nginx)");
    };
    let large: Vec<u8> = (0..LARGE).map(|number| ((number * 7919) >> 3) as u8).collect();
    let mut ours = Client::new(ADDRESS, &user.token);
    let mut theirs = Client::new(nginx::ADDRESS, "");
    let (mut up, mut down) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let rival = seconds(|| _ = theirs.ask("PUT", "/large", &large));
        up.push(rival / seconds(|| _ = ours.ask("PUT", &content("large"), &large)));
        let rival = seconds(|| assert_eq!(theirs.ask("GET", "/large", b""), LARGE));
        down.push(rival / seconds(|| assert_eq!(ours.ask("GET", &content("large"), b""), LARGE)));
    }
    table.at_least("download of 100 MB, of nginx's speed", &mut down, "x", 0.9);
    table.at_least("upload of 100 MB, of nginx's speed", &mut up, "x", 0.9);
    for number in 0..SMALL {
        let text = vec![b'a' + (number % 26) as u8; 4096];
        std::fs::write(workspace(&user).join(format!("s{number}")), &text).unwrap();
        std::fs::write(format!("{}/files/s{number}", nginx::ROOT), &text).unwrap();
    }
    own(&user);
    let all = |address: &'static str, token: &str, path: fn(usize) -> String| {
        seconds(|| {
            std::thread::scope(|scope| {
                for _ in 0..CLIENTS {
                    scope.spawn(move || {
                        let mut client = Client::new(address, token);
                        for number in 0..SMALL {
                            assert_eq!(client.ask("GET", &path(number), b""), 4096);
                        }
                    });
                }
            });
        })
    };
    let mut small = Vec::new();
    for _ in 0..ROUNDS {
        let rival = all(nginx::ADDRESS, "", |number| format!("/s{number}"));
        small.push(rival / all(ADDRESS, &user.token, |number| content(&format!("s{number}"))));
    }
    table.at_least("files of 4 KiB a second, of nginx's", &mut small, "x", 0.3);
    // The one from before has been idle for longer than the gateway keeps it.
    let mut ours = Client::new(ADDRESS, &user.token);
    let mut warm: Vec<f64> = (0..2000)
        .map(|number| seconds(|| _ = ours.ask("GET", &content(&format!("s{}", number % SMALL)), b"")) * 1e3)
        .collect();
    table.quantile("one file of 4 KiB, the worker there: p50", &mut warm, 0.5, "ms", 1.0);
    let mut first: Vec<f64> = (0..15)
        .map(|_| {
            sh(&format!("systemctl stop pi-gateway-worker-{}", user.name));
            seconds(|| _ = ours.ask("GET", &content("s0"), b"")) * 1e3
        })
        .collect();
    table.row("the first file after idle, the worker started for it", &mut first, "ms", 500.0);
}

/// The bytes of an archive that is streamed to nowhere.
fn archive(user: &User, format: &str) -> u64 {
    let mut stream = TcpStream::connect(ADDRESS).unwrap();
    let head = format!(
        "GET /workspace/archive?format={format} HTTP/1.1\r\nHost: {ADDRESS}\r\nAuthorization: Bearer {}\r\nConnection: close\r\n\r\n",
        user.token
    );
    stream.write_all(head.as_bytes()).unwrap();
    let (mut buffer, mut count, mut tail) = (vec![0; 256 << 10], 0, Vec::new());
    loop {
        let read = stream.read(&mut buffer).unwrap();
        if read == 0 {
            break;
        }
        count += read as u64;
        tail = buffer[read.saturating_sub(5)..read].to_vec();
    }
    assert_eq!(tail, b"0\r\n\r\n", "the archive is whole");
    count
}

/// Archives of an ordinary tree, and one of a million files.
pub fn archives(table: &mut Table) {
    let _restore = with_room();
    let user = User::new("archive");
    user.run("[[say hello]]");
    let place = workspace(&user);
    sh(&format!("cp -r /usr/lib/python3* /usr/share/perl /usr/share/perl5 {}/ 2>/dev/null || true", place.display()));
    own(&user);
    let by_hand = |command: &str| {
        let status = Command::new("bash")
            .args(["-c", &format!("cd {} && {command} >/dev/null", place.display())])
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success(), "{command}");
    };
    let (mut zstd, mut zip) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        let rival = seconds(|| by_hand("tar c --exclude=./.git . | zstd -3 -T0 -c"));
        zstd.push(rival / seconds(|| assert!(archive(&user, "tar.zst") > 0)));
        let rival = seconds(|| by_hand("zip -q -r - . -x '.git/*'"));
        zip.push(rival / seconds(|| assert!(archive(&user, "zip") > 0)));
    }
    table.at_least("archive as tar.zst, of the speed of tar | zstd -3 -T0", &mut zstd, "x", 1.0);
    table.at_least("archive as zip, of the speed of zip", &mut zip, "x", 1.0);
    let count =
        try_sh(&format!("rm -rf {0}/*; find {0} -path {0}/.git -prune -o -type f -print | wc -l", place.display())).1;
    assert_eq!(count, "0");
    for number in 0..MILLION {
        if number % 1000 == 0 {
            std::fs::create_dir(place.join(format!("d{}", number / 1000))).unwrap();
        }
        std::fs::write(place.join(format!("d{}/file-{number}", number / 1000)), "").unwrap();
    }
    own(&user);
    let front = sh("systemctl show -P MainPID pi-gateway");
    let own_memory = |pid: &str| -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
    };
    for format in ["tar.zst", "zip"] {
        let before = own_memory(&front);
        let name = user.name.clone();
        let token = user.token.clone();
        let making = std::thread::spawn(move || archive(&User { name, token }, format));
        let mut most = 0.0_f64;
        while !making.is_finished() {
            let pid = try_sh(&format!("systemctl show -P MainPID pi-gateway-worker-{}", user.name)).1;
            most = most.max(own_memory(&pid) + (own_memory(&front) - before).max(0.0));
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        making.join().expect("an archive");
        table.row(&format!("memory for a {format} of a million files"), &mut [most], "MiB", 64.0);
    }
    sh(&format!("find {0} -mindepth 1 -maxdepth 1 -exec rm -rf {{}} +", place.display()));
}
