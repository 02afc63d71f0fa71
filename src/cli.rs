//! The program `pi-gateway`: the front, and the operator's commands.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use lexopt::prelude::*;
use pi_gateway_helper::names::User;

use crate::config::values::Values;
use crate::config::variables::Reader;
use crate::config::{self, Config, EX_CONFIG, Mistakes};
use crate::models::Catalogue;
use crate::{auth, doctor, http, log, machine, owners, quota};

const USAGE: &str = "\
usage: pi-gateway COMMAND [--config FILE]

  serve                         the HTTP front; systemd starts it
  check [--write DIRECTORY]     judges the configuration; with --write also writes what each relay may know of it,
                                and prints what the launcher may
  doctor [--json]               looks at everything a run needs; says what is wrong and what to do (as root)
  apply-quota                   sets WORKSPACE_QUOTA_MB as the kernel's quota of every user; systemd starts it
  token --user NAME [--ttl 1h]  makes a token for a user (s, m, h; at most JWT_MAX_LIFETIME_S)
  move-credentials              moves credentials from the configuration to where only root can read them
  config-reference              all variables, in Markdown
  openapi                       the OpenAPI document

--config FILE                   another file than /etc/pi-gateway/gateway.env
";
/// `EX_USAGE` of sysexits.h.
const EX_USAGE: u8 = 64;

enum Command {
    Serve,
    Check { write: Option<PathBuf> },
    Doctor { json: bool },
    ApplyQuota,
    Token { user: String, lifetime: Duration },
    MoveCredentials,
    Reference,
    OpenApi,
    Help,
}

/// Runs the command in the arguments; gives the exit status.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let (command, file) = match parse(arguments) {
        Ok(parsed) => parsed,
        Err(error) => {
            eprintln!("pi-gateway: {error}\n\n{USAGE}");
            return ExitCode::from(EX_USAGE);
        }
    };
    match command {
        Command::Help => print(USAGE),
        Command::Reference => print(&config::reference::markdown()),
        Command::OpenApi => print(&http::openapi_json()),
        Command::Check { write } => check(&file, write),
        Command::Doctor { json } => doctor::main(&file, json),
        Command::ApplyQuota => apply_quota(&file),
        Command::MoveCredentials => move_credentials(&file),
        Command::Serve => with_config(&file, serve),
        Command::Token { user, lifetime } => with_config(&file, |config| token(&config, &user, lifetime)),
    }
}

fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<(Command, PathBuf), lexopt::Error> {
    let mut parser = lexopt::Parser::from_args(arguments);
    let (mut json, mut name, mut file, mut write, mut user) = (false, None, PathBuf::from(config::FILE), None, None);
    let mut lifetime = Duration::from_secs(3600);
    while let Some(argument) = parser.next()? {
        match argument {
            Long("config") => file = parser.value()?.into(),
            Long("write") => write = Some(parser.value()?.into()),
            Long("json") => json = true,
            Long("user") => user = Some(parser.value()?.string()?),
            Long("ttl") => lifetime = parse_lifetime(&parser.value()?.string()?)?,
            Long("help") | Short('h') => name = Some("help".to_owned()),
            Value(value) if name.is_none() => name = Some(value.string()?),
            other => return Err(other.unexpected()),
        }
    }
    let command = match name.as_deref() {
        Some("serve") => Command::Serve,
        Some("check") => Command::Check { write },
        Some("doctor") => Command::Doctor { json },
        Some("apply-quota") => Command::ApplyQuota,
        Some("token") => Command::Token { user: user.ok_or("token needs --user NAME")?, lifetime },
        Some("move-credentials") => Command::MoveCredentials,
        Some("config-reference") => Command::Reference,
        Some("openapi") => Command::OpenApi,
        Some("help") => Command::Help,
        Some(other) => return Err(format!("there is no command {other}").into()),
        None => return Err("a command is needed".into()),
    };
    Ok((command, file))
}

/// A number of seconds, minutes or hours.
fn parse_lifetime(text: &str) -> Result<Duration, lexopt::Error> {
    let (digits, unit) = text.split_at(text.len() - usize::from(text.ends_with(['s', 'm', 'h'])));
    let seconds = match unit {
        "m" => 60,
        "h" => 3600,
        _ => 1,
    };
    let number = digits.parse::<u32>().map_err(|_| format!("--ttl {text}: a number with s, m or h, such as 15m"))?;
    Ok(Duration::from_secs(u64::from(number) * seconds))
}

fn print(text: &str) -> ExitCode {
    // A reader that has seen enough is no error.
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

fn refuse(mistakes: &Mistakes) -> ExitCode {
    let count = mistakes.0.len();
    eprintln!("pi-gateway: the configuration has {count} mistake{}:", if count == 1 { "" } else { "s" });
    eprint!("{mistakes}");
    ExitCode::from(EX_CONFIG)
}

fn with_config(file: &std::path::Path, then: impl FnOnce(Config) -> ExitCode) -> ExitCode {
    match config::load(file) {
        Ok((config, warnings)) => {
            for warning in warnings {
                eprintln!("pi-gateway: warning: {warning}");
            }
            then(config)
        }
        Err(mistakes) => refuse(&mistakes),
    }
}

fn check(file: &std::path::Path, write: Option<PathBuf>) -> ExitCode {
    // The launcher asks like this before it starts: what the machine lacks is told together with the mistakes.
    let kernel = write.as_ref().map_or(Ok(()), |_| machine::controllers());
    let mut wrong: Vec<String> = kernel.err().into_iter().collect();
    let mut ask = |values: Option<&Values>, models: Option<&Catalogue>| {
        let needed = write.iter().flat_map(|_| machine::needed(values, models));
        wrong.extend(needed.filter_map(Result::err));
    };
    let (values, warnings) = match Values::load(file) {
        Ok(loaded) => loaded,
        Err(Mistakes(mistakes)) => {
            ask(None, None);
            return refuse(&Mistakes([mistakes, wrong].concat()));
        }
    };
    let models = std::path::Path::new(values.get("PI_GATEWAY_MODELS"));
    let models = crate::models::with_default(models, values.get("PI_GATEWAY_DEFAULT_MODEL"));
    ask(Some(&values), models.as_ref().ok());
    wrong.extend(models.err());
    let sites = std::path::Path::new(values.get("SITES_DIR"));
    if !sites.as_os_str().is_empty() {
        wrong.extend(crate::sites::place::judge(sites).err());
    }
    if write.is_some() {
        let judged = ["BASE_WORKDIR", "SESSION_DIR"].map(|name| owners::judge(std::path::Path::new(values.get(name))));
        wrong.extend(judged.into_iter().filter_map(Result::err));
    }
    if !wrong.is_empty() {
        return refuse(&Mistakes(wrong));
    }
    for warning in warnings {
        eprintln!("warning: {warning}");
    }
    match write.map(|directory| config::project::write(&values, &directory)) {
        Some(Err(error)) => {
            eprintln!("pi-gateway: writing the configuration of the relays: {error}");
            ExitCode::FAILURE
        }
        Some(Ok(())) => print(&config::project::text(&values, Reader::Launcher)),
        None => print("the configuration is valid\n"),
    }
}

fn apply_quota(file: &std::path::Path) -> ExitCode {
    let values = match config::values::Values::load(file) {
        Ok((values, _)) => values,
        Err(mistakes) => return refuse(&mistakes),
    };
    let places = ["BASE_WORKDIR", "SESSION_DIR"].map(|name| std::path::Path::new(values.get(name)));
    match quota::apply(&places, values.number("WORKSPACE_QUOTA_MB") << 20) {
        Ok(count) => print(&format!("the kernel's quota is set for {count} users\n")),
        // No failure: the gateway measures instead, and `pi-gateway doctor` says so.
        Err(why) => print(&format!("no quota of the kernel, workspaces are measured: {why}\n")),
    }
}

fn move_credentials(file: &std::path::Path) -> ExitCode {
    match config::credentials::move_all(file, config::credentials::DIRECTORY.as_ref()) {
        Ok(moved) if moved.is_empty() => print("there is nothing to move\n"),
        Ok(moved) => print(&format!("moved to {}: {}\n", config::credentials::DIRECTORY, moved.join(", "))),
        Err(error) => {
            eprintln!("pi-gateway: moving credentials (as root?): {error}");
            ExitCode::FAILURE
        }
    }
}

fn token(config: &Config, user: &str, lifetime: Duration) -> ExitCode {
    let signed = User::parse(&user.to_ascii_lowercase())
        .map_err(|error| format!("--user {error}"))
        .and_then(|user| auth::sign(&config.jwt, &user, lifetime, jiff::Timestamp::now()));
    match signed {
        Ok(token) => print(&format!("{token}\n")),
        Err(error) => {
            eprintln!("pi-gateway: {error}");
            ExitCode::from(EX_USAGE)
        }
    }
}

fn serve(config: Config) -> ExitCode {
    log::begin(config.log_format, config.log_level);
    // Two threads: one that is busy with a chatty agent must not hold up the others.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let served = match runtime {
        Ok(runtime) => runtime.block_on(http::serve(config)),
        Err(error) => {
            eprintln!("pi-gateway: starting threads: {error}");
            return ExitCode::FAILURE;
        }
    };
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pi-gateway: {error}");
            ExitCode::from(if error.is_config() { EX_CONFIG } else { 1 })
        }
    }
}
