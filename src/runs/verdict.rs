//! How a run ends: the mapping from what was seen to a status and a stable error code.
//!
//! The codes are documented in docs/pi-runtime.md; a test compares.

use std::io;
use std::time::Duration;

use pi_gateway_helper::wire::{Activity, Outcome, UnitState};

use super::record::{Status, Verdict};
use crate::pi::translate::LastMessage;

/// The run's end when pi has settled by itself.
pub fn of_answer(last: Option<&LastMessage>) -> Verdict {
    let Some(last) = last else {
        return Verdict::failed("no_answer", "pi ended the turn without a message");
    };
    let error = last.error.as_deref().unwrap_or("pi gave no reason");
    match last.stop_reason.as_str() {
        "error" => Verdict::failed(code_of_message(error), error),
        "aborted" => Verdict::failed("aborted", "pi ended the turn before it was complete"),
        _ => Verdict { status: Status::Succeeded, error: None },
    }
}

/// The run's end when its time was over.
pub fn timeout(limit: Duration) -> Verdict {
    Verdict::failed("timeout", format!("the run was stopped after {} s (RUN_TIMEOUT_MS)", limit.as_secs()))
}

/// The code of an error message of pi. Its wording is `PROVIDER API error (STATUS): BODY` for answers of the upstream;
/// for models of a ChatGPT account the relay sees to that, and says with what is its own instead of a status.
fn code_of_message(message: &str) -> &'static str {
    let table = [
        ("API error (codex_signed_out)", "codex_signed_out"),
        ("API error (codex_usage_limit)", "upstream_quota"),
        ("budget_exhausted", "budget_exhausted"),
        ("API error (401)", "upstream_unauthorized"),
        ("API error (403)", "upstream_unauthorized"),
        ("insufficient_quota", "upstream_quota"),
        ("exceeded your current quota", "upstream_quota"),
        ("API error (429)", "upstream_rate_limited"),
        ("ENOSPC", "disk_full"),
        ("EFBIG", "disk_full"),
        ("EDQUOT", "disk_full"),
    ];
    table.iter().find(|(text, _)| message.contains(text)).map_or("upstream_error", |(_, code)| code)
}

/// The run's end when its sandbox has ended before pi settled; `stderr` is the end of what it wrote there.
pub fn of_unit(state: &UnitState, stderr: &str) -> Verdict {
    if state.activity == Activity::Inactive {
        return match state.outcome {
            Outcome::Success => interrupted("the agent's sandbox is gone; the machine or the service was stopped"),
            _ => interrupted("the agent's sandbox is gone"),
        };
    }
    match (state.outcome, state.status) {
        (Outcome::OutOfMemory, _) => {
            Verdict::failed("out_of_memory", "the agent needed more memory than SANDBOX_MEMORY_MAX allows")
        }
        (Outcome::Timeout, _) => Verdict::failed("timeout", "the agent exceeded its time limit"),
        (Outcome::Signal, signal) => Verdict::failed(
            "agent_killed",
            format!("the agent was ended by signal {signal}; 9 without an operator's doing means out of memory"),
        ),
        (Outcome::ExitCode, 70) => Verdict::failed(
            "sandbox_unavailable",
            "the sandbox's self-test failed: this system does not enforce a restriction; the operator finds it in the journal",
        ),
        // pi keeps all of a tool's output in a file of /tmp and does not survive that this is full.
        (Outcome::ExitCode, _) if ["ENOSPC", "EDQUOT", "EFBIG"].iter().any(|error| stderr.contains(error)) => {
            Verdict::failed("disk_full", "the sandbox's /tmp or the workspace was full, and pi ended")
        }
        (_, status) => Verdict::failed("agent_crashed", format!("pi ended with status {status} before it was done")),
    }
}

/// The run's end when nobody saw how the agent ended.
pub fn interrupted(message: &str) -> Verdict {
    let error = super::record::RunError::new("interrupted", message);
    Verdict { status: Status::Interrupted, error: Some(error) }
}

/// The run's end when the gateway's own disk fails.
pub fn of_disk(error: &io::Error) -> Verdict {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Verdict::failed("disk_full", "the gateway's disk is full")
        }
        _ => Verdict::failed("storage_failed", format!("the gateway could not keep the run's data: {error}")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn code(verdict: &Verdict) -> &str {
        verdict.error.as_ref().map_or("", |error| &error.code)
    }

    #[test]
    fn pis_words_become_stable_codes() {
        for (message, expected) in [
            ("gateway API error (401): {}", "upstream_unauthorized"),
            ("gateway API error (429): {\"code\":\"rate_limit_exceeded\"}", "upstream_rate_limited"),
            ("gateway API error (429): {\"code\":\"insufficient_quota\"}", "upstream_quota"),
            ("Codex API error (codex_signed_out): The gateway is not", "codex_signed_out"),
            ("Codex API error (codex_usage_limit): The ChatGPT plan", "upstream_quota"),
            ("Codex API error (429): slow down", "upstream_rate_limited"),
            ("Codex API error (503): x", "upstream_error"),
            (
                "gateway API error (429): {\"type\":\"insufficient_quota\",\"code\":\"budget_exhausted\"}",
                "budget_exhausted",
            ),
            ("ENOSPC: no space left on device, write", "disk_full"),
            ("terminated: other side closed", "upstream_error"),
        ] {
            let last = LastMessage { stop_reason: "error".into(), error: Some(message.into()), ..Default::default() };
            assert_eq!(code(&of_answer(Some(&last))), expected, "{message}");
        }
        for reason in ["stop", "length", "toolUse"] {
            let last = LastMessage { stop_reason: reason.into(), ..Default::default() };
            assert_eq!(of_answer(Some(&last)).status, Status::Succeeded);
        }
        assert_eq!(code(&of_answer(None)), "no_answer");
    }

    #[test]
    fn a_pi_that_ended_for_want_of_space_is_told_from_one_that_crashed() {
        let state =
            UnitState { activity: Activity::Failed, outcome: Outcome::ExitCode, status: 1, run: None, uid: None };
        assert_eq!(code(&of_unit(&state, "Error: ENOSPC: no space left on device, write")), "disk_full");
        assert_eq!(code(&of_unit(&state, "TypeError: x is not a function")), "agent_crashed");
        let probe = UnitState { status: 70, ..state };
        assert_eq!(code(&of_unit(&probe, "ENOSPC")), "sandbox_unavailable");
    }
}
