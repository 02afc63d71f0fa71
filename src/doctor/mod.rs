//! `pi-gateway doctor`: looks at everything that a run needs and says, a line each, what is well, what is not, and what
//! to do. Run by the operator as root. It changes nothing; what it starts to try something out is gone when it ends.
//!
//! In a text that says what to do, a command stands in backticks: run as root it is the remedy, and `--json` gives it by
//! itself. What rests on something that has failed is not tried ([`Examination::try_out`]): the cause is told, not its
//! consequences.

mod bites;
mod cgroups;
mod configuration;
mod disk;
mod front;
mod installed;
mod prober;
mod relays;
mod runtime;
mod sandbox;
mod skew;
mod systemd;
mod units;

use std::fmt;
use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;

use crate::config::values::Values;

/// How something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Well.
    Ok,
    /// Works, but less than it could; or was not tried.
    Warning,
    /// Does not work.
    Failure,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What.
    pub what: &'static str,
    /// How it is.
    pub state: State,
    /// What was seen, with the remedy.
    pub told: String,
    /// The command that is the remedy, if one is.
    pub command: Option<String>,
}

impl Finding {
    fn new(what: &'static str, state: State, told: impl Into<String>) -> Self {
        let told = told.into();
        let command = told.split('`').nth(1).filter(|_| state != State::Ok).map(str::to_owned);
        Finding { what, state, told, command }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Ok => "ok",
            State::Warning => "warning",
            State::Failure => "failure",
        };
        // What follows a line feed belongs to it, and is no finding of its own.
        write!(f, "{state:<8} {:<12} {}", self.what, self.told.replace('\n', "\n                      "))
    }
}

/// What is being looked at, and what was found so far.
pub struct Examination<'a> {
    /// The configuration's file.
    file: &'a Path,
    /// What is in it, when it is right.
    values: Option<Values>,
    found: Vec<Finding>,
}

impl Examination<'_> {
    fn ok(&mut self, what: &'static str, told: impl Into<String>) {
        self.found.push(Finding::new(what, State::Ok, told));
    }

    fn warn(&mut self, what: &'static str, told: impl Into<String>) {
        self.found.push(Finding::new(what, State::Warning, told));
    }

    fn fail(&mut self, what: &'static str, told: impl Into<String>) {
        self.found.push(Finding::new(what, State::Failure, told));
    }

    fn note(&mut self, what: &'static str, result: Result<String, String>) {
        match result {
            Ok(told) => self.ok(what, told),
            Err(told) => self.fail(what, told),
        }
    }

    /// A value of the configuration; empty when that is wrong.
    fn value(&self, name: &str) -> &str {
        self.values.as_ref().map_or("", |values| values.get(name))
    }

    fn has_failed(&self) -> bool {
        self.found.iter().any(|finding| finding.state == State::Failure)
    }

    /// Tries something out that rests on everything before it.
    fn try_out(&mut self, what: &'static str, work: impl FnOnce(&mut Self, &Values)) {
        if self.has_failed() {
            return self.warn(what, "not tried: put right what has failed above, and run this again");
        }
        // Without a failure there are values; they are lent, so that what is found can be added.
        if let Some(values) = self.values.take() {
            work(self, &values);
            self.values = Some(values);
        }
    }
}

/// Looks at everything.
pub fn examine(file: &Path) -> Vec<Finding> {
    let mut examination = Examination { file, values: None, found: Vec::new() };
    let all: [fn(&mut Examination<'_>); 13] = [
        configuration::look,
        systemd::look,
        cgroups::look,
        installed::look,
        configuration::credentials,
        runtime::look,
        disk::look,
        units::look,
        skew::look,
        bites::look,
        sandbox::look,
        relays::look,
        front::look,
    ];
    for look in all {
        look(&mut examination);
    }
    examination.found
}

/// Prints what was found; gives 1 when something does not work.
pub fn main(file: &Path, json: bool) -> ExitCode {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("pi-gateway: doctor looks at what only root may see: run it as root");
        return ExitCode::FAILURE;
    }
    let found = examine(file);
    if json {
        println!("{}", serde_json::to_string_pretty(&found).unwrap_or_default());
    } else {
        for finding in &found {
            println!("{finding}");
        }
    }
    let broken = found.iter().any(|finding| finding.state == State::Failure);
    if broken { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_remedy_is_what_stands_in_backticks_and_a_line_stays_one_finding() {
        let finding = Finding::new("disk", State::Failure, "full: `make room`, or\nbuy one");
        assert_eq!(finding.command.as_deref(), Some("make room"));
        let told = finding.to_string();
        assert!(told.starts_with("failure  disk         full"), "{told}");
        assert_eq!(told.lines().filter(|line| !line.starts_with(' ')).count(), 1);
        assert_eq!(Finding::new("disk", State::Ok, "`x`").command, None);
        assert_eq!(Finding::new("disk", State::Warning, "no remedy").command, None);
    }

    #[test]
    fn nothing_is_tried_out_on_top_of_a_failure() {
        let mut examination = Examination { file: Path::new("/x"), values: None, found: Vec::new() };
        examination.fail("files", "broken");
        examination.try_out("sandbox", |_, _| {});
        assert_eq!(examination.found[1].state, State::Warning);
        assert!(examination.found[1].told.contains("not tried"));
    }
}
