//! The launcher; see `pi_gateway_helper::launcher`.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    pi_gateway_helper::start::launcher_main()
}
