//! What a compromised front can do to the launcher's connections, and what it cannot. No systemd is needed: the one
//! request that is made here is refused without asking it.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pi_gateway_helper::launcher::Launcher;
use pi_gateway_helper::names::User;
use pi_gateway_helper::settings::Settings;
use pi_gateway_helper::uids::Registry;
use pi_gateway_helper::wire::{Hidden, MAX_FRAME, Refusal, Reply, Request, Step, Unit, encode, read};

/// As many as the launcher has threads.
const ALL: usize = 16;

/// A launcher whose peers are the front `uid` and the model relay `relay`, until the test ends.
fn launcher(directory: &Path, uid: u32, relay: u32) -> PathBuf {
    let names = "BASE_WORKDIR SESSION_DIR PI_BIN INTERNAL_PROVIDER_PORT PI_GATEWAY_EXTENSION_PATH \
        PI_SANDBOX_AGENTS_PATH PI_GATEWAY_MODELS PI_GATEWAY_DEFAULT_MODEL PI_DISABLE_CONTEXT_FILES SANDBOX_MEMORY_MAX \
        SANDBOX_TASKS_MAX SANDBOX_CPU_QUOTA RUN_TIMEOUT_MS RUN_CANCEL_GRACE_MS MAX_CONCURRENT_RUNS \
        WORKSPACE_REMOTE_MODE WORKSPACE_FINALIZATION_TIMEOUT_MS SANDBOX_INTERNET_ENABLED";
    let text: String = names.split_whitespace().map(|name| format!("{name}=1\n")).collect();
    let text = format!("{text}PI_GATEWAY_CODEX_AUTH_FILE={}\n", directory.join("codex.json").display());
    let settings = Settings::new(&text).unwrap();
    let registry = Registry::open(&directory.join("uids")).unwrap();
    let (starting, waiting) = Default::default();
    let launcher = Launcher { settings, version: 252, registry, front: (uid, uid), relay, starting, waiting };
    let path = directory.join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || launcher.serve(&[listener]));
    path
}

fn own_uid() -> u32 {
    nix::unistd::geteuid().as_raw()
}

fn request() -> Vec<u8> {
    encode(&Request::Stop(Unit::ModelRelay)).unwrap()
}

/// What is answered to these bytes; nothing when the connection is ended instead.
fn told(path: &Path, bytes: &[u8]) -> Option<Reply> {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    // A launcher that has closed already need not take the rest.
    let _ = stream.write_all(bytes);
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    // Closing with unread bytes is a reset to the peer.
    let _ = stream.read_to_end(&mut answer);
    if answer.is_empty() { None } else { Some(read::<Reply>(answer.as_slice()).unwrap()) }
}

#[test]
fn what_is_no_request_ends_its_own_connection_and_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let path = launcher(directory.path(), own_uid(), own_uid() + 1);
    let good = request();
    let (mut version, mut longer, mut unknown, mut shorter) = (good.clone(), good.clone(), good.clone(), good.clone());
    version[4] = 2;
    longer[0] += 1;
    longer.push(0);
    unknown[5] = 200;
    shorter[0] -= 1;
    let huge = [&u32::MAX.to_le_bytes()[..], &[1; 64]].concat();
    let mut path_for_a_name = encode(&Request::Stop(Unit::Agent(User::parse("a").unwrap()))).unwrap();
    *path_for_a_name.last_mut().unwrap() = b'/';
    let reply = encode(&Reply::Stopped).unwrap();
    for bad in [version, longer, unknown, shorter, huge, path_for_a_name, reply, vec![], vec![0; 4], good[..7].to_vec()]
    {
        assert_eq!(told(&path, &bad), None, "{bad:?}");
        assert_eq!(told(&path, &good), Some(Reply::Refused(Refusal::NotYours)), "after {bad:?}");
    }
    // One request a connection: what comes behind it is not read.
    assert_eq!(told(&path, &[good.clone(), good].concat()), Some(Reply::Refused(Refusal::NotYours)));
}

#[test]
fn nobody_but_a_peer_is_answered() {
    let directory = tempfile::tempdir().unwrap();
    let path = launcher(directory.path(), own_uid() + 1, own_uid() + 2);
    assert_eq!(told(&path, &request()), None);
}

/// The two peers of the launcher in turn: each can make its own requests only.
#[test]
fn the_front_gets_no_codex_token_and_the_model_relay_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let content = directory.path().join("codex.json");
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&content).unwrap();
    file.write_all(b"the old token").unwrap();
    let hidden = |text: &str| Hidden(text.into());
    let store = |known, new| encode(&Request::StoreCodexToken(hidden(known), hidden(new))).unwrap();
    let not_yours = Some(Reply::Refused(Refusal::NotYours));
    let front = launcher(directory.path(), own_uid(), own_uid() + 1);
    assert_eq!(told(&front, &store("", "")), not_yours);
    assert_eq!(told(&front, &store("the old token", "mine")), not_yours);
    std::fs::remove_file(&front).unwrap();
    let relay = launcher(directory.path(), own_uid() + 1, own_uid());
    for request in [
        Request::Stop(Unit::ModelRelay),
        Request::Status(Unit::GitRelay),
        Request::StartWorker(User::parse("a").unwrap()),
        Request::Stop(Unit::Agent(User::parse("a").unwrap())),
    ] {
        assert_eq!(told(&relay, &encode(&request).unwrap()), not_yours, "{request:?}");
    }
    assert_eq!(told(&relay, &store("", "")), Some(Reply::CodexToken(hidden("the old token"))));
    assert_eq!(told(&relay, &store("the old token", "new")), Some(Reply::CodexToken(hidden("new"))));
    assert_eq!(told(&relay, &store("the old token", "newer")), Some(Reply::CodexToken(hidden("new"))));
    std::fs::remove_file(&content).unwrap();
    assert_eq!(told(&relay, &store("", "")), Some(Reply::Refused(Refusal::Failed(Step::CodexFile))));
}

#[test]
fn peers_that_trickle_hold_up_others_for_no_longer_than_the_deadline() {
    let directory = tempfile::tempdir().unwrap();
    let path = launcher(directory.path(), own_uid(), own_uid() + 1);
    let begun = Instant::now();
    // The length of a frame that is allowed, then a byte now and then: each comes well within the deadline.
    let head = u32::try_from(MAX_FRAME).unwrap().to_le_bytes();
    let slow: Vec<UnixStream> = (0..ALL).map(|_| UnixStream::connect(&path).unwrap()).collect();
    slow.iter().for_each(|mut stream| stream.write_all(&head).unwrap());
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::SeqCst) {
                slow.iter().for_each(|mut stream| drop(stream.write(&[1])));
                std::thread::sleep(Duration::from_millis(250));
            }
        });
        let answered = told(&path, &request());
        done.store(true, std::sync::atomic::Ordering::SeqCst);
        assert_eq!(answered, Some(Reply::Refused(Refusal::NotYours)));
    });
    let took = begun.elapsed();
    assert!((Duration::from_secs(8)..Duration::from_secs(15)).contains(&took), "{took:?}");
}
