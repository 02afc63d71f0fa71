//! Commits and pushes: the git worker's own work beside `git add --all && git commit` on the same tree, and 100 MB through
//! the git relay beside the same git that asks the Gitea itself.

use std::path::{Path, PathBuf};
use std::time::Instant;

use pi_gateway::worker::git::message::Settings;
use pi_gateway::worker::git::{repository, sync};
use pi_gateway::worker::tree::Tree;
use pi_gateway_e2e::gitea::{Gitea, RELAY, REPOSITORIES, bare, pushed};
use pi_gateway_e2e::host::{try_sh, uid_of};
use pi_gateway_e2e::operator::nothing;
use pi_gateway_e2e::{User, sh};

use crate::route;
use crate::table::Table;

/// Files of the tree.
const FILES: usize = 50_000;
/// Files that change between two snapshots.
const CHANGES: usize = 100;
/// Snapshots of each kind.
const TIMES: usize = 7;
/// How much slower than git a snapshot may be.
const SLOWER: f64 = 1.2;
/// Where both trees are: on the disk, like workspaces.
const PLACE: &str = "/var/lib/bench-git";

fn plant(directory: &Path) {
    for number in 0..FILES {
        let parent = directory.join(format!("d{}/e{}", number / 5000, number / 100 % 50));
        std::fs::create_dir_all(&parent).unwrap();
        std::fs::write(parent.join(format!("f{number}.txt")), format!("file {number}\n").repeat(1 + number % 40))
            .unwrap();
    }
}

fn change(directory: &Path, round: usize) {
    for number in (round % 7..FILES).step_by(FILES / CHANGES) {
        let path = directory.join(format!("d{}/e{}/f{number}.txt", number / 5000, number / 100 % 50));
        std::fs::write(path, format!("round {round} of {number}\n")).unwrap();
    }
}

/// git as an agent has it, with nothing of this machine's settings; seconds.
fn by_git(directory: &Path) -> f64 {
    let begun = Instant::now();
    sh(&format!(
        "cd {} && export HOME=/nonexistent && git add --all && git -c user.name=a -c user.email=a@b -c gc.auto=0 commit -q -m x || true",
        directory.display()
    ));
    begun.elapsed().as_secs_f64()
}

/// The worker's work; seconds.
fn by_worker(directory: &Path, scratch: &mut usize) -> f64 {
    let settings = Settings {
        init: true,
        branch: "main".to_owned(),
        initial_message: "Initial commit".to_owned(),
        author: "a".to_owned(),
        email: "a@b".to_owned(),
        quota: u64::MAX,
        remote: None,
    };
    *scratch += 1;
    let begun = Instant::now();
    let tree = Tree::open(directory).unwrap();
    let place = PathBuf::from(format!("/run/bench-git/{scratch}"));
    sync::commit(&tree, &settings, &format!("x {scratch}\n"), &place).unwrap();
    begun.elapsed().as_secs_f64()
}

/// Snapshots of a large tree: the first one, one without changes, one with a few.
pub fn snapshots(table: &mut Table) {
    repository::isolate().expect("libgit2");
    sh(&format!("rm -rf {PLACE} /run/bench-git; mkdir -p {PLACE}/ours {PLACE}/theirs"));
    let (ours, theirs) = (PathBuf::from(format!("{PLACE}/ours")), PathBuf::from(format!("{PLACE}/theirs")));
    plant(&ours);
    plant(&theirs);
    let mut scratch = 0;
    let mut firsts = Vec::new();
    for _ in 0..3 {
        sh(&format!("rm -rf {PLACE}/*/.git; git -C {PLACE}/theirs init -q; sync"));
        let rival = by_git(&theirs);
        firsts.push(by_worker(&ours, &mut scratch) / rival);
    }
    table.row("snapshot of 50,000 files, the first, over git's", &mut firsts, "x", SLOWER);
    // What is as old as the index is read again; that is over now.
    std::thread::sleep(std::time::Duration::from_secs(2));
    by_worker(&ours, &mut scratch);
    by_git(&theirs);
    let (mut unchanged, mut changed) = (Vec::new(), Vec::new());
    for round in 0..TIMES {
        let rival = by_git(&theirs);
        unchanged.push(by_worker(&ours, &mut scratch) / rival);
        change(&ours, round);
        change(&theirs, round);
        let rival = by_git(&theirs);
        changed.push(by_worker(&ours, &mut scratch) / rival);
    }
    table.row("the same without a change", &mut unchanged, "x", SLOWER);
    table.row("the same with 100 changes", &mut changed, "x", SLOWER);
    assert_eq!(sh(&format!("git -C {PLACE}/ours status --porcelain | head -3")), "", "both do the same");
    sh(&format!("rm -rf {PLACE} /run/bench-git"));
}

/// Pushes and fetches 100 MB: prints the seconds of both.
const TRANSFER: &str = r#"
set -e; cd /tmp; rm -rf w r; git init -q -b main w; cd w; head -c 100000000 /dev/urandom >big; git add big
git commit -q -m big; a=$(date +%s.%N); git push -q $URL main; b=$(date +%s.%N)
cd ..; git clone -q --bare $URL r; c=$(date +%s.%N); echo "$a $b $c" | awk '{print "seconds", $2 - $1, $3 - $2}'; rm -rf w r
"#;

fn seconds(told: &str) -> (f64, f64) {
    let line = told.lines().find_map(|line| line.strip_prefix("seconds ")).unwrap_or_else(|| panic!("{told}"));
    let mut numbers = line.split(' ').map(|number| number.parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

/// Bytes through the relay beside bytes without it, and what worker and relay take of memory.
pub fn transfers(table: &mut Table) {
    let user = User::new("transfer");
    let _gitea = Gitea::of(&[&user.name]);
    pushed(&user, &user.run("[[say hello]]"));
    std::fs::write("/usr/local/bin/bench-transfer.sh", TRANSFER).unwrap();
    std::fs::write("/usr/local/bin/hand-over.py", pi_gateway_e2e::gitea::HAND_OVER).unwrap();
    let unit = |network: &str, url: &str, program: &str| {
        sh(&format!(
            "rm -rf {bare}; git init -q --bare -b main {bare}; echo 'sync-bot write' >{bare}/access; \
             systemd-run -q --wait --pipe -p User={} {network} -p PrivateTmp=yes -E HOME=/nonexistent \
             -E GIT_AUTHOR_NAME=a -E GIT_AUTHOR_EMAIL=a@b -E GIT_COMMITTER_NAME=a -E GIT_COMMITTER_EMAIL=a@b \
             -E URL={url} {program} 2>&1",
            uid_of(&user.name),
            bare = bare(&user),
        ))
    };
    let token = sh("cat /etc/pi-gateway/credentials/GITEA_SYNC_SERVICE_TOKEN");
    let path = format!("{}/workspace.git", user.name);
    let (mut pushes, mut fetches) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        let direct = unit(
            "",
            &format!("http://sync-bot:{token}@127.0.0.1:3000/{path}"),
            "bash /usr/local/bin/bench-transfer.sh",
        );
        let relayed = unit(
            "-p PrivateNetwork=yes",
            &format!("http://127.0.0.1:4181/{path}"),
            "python3 /usr/local/bin/hand-over.py 'bash /usr/local/bin/bench-transfer.sh'",
        );
        let ((push, fetch), (push_relayed, fetch_relayed)) = (seconds(&direct), seconds(&relayed));
        pushes.push(push / push_relayed);
        fetches.push(fetch / fetch_relayed);
    }
    table.at_least("push of 100 MB through the relay, of the direct speed", &mut pushes, "x", 0.9);
    table.at_least("fetch of 100 MB through the relay, of the direct speed", &mut fetches, "x", 0.9);
    table.row("git relay: resident memory behind it", &mut [route::resident(RELAY) / f64::from(1 << 20)], "MiB", 20.0);
    sh(&format!(
        "rm -rf {}; git init -q --bare -b main {}; echo 'sync-bot write' >{REPOSITORIES}/{}/workspace.git/access",
        bare(&user),
        bare(&user),
        user.name
    ));
    // A workspace of many files and one large one, in the real unit.
    let workspace = PathBuf::from(format!("/var/lib/pi-gateway/workspaces/{}", user.name));
    plant(&workspace);
    sh(&format!(
        "head -c 45000000 /dev/urandom >{0}/big; head -c 45000000 /dev/urandom >{0}/big2; chown -R --reference={0} {0}",
        workspace.display()
    ));
    let clone = User { name: user.name.clone(), token: user.token.clone() };
    let syncing = std::thread::spawn(move || clone.post("/workspace/sync", &[], &nothing()));
    let mut most = 0.0_f64;
    while !syncing.is_finished() {
        let pid = try_sh(&format!("systemctl show -P MainPID pi-gateway-git-{}.service", user.name)).1;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let peak = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB")?.trim().parse().ok());
        most = most.max(peak.unwrap_or(0.0));
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    let answer = syncing.join().expect("a sync");
    assert_eq!(answer.status, 200, "{answer:?}");
    table.row("git worker: most memory of its own, 50,000 files, 2 of 45 MB", &mut [most / 1024.0], "MiB", 128.0);
}
