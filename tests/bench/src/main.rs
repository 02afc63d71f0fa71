//! `make bench`: figures of the installed gateway, each beside its limit or its rival in the same run. Runs in the test
//! host; exits with 1 when a figure misses its limit. `BENCH=word` measures only the groups of rows whose names hold it.

mod bare;
mod files;
mod git;
mod neighbour;
mod nginx;
mod portkey;
mod relay;
mod rival;
mod route;
mod start;
mod table;
mod upstream;
mod way;

use std::process::ExitCode;

use pi_gateway_e2e::host::until_ready;
use pi_gateway_e2e::testhost;

use table::Table;

fn memory(table: &mut Table) {
    for (unit, limit) in [("pi-gateway", 15.0), ("pi-gateway-launcher", 5.0), ("pi-gateway-relay-model", 15.0)] {
        let what = format!("{unit}: resident memory after {} runs", start::TIMES + 1);
        table.row(&what, &mut [route::resident(unit) / f64::from(1 << 20)], "MiB", limit);
    }
}

fn main() -> ExitCode {
    testhost();
    until_ready();
    let mut table = Table::default();
    let only = std::env::var("BENCH").unwrap_or_default();
    let wanted = |name: &str| name.contains(&only);
    for (name, measure) in [
        ("start", start::front as fn(&mut Table)),
        ("prompt", start::prompt),
        ("memory", memory),
        ("files", files::moving),
        ("archives", files::archives),
        ("git snapshots", git::snapshots),
        ("git transfers", git::transfers),
        ("neighbour", neighbour::all),
    ] {
        if wanted(name) {
            measure(&mut table);
        }
    }
    let _restore = route::with_fake_pi();
    for (name, measure) in [
        ("latency", route::latency as fn(&mut Table)),
        ("throughput", route::throughput),
        ("subscribers", route::subscribers),
        ("resume", route::resume),
        ("rival", rival::all),
        ("model relay", relay::all),
    ] {
        if wanted(name) {
            measure(&mut table);
        }
    }
    if table.missed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
