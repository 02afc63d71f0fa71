//! `pi-gateway-worker files`: opens a user's files for the front. Started by the launcher, as the user, in his sandbox.

fn main() -> std::process::ExitCode {
    pi_gateway::worker::service::main(std::env::args_os().skip(1))
}
