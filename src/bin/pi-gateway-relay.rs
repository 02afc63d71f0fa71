//! `pi-gateway-relay model`, `pi-gateway-relay git` and `pi-gateway-relay egress`: see `pi_gateway::relay`. With `probe`
//! before the kind it asks what that relay asks, once, and ends.

use std::process::ExitCode;

use pi_gateway::log;
use pi_gateway::relay::service::StartError;
use pi_gateway::relay::{egress, git, model, probe};
use tracing_subscriber::filter::LevelFilter;

const USAGE: &str = "usage: pi-gateway-relay model|git|egress, or probe model, or probe git USER…";
/// EX_CONFIG of sysexits.h.
const EXIT_CONFIG: u8 = 78;
/// EX_USAGE of sysexits.h.
const EXIT_USAGE: u8 = 64;

fn main() -> ExitCode {
    let Some(program) = arguments() else {
        eprintln!("{USAGE}");
        return ExitCode::from(EXIT_USAGE);
    };
    // Fixed, not from the environment: what a relay says is as its operator and its tests know it.
    log::begin(log::Format::Json, LevelFilter::INFO);
    match program.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            for line in error.to_string().lines() {
                tracing::error!("{line}");
            }
            match error {
                StartError::Config(_) => ExitCode::from(EXIT_CONFIG),
                StartError::Failed(..) => ExitCode::FAILURE,
            }
        }
    }
}

/// One of the relays, and where its files are.
enum Program {
    Model(model::service::Places),
    Git(git::service::Places),
    Egress(egress::service::Places),
    /// Asks once what a relay asks, for `pi-gateway doctor`.
    Probe(String, Vec<String>),
}

impl Program {
    fn run(&self) -> Result<(), StartError> {
        match self {
            Self::Model(places) => model::service::run(places),
            Self::Git(places) => git::service::run(places),
            Self::Egress(places) => egress::service::run(places),
            Self::Probe(kind, words) => probe::run(kind, words),
        }
    }
}

/// Tests put the files elsewhere; who may hand something over and what is forwarded cannot be changed here.
fn arguments() -> Option<Program> {
    let mut arguments = std::env::args_os().skip(1);
    let mut program = match arguments.next()?.to_str()? {
        "model" => Program::Model(model::service::Places::default()),
        "git" => Program::Git(git::service::Places::default()),
        "egress" => Program::Egress(egress::service::Places::default()),
        "probe" => {
            let words: Option<Vec<String>> = arguments.map(|word| word.into_string().ok()).collect();
            let (kind, words) = words?.split_first().map(|(kind, words)| (kind.clone(), words.to_vec()))?;
            return ["model", "git"].contains(&kind.as_str()).then_some(Program::Probe(kind, words));
        }
        _ => return None,
    };
    while let Some(name) = arguments.next() {
        let value = arguments.next()?.into();
        match (&mut program, name.to_str()?) {
            (Program::Model(places), "--config") => places.config = value,
            (Program::Model(places), "--socket") => places.socket = value,
            (Program::Model(places), "--usage") => places.usage = value,
            (Program::Model(places), "--launcher") => places.launcher = value,
            (Program::Model(places), "--front") => places.front = value,
            (Program::Git(places), "--config") => places.config = value,
            (Program::Git(places), "--socket") => places.socket = value,
            (Program::Git(places), "--registry") => places.registry = value,
            (Program::Egress(places), "--config") => places.config = value,
            (Program::Egress(places), "--socket") => places.socket = value,
            _ => return None,
        }
    }
    Some(program)
}
