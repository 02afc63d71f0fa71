//! Whether limits limit: each is tried out by a unit that does what the limit is there against, beside one that does the
//! same with room for it. systemd ignores some restrictions on some kernels without a word.

use super::Examination;
use super::prober::{self, Ran};

/// Holds 48 MiB, and says so when it has.
const HOLD: &str = "head -c 64M /dev/zero | tail -c 48M | wc -c";
const HELD: &str = "50331648";
/// Starts eight more processes, and says so.
const FORK: &str = "for i in 1 2 3 4 5 6 7 8; do sleep 9 & done; echo all";
const FORKED: &str = "all";
/// Computes for a second, and tells the time that it had.
const COMPUTE: &str = "timeout 1 sh -c 'while :; do :; done'; times";
/// What a fifth of a processor for a second may look like, in seconds.
const FIFTH: f64 = 0.5;

/// Tries the limits out.
pub fn look(examination: &mut Examination<'_>) {
    examination.try_out("limits", |examination, values| {
        let shell = |what: &str, properties: &[&str], script: &str| prober::run(what, properties, &["/bin/sh", "-c", script]);
        let held = |ran: &Ran| ran.is_good() && ran.out.trim() == HELD;
        let memory = ["MemoryMax=16M", "MemorySwapMax=0"];
        let judged = bites(&shell("room", &["MemoryMax=256M"], HOLD), &shell("memory", &memory, HOLD), held);
        examination.note("limits", judged.map(|()| "MemoryMax= limits".to_owned()).map_err(|why| format!("MemoryMax= {why}")));
        let forked = |ran: &Ran| ran.is_good() && ran.out.trim() == FORKED;
        let judged = bites(&shell("forks", &["TasksMax=64"], FORK), &shell("tasks", &["TasksMax=4"], FORK), forked);
        examination.note("limits", judged.map(|()| "TasksMax= limits".to_owned()).map_err(|why| format!("TasksMax= {why}")));
        let computed = shell("cpu", &["CPUQuota=20%"], COMPUTE);
        examination.note("limits", match seconds(&computed.out) {
            Some(had) if had <= FIFTH => Ok("CPUQuota= limits".to_owned()),
            Some(had) => Err(format!("CPUQuota= does not limit on this system: with a fifth of a processor a program had {had:.1} s in one")),
            None => Err(format!("CPUQuota= could not be tried out: {}", computed.told())),
        });
        wall(examination, values.get("HOST"), values.get("PORT"));
    });
}

/// Judges a limit: with room it must go, without it must not.
fn bites(with_room: &Ran, without: &Ran, went: impl Fn(&Ran) -> bool) -> Result<(), String> {
    if !went(with_room) {
        return Err(format!("could not be tried out: {}", with_room.told()));
    }
    if went(without) {
        return Err("does not limit on this system; no sandbox holds without it: is the kernel's cgroup controller delegated to systemd?".to_owned());
    }
    Ok(())
}

/// The processor time of the shell's children, of what `times` prints.
fn seconds(times: &str) -> Option<f64> {
    let one = |text: &str| {
        let (minutes, seconds) = text.strip_suffix('s')?.split_once('m')?;
        Some(minutes.parse::<f64>().ok()? * 60.0 + seconds.parse::<f64>().ok()?)
    };
    times.lines().nth(1)?.split_whitespace().map(one).sum()
}

/// The second wall of a sandbox: packets that its empty namespace does not have anyway.
fn wall(examination: &mut Examination<'_>, host: &str, port: &str) {
    // A port that nobody knows takes the place of an address with colons, which bash reads otherwise.
    let connect = format!("timeout 1 bash -c '</dev/tcp/{host}/{port}'");
    let shell = |what: &str, property: &str| prober::run(what, &[property], &["/bin/sh", "-c", &connect]);
    if shell("reach", "IPAddressAllow=any").is_good() {
        if shell("wall", "IPAddressDeny=any").is_good() {
            let told = "IPAddressDeny= does not limit on this system (the kernel has no BPF for cgroups): sandboxes lack their second wall";
            examination.warn("limits", told);
        } else {
            examination.ok("limits", "IPAddressDeny= limits");
        }
    } else {
        examination.warn("limits", format!("IPAddressDeny= could not be tried out: nobody answers at {host}:{port}"));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn ran(status: i32, out: &str) -> Ran {
        Ran { status: Some(status), out: out.to_owned(), err: String::new() }
    }

    #[test]
    fn a_limit_bites_when_only_the_one_with_room_gets_through() {
        let went = |ran: &Ran| ran.is_good() && ran.out.trim() == "all";
        assert!(bites(&ran(0, "all\n"), &ran(2, ""), went).is_ok());
        assert!(bites(&ran(0, "all\n"), &ran(0, "all\n"), went).unwrap_err().contains("does not limit"));
        assert!(bites(&ran(1, ""), &ran(2, ""), went).unwrap_err().contains("could not be tried out"));
    }

    #[test]
    fn the_time_is_that_of_the_children() {
        assert_eq!(seconds("0m0.010s 0m0.000s\n0m0.250s 1m0.500s\n"), Some(60.75));
        assert_eq!(seconds("0m0.010s 0m0.000s\n"), None);
        assert_eq!(seconds("a\nb\n"), None);
    }
}
