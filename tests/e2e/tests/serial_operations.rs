//! docs/operations.md: what it tells an operator to type is typed, as root, and a backup is one.

use std::process::Command;

use pi_gateway_e2e::host::{uid_of, until_ready};
use pi_gateway_e2e::operator::Restore;
use pi_gateway_e2e::{User, sh, testhost};

/// A section of the document: the blocks that root types, in their order.
fn blocks(section: &str) -> Vec<String> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/operations.md");
    let document = std::fs::read_to_string(path).unwrap();
    let heading = format!("\n## {section}\n");
    let text = document.split(&heading).nth(1).unwrap_or_else(|| panic!("no section {section}"));
    let text = text.split("\n## ").next().unwrap();
    text.split("```sh root\n").skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

fn type_in(block: &str) -> String {
    let output = Command::new("bash").args(["-c", &format!("set -euo pipefail\n{block}")]).output().unwrap();
    let told = [output.stdout, output.stderr].concat();
    let told = String::from_utf8_lossy(&told).into_owned();
    assert!(output.status.success(), "{block}\n{told}");
    told
}

#[test]
fn what_is_typed_to_install_configure_and_look_works_and_loses_no_run() {
    testhost();
    let _restore = Restore::new();
    let user = User::new("operated");
    let id = user.start("[[slow 120 100]]");
    let mut typed = 0;
    for section in ["Install", "Configure", "Logs"] {
        for block in blocks(section) {
            type_in(&block);
            until_ready();
            typed += 1;
        }
    }
    assert!(typed >= 5, "{typed} blocks");
    assert_eq!(user.finished(&id)["status"], "succeeded");
    // The token was signed with what is now the secret before.
    let secret = sh("grep -c '^JWT_SHARED_SECRET' /etc/pi-gateway/gateway.env");
    assert_eq!((secret.as_str(), user.get("/session").status), ("2", 200));
    assert_eq!(User::new("after").get("/session").status, 200);
}

#[test]
fn a_restored_gateway_has_everybodys_files_conversations_and_runs() {
    testhost();
    let users = [User::new("kept"), User::new("kept")];
    let runs =
        users.each_ref().map(|user| user.run("[[bash echo mine >file; ln -s file link; chmod 600 file]] Keep this."));
    let uids = users.each_ref().map(|user| uid_of(&user.name));
    let conversations = users.each_ref().map(User::conversation);
    let owners = |user: &User| sh(&format!("find {} -printf '%P %U %G %m\\n' | sort", user.workspace()));
    let files = users.each_ref().map(owners);
    let [backup, restore] = blocks("Backup and restore").try_into().unwrap();
    type_in(&backup);
    assert_eq!(sh("stat -c %a /root/pi-gateway.tar.zst"), "600");
    // Who comes later is not in it.
    let late = User::new("late");
    late.run("hello");
    // Another machine has other uids for its services.
    let extract = "--file /root/pi-gateway.tar.zst -C /\n";
    let (before, after) = restore.split_once(extract).unwrap();
    let foreign = "chown -R 64321:64321 /var/lib/pi-gateway/front /var/lib/pi-gateway/usage; \
        chown root:64321 /etc/pi-gateway/gateway.env; [ ! -d /var/lib/pi-gateway/sites ] || chown -R 64321 /var/lib/pi-gateway/sites\n";
    let told = type_in(&format!("{before}{extract}{foreign}{after}"));
    assert!(told.contains("belongs to its users") && !told.contains("failure"), "{told}");
    until_ready();
    for (index, user) in users.iter().enumerate() {
        let id = runs[index]["id"].as_str().unwrap();
        assert_eq!(user.get(&format!("/runs/{id}")).json()["output_text"], runs[index]["output_text"]);
        assert_eq!(user.events(id).last().unwrap().name, "run.finished");
        assert_eq!(user.conversation(), conversations[index]);
        assert_eq!((owners(user), uid_of(&user.name)), (files[index].clone(), uids[index]));
        assert_eq!(user.run("[[bash cat link]]")["status"], "succeeded");
        assert_eq!(user.get("/runs").json()["data"].as_array().unwrap().len(), 2);
    }
    assert_eq!(late.get("/runs").json()["data"].as_array().unwrap().len(), 0);
    // A uid that was given away after the backup is given again only to whoever comes next: its owner's files are not there.
    assert_eq!(late.run("hello again")["status"], "succeeded");
    // A registry of another day is noticed.
    sh("cp -a /var/lib/pi-gateway/uids /root/uids.kept; head -1 /root/uids.kept >/var/lib/pi-gateway/uids");
    let refused = sh("pi-gateway doctor || true");
    sh("cat /root/uids.kept >/var/lib/pi-gateway/uids; rm -f /root/pi-gateway.tar.zst");
    assert!(refused.contains("from one backup"), "{refused}");
}
