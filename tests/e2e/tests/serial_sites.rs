//! A site travels from the agent's build-site to a browser: through the files worker and the front's export to a real
//! nginx. Whatever the agent does, nothing else travels with it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use pi_gateway_e2e::host::{try_sh, until_ready};
use pi_gateway_e2e::nginx::Nginx;
use pi_gateway_e2e::operator::{FILE, Restore};
use pi_gateway_e2e::points::{FRONT, Trigger};
use pi_gateway_e2e::{User, sh, testhost, until};
use serde_json::{Value, json};

const SITES: &str = "/var/lib/pi-gateway/sites";
/// Leaves what build-site would, without it: each time another one.
const FORGED: &str = r#"echo "{\"built\":true,\"id\":\"$(cat /proc/sys/kernel/random/uuid 2>/dev/null || date +%N)\"}" >/session/site.json"#;

/// A gateway that exports, and a web server.
fn serving() -> (Restore, Nginx) {
    testhost();
    let restore = Restore::new();
    sh(&format!("echo SITES_DIR={SITES} >> {FILE}; systemctl restart pi-gateway"));
    until_ready();
    (restore, Nginx::start())
}

fn put(user: &User, path: &str, text: &str) {
    let status = user.put(path.as_bytes(), &[], text.as_bytes()).status;
    assert!(status == 200 || status == 201, "{path}: {status}");
}

/// A project without anything from a network: a build script and a dependency beside it.
fn npm_project(user: &User, title: &str) {
    let build = "node build.mjs";
    let package = json!({"name": "site", "scripts": {"build": build}, "dependencies": {"words": "file:./words"}});
    put(user, "package.json", &package.to_string());
    put(user, "words/package.json", r#"{"name": "words", "version": "1.0.0", "main": "index.js"}"#);
    put(user, "words/index.js", &format!("module.exports = {{ title: '{title}' }};"));
    put(
        user,
        "build.mjs",
        "import fs from 'node:fs'; import words from 'words'; fs.mkdirSync('build/css', { recursive: true });\n\
         fs.writeFileSync('build/index.html', `<h1>${words.title}</h1>`); fs.writeFileSync('build/css/a.css', 'a {}');",
    );
}

/// Has the agent build; gives the run, which must have succeeded.
fn build(user: &User) -> Value {
    let run = user.run("[[bash build-site]]");
    assert_eq!(run["status"], "succeeded", "{run}");
    run
}

fn code(run: &Value) -> &str {
    run["site"]["error"]["code"].as_str().unwrap_or("")
}

/// Everything in a user's part of `SITES_DIR`, by path: what it is, and for files what they hold.
fn exported(user: &User) -> BTreeMap<PathBuf, String> {
    fn look(at: &Path, found: &mut BTreeMap<PathBuf, String>) {
        for entry in std::fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            let kind = std::fs::symlink_metadata(&path).unwrap().file_type();
            let told = if kind.is_dir() {
                look(&path, found);
                "directory".to_owned()
            } else if kind.is_file() {
                String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned()
            } else {
                format!("{kind:?}")
            };
            found.insert(path, told);
        }
    }
    let mut found = BTreeMap::new();
    look(&Path::new(SITES).join(&user.name), &mut found);
    found
}

#[test]
fn an_npm_project_and_static_files_are_built_by_the_agent_and_served_to_a_browser() {
    let (_restore, nginx) = serving();
    let (npm, plain) = (User::new("npm"), User::new("plain"));
    npm_project(&npm, "made by npm");
    let id = npm.start("[[bash command -v node npm; build-site]]");
    let events = npm.events(&id);
    let run = npm.get(&format!("/runs/{id}")).json();
    let site = &run["site"];
    assert_eq!((&site["files"], &site["error"]), (&json!(2), &json!(null)), "{run}\n{events:?}");
    assert_eq!(nginx.page(&npm, "/"), "<h1>made by npm</h1>");
    assert_eq!(nginx.page(&npm, "/css/a.css"), "a {}");
    // The runtime's own node and npm, whatever the machine has.
    let output = events.iter().find(|event| event.name == "tool.completed").unwrap().data["output"].to_string();
    assert_eq!(output.matches("/usr/lib/pi-gateway/runtime/").count(), 2, "{output}");
    assert!(output.contains("2 files") && output.contains("its build/"), "{output}");
    let last: Vec<&str> = events.iter().rev().take(2).map(|event| event.name.as_str()).collect();
    assert_eq!(last, ["run.finished", "notice"]);
    assert_eq!(events[events.len() - 2].data["code"], "site_exported");
    assert_eq!(npm.get("/workspace").json()["site"], *site);

    for (path, text) in
        [("index.html", "plain"), ("a b/ü.txt", "words"), (".env", "SECRET=1"), ("node_modules/x.js", "x")]
    {
        put(&plain, path, text);
    }
    let run = build(&plain);
    assert_eq!((&run["site"]["files"], &run["site"]["skipped_count"]), (&json!(2), &json!(0)), "{run}");
    assert_eq!((nginx.page(&plain, "/"), nginx.page(&plain, "/a%20b/%C3%BC.txt")), ("plain".into(), "words".into()));
    for hidden in ["/.env", "/node_modules/x.js", "/dist/index.html", "/css/a.css", "/../current/index.html"] {
        assert_ne!(nginx.fetch(&plain, hidden).0, 200, "{hidden}");
    }

    // Who may do what with what is served: the gateway writes, the group reads, nobody else; no agent sees it.
    let modes = sh(&format!("find {SITES} -mindepth 1 -not -type l -printf '%y %u:%g %m\\n' | sort -u"));
    assert_eq!(modes, "d pi-gateway:pi-gateway-sites 2750\nf pi-gateway:pi-gateway-sites 640");
    let page = format!("{SITES}/{}/current/index.html", plain.name);
    let read = |groups: &str| try_sh(&format!("setpriv --reuid=www-data --regid=www-data {groups} cat {page}"));
    assert!(read("--init-groups").0 && !read("--clear-groups").0, "the group decides");
    for attempt in [format!("ls {SITES}"), format!("cat {page}"), format!("echo x >{page}")] {
        let output = npm.bash(&format!("if ( {attempt} ) >/dev/null 2>&1; then echo worked; else echo refused; fi"));
        assert_eq!(output.trim(), "refused", "{attempt}");
    }
    // What the agent does to its own dist afterwards changes nothing that is served, and is no build.
    let run = plain.run("[[bash echo changed >dist/index.html]]");
    assert_eq!((&run["site"], nginx.page(&plain, "/")), (&json!(null), "plain".into()));
    // The next build takes its place, and the second next leaves two.
    for text in ["second", "third"] {
        put(&plain, "index.html", text);
        build(&plain);
        assert_eq!(nginx.page(&plain, "/"), text);
    }
    assert_eq!(sh(&format!("ls {SITES}/{} | wc -l", plain.name)), "3", "current and two generations");
    assert_eq!(nginx.page(&npm, "/"), "<h1>made by npm</h1>");
}

#[test]
fn a_build_that_fails_leaves_the_old_site_and_says_why() {
    let (_restore, nginx) = serving();
    let user = User::new("failing");
    npm_project(&user, "one");
    let good = build(&user)["site"].clone();
    assert_eq!(nginx.page(&user, "/"), "<h1>one</h1>");
    put(&user, "build.mjs", "console.error('no such thing as a semicolon'); process.exit(3);");
    let id = user.start("[[bash build-site; echo status $?; cat dist/index.html]]");
    let events = user.events(&id);
    let output = events.iter().find(|event| event.name == "tool.completed").unwrap().data["output"].to_string();
    for told in ["npm run build failed (exit status 3)", "no such thing as a semicolon", "status 1", "<h1>one</h1>"] {
        assert!(output.contains(told), "{told}: {output}");
    }
    let run = user.get(&format!("/runs/{id}")).json();
    assert_eq!((run["status"].as_str(), code(&run)), (Some("succeeded"), "build_failed"), "{run}");
    let notice = events.iter().find(|event| event.name == "notice").unwrap();
    assert_eq!(notice.data["code"], "site_failed");
    assert!(notice.data["message"].as_str().unwrap().contains("exit status 3"), "{notice:?}");
    let fails = |what: &str, command: &str, expected: &str| {
        let run = user.run(&format!("[[bash {command}]]"));
        assert_eq!(code(&run), expected, "{what}: {run}");
        assert_eq!(run["site"]["generation"], good["generation"], "{what}");
        assert_eq!(nginx.page(&user, "/"), "<h1>one</h1>", "{what}");
    };
    fails("nothing to build", "rm -r package.json; build-site", "build_failed");
    fails("huge, by hand", &format!("truncate -s 257M dist/huge; {FORGED}"), "too_large");
    let many = format!("rm dist/huge; mkdir dist/m; cd dist/m; seq 20001 | xargs touch; {FORGED}");
    fails("a great many", &many, "too_large");
    fails(
        "too deep to be listed",
        &format!("rm -r dist/m; cd dist; for n in $(seq 600); do mkdir 1234567; cd 1234567; done; {FORGED}"),
        "unreadable",
    );
    for place in ["ln -s . dist", "ln -s /etc dist", "mkfifo dist", "echo >dist", "true"] {
        fails(place, &format!("mv dist d$(date +%N); {place}; {FORGED}"), "no_output");
    }
    // What stands in the place of the report is looked at, and opened only when it is a file.
    for place in ["ln -s /etc/passwd", "mkfifo", "mkdir", "truncate -s 1G", "ln -s ../workspace/index.html"] {
        let run = user.run(&format!("[[bash rm -rf dist /session/site.json; {place} /session/site.json]]"));
        assert!(run["site"].is_null() || code(&run) == "report_invalid", "{place}: {run}");
        assert_eq!(nginx.page(&user, "/"), "<h1>one</h1>", "{place}");
    }
    user.bash("rm -rf /session/site.json d[0-9]*");
    put(&user, "index.html", "two");
    let run = build(&user);
    assert_eq!((code(&run), nginx.page(&user, "/")), ("", "two".into()), "{run}");
}

#[test]
fn only_the_users_own_regular_files_are_exported_whatever_lies_in_dist() {
    let (_restore, nginx) = serving();
    let (user, other) = (User::new("hostile"), User::new("victim"));
    for (whose, secret) in [(&user, "the-users-own-secret"), (&other, "the-victims-secret")] {
        put(whose, "private/secret", secret);
    }
    put(&user, "dist/index.html", "home");
    user.run(&format!(
        "[[bash cd dist; ln -s /etc/passwd passwd; ln -s ../private/secret own; ln -s ../private folder; \
         ln -s {} victim; ln -s index.html inside; mkfifo pipe; \
         python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"socket\")'; \
         echo 1 >'with space'; echo 2 >$'new\\nline'; echo 3 >ünï; echo 4 >$'\\xff\\xfe'; echo 5 >.htaccess; \
         mkdir .git $'bad\\x01' .well-known; echo 6 >.git/config; echo 7 >$'bad\\x01/in'; echo 8 >.well-known/security.txt; \
         echo 9 >closed; chmod 000 closed; echo '<%2e%2e>' >'x..%2f..%2fetc'; echo 10 >'-rf'; ln index.html hard]]",
        other.workspace() + "/private/secret"
    ));
    // Links that no agent could make, to files that others own: readable ones, so that only the owner tells.
    let dist = format!("{}/dist", user.workspace());
    sh(&format!(
        "ln {}/private/secret {dist}/foreign; chmod 644 {dist}/foreign; \
         echo the-roots-secret >/var/lib/pi-gateway/roots; ln /var/lib/pi-gateway/roots {dist}/roots",
        other.workspace()
    ));
    let run = user.run(&format!("[[bash {FORGED}]]"));
    sh(&format!("chmod 600 {dist}/foreign"));
    assert_eq!(code(&run), "", "{run}");
    let skipped: BTreeMap<&str, &str> = run["site"]["skipped"]
        .as_array()
        .unwrap()
        .iter()
        .map(|skipped| (skipped["path"].as_str().unwrap(), skipped["reason"].as_str().unwrap()))
        .collect();
    let expected = [
        (".git", "hidden"),
        (".htaccess", "hidden"),
        ("bad\u{1}", "name"),
        ("closed", "unreadable"),
        ("folder", "symlink"),
        ("foreign", "foreign"),
        ("inside", "symlink"),
        ("new\nline", "name"),
        ("own", "symlink"),
        ("passwd", "symlink"),
        ("pipe", "special"),
        ("roots", "foreign"),
        ("socket", "special"),
        ("victim", "symlink"),
    ];
    assert_eq!(skipped, BTreeMap::from(expected), "{run}");
    assert_eq!(run["site"]["skipped_count"], expected.len());
    for (path, text) in [
        ("/", "home"),
        ("/hard", "home"),
        ("/with%20space", "1"),
        ("/%C3%BCn%C3%AF", "3"),
        ("/%FF%FE", "4"),
        ("/.well-known/security.txt", "8"),
        ("/x..%252f..%252fetc", "<%2e%2e>"),
        ("/-rf", "10"),
    ] {
        assert_eq!(nginx.page(&user, path), text, "{path}");
    }
    let exported = exported(&user);
    let links: Vec<_> = exported.iter().filter(|(_, told)| told.contains("FileType")).collect();
    assert_eq!(links.len(), 1, "current, and no other: {links:?}");
    for secret in ["the-users-own-secret", "the-victims-secret", "the-roots-secret", "root:x:0:0"] {
        let found: Vec<_> = exported.iter().filter(|(_, told)| told.contains(secret)).collect();
        assert!(found.is_empty(), "{secret}: {found:?}");
    }
    // A copy that follows links has every one of them.
    let _ = try_sh(&format!("rm -rf /root/control; cp -rL {dist} /root/control"));
    for secret in ["the-users-own-secret", "the-victims-secret", "the-roots-secret", "root:x:0:0"] {
        assert!(
            try_sh(&format!("grep -rqsF -D skip '{secret}' /root/control")).0,
            "the control does not find {secret}"
        );
    }
    sh("rm -rf /root/control /var/lib/pi-gateway/roots");
}

/// The mark that all files of the site that is served carry; fails when it is not whole.
fn mark_of(user: &User, count: usize) -> String {
    let current = Path::new(SITES).join(&user.name).join("current");
    let whole = std::fs::canonicalize(&current).unwrap();
    let mut marks: Vec<String> =
        std::fs::read_dir(whole).unwrap().map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap()).collect();
    assert_eq!(marks.len(), count, "{}", current.display());
    marks.sort();
    marks.dedup();
    assert_eq!(marks.len(), 1, "a site of two builds: {marks:?}");
    marks.remove(0)
}

#[test]
fn a_front_that_is_killed_while_it_exports_leaves_the_old_site_or_the_new_one_whole() {
    const FILES: usize = 3000;
    let (_restore, _nginx) = serving();
    let user = User::new("killed");
    let making = |mark: &str| {
        format!("[[bash mkdir -p dist; cd dist; for n in $(seq {FILES}); do echo {mark} >f$n; done; {FORGED}]]")
    };
    assert_eq!(code(&user.run(&making("first"))), "");
    let mut before = "first\n".to_owned();
    assert_eq!(mark_of(&user, FILES), before);
    let place = Path::new(SITES).join(&user.name);
    let half = || {
        let names = std::fs::read_dir(&place).unwrap().flatten();
        names.map(|entry| entry.path()).find(|path| path.to_string_lossy().contains("/.tmp-"))
    };
    // With so many files written; with all of them, which is when they are synced, renamed and linked.
    for (number, moment) in [0, 700, 1900, FILES, FILES].into_iter().enumerate() {
        let mark = format!("killed-{number}-at-{moment}");
        let served = std::fs::read_link(place.join("current")).unwrap();
        let trigger = Trigger::aim(&[FRONT]);
        let id = user.start(&making(&mark));
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(120);
        let reached =
            || half().and_then(|half| std::fs::read_dir(half).ok()).is_some_and(|files| files.count() >= moment);
        // The last steps may be over between two looks.
        while !reached() && std::fs::read_link(place.join("current")).unwrap() == served {
            assert!(std::time::Instant::now() < deadline, "the export never came to {moment} files");
            std::thread::sleep(std::time::Duration::from_micros(500));
        }
        trigger.pull();
        let left = mark_of(&user, FILES);
        assert!(left == before || left == format!("{mark}\n"), "{left:?} is neither");
        until_ready();
        let run = user.finished(&id);
        assert_eq!((run["status"].as_str(), code(&run)), (Some("succeeded"), ""), "{run}");
        assert_eq!(mark_of(&user, FILES), format!("{mark}\n"), "the run is over, so its site is there");
        let names = sh(&format!("ls -A {}", place.display()));
        assert_eq!(names.lines().count(), 3, "current and two generations: {names}");
        assert!(half().is_none(), "{names}");
        before = format!("{mark}\n");
    }
}

#[test]
fn a_directory_that_is_not_fit_stops_the_start_and_what_is_told_helps() {
    testhost();
    let _restore = Restore::new();
    sh(&format!("echo SITES_DIR=/srv/sites >> {FILE}"));
    let told = |command: &str| try_sh(command).1;
    let check = told("pi-gateway check 2>&1; echo status $?");
    assert!(check.contains("SITES_DIR: ") && check.ends_with("status 78"), "{check}");
    let remedy = check.split('`').find(|part| part.starts_with("install -d")).unwrap().to_owned();
    sh(&remedy);
    assert_eq!(sh("pi-gateway check"), "the configuration is valid");
    // The unit's own walls are seen by the front, and by doctor.
    assert!(!try_sh("systemctl restart pi-gateway").0, "the front started and could not export");
    until("the front has given up", || (sh("systemctl show -P ActiveState pi-gateway") == "failed").then_some(()));
    let doctor = told("pi-gateway doctor");
    assert!(doctor.contains("failure  sites") && doctor.contains("ReadWritePaths=/srv/sites"), "{doctor}");
    sh("mkdir -p /etc/systemd/system/pi-gateway.service.d; \
        printf '[Service]\\nReadWritePaths=/srv/sites\\n' >/etc/systemd/system/pi-gateway.service.d/sites.conf; \
        systemctl daemon-reload; systemctl reset-failed pi-gateway; systemctl restart pi-gateway");
    until_ready();
    let doctor = told("pi-gateway doctor");
    let user = User::new("elsewhere");
    put(&user, "index.html", "elsewhere");
    let run = build(&user);
    let page = told(&format!("cat /srv/sites/{}/current/index.html", user.name));
    sh("rm -r /etc/systemd/system/pi-gateway.service.d/sites.conf");
    assert!(doctor.contains("ok       sites"), "{doctor}");
    assert_eq!((code(&run), page.as_str()), ("", "elsewhere"), "{run}");
}
