//! What lies behind the relays: the model provider takes the key, Gitea takes the account. Each is asked by the relay's own
//! program as its own account, with its own sandbox, credential and configuration, so that what is found is what it finds.

use std::path::Path;

use pi_gateway_helper::uids::REGISTRY;
use pi_gateway_helper::units::{self, Relay};
use serde::Deserialize;

use super::prober::{self, Ran};
use super::{Examination, State};
use crate::owners;

/// Users whose repositories are asked for.
const MAX_USERS: usize = 50;
/// Who is asked for when there is nobody yet: nobody has this repository, and that is the answer.
const NOBODY: &str = "pi-gateway-doctor";
/// What of a relay's unit belongs to a service that stays.
const STAYING: [&str; 9] = [
    "Type=",
    "NotifyAccess=",
    "WatchdogSec=",
    "Restart=",
    "RestartSec=",
    "StartLimit",
    "TimeoutStartSec=",
    "FileDescriptorStoreMax=",
    "TimeoutStopSec=",
];
/// How many names are told.
const NAMED: usize = 5;

/// What a relay has found out about one thing that it asks.
#[derive(Debug, Deserialize)]
struct Answer {
    /// What was asked: a URL's origin, or a user.
    of: String,
    /// The status of the answer.
    status: Option<u16>,
    /// Why there is none.
    error: Option<String>,
}

/// Asks both.
pub fn look(examination: &mut Examination<'_>) {
    examination.try_out("upstream", |examination, _| match asked(&units::MODEL, &[]) {
        Ok(answers) => {
            for answer in &answers {
                let (state, told) = upstream(answer);
                examination.found.push(super::Finding::new("upstream", state, told));
            }
        }
        Err(why) => examination.fail("upstream", why),
    });
    if examination.value("WORKSPACE_REMOTE_MODE") != "gitea" {
        return;
    }
    examination.try_out("gitea", |examination, values| {
        let users = owners::registry(Path::new(REGISTRY)).unwrap_or_default();
        let mut names: Vec<&str> = users.iter().rev().take(MAX_USERS).map(|(user, _)| user.as_str()).collect();
        if names.is_empty() {
            names.push(NOBODY);
        }
        let (base, repository) = (values.get("GITEA_BASE_URL"), values.get("GITEA_WORKSPACE_REPO_NAME"));
        let account = values.get("GITEA_SYNC_SERVICE_USERNAME");
        match asked(&units::GIT, &names) {
            Ok(answers) => {
                let (state, told) = gitea(&answers, base, repository, account);
                examination.found.push(super::Finding::new("gitea", state, told));
            }
            Err(why) => examination.fail("gitea", why),
        }
    });
}

/// Has a relay's program ask, in a unit like the relay's own.
fn asked(relay: &Relay, words: &[&str]) -> Result<Vec<Answer>, String> {
    let ran = prober::start(arguments(units::relay_argv(relay), relay.0, words));
    parse(&ran).ok_or_else(|| {
        let unit = units::relay(relay);
        format!("the {} relay's program cannot ask ({}): `systemctl restart pi-gateway-launcher`, then `journalctl -u {unit}`", relay.0, ran.told())
    })
}

fn parse(ran: &Ran) -> Option<Vec<Answer>> {
    let answers: Option<Vec<Answer>> = ran.out.lines().map(|line| serde_json::from_str(line).ok()).collect();
    answers.filter(|answers| ran.is_good() && !answers.is_empty())
}

fn arguments(relay: Vec<String>, kind: &str, words: &[&str]) -> Vec<String> {
    let unit = prober::name("relay", kind);
    let stays = |argument: &String| {
        argument
            .strip_prefix("--property=")
            .is_some_and(|property| STAYING.iter().any(|name| property.starts_with(name)))
    };
    let kept = relay.into_iter().filter(|argument| !stays(argument));
    let renamed = kept.map(|argument| if argument.starts_with("--unit=") { unit.clone() } else { argument });
    let mut all: Vec<String> = renamed.collect();
    // The program's last word is the relay's kind.
    all.pop();
    all.extend(["probe", kind].map(str::to_owned));
    all.extend(words.iter().map(|word| (*word).to_owned()));
    all
}

/// What an answer of the model provider means. It was asked for nothing: a request that it cannot but find wrong.
fn upstream(answer: &Answer) -> (State, String) {
    let of = &answer.of;
    match (answer.status, &answer.error) {
        (Some(401 | 403), _) => {
            let told = format!("{of} does not accept the credential: type the right one into");
            (
                State::Failure,
                format!("{told} `install -D -m 0600 /dev/stdin /etc/pi-gateway/credentials/OPENAI_API_KEY`"),
            )
        }
        (Some(404), _) => (State::Failure, format!("{of} has no such API (404): correct OPENAI_BASE_URL")),
        (Some(status @ (429 | 500..)), _) => (State::Warning, format!("{of} answers with {status} at the moment")),
        (Some(status), _) => (State::Ok, format!("{of} answers ({status})")),
        (None, error) => {
            let why = error.as_deref().unwrap_or("no answer");
            (
                State::Failure,
                format!(
                    "{of} cannot be reached from here: {why}; is the URL right, do names resolve, does a firewall let the user pi-gateway-model out?"
                ),
            )
        }
    }
}

/// What Gitea's answers mean, of which there is one for each user.
fn gitea(answers: &[Answer], base: &str, repository: &str, account: &str) -> (State, String) {
    let credential = "`install -D -m 0600 /dev/stdin /etc/pi-gateway/credentials/GITEA_SYNC_SERVICE_TOKEN`";
    if let Some(answer) = answers.iter().find(|answer| answer.status.is_none()) {
        let why = answer.error.as_deref().unwrap_or("no answer");
        return (
            State::Failure,
            format!("{base} cannot be reached from here: {why}; is it up, is GITEA_BASE_URL right?"),
        );
    }
    let with = |status: u16| answers.iter().filter(move |answer| answer.status == Some(status));
    if with(401).next().is_some() {
        return (
            State::Failure,
            format!("{base} does not accept {account}'s token: type the right one into {credential}"),
        );
    }
    let nobody = answers.iter().all(|answer| answer.of == NOBODY);
    let readable = with(403).filter(|answer| answer.of != NOBODY);
    let shown = |answers: Vec<&Answer>| {
        let names: Vec<&str> = answers.iter().take(NAMED).map(|answer| answer.of.as_str()).collect();
        format!("{}{}", names.join(", "), if answers.len() > NAMED { ", …" } else { "" })
    };
    let refused: Vec<&Answer> = readable.collect();
    if !refused.is_empty() {
        let told = format!("{account} may not push to {repository} of {}", shown(refused));
        return (State::Failure, format!("{told}: make the account a collaborator with the right to write, in Gitea"));
    }
    if let Some(odd) = answers.iter().find(|answer| !matches!(answer.status, Some(200 | 403 | 404))) {
        let status = odd.status.unwrap_or(0);
        return (
            State::Failure,
            format!("{base} answers with {status}: is that Gitea, is GITEA_BASE_URL right? A redirect is not followed"),
        );
    }
    if nobody {
        return (State::Ok, format!("{base} accepts {account}; there is no user yet to look for a repository of"));
    }
    let (missing, good) = (with(404).collect::<Vec<_>>(), with(200).count());
    if missing.is_empty() {
        return (State::Ok, format!("{base}: {account} may push to {repository} of {good} users"));
    }
    let told = format!("{base} has no {repository}, or {account} may not see it, of {}", shown(missing));
    (State::Warning, format!("{told}; their runs are not pushed. {good} others are fine"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn answer(of: &str, status: u16) -> Answer {
        Answer { of: of.to_owned(), status: Some(status), error: None }
    }

    #[test]
    fn the_unit_is_the_relays_without_what_a_service_has_that_stays() {
        let golden = include_str!("../../helper/tests/golden/git-relay.argv");
        let relay: Vec<String> = golden.lines().map(str::to_owned).collect();
        let made = arguments(relay.clone(), "git", &["alice"]);
        assert!(made.ends_with(&["probe", "git", "alice"].map(str::to_owned)));
        for kept in [
            "User=pi-gateway-git",
            "LoadCredential=GITEA_SYNC_SERVICE_TOKEN",
            "SystemCallFilter=~",
            "ProtectSystem=strict",
        ] {
            assert!(made.iter().any(|argument| argument.contains(kept)), "{kept}");
        }
        for gone in ["Type=notify", "WatchdogSec", "Restart=always", "FileDescriptorStoreMax"] {
            assert!(
                relay.iter().any(|argument| argument.contains(gone))
                    && !made.iter().any(|argument| argument.contains(gone)),
                "{gone}"
            );
        }
    }

    #[test]
    fn an_answer_of_the_provider_is_judged_by_its_status() {
        for (status, state, word) in [
            (400, State::Ok, "answers (400)"),
            (200, State::Ok, "answers"),
            (401, State::Failure, "install -D -m 0600"),
            (404, State::Failure, "OPENAI_BASE_URL"),
            (503, State::Warning, "at the moment"),
        ] {
            let (seen, told) = upstream(&answer("https://api.example.org", status));
            assert_eq!(seen, state, "{told}");
            assert!(told.contains(word), "{told}");
        }
        let silent = Answer { of: "x".to_owned(), status: None, error: Some("connection refused".to_owned()) };
        let (state, told) = upstream(&silent);
        assert!(state == State::Failure && told.contains("connection refused"), "{told}");
    }

    #[test]
    fn giteas_answers_are_one_finding() {
        let judged = |answers: &[Answer]| gitea(answers, "https://git.example.org", "workspace", "sync-bot");
        let (state, told) = judged(&[answer("alice", 200), answer("bob", 200)]);
        assert!(state == State::Ok && told.contains("of 2 users"), "{told}");
        let (state, told) = judged(&[answer("alice", 200), answer("bob", 404)]);
        assert!(state == State::Warning && told.contains("of bob"), "{told}");
        let (state, told) = judged(&[answer("alice", 403), answer("bob", 200)]);
        assert!(state == State::Failure && told.contains("may not push to workspace of alice"), "{told}");
        let (state, told) = judged(&[answer("alice", 401)]);
        assert!(state == State::Failure && told.contains("GITEA_SYNC_SERVICE_TOKEN"), "{told}");
        let (state, _) = judged(&[answer("alice", 302)]);
        assert_eq!(state, State::Failure);
        for status in [403, 404] {
            assert_eq!(judged(&[answer(NOBODY, status)]).0, State::Ok, "{status}");
        }
    }
}
