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
use crate::operator::{self, Ground, Trouble, archive, block, import, remove, runs, users};
use crate::{auth, doctor, http, log, machine, owners, quota};

const USAGE: &str = "\
usage: pi-gateway COMMAND [--config FILE]

  serve                         the HTTP front; systemd starts it
  check [--write DIRECTORY]     judges the configuration; with --write also writes what each relay may know of it,
                                and prints what the launcher may
  doctor [--json]               looks at everything a run needs; says what is wrong and what to do (as root)
  apply-quota                   sets WORKSPACE_QUOTA_MB as the kernel's quota of every user; systemd starts it
  token --user NAME [--ttl 1h]  makes a token for a user (s, m, h; at most JWT_MAX_LIFETIME_S)
  users [--json]                the users: uid, state, what they take, last run (as root, like all that follow)
  users block NAME              refuses a user at once, whatever his token says; ends his streams and his active run
  users unblock NAME            lets him in again
  users archive NAME --to FILE  blocks him, and packs his workspace and session into FILE, a tar.zst
  users remove NAME [--yes]     blocks him, and removes all that is kept of him; his uid is never anybody else's.
                                Without --yes it only says what would be removed
  runs [--user NAME] [--active] [--limit 50] [--json]
                                the runs of all users, newest first
  import --workspaces DIRECTORY --sessions DIRECTORY [--user NAME] [--leave-out] [--apply] [--json]
                                takes over users of the npm package; without --apply it only says what would be done.
                                --user: only this one; --leave-out: without the entries that cannot be taken over
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
    Users { json: bool },
    User(Deed, User),
    Runs { wanted: runs::Wanted, json: bool },
    Import { wanted: import::Wanted, json: bool },
    MoveCredentials,
    Reference,
    OpenApi,
    Help,
}

/// What is done to one user.
enum Deed {
    Block,
    Unblock,
    Archive { to: PathBuf },
    Remove { sure: bool },
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
        Command::Users { json } => operate(&file, |ground| users::list(ground, json)),
        Command::User(deed, user) => operate(&file, |ground| match deed {
            Deed::Block => block::block(ground, &user),
            Deed::Unblock => block::unblock(ground, &user),
            Deed::Archive { to } => archive::archive(ground, &user, &to),
            Deed::Remove { sure: true } => remove::remove(ground, &user),
            Deed::Remove { sure: false } => remove::plan(ground, &user),
        }),
        Command::Runs { wanted, json } => operate(&file, |ground| runs::list(ground, &wanted, json)),
        Command::Import { wanted, json } => operate(&file, |ground| import::import(ground, &wanted, json)),
    }
}

/// Does one of the commands about users and runs.
fn operate(file: &std::path::Path, work: impl FnOnce(&Ground) -> Result<String, Trouble>) -> ExitCode {
    match Ground::open(file).and_then(|ground| work(&ground)) {
        Ok(told) => print(&told),
        Err(trouble) => trouble.tell(),
    }
}

/// The options that were given.
#[derive(Default)]
struct Options {
    names: Vec<&'static str>,
    write: Option<PathBuf>,
    user: Option<String>,
    lifetime: Option<Duration>,
    to: Option<PathBuf>,
    limit: Option<usize>,
    workspaces: Option<PathBuf>,
    sessions: Option<PathBuf>,
}

impl Options {
    fn has(&self, name: &str) -> bool {
        self.names.contains(&name)
    }

    fn user(&self) -> Result<Option<User>, lexopt::Error> {
        self.user.as_deref().map(operator::name).transpose().map_err(|error| format!("--user {error}").into())
    }
}

fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<(Command, PathBuf), lexopt::Error> {
    let mut parser = lexopt::Parser::from_args(arguments);
    let (mut file, mut words, mut options) = (PathBuf::from(config::FILE), Vec::new(), Options::default());
    while let Some(argument) = parser.next()? {
        let name = match argument {
            Long("config") => {
                file = parser.value()?.into();
                continue;
            }
            Long("help") | Short('h') => return Ok((Command::Help, file)),
            Long("json") => "--json",
            Long("active") => "--active",
            Long("apply") => "--apply",
            Long("leave-out") => "--leave-out",
            Long("yes") => "--yes",
            Long("write") => {
                options.write = Some(parser.value()?.into());
                "--write"
            }
            Long("user") => {
                options.user = Some(parser.value()?.string()?);
                "--user"
            }
            Long("ttl") => {
                options.lifetime = Some(parse_lifetime(&parser.value()?.string()?)?);
                "--ttl"
            }
            Long("to") => {
                options.to = Some(parser.value()?.into());
                "--to"
            }
            Long("limit") => {
                options.limit = Some(parser.value()?.parse()?);
                "--limit"
            }
            Long("workspaces") => {
                options.workspaces = Some(parser.value()?.into());
                "--workspaces"
            }
            Long("sessions") => {
                options.sessions = Some(parser.value()?.into());
                "--sessions"
            }
            Value(word) => {
                words.push(word.string()?);
                continue;
            }
            other => return Err(other.unexpected()),
        };
        options.names.push(name);
    }
    Ok((command(&words, options)?, file))
}

/// The command of words and options. What a command does not take is a mistake: it would not be done.
fn command(words: &[String], options: Options) -> Result<Command, lexopt::Error> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let takes = |known: &[&str]| match options.names.iter().find(|name| !known.contains(name)) {
        Some(name) => Err(lexopt::Error::from(format!("{} does not take {name}", words.join(" ")))),
        None => Ok(()),
    };
    let json = options.has("--json");
    let (known, command): (&[&str], Command) = match words.as_slice() {
        ["serve"] => (&[], Command::Serve),
        ["check"] => (&["--write"], Command::Check { write: options.write.clone() }),
        ["doctor"] => (&["--json"], Command::Doctor { json }),
        ["apply-quota"] => (&[], Command::ApplyQuota),
        ["token"] => {
            let user = options.user.clone().ok_or("token needs --user NAME")?;
            let lifetime = options.lifetime.unwrap_or(Duration::from_secs(3600));
            (&["--user", "--ttl"], Command::Token { user, lifetime })
        }
        ["users"] => (&["--json"], Command::Users { json }),
        ["users", deed, user] => {
            let user = operator::name(user)?;
            let (known, deed): (&[&str], Deed) = match *deed {
                "block" => (&[], Deed::Block),
                "unblock" => (&[], Deed::Unblock),
                "archive" => {
                    let to = options.to.clone().ok_or("users archive needs --to FILE")?;
                    (&["--to"], Deed::Archive { to })
                }
                "remove" => (&["--yes"], Deed::Remove { sure: options.has("--yes") }),
                other => return Err(format!("users: there is no {other}; block, unblock, archive or remove").into()),
            };
            (known, Command::User(deed, user))
        }
        ["users", ..] => return Err("users: block, unblock, archive or remove, and one NAME".into()),
        ["runs"] => {
            let limit = options.limit.unwrap_or(runs::LIMIT);
            if !(1..=runs::MAX_LIMIT).contains(&limit) {
                return Err(format!("--limit: 1 to {}", runs::MAX_LIMIT).into());
            }
            let wanted = runs::Wanted { user: options.user()?, active: options.has("--active"), limit };
            (&["--user", "--active", "--limit", "--json"], Command::Runs { wanted, json })
        }
        ["import"] => {
            let given = options.workspaces.clone().zip(options.sessions.clone());
            let (workspaces, sessions) = given.ok_or("import needs --workspaces DIRECTORY and --sessions DIRECTORY")?;
            let (apply, leave_out) = (options.has("--apply"), options.has("--leave-out"));
            let wanted = import::Wanted { workspaces, sessions, user: options.user()?, apply, leave_out };
            let known = &["--workspaces", "--sessions", "--user", "--leave-out", "--apply", "--json"];
            (known, Command::Import { wanted, json })
        }
        ["move-credentials"] => (&[], Command::MoveCredentials),
        ["config-reference"] => (&[], Command::Reference),
        ["openapi"] => (&[], Command::OpenApi),
        ["help"] => return Ok(Command::Help),
        [] => return Err("a command is needed".into()),
        _ => return Err(format!("there is no command {}", words.join(" ")).into()),
    };
    takes(known).map(|()| command)
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parsed(line: &str) -> Result<Command, String> {
        parse(line.split_whitespace().map(OsString::from))
            .map(|(command, _)| command)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn every_command_of_the_usage_is_one_with_exactly_the_options_that_it_names() {
        let options = ["--json", "--active", "--apply", "--leave-out", "--yes"];
        let values =
            ["--write /x", "--user alice", "--ttl 1h", "--to /x", "--limit 3", "--workspaces /w", "--sessions /s"];
        let mut count = 0;
        for (at, line) in
            USAGE.lines().enumerate().filter(|(_, line)| line.starts_with("  ") && !line.starts_with("   "))
        {
            let more = USAGE.lines().skip(at + 1).take_while(|line| line.starts_with("   "));
            let whole = more.fold(line.to_owned(), |whole, line| whole + line);
            let words = line.trim().split([' ', '[']).take_while(|word| {
                word.bytes().all(|b| b.is_ascii_lowercase() || b == b'-') && !word.is_empty() && !word.starts_with("--")
            });
            let words: Vec<&str> = words
                .take(if line.trim().starts_with("users ") && !line.contains("users [") { 2 } else { 1 })
                .collect();
            let name = if words.len() == 2 { " alice" } else { "" };
            let mut needed = String::new();
            for value in values {
                let option = value.split(' ').next().unwrap();
                if line.contains(&format!(" {option} ")) && !line.contains(&format!("[{option}")) {
                    needed.push_str(&format!(" {value}"));
                }
            }
            let full = format!("{}{name}{needed}", words.join(" "));
            assert!(parsed(&full).is_ok(), "{full}: {:?}", parsed(&full).err());
            for option in options.into_iter().chain(values) {
                let named = whole.contains(option.split(' ').next().unwrap());
                assert_eq!(parsed(&format!("{full} {option}")).is_ok(), named, "{full} {option}");
            }
            count += 1;
        }
        assert!(count >= 15, "{count}");
    }

    #[test]
    fn what_is_no_command_is_told() {
        for (line, told) in [
            ("", "a command is needed"),
            ("frobnicate", "no command frobnicate"),
            ("users block", "one NAME"),
            ("users bless alice", "no bless"),
            ("users block ../x", "at byte 0"),
            ("users archive alice", "--to FILE"),
            ("runs --limit 0", "--limit"),
            ("import --workspaces /w", "--sessions"),
            ("token", "--user NAME"),
            ("serve --json", "does not take --json"),
        ] {
            let error = parsed(line).err().unwrap();
            assert!(error.contains(told), "{line}: {error}");
        }
    }
}
