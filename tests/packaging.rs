//! What the packages say of the program: man pages and completions have each command and variable that there is, and every
//! file that is installed is there and is root's.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::process::Command;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const PROGRAM: &str = env!("CARGO_BIN_EXE_pi-gateway");

fn output(command: &mut Command) -> String {
    let output = command.current_dir(ROOT).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The commands of the usage.
fn commands() -> Vec<String> {
    let usage = output(Command::new(PROGRAM).arg("help"));
    let named = usage.lines().filter_map(|line| line.strip_prefix("  ")?.split(' ').next().map(str::to_owned));
    let commands: Vec<String> = named.filter(|name| !name.is_empty()).collect();
    assert!(commands.len() > 7, "{usage}");
    commands
}

/// What bash offers for the last of the words.
fn completed(words: &[&str]) -> Vec<String> {
    let script = format!(
        "pi-gateway() {{ {PROGRAM} \"$@\"; }}; source packaging/completions/pi-gateway.bash; \
         COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); _pi_gateway; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    );
    output(Command::new("bash").args(["-c", &script, "bash"]).args(words)).lines().map(str::to_owned).collect()
}

#[test]
fn each_command_of_the_usage_is_completed_with_its_options() {
    let mut wanted = commands();
    let mut offered = completed(&["pi-gateway", ""]);
    wanted.sort();
    offered.sort();
    assert_eq!(offered, wanted);
    assert_eq!(completed(&["pi-gateway", "move"]), ["move-credentials"]);
    assert_eq!(completed(&["pi-gateway", "token", ""]), ["--config", "--user", "--ttl"]);
    assert_eq!(completed(&["pi-gateway", "doctor", "--j"]), ["--json"]);
    assert_eq!(completed(&["pi-gateway", "check", "--write", "packaging/sys"]).len(), 2, "sysusers.d and systemd");
}

#[test]
fn the_man_pages_have_each_command_and_variable_and_no_mistake() {
    let dir = tempfile::tempdir().unwrap();
    output(Command::new("packaging/man/make").arg(PROGRAM).arg(dir.path()));
    let page = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
    let (commands_page, variables_page) = (page("pi-gateway.8"), page("gateway.env.5"));
    let both = format!("{commands_page}{variables_page}");
    assert!(!both.contains("@VERSION@") && !both.contains("@GENERATED@"), "a token of the template is left");
    for command in commands() {
        assert!(commands_page.contains(&format!("\n  {}", command.replace('-', "\\-"))), "{command}");
    }
    let mut variables = 0;
    for (_, group) in pi_gateway::config::variables::GROUPS {
        for variable in *group {
            assert!(variables_page.contains(&format!("\n.B {}\n", variable.name)), "{}", variable.name);
            variables += 1;
        }
    }
    assert!(variables > 40, "{variables}");
    if Command::new("man").arg("--version").output().is_ok() {
        for name in ["pi-gateway.8", "gateway.env.5"] {
            let shown = Command::new("man")
                .args(["--warnings", "-E", "UTF-8", "-l"])
                .arg(dir.path().join(name))
                .output()
                .unwrap();
            assert_eq!(String::from_utf8_lossy(&shown.stderr), "", "{name}");
            assert!(String::from_utf8_lossy(&shown.stdout).contains("SEE ALSO"), "{name}");
        }
    }
}

#[test]
fn every_installed_file_is_there_and_every_unit_is_installed() {
    let table = fs::read_to_string(format!("{ROOT}/packaging/files")).unwrap();
    let rows: Vec<Vec<&str>> =
        table.lines().filter(|line| !line.starts_with('#')).map(|line| line.split_whitespace().collect()).collect();
    for row in &rows {
        let [source, destination, "root", "root", _] = row[..] else { panic!("{row:?}") };
        assert!(destination.starts_with("/usr/") || destination.starts_with("/etc/pi-gateway/"), "{destination}");
        let made = source.starts_with("target/") || source.starts_with(".build/package/") || source.contains('*');
        assert!(made || fs::exists(format!("{ROOT}/{source}")).unwrap(), "{source}");
    }
    for entry in fs::read_dir(format!("{ROOT}/packaging/systemd")).unwrap() {
        let name = format!("packaging/systemd/{}", entry.unwrap().file_name().into_string().unwrap());
        assert!(rows.iter().any(|row| row[0] == name), "{name} is not installed");
    }
    // The launcher names its units by these words; systemd 252 needs the drop-in for each.
    for kind in ["agent", "worker", "git", "relay"] {
        assert!(table.contains(&format!("/pi-gateway-{kind}-.service.d/namespaces.conf")), "{kind}");
    }
}
