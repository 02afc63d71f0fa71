//! Workspaces when something dies, fills up or is hostile: the old file or the new one, never a mixture, nothing left.

use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use pi_gateway_e2e::disk::Disk;
use pi_gateway_e2e::files::encode;
use pi_gateway_e2e::host::{try_sh, until_ready};
use pi_gateway_e2e::http::try_request;
use pi_gateway_e2e::{User, sh, testhost, until};

/// What is in a workspace beside the user's own file.
fn beside(user: &User, name: &str) -> String {
    sh(&format!("find {} -mindepth 1 ! -name {name} ! -name '.pi-gateway-new' -printf '%P '", user.workspace()))
}

fn body(version: usize) -> Vec<u8> {
    // Of different lengths, so that a mixture would be seen at the end as well.
    format!("version {version:06} ").repeat(30_000 + version).into_bytes()
}

fn is_whole(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let Some(version) = text.get(8..14).and_then(|number| number.parse::<usize>().ok()) else { return false };
    bytes == body(version).as_slice()
}

/// Kills front and worker in turn while `write` writes a version to all of `files` again and again: each is old or new and
/// whole all the while, and nothing else is left. Their names begin with `file`.
fn killed_while(user: &User, files: &[&str], write: impl Fn(usize) -> bool + Sync) {
    for file in files {
        assert_eq!(user.put(file.as_bytes(), &[], &body(0)).status, 201);
    }
    let (stop, writes) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut version = 1;
            while !stop.load(Ordering::Relaxed) {
                if write(version % 1000) {
                    writes.fetch_add(1, Ordering::Relaxed);
                }
                version += 1;
            }
        });
        for round in 0..24 {
            // Some writes later, at another point of the next one each time.
            let before = writes.load(Ordering::Relaxed);
            until("writes go on", || (writes.load(Ordering::Relaxed) > before + round % 3).then_some(()));
            let unit = ["pi-gateway".to_owned(), format!("pi-gateway-worker-{}", user.name)][round % 2].clone();
            let _ = try_sh(&format!("kill -9 $(systemctl show -P MainPID {unit})"));
            for file in files.iter().cycle().take(20) {
                let bytes = std::fs::read(format!("{}/{file}", user.workspace())).unwrap();
                assert!(is_whole(&bytes), "round {round}: {file} is a mixture");
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    until_ready();
    for file in files {
        assert!(is_whole(&user.read(file.as_bytes(), &[]).body), "{file}");
    }
    // The next worker removes what the killed ones left.
    until("nothing is left over", || {
        let _ = user.read(files[0].as_bytes(), &[]);
        (beside(user, "'file*'").is_empty()
            && sh(&format!("find {}/.pi-gateway-new -mindepth 1 2>/dev/null || true", user.workspace())).is_empty())
        .then_some(())
    });
}

#[test]
fn a_file_is_old_or_new_and_whole_whoever_is_killed_at_any_moment() {
    testhost();
    let user = User::new("atomic");
    let path = format!("/workspace/files/content?path={}", encode(b"file"));
    killed_while(&user, &["file"], |version| {
        let answer = try_request("PUT", &path, Some(&user.token), &[], Some(&body(version)));
        answer.is_some_and(|answer| answer.status == 200)
    });
}

#[test]
fn each_file_of_an_upload_is_old_or_new_and_whole_whoever_is_killed_at_any_moment() {
    testhost();
    let user = User::new("uploads");
    let files = ["file-a", "file-b", "file-c", "file-d"];
    let headers = [("Content-Type", "multipart/form-data; boundary=B")];
    killed_while(&user, &files, |version| {
        let mut form = Vec::new();
        for name in files {
            let head = format!("--B\r\nContent-Disposition: form-data; name=\"f\"; filename=\"{name}\"\r\n\r\n");
            form.extend([head.as_bytes(), &body(version), b"\r\n"].concat());
        }
        form.extend(b"--B--\r\n");
        let answer = try_request("POST", "/workspace/files?overwrite=true", Some(&user.token), &headers, Some(&form));
        answer.is_some_and(|answer| answer.status == 201)
    });
}

#[test]
fn a_client_that_hangs_up_leaves_the_old_file_and_nothing_else() {
    testhost();
    let user = User::new("hangs");
    assert_eq!(user.put(b"file", &[], b"old").status, 201);
    for sent in [0, 1, 300_000, 999_999] {
        let mut stream = TcpStream::connect(pi_gateway_e2e::http::ADDRESS).unwrap();
        let head = format!(
            "PUT /workspace/files/content?path=file HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {}\r\nContent-Length: 1000000\r\n\r\n",
            user.token
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&vec![b'n'; sent]).unwrap();
        drop(stream);
    }
    let worker = sh(&format!("systemctl show -P MainPID pi-gateway-worker-{}", user.name));
    until("the worker holds none of their files any more", || {
        let open = sh(&format!("ls -l /proc/{worker}/fd | grep -c workspaces || true"));
        (open == "0" || open == "1").then_some(())
    });
    assert_eq!(user.read(b"file", &[]).body, b"old");
    assert_eq!(beside(&user, "file"), "");
}

#[test]
fn on_a_full_disk_the_old_file_stays() {
    testhost();
    let place = "/var/lib/pi-gateway/workspaces";
    sh("systemctl stop 'pi-gateway-worker-*'");
    let _unmount = Disk::mount(place, "size=20M,mode=711", "'pi-gateway-worker-*'");
    let user = User::new("full");
    assert_eq!(user.put(b"file", &[], b"old").status, 201);
    user.put(b"file", &[], &vec![b'n'; 30 << 20]).is_problem(507, "disk_full");
    assert_eq!(user.read(b"file", &[]).body, b"old");
    assert_eq!(beside(&user, "file"), "");
    assert_eq!(user.put(b"file", &[], &vec![b'n'; 10 << 20]).status, 200, "the space is free again");
}

#[test]
fn a_write_leaves_free_what_must_stay_free() {
    testhost();
    let place = "/var/lib/pi-gateway/workspaces";
    sh("systemctl stop 'pi-gateway-worker-*'");
    let _unmount = Disk::mount(place, "size=120M,mode=711", "'pi-gateway-worker-*'");
    let user = User::new("floor");
    assert_eq!(user.put(b"file", &[], b"old").status, 201);
    // Ten MiB are left, of which six are the floor.
    sh(&format!("head -c 110M /dev/zero >{place}/somebody-else"));
    user.put(b"file", &[], &vec![b'n'; 8 << 20]).is_problem(507, "disk_full");
    assert_eq!(user.read(b"file", &[]).body, b"old");
    assert_eq!(beside(&user, "file"), "");
    assert_eq!(user.put(b"file", &[], &vec![b'n'; 2 << 20]).status, 200);
    // The control: the disk itself would have taken it.
    sh(&format!("head -c 7M /dev/zero >{place}/control"));
}

#[test]
fn nothing_outside_is_reached_and_nothing_hangs_in_a_hostile_tree() {
    testhost();
    let user = User::new("maze");
    user.bash(
        "ln -s /etc/passwd absolute; ln -s ../../../../etc/passwd relative; ln -s /proc/self/root/etc/passwd magic; \
         ln -s / up; ln -s loop loop; mkfifo fifo; python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"socket\")'; \
         echo closed >closed; chmod 000 closed; mkdir -m 000 shut; truncate -s 3G sparse; echo a >one; ln one two; \
         python3 -c 'import os\nfor i in range(1500):\n os.mkdir(\"d\"); os.chdir(\"d\")'",
    );
    for (name, status, code) in [
        ("absolute", 403, "outside_workspace"),
        ("relative", 403, "outside_workspace"),
        ("magic", 403, "outside_workspace"),
        ("up/etc/passwd", 403, "outside_workspace"),
        ("loop", 403, "outside_workspace"),
        ("fifo", 409, "not_a_file"),
        ("socket", 409, "not_a_file"),
        ("closed", 403, "permission_denied"),
        ("shut", 409, "not_a_file"),
        ("shut/x", 403, "permission_denied"),
    ] {
        user.read(name.as_bytes(), &[]).is_problem(status, code);
    }
    // The control: outside the gateway a naive reader follows them all.
    assert!(sh(&format!("head -1 {}/absolute", user.workspace())).starts_with("root:"));
    user.put(b"up/root/owned", &[], b"x").is_problem(403, "outside_workspace");
    assert!(!try_sh("test -e /root/owned").0);
    // What a link leads to is not touched: the link itself is replaced.
    assert_eq!(user.put(b"absolute", &[], b"mine now").status, 200);
    assert!(sh("head -1 /etc/passwd").starts_with("root:"));
    assert_eq!(user.read(b"absolute", &[]).body, b"mine now");
    let kinds: Vec<String> =
        user.tree(b"", 50).iter().map(|entry| entry["kind"].as_str().unwrap().to_owned()).collect();
    for kind in ["fifo", "socket", "symlink", "file", "directory"] {
        assert!(kinds.iter().any(|there| there == kind), "{kind}");
    }
    assert_eq!(kinds.iter().filter(|kind| *kind == "directory").count(), 1502, "with .git, not gone into");
    let part = user.read(b"sparse", &[("Range", "bytes=3221225470-")]);
    assert_eq!((part.status, part.body.as_slice()), (206, &[0, 0][..]));
    assert_eq!(user.ask("DELETE", "/workspace/files?path=d&recursive=true", &[], None).status, 204);
    assert_eq!(user.ask("DELETE", "/workspace/files?path=shut&recursive=true", &[], None).status, 204);
}

#[test]
fn a_worker_that_its_own_agent_stops_costs_its_owner_a_wait_and_nobody_else_anything() {
    testhost();
    let (user, other) = (User::new("stopper"), User::new("bystander"));
    assert_eq!(user.put(b"file", &[], b"text").status, 201);
    assert_eq!(other.put(b"file", &[], b"other").status, 201);
    let pid = sh(&format!("systemctl show -P MainPID pi-gateway-worker-{}", user.name));
    // The agent can: same uid. It stops pi as well.
    let id = user.start("[[bash kill -STOP -1]]");
    until("the worker is stopped", || {
        let state = sh(&format!("awk '/^State/ {{print $2}}' /proc/{pid}/status 2>/dev/null || echo gone"));
        (state == "T" || state == "gone").then_some(())
    });
    assert_eq!(other.read(b"file", &[]).body, b"other", "another's worker answers as before");
    let read = user.read(b"file", &[]);
    assert_eq!((read.status, read.body.as_slice()), (200, &b"text"[..]), "a new worker answers");
    assert_ne!(sh(&format!("systemctl show -P MainPID pi-gateway-worker-{}", user.name)), pid);
    let _ = user.post(&format!("/runs/{id}/cancel"), &[], &serde_json::json!({}));
    assert_eq!(user.finished(&id)["status"], "cancelled");
}

#[test]
fn a_million_flips_of_a_directory_and_a_link_never_lead_out() {
    testhost();
    let user = User::new("race");
    sh("mkdir -p /root/outside && echo outside >/root/outside/file && chmod 711 /root && chmod -R a+rX /root/outside");
    user.bash("mkdir -p real && echo inside >real/file && ln -s /root/outside link");
    let flipper = format!(
        "cd {} && exec python3 -c 'import ctypes,os\nlibc=ctypes.CDLL(None)\nfor i in range(1000000): libc.renameat2(-100,b\"real\",-100,b\"link\",2)'",
        user.workspace()
    );
    let mut flipping = std::process::Command::new("bash").args(["-c", &flipper]).spawn().unwrap();
    let (mut inside, mut refused, mut lost) = (0, 0, 0);
    while flipping.try_wait().unwrap().is_none() {
        let read = user.read(b"real/file", &[]);
        match (read.status, read.body.as_slice()) {
            (200, b"inside\n") => inside += 1,
            (403 | 404 | 409, _) => refused += 1,
            (status, body) => panic!("{status}: {}", String::from_utf8_lossy(body)),
        }
        // The control: the same open without confinement does lead out.
        lost += usize::from(
            std::fs::read(format!("{}/real/file", user.workspace())).is_ok_and(|text| text == b"outside\n"),
        );
    }
    assert!(inside > 0 && lost > 0, "inside {inside}, refused {refused}, a naive open was led out {lost} times");
}
