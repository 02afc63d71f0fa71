//! Units that are started to try something out: transient, in the gateway's slice, with pipes instead of a terminal, and
//! gone with their program, or after [`LIMIT`].

use std::io::Read;
use std::process::{Command, Stdio};

/// The longest that one may take.
const LIMIT: &str = "--property=RuntimeMaxSec=40";
/// How much of what it prints is read, in bytes.
const MAX_PRINTED: u64 = 64 << 10;

/// How one has ended.
#[derive(Debug)]
pub struct Ran {
    /// Its exit status; None when a signal ended it.
    pub status: Option<i32>,
    /// What it printed.
    pub out: String,
    /// What it, or systemd, said beside.
    pub err: String,
}

impl Ran {
    /// Whether it has ended well.
    pub fn is_good(&self) -> bool {
        self.status == Some(0)
    }

    /// How it ended, for a person.
    pub fn told(&self) -> String {
        let status = self.status.map_or("a signal ended it".to_owned(), |status| format!("status {status}"));
        let line = self.err.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("it said nothing");
        format!("{status}: {line}")
    }
}

/// What the names of these units have that no user's or relay's has.
pub fn name(kind: &str, what: &str) -> String {
    format!("--unit=pi-gateway-{kind}-:doctor-{what}-{}.service", std::process::id())
}

/// Runs a program in a unit with these properties.
pub fn run(what: &str, properties: &[&str], program: &[&str]) -> Ran {
    let mut arguments = vec!["--quiet".to_owned(), "--slice=pi-gateway.slice".to_owned(), name("doctor", what)];
    arguments.extend(properties.iter().map(|property| format!("--property={property}")));
    arguments.push("--".to_owned());
    arguments.extend(program.iter().map(|word| (*word).to_owned()));
    start(arguments)
}

/// Runs systemd-run with arguments that have a program behind `--`.
pub fn start(arguments: Vec<String>) -> Ran {
    let mut command = Command::new("/usr/bin/systemd-run");
    command.args(["--pipe", "--wait", "--collect", LIMIT]).args(arguments).env_clear().env("LC_ALL", "C");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let failed = |error: std::io::Error| Ran { status: None, out: String::new(), err: format!("systemd-run: {error}") };
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return failed(error),
    };
    let read = |pipe: Option<Box<dyn Read + Send>>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            if let Some(mut pipe) = pipe {
                let _ = pipe.by_ref().take(MAX_PRINTED).read_to_end(&mut bytes);
                let _ = std::io::copy(&mut pipe, &mut std::io::sink());
            }
            String::from_utf8_lossy(&bytes).into_owned()
        })
    };
    let out = read(child.stdout.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>));
    let err = read(child.stderr.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>));
    match child.wait() {
        Ok(status) => {
            let (out, err) = (out.join().unwrap_or_default(), err.join().unwrap_or_default());
            Ran { status: status.code(), out, err }
        }
        Err(error) => failed(error),
    }
}
