//! The first program in a sandbox; see `pi_gateway_helper::enter`.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    pi_gateway_helper::enter::enter_main(std::env::args().skip(1))
}
