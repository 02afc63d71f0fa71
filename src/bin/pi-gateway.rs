//! The front and the operator's commands; see `pi_gateway::cli`.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    pi_gateway::cli::main(std::env::args_os().skip(1))
}
