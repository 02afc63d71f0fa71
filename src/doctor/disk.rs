//! Disks, quotas, whose the users' directories are, and where sites go.

use std::path::Path;

use super::Examination;
use crate::owners;
use crate::quota::{self, Limit};
use crate::sites::place;
use crate::workspace::disk::Space;

/// Looks at them, as far as the configuration says where they are.
pub fn look(examination: &mut Examination<'_>) {
    space(examination, "/var/lib/pi-gateway/front");
    if examination.values.is_none() {
        return;
    }
    for name in ["BASE_WORKDIR", "SESSION_DIR"] {
        let directory = examination.value(name).to_owned();
        space(examination, &directory);
        let judged = owners::judge(Path::new(&directory)).map(|()| format!("{directory} belongs to its users"));
        examination.note("owners", judged);
    }
    limit(examination);
    let sites = examination.value("SITES_DIR").to_owned();
    if !sites.is_empty() {
        let path = Path::new(&sites);
        let judged = place::judge(path).and_then(|()| place::is_open_to_the_front(path));
        examination.note("sites", judged.map(|()| format!("{sites} takes exported sites")));
        space(examination, &sites);
    }
}

fn space(examination: &mut Examination<'_>, path: &str) {
    let mebibytes = |bytes: u64| bytes >> 20;
    match Space::of(Path::new(path)) {
        Err(error) => examination.fail("disk", format!("{path}: {error}: `systemd-tmpfiles --create pi-gateway.conf`")),
        Ok(space) if space.is_scarce() => {
            let (free, total) = (mebibytes(space.free), mebibytes(space.total));
            examination.fail("disk", format!("{path}: {free} of {total} MiB are free, no run starts; make room"));
        }
        Ok(space) => examination.ok("disk", format!("{path}: {} MiB are free", mebibytes(space.free))),
    }
}

fn limit(examination: &mut Examination<'_>) {
    let quota = examination.value("WORKSPACE_QUOTA_MB").to_owned();
    match quota::in_force(Path::new(examination.value("BASE_WORKDIR"))) {
        Limit::Kernel => examination.ok("quota", format!("the kernel limits each user; WORKSPACE_QUOTA_MB is {quota}")),
        Limit::Measured(why) => {
            let told = "is measured every few seconds, the kernel does not limit";
            examination.warn("quota", format!("WORKSPACE_QUOTA_MB ({quota}) {told}: {why}"));
        }
    }
}
