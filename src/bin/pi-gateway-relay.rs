//! `pi-gateway-relay model`: see `pi_gateway::relay`.

use std::process::ExitCode;

use pi_gateway::relay::service::{Places, StartError, run};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

const USAGE: &str = "usage: pi-gateway-relay model";
/// EX_CONFIG of sysexits.h.
const EXIT_CONFIG: u8 = 78;
/// EX_USAGE of sysexits.h.
const EXIT_USAGE: u8 = 64;

fn main() -> ExitCode {
    let Some(places) = arguments() else {
        eprintln!("{USAGE}");
        return ExitCode::from(EXIT_USAGE);
    };
    // Fixed, not from the environment: at debug level the libraries below would log what passes through.
    let filter = Targets::new().with_default(LevelFilter::WARN).with_target("pi_gateway", LevelFilter::INFO);
    let json = tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(std::io::stderr);
    tracing_subscriber::registry().with(filter).with(json).init();
    match run(&places) {
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

/// Tests put the files elsewhere; who may hand something over and what is forwarded cannot be changed here.
fn arguments() -> Option<Places> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next()? != "model" {
        return None;
    }
    let mut places = Places::default();
    while let Some(name) = arguments.next() {
        let value = arguments.next()?;
        match name.to_str()? {
            "--config" => places.config = value.into(),
            "--socket" => places.socket = value.into(),
            "--usage" => places.usage = value.into(),
            _ => return None,
        }
    }
    Some(places)
}
