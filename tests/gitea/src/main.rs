//! `pi-gateway-gitea --listen ADDRESS --root DIRECTORY --accounts FILE [--log FILE]`: see the library. The file has a
//! line `<name>:<token>` for each account, because arguments are for everybody to see.

use std::fs::OpenOptions;
use std::io::Write;
use std::process::ExitCode;

use pi_gateway_gitea::server::{Gitea, serve};

fn main() -> ExitCode {
    let (mut listen, mut root, mut accounts, mut log) = (None, None, String::new(), None);
    let mut arguments = std::env::args().skip(1);
    while let (Some(name), Some(value)) = (arguments.next(), arguments.next()) {
        match name.as_str() {
            "--listen" => listen = Some(value),
            "--root" => root = Some(value),
            "--accounts" => accounts = std::fs::read_to_string(value).unwrap_or_default(),
            "--log" => log = Some(value),
            _ => {}
        }
    }
    let (Some(listen), Some(root)) = (listen, root) else {
        eprintln!("usage: pi-gateway-gitea --listen ADDRESS --root DIRECTORY --accounts FILE [--log FILE]");
        return ExitCode::from(64);
    };
    let mut out = log.and_then(|path| OpenOptions::new().create(true).append(true).open(path).ok());
    let accounts = accounts.lines().filter_map(|line| line.split_once(':'));
    let accounts = accounts.map(|(name, token)| (name.to_owned(), token.to_owned())).collect();
    let gitea = Gitea::new(root.into(), accounts, move |line| {
        if let Some(out) = &mut out {
            let _ = writeln!(out, "{line}");
        }
    });
    let listener = std::net::TcpListener::bind(&listen);
    match listener.and_then(|listener| serve(listener, gitea)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pi-gateway-gitea: {listen}: {error}");
            ExitCode::FAILURE
        }
    }
}
