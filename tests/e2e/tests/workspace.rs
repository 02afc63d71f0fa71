//! The workspace API in its ordinary use, and what its answers promise.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pi_gateway_e2e::files::encode;
use pi_gateway_e2e::{User, sh, testhost};
use serde_json::{Value, json};

/// Bytes that no compression and no text conversion leaves alone.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn names() -> Vec<Vec<u8>> {
    let long = vec![b'n'; 255];
    let mut names: Vec<Vec<u8>> = [
        "plain.txt",
        "with space",
        "\"double\" 'single'",
        "line\nfeed",
        "tab\tand\\backslash",
        "-rf",
        "--",
        "...",
        "~",
        "$(touch x)",
        "a%20b",
        "a+b&c=d?e#f",
        "ünïcödé",
        "🦩.md",
        ".hidden",
        "dir.d/below/it",
        "CON",
        "semi;colon|pipe",
    ]
    .iter()
    .map(|name| name.as_bytes().to_vec())
    .collect();
    names.extend([b"in\xffvalid\xfe".to_vec(), b"\x01\x02\x7f".to_vec(), long]);
    names
}

#[test]
fn files_of_every_size_and_name_come_back_byte_by_byte() {
    testhost();
    let user = User::new("names");
    for (index, name) in names().into_iter().enumerate() {
        let shown = name.escape_ascii().to_string();
        let bytes = noise([0, 1, 4095, 4096, 70_000][index % 5]);
        let put = user.put(&name, &[], &bytes);
        assert_eq!(put.status, 201, "{shown}: {}", String::from_utf8_lossy(&put.body));
        let read = user.read(&name, &[]);
        assert_eq!((read.status, read.body == bytes), (200, true), "{shown}");
        assert_eq!(read.header("etag"), put.header("etag"), "{shown}");
        assert_eq!(read.header("x-content-type-options"), Some("nosniff"));
        // And as the agent would see it.
        let on_disk = std::fs::read(std::path::Path::new(&user.workspace()).join(OsStr::from_bytes(&name)));
        assert_eq!(on_disk.unwrap(), bytes, "{shown}");
    }
    let listed: Vec<Vec<u8>> = user
        .tree(b"", 3)
        .iter()
        .filter(|entry| entry["kind"] == "file")
        .map(|entry| match entry["path_b64"].as_str() {
            Some(bytes) => STANDARD.decode(bytes).unwrap(),
            None => entry["path"].as_str().unwrap().as_bytes().to_vec(),
        })
        .collect();
    let (mut listed, mut made) = (listed, names());
    listed.sort();
    made.sort();
    assert_eq!(listed, made);
}

#[test]
fn the_largest_upload_fits_and_one_byte_more_leaves_nothing() {
    testhost();
    let user = User::new("largest");
    let bytes = noise(50 << 20);
    assert_eq!(user.put(b"largest", &[], &bytes).status, 201);
    assert!(user.read(b"largest", &[]).body == bytes);
    let more = [bytes.as_slice(), b"x"].concat();
    user.put(b"more", &[], &more).is_problem(413, "payload_too_large");
    // Announced by nobody: the limit is met while it comes.
    let mut chunked = format!("{:x}\r\n", more.len()).into_bytes();
    chunked.extend(&more);
    chunked.extend(b"\r\n0\r\n\r\n");
    let head = format!(
        "PUT /workspace/files/content?path=more HTTP/1.1\r\nHost: g\r\nConnection: close\r\nAuthorization: Bearer {}\r\n\
         Transfer-Encoding: chunked\r\n\r\n",
        user.token
    );
    pi_gateway_e2e::send(&[head.as_bytes(), &chunked].concat()).is_problem(413, "payload_too_large");
    assert_eq!(user.read(b"more", &[]).status, 404);
    assert_eq!(sh(&format!("find {} -mindepth 1 -printf '%P\\n'", user.workspace())), "largest");
}

#[test]
fn conditional_requests_and_ranges_are_answered_as_rfc_9110_says() {
    testhost();
    let user = User::new("rfc");
    let text = b"0123456789";
    let made = user.put(b"file.txt", &[("If-None-Match", "*")], text);
    assert_eq!(made.status, 201);
    let etag = made.header("etag").unwrap().to_owned();
    user.put(b"file.txt", &[("If-None-Match", "*")], text).is_problem(412, "precondition_failed");
    user.put(b"file.txt", &[("If-Match", "\"other\"")], text).is_problem(412, "precondition_failed");
    user.put(b"absent", &[("If-Match", "*")], text).is_problem(412, "precondition_failed");
    let read = user.read(b"file.txt", &[]);
    let modified = read.header("last-modified").unwrap().to_owned();
    assert_eq!(
        (read.header("content-type"), read.header("accept-ranges")),
        (Some("text/plain; charset=utf-8"), Some("bytes"))
    );
    for (name, value, status) in [
        ("If-None-Match", etag.as_str(), 304),
        ("If-None-Match", "\"a\", *", 304),
        ("If-None-Match", "\"other\"", 200),
        ("If-Modified-Since", modified.as_str(), 304),
        ("If-Modified-Since", "Thu, 01 Jan 1970 00:00:00 GMT", 200),
        ("If-Match", etag.as_str(), 200),
        ("If-Match", "\"other\"", 412),
        ("If-Unmodified-Since", "Thu, 01 Jan 1970 00:00:00 GMT", 412),
        ("Range", "bytes=5-4", 200),
        ("Range", "lines=1-2", 200),
        ("Range", "bytes=1-2,4-5", 200),
    ] {
        let answer = user.read(b"file.txt", &[(name, value)]);
        // `*` in a list is not of RFC 9110's grammar; either reading of it is safe for a read.
        if value != "\"a\", *" {
            assert_eq!(answer.status, status, "{name}: {value}");
        }
        assert_eq!(answer.body.is_empty(), answer.status == 304, "{name}: {value}");
    }
    for (range, bytes, content_range) in [
        ("bytes=0-0", "0", "bytes 0-0/10"),
        ("bytes=3-", "3456789", "bytes 3-9/10"),
        ("bytes=-3", "789", "bytes 7-9/10"),
        ("bytes=8-99", "89", "bytes 8-9/10"),
        ("bytes=-99", "0123456789", "bytes 0-9/10"),
    ] {
        let part = user.read(b"file.txt", &[("Range", range)]);
        assert_eq!((part.status, part.body.as_slice()), (206, bytes.as_bytes()), "{range}");
        assert_eq!(part.header("content-range"), Some(content_range), "{range}");
    }
    let beyond = user.read(b"file.txt", &[("Range", "bytes=10-")]);
    beyond.is_problem(416, "range_not_satisfiable");
    assert_eq!(beyond.header("content-range"), Some("bytes */10"));
    // Nothing is all that there is of an empty file, and no part of it can be named.
    assert_eq!(user.put(b"empty", &[], b"").status, 201);
    assert_eq!(user.read(b"empty", &[("Range", "bytes=-5")]).status, 200);
    user.read(b"empty", &[("Range", "bytes=0-")]).is_problem(416, "range_not_satisfiable");
    assert_eq!(user.read(b"file.txt", &[("Range", "bytes=0-0"), ("If-Range", &etag)]).status, 206);
    assert_eq!(user.read(b"file.txt", &[("Range", "bytes=0-0"), ("If-Range", "\"other\"")]).status, 200);
    let path = format!("/workspace/files/content?path={}", encode(b"file.txt"));
    let head = user.ask("HEAD", &path, &[], None);
    assert_eq!(
        (head.status, head.header("content-length"), head.header("etag")),
        (200, Some("10"), Some(etag.as_str()))
    );
    user.remove(b"file.txt", &[("If-Match", "\"other\"")]).is_problem(412, "precondition_failed");
    assert_eq!(user.remove(b"file.txt", &[("If-Match", &etag)]).status, 204);
    assert_eq!(user.read(b"file.txt", &[]).status, 404);
}

#[test]
fn a_link_has_the_version_of_the_file_it_leads_to() {
    testhost();
    let user = User::new("links");
    user.bash("echo one >file; ln -s file put; ln -s file remove; ln -s absent nowhere");
    let etag = user.read(b"file", &[]).header("etag").unwrap().to_owned();
    let head = user.ask("HEAD", "/workspace/files/content?path=put", &[], None);
    assert_eq!(
        (user.read(b"put", &[]).header("etag"), head.header("etag")),
        (Some(etag.as_str()), Some(etag.as_str()))
    );
    user.put(b"put", &[("If-Match", "\"other\"")], b"x").is_problem(412, "precondition_failed");
    user.remove(b"remove", &[("If-Match", "\"other\"")]).is_problem(412, "precondition_failed");
    user.put(b"put", &[("If-None-Match", &etag)], b"x").is_problem(412, "precondition_failed");
    user.put(b"nowhere", &[("If-None-Match", "*")], b"x").is_problem(412, "precondition_failed");
    assert_eq!(user.put(b"put", &[("If-Match", &etag)], b"two").status, 200);
    user.put(b"put", &[("If-Match", &etag)], b"x").is_problem(412, "precondition_failed");
    assert_eq!(user.remove(b"remove", &[("If-Match", &etag)]).status, 204);
    assert_eq!(user.put(b"nowhere", &[("If-Match", "*")], b"three").status, 200);
    assert_eq!((user.read(b"file", &[]).body, user.read(b"put", &[]).body), (b"one\n".to_vec(), b"two".to_vec()));
}

#[test]
fn of_writers_that_use_if_match_none_loses_an_update() {
    testhost();
    let user = User::new("counter");
    assert_eq!(user.put(b"count", &[], b"0").status, 201);
    const EACH: usize = 15;
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..EACH {
                    loop {
                        let read = user.read(b"count", &[]);
                        let next: usize = String::from_utf8(read.body.clone()).unwrap().parse().unwrap();
                        let put = user.put(
                            b"count",
                            &[("If-Match", read.header("etag").unwrap())],
                            (next + 1).to_string().as_bytes(),
                        );
                        match put.status {
                            200 => break,
                            412 => {}
                            other => panic!("{other}: {}", String::from_utf8_lossy(&put.body)),
                        }
                    }
                }
            });
        }
    });
    assert_eq!(user.read(b"count", &[]).body, (4 * EACH).to_string().as_bytes());
    // Without the condition updates are lost: two that both read the same.
    let (one, two) = (user.read(b"count", &[]), user.read(b"count", &[]));
    assert_eq!(one.body, two.body);
    assert_eq!(user.put(b"count", &[], b"61").status, 200);
    assert_eq!(user.put(b"count", &[], b"61").status, 200);
    assert_eq!(user.read(b"count", &[]).body, b"61");
}

#[test]
fn while_a_run_is_active_writing_is_409_and_reading_goes_on() {
    testhost();
    let user = User::new("during");
    assert_eq!(user.put(b"before", &[], b"text").status, 201);
    let id = user.start("[[bash echo made >by-agent; sleep 60]]");
    user.stream(&id, None).find(|event| event.name == "tool.started").unwrap();
    pi_gateway_e2e::until("the agent's file is there", || {
        (user.read(b"by-agent", &[]).body == b"made\n").then_some(())
    });
    let json = [("Content-Type", "application/json")];
    let mkdir = json!({"op": "mkdir", "path": "d"}).to_string();
    let multipart = [("Content-Type", "multipart/form-data; boundary=B")];
    let part = b"--B\r\nContent-Disposition: form-data; name=\"f\"; filename=\"x\"\r\n\r\nx\r\n--B--\r\n";
    for refused in [
        user.put(b"new", &[], b"x"),
        user.remove(b"before", &[]),
        user.ask("POST", "/workspace/files", &json, Some(mkdir.as_bytes())),
        user.ask("POST", "/workspace/files", &multipart, Some(part)),
        user.ask("DELETE", "/workspace/files?path=before", &[], None),
    ] {
        refused.is_problem(409, "run_active");
        assert_eq!(refused.json()["run_id"], id.as_str());
    }
    assert_eq!(user.read(b"before", &[]).body, b"text");
    assert_eq!(user.get("/workspace").json()["active_run"], id.as_str());
    assert_eq!(user.get("/workspace/archive").status, 200);
    assert_eq!(user.tree(b"", 10).len(), 3, "of the repository, its directory");
    let _ = user.post(&format!("/runs/{id}/cancel"), &[], &json!({}));
    user.finished(&id);
    assert_eq!(user.put(b"new", &[], b"x").status, 201);
    assert_eq!(user.get("/workspace").json()["active_run"], Value::Null);
}

#[test]
fn a_write_that_meets_the_start_of_a_run_is_before_it_or_409() {
    testhost();
    let user = User::new("meets");
    let (mut done, mut refused) = (0, 0);
    // A write that is over, one that comes later, and between them many that come at the same time.
    for round in 0..16 {
        let removes = round % 2 == 1;
        assert!([200, 201].contains(&user.put(b"file", &[], b"old").status));
        let write = || {
            if removes { user.remove(b"file", &[]) } else { user.put(b"file", &[], b"new") }
        };
        // The run goes on until the write is answered.
        let start = || {
            user.start(&format!(
                "[[bash cat file 2>/dev/null || echo none; until test -e go-{round}; do sleep 0.1; done]]"
            ))
        };
        let (written, run) = match round {
            0 | 1 => (write(), start()),
            2 | 3 => {
                let run = start();
                (write(), run)
            }
            _ => std::thread::scope(|scope| {
                let writing = scope.spawn(|| {
                    // Later from round to round, by what a request takes.
                    (4..round).for_each(|_| assert_eq!(user.get("/health").status, 200));
                    write()
                });
                let run = start();
                (writing.join().unwrap(), run)
            }),
        };
        std::fs::write(format!("{}/go-{round}", user.workspace()), "").unwrap();
        let completed = user.stream(&run, None).find(|event| event.name == "tool.completed").unwrap();
        let seen = completed.data["output"].as_str().unwrap().lines().last().unwrap().to_owned();
        assert_eq!(user.finished(&run)["status"], "succeeded");
        let there = user.read(b"file", &[]);
        if written.status < 300 {
            done += 1;
            assert_eq!(seen, if removes { "none" } else { "new" }, "round {round}: the run began before the write");
        } else {
            refused += 1;
            written.is_problem(409, "run_active");
            assert_eq!((seen.as_str(), there.body.as_slice()), ("old", &b"old"[..]), "round {round}");
        }
    }
    assert!(done >= 2 && refused >= 2, "{done} before, {refused} refused");
}

#[test]
fn directories_are_made_listed_moved_and_removed() {
    testhost();
    let user = User::new("tree");
    let json = |body: Value| user.post("/workspace/files", &[], &body);
    assert_eq!(json(json!({"op": "mkdir", "path": "a/b/c"})).status, 201);
    json(json!({"op": "mkdir", "path": "a/b/c"})).is_problem(409, "already_exists");
    assert_eq!(user.put(b"a/file", &[], b"1").status, 201);
    assert_eq!(user.put(b"a/b/other", &[], b"2").status, 201);
    json(json!({"op": "move", "from": "a/file", "to": "a/b/other"})).is_problem(409, "already_exists");
    let moved = json(json!({"op": "move", "from": "a/file", "to": "a/b/other", "overwrite": true}));
    assert_eq!((moved.status, moved.json()["path"].as_str()), (200, Some("a/b/other")));
    assert_eq!(user.read(b"a/b/other", &[]).body, b"1");
    json(json!({"op": "move", "from": "absent", "to": "x"})).is_problem(404, "not_found");
    json(json!({"op": "move", "from": "a", "to": "a/b/c/d"})).is_problem(400, "invalid_parameter");
    // Longer than a question to the worker.
    let long = "a/".repeat(60_000) + "a";
    json(json!({"op": "mkdir", "path": long})).is_problem(400, "invalid_parameter");
    json(json!({"op": "move", "from": "a", "to": long})).is_problem(400, "invalid_parameter");
    json(json!({"op": "shred", "path": "a"})).is_problem(422, "invalid_request");
    json(json!({"op": "mkdir", "path": "x", "mode": 7})).is_problem(422, "invalid_request");
    let paths = |all: Vec<Value>| -> Vec<String> {
        all.iter().map(|entry| entry["path"].as_str().unwrap().to_owned()).collect()
    };
    for limit in [1, 2, 100] {
        assert_eq!(paths(user.tree(b"", limit)), ["a", "a/b", "a/b/c", "a/b/other"], "limit {limit}");
        assert_eq!(paths(user.tree(b"a/b", limit)), ["a/b/c", "a/b/other"], "limit {limit}");
    }
    user.remove(b"a/b", &[]).is_problem(409, "not_a_file");
    user.read(b"a", &[]).is_problem(409, "not_a_file");
    user.put(b"a/b", &[], b"x").is_problem(409, "not_a_file");
    user.put(b"a/b/other/below", &[], b"x").is_problem(409, "not_a_directory");
    user.ask("DELETE", "/workspace/files?path=a", &[], None).is_problem(409, "not_empty");
    assert_eq!(user.ask("DELETE", "/workspace/files?path=a&recursive=true", &[], None).status, 204);
    user.ask("DELETE", "/workspace/files?path=a&recursive=true", &[], None).is_problem(404, "not_found");
    assert_eq!(user.tree(b"", 10), Vec::<Value>::new());
    for bad in ["/a", "../a", "a/../b", "a//b", "./a", "a\0b", ".pi-gateway-new/x"] {
        user.read(bad.as_bytes(), &[]).is_problem(400, "invalid_parameter");
        user.put(bad.as_bytes(), &[], b"x").is_problem(400, "invalid_parameter");
    }
    user.get("/workspace/files?pth=a").is_problem(400, "invalid_parameter");
    user.get("/workspace/files?limit=0").is_problem(400, "invalid_parameter");
    user.get("/workspace/files?cursor=%00").is_problem(400, "invalid_parameter");
    user.get("/workspace/archive?format=rar").is_problem(400, "invalid_parameter");
}

#[test]
fn several_files_arrive_together_or_not_at_all() {
    testhost();
    let user = User::new("several");
    let part = |name: &str, text: &str| {
        format!("--B\r\nContent-Disposition: form-data; name=\"f\"; filename=\"{name}\"\r\n\r\n{text}\r\n")
    };
    let upload = |query: &str, parts: &[String]| {
        let body = parts.concat() + "--B--\r\n";
        let headers = [("Content-Type", "multipart/form-data; boundary=B")];
        user.ask("POST", &format!("/workspace/files{query}"), &headers, Some(body.as_bytes()))
    };
    let made = upload("?path=in", &[part("one", "1"), part("sub/two", "2")]);
    assert_eq!(made.status, 201, "{}", String::from_utf8_lossy(&made.body));
    assert_eq!(made.json()["data"][1]["path"], "in/sub/two");
    assert_eq!(user.read(b"in/sub/two", &[]).body, b"2");
    // One stands in the way: neither is written.
    upload("?path=in", &[part("three", "3"), part("one", "x")]).is_problem(409, "already_exists");
    assert_eq!(user.read(b"in/three", &[]).status, 404);
    assert_eq!(upload("?path=in&overwrite=true", &[part("three", "3"), part("one", "x")]).status, 201);
    assert_eq!(user.read(b"in/one", &[]).body, b"x");
    for (parts, status, code) in [
        (vec![part("../out", "x")], 400, "invalid_parameter"),
        (vec![part("/etc/out", "x")], 400, "invalid_parameter"),
        (vec![part("", "x")], 422, "invalid_request"),
        (vec![part("same", "x"), part("same", "y")], 422, "invalid_request"),
        (vec![], 422, "invalid_request"),
    ] {
        upload("", &parts).is_problem(status, code);
    }
    let torn = b"--B\r\nContent-Disposition: form-data; name=\"f\"; filename=\"torn\"\r\n\r\nno end";
    let headers = [("Content-Type", "multipart/form-data; boundary=B")];
    let answer = user.ask("POST", "/workspace/files", &headers, Some(torn));
    assert!((400..500).contains(&answer.status), "{}", answer.status);
    assert_eq!(user.read(b"torn", &[]).status, 404);
    assert_eq!(user.tree(b"", 100).len(), 5, "in, one, sub, two, three");
}

#[test]
fn archives_hold_exactly_the_tree_for_every_program_that_opens_them() {
    testhost();
    let user = User::new("archive");
    let mut tree = BTreeMap::new();
    for (index, name) in [&b"a b"[..], "ü".as_bytes(), b"d/e/f", b"-x", b"empty"].iter().enumerate() {
        let bytes = noise(if *name == b"empty" { 0 } else { 10_000 * (index + 1) });
        assert_eq!(user.put(name, &[], &bytes).status, 201);
        tree.insert(String::from_utf8(name.to_vec()).unwrap(), bytes);
    }
    user.bash("mkdir -p .git d/none && echo secret >.git/config && ln -s d/e/f link && mkfifo pipe && chmod 755 empty");
    for (format, unpack) in [
        ("tar.gz", "tar xzf"),
        ("tar.zst", "tar --zstd -xf"),
        ("zip", "unzip -q"),
        ("tar.gz", "python3 -c 'import sys,tarfile; tarfile.open(sys.argv[1]).extractall()'"),
        ("zip", "python3 -c 'import sys,zipfile; zipfile.ZipFile(sys.argv[1]).extractall()'"),
    ] {
        let archive = user.get(&format!("/workspace/archive?format={format}"));
        assert_eq!(archive.status, 200);
        let disposition = format!("attachment; filename=\"workspace.{format}\"");
        assert_eq!(archive.header("content-disposition"), Some(disposition.as_str()));
        let dir = format!("/root/unpacked-{}", user.name);
        sh(&format!("rm -rf {dir}; mkdir -p {dir}"));
        std::fs::write(format!("{dir}.archive"), &archive.body).unwrap();
        sh(&format!("cd {dir} && {unpack} ../unpacked-{}.archive", user.name));
        for (name, bytes) in &tree {
            assert!(std::fs::read(format!("{dir}/{name}")).unwrap() == *bytes, "{unpack}: {name}");
        }
        let found = sh(&format!("cd {dir} && find . -mindepth 1 | sort | tr '\\n' ' '"));
        // A FIFO is no file; the archive says that it is not there.
        assert_eq!(
            found, "./-x ./MISSING-FROM-THIS-ARCHIVE.txt ./a b ./d ./d/e ./d/e/f ./d/none ./empty ./link ./ü",
            "{unpack}"
        );
        assert!(sh(&format!("cat {dir}/MISSING-FROM-THIS-ARCHIVE.txt")).contains("pipe"));
        if !unpack.contains("zipfile") {
            assert_eq!(sh(&format!("readlink {dir}/link; stat -c %a {dir}/empty")), "d/e/f\n755", "{unpack}");
        }
    }
    let part = user.get("/workspace/archive?path=d&format=tar.gz");
    std::fs::write("/root/part.tar.gz", &part.body).unwrap();
    assert_eq!(sh("tar tzf /root/part.tar.gz | sort | tr '\\n' ' '"), "d/e/ d/e/f d/none/");
    let git = user.get("/workspace/archive?git=true");
    std::fs::write("/root/git.tar.gz", &git.body).unwrap();
    assert!(sh("tar tzf /root/git.tar.gz").contains(".git/config"));
    user.get("/workspace/archive?path=absent").is_problem(404, "not_found");
}

#[test]
fn one_user_never_sees_the_files_of_another() {
    testhost();
    let (alice, bob) = (User::new("alice"), User::new("bob"));
    assert_eq!(alice.put(b"mine", &[], b"alice's").status, 201);
    assert_eq!(bob.read(b"mine", &[]).status, 404);
    assert_eq!(bob.put(b"mine", &[], b"bob's").status, 201);
    assert_eq!(alice.read(b"mine", &[]).body, b"alice's");
    bob.read(format!("../{}/mine", alice.name).as_bytes(), &[]).is_problem(400, "invalid_parameter");
    bob.bash(&format!(
        "ln -s /var/lib/pi-gateway/workspaces/{}/mine theirs; ln -s ../{}/mine theirs2",
        alice.name, alice.name
    ));
    for link in [&b"theirs"[..], b"theirs2"] {
        bob.read(link, &[]).is_problem(403, "outside_workspace");
    }
}
