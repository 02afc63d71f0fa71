//! The arguments of `systemd-run`, whole, as golden files. `UPDATE_GOLDEN=1 cargo test -p pi-gateway-helper --test units`
//! writes them anew, to be read before they are committed.

#![allow(clippy::unwrap_used, reason = "a test")]

use pi_gateway_helper::names::{Run, User};
use pi_gateway_helper::settings::Settings;
use pi_gateway_helper::units::{EGRESS, GIT, MODEL, argv, name, relay_argv};
use pi_gateway_helper::wire::Unit;
use proptest::prelude::*;

const RUN: &str = "01a205e8-7d1f-7255-8c8f-ce60b3ba1d9d";

fn settings_text() -> &'static str {
    "BASE_WORKDIR=/var/lib/pi-gateway/workspaces\nSESSION_DIR=/var/lib/pi-gateway/sessions\n\
         PI_BIN=/usr/lib/pi-gateway/runtime/1.5.2/pi\nINTERNAL_PROVIDER_PORT=4180\n\
         PI_GATEWAY_EXTENSION_PATH=/usr/lib/pi-gateway/trusted/extension.mjs\n\
         PI_SANDBOX_AGENTS_PATH=/usr/lib/pi-gateway/trusted/AGENTS.md\n\
         PI_GATEWAY_MODELS=/usr/lib/pi-gateway/trusted/models.json\nPI_GATEWAY_DEFAULT_MODEL=gpt-6-sol\n\
         PI_DISABLE_CONTEXT_FILES=true\nSANDBOX_MEMORY_MAX=1G\nSANDBOX_TASKS_MAX=256\nSANDBOX_CPU_QUOTA=100%\n\
         RUN_TIMEOUT_MS=1800000\nRUN_CANCEL_GRACE_MS=5000\nMAX_CONCURRENT_RUNS=8\nWORKSPACE_REMOTE_MODE=none\n\
         WORKSPACE_FINALIZATION_TIMEOUT_MS=120000\nSANDBOX_INTERNET_ENABLED=false\n"
}

fn settings() -> Settings {
    Settings::new(settings_text()).unwrap()
}

fn golden(name: &str, arguments: &[String]) {
    let path = format!("{}/tests/golden/{name}", env!("CARGO_MANIFEST_DIR"));
    let text = arguments.join("\n") + "\n";
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text, "{path}; see this file's head");
}

#[test]
fn the_arguments_are_those_of_the_golden_files() {
    let (user, run) = (User::parse("alice").unwrap(), Run::parse(RUN).unwrap());
    for version in [252, 257] {
        let of = |unit, run| argv(&settings(), version, &user, 1_879_048_193, &unit, run);
        golden(&format!("agent-{version}.argv"), &of(Unit::Agent(user.clone()), Some(&run)));
        golden(&format!("worker-{version}.argv"), &of(Unit::Worker(user.clone()), None));
        golden(&format!("git-{version}.argv"), &of(Unit::Git(user.clone()), Some(&run)));
    }
    let online = Settings::new(&settings_text().replace("ENABLED=false", "ENABLED=true")).unwrap();
    let agent = argv(&online, 252, &user, 1_879_048_193, &Unit::Agent(user.clone()), Some(&run));
    golden("agent-online-252.argv", &agent);
    // The internet is the agent's alone.
    for (unit, run) in [(Unit::Worker(user.clone()), None), (Unit::Git(user.clone()), Some(&run))] {
        assert_eq!(argv(&online, 252, &user, 1, &unit, run), argv(&settings(), 252, &user, 1, &unit, run));
    }
    golden("model-relay.argv", &relay_argv(&MODEL));
    golden("git-relay.argv", &relay_argv(&GIT));
    golden("egress-relay.argv", &relay_argv(&EGRESS));
}

#[test]
fn nothing_is_there_that_leaks_loses_failures_or_hides_the_root() {
    let (user, run) = (User::parse("alice").unwrap(), Run::parse(RUN).unwrap());
    let online = Settings::new(&settings_text().replace("ENABLED=false", "ENABLED=true")).unwrap();
    let of = |unit, run| argv(&online, 257, &user, 1, &unit, run);
    for arguments in [
        of(Unit::Agent(user.clone()), Some(&run)),
        of(Unit::Worker(user.clone()), None),
        of(Unit::Git(user.clone()), Some(&run)),
        relay_argv(&MODEL),
        relay_argv(&GIT),
        relay_argv(&EGRESS),
    ] {
        let all = arguments.join("\n");
        for bad in [
            "SetCredential",
            "--collect",
            "--wait",
            "--pipe",
            "--remain-after-exit",
            "TemporaryFileSystem=/:",
            "{",
            "}",
        ] {
            assert!(!all.contains(bad), "{bad} is in {all}");
        }
        let program = arguments.iter().position(|argument| argument == "--").unwrap();
        assert!(arguments[program + 1].starts_with("/usr/lib/pi-gateway/"));
    }
}

/// systemd 252 forgets RestrictNamespaces= of a transient unit at daemon-reload; packaging/systemd/namespaces.conf says it again.
#[test]
fn every_kind_of_unit_has_the_drop_in_that_outlives_a_reload() {
    let files = std::fs::read_to_string(format!("{}/../packaging/files", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let user = User::parse("alice").unwrap();
    let units =
        [Unit::Agent(user.clone()), Unit::Worker(user.clone()), Unit::Git(user), Unit::ModelRelay, Unit::GitRelay];
    for unit in units.iter().chain([&Unit::EgressRelay]).map(name) {
        let prefix = &unit[..=unit.rfind('-').unwrap()];
        assert!(files.contains(&format!("/{prefix}.service.d/namespaces.conf")), "{unit}");
    }
}

proptest! {
    /// Names that parse, and settings of any text: what the launcher takes of them changes nothing but their places.
    #[test]
    fn no_name_or_setting_changes_the_number_of_arguments_or_brings_what_systemd_expands(
        name in "[a-z0-9._-]{1,40}",
        run in "[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}",
        values in prop::collection::vec("[ -~]{1,12}|[a-z0-9/%:._+-]{1,12}|[0-9]{1,3}%", 18),
    ) {
        let Ok(user) = User::parse(&name) else { return Ok(()) };
        let run = Run::parse(&run).unwrap();
        let text = settings_text();
        let any: Vec<_> = text.lines().map(|line| line.split_once('=').unwrap()).zip(&values).collect();
        // One bad value refuses the file, so each is tried among good ones.
        for chosen in 0..any.len() {
            let line = |(index, ((name, good), any)): (usize, &((&str, &str), &String))| {
                format!("{name}={}\n", if index == chosen { any } else { *good })
            };
            let Ok(settings) = Settings::new(&any.iter().enumerate().map(line).collect::<String>()) else { continue };
            let of = |settings, user| {
                argv(settings, 252, user, 1_879_048_193, &Unit::Agent(user.clone()), Some(&run))
            };
            let arguments = of(&settings, &user);
            let plain = of(&self::settings(), &User::parse("a").unwrap());
            let context = usize::from(settings.get("PI_DISABLE_CONTEXT_FILES") != "true");
            prop_assert_eq!(arguments.len() + context, plain.len());
            for argument in &arguments {
                prop_assert!(!argument.contains(['$', '\n', '"', '\'', '\\', ';', '{', '}']), "{}", argument);
                // A specifier is a per cent sign and a letter or another one: behind the last there is neither.
                let mut behind = argument.split('%').skip(1);
                prop_assert!(behind.all(|rest| !rest.starts_with(|c: char| c.is_ascii_alphanumeric())), "{}", argument);
                prop_assert!(!argument.contains("%%"), "{}", argument);
            }
        }
    }
}
