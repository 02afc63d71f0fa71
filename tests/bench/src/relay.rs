//! What the model relay adds on the way to a model: time to the first byte and memory for each stream, beside nginx and an
//! LLM gateway on the same way. The relay is the installed one, with the listeners of agents in their sandboxes; the clients
//! connect from inside of those. All ask the same upstream, each in turn with a client that asks it straight.

use std::fs::File;

use pi_gateway_e2e::host::until_ready;
use pi_gateway_e2e::operator::FILE;
use pi_gateway_e2e::{User, sh};

use crate::nginx::{self, Nginx};
use crate::portkey::{self, Portkey};
use crate::route::{resident, stop};
use crate::table::Table;
use crate::upstream::{self, Answer};
use crate::way::{Client, Way};

/// Lives of each hop; all of its figures are taken in each, because memory that was in use once is not given back.
const LIVES: usize = 5;
/// Requests in each life, on one connection, before anything is measured.
const WARM: usize = 200;
/// Requests through the hop in each life, and as many straight, in turns.
const TURNS: usize = 400;
/// Streams that are open at one time.
const STREAMS: usize = 100;
/// Users whose streams these are: one may have 32 connections.
const USERS: usize = 4;
const UNIT: &str = "pi-gateway-relay-model";

/// Something between client and upstream, for as long as this lives.
struct Hop {
    way: Way,
    /// Its resident memory, in bytes.
    resident: Box<dyn Fn() -> f64>,
}

fn way(name: &str, address: &str) -> Way {
    Way { name: name.to_owned(), address: address.to_owned(), sandboxes: Vec::new(), headers: String::new() }
}

/// The relay, started anew: the service manager gives it its listeners back.
fn relay(sandboxes: &[File]) -> Result<Hop, String> {
    sh(&format!("systemctl restart {UNIT}"));
    let sandboxes = sandboxes.iter().map(|place| place.try_clone().expect("a descriptor")).collect();
    let way = Way { sandboxes, ..way("model relay", "127.0.0.1:4180") };
    Ok(Hop { way, resident: Box::new(|| resident(UNIT)) })
}

fn nginx(_: &[File]) -> Result<Hop, String> {
    let upstream = format!("upstream bench {{ server {}; keepalive 256; }}", upstream::ADDRESS);
    let location = "proxy_pass http://bench; proxy_http_version 1.1; proxy_set_header Connection ''; proxy_buffering off; \
                    client_body_buffer_size 64k;";
    // One worker: each one's first request makes it grow, whatever streams take.
    let nginx = Nginx::start(1, &upstream, location).ok_or("there is no nginx (tests/nginx)")?;
    Ok(Hop { way: way("nginx proxy_pass", nginx::ADDRESS), resident: Box::new(move || nginx.resident()) })
}

fn portkey(_: &[File]) -> Result<Hop, String> {
    let portkey = Portkey::start()?;
    let headers = format!("x-portkey-provider: openai\r\nx-portkey-custom-host: http://{}/v1\r\n", upstream::ADDRESS);
    let way = Way { headers, ..way(portkey::NAME, portkey::ADDRESS) };
    Ok(Hop { way, resident: Box::new(move || portkey.resident()) })
}

/// What was measured of one hop.
#[derive(Default)]
struct Figures {
    /// Milliseconds more than straight, pair by pair: with this stream alone, and with all.
    added: [Vec<f64>; 2],
    /// Milliseconds of the straight ones beside them.
    straight: [Vec<f64>; 2],
    /// KiB a stream: of one, and of all.
    memory: [Vec<f64>; 2],
}

impl Figures {
    fn measure(&mut self, hop: &Hop, straight: &Way) {
        let mut warm = hop.way.connect(0);
        let request = hop.way.request(Answer::Whole);
        (0..WARM).for_each(|_| _ = warm.first_byte(&request));
        self.memory(hop);
        for (index, others) in [0, STREAMS - 1].into_iter().enumerate() {
            let flowing = hop.way.open(others, Answer::Flows);
            flowing.iter().for_each(Client::read_on);
            self.time(hop, straight, index);
        }
    }

    fn memory(&mut self, hop: &Hop) {
        let before = (hop.resident)();
        let one = hop.way.open(1, Answer::Waits);
        let with_one = (hop.resident)();
        let rest = hop.way.open(STREAMS - 1, Answer::Waits);
        let with_all = (hop.resident)();
        #[allow(clippy::cast_precision_loss)]
        for (index, grown, streams) in [(0, with_one - before, 1), (1, with_all - before, STREAMS)] {
            self.memory[index].push(grown / streams as f64 / 1024.0);
        }
        drop((one, rest));
    }

    fn time(&mut self, hop: &Hop, straight: &Way, index: usize) {
        let mut clients = [straight, &hop.way].map(|way| (way.connect(0), way.request(Answer::Whole)));
        let mut ask = |which: usize| {
            let (client, request) = &mut clients[which];
            client.first_byte(request) * 1000.0
        };
        ask(0);
        ask(1);
        for turn in 0..TURNS {
            // Who is first changes, so that neither always finds what the other has left.
            let mut took = [0.0; 2];
            for which in [turn % 2, 1 - turn % 2] {
                took[which] = ask(which);
            }
            self.added[index].push(took[1] - took[0]);
            self.straight[index].push(took[0]);
        }
    }

    fn rows(mut self, table: &mut Table, name: &str, most_ms: f64, most_kib: f64) {
        let infinite = f64::INFINITY;
        for (index, streams) in ["1 stream", &format!("{STREAMS} streams")].into_iter().enumerate() {
            let what = |what: &str| format!("{name}, {streams}: {what}");
            table.quantile(&what("straight first byte, p50"), &mut self.straight[index], 0.5, "ms", infinite);
            table.quantile(&what("straight first byte, p99"), &mut self.straight[index], 0.99, "ms", infinite);
            table.quantile(&what("added to first byte, p50"), &mut self.added[index], 0.5, "ms", infinite);
            table.quantile(&what("added to first byte, p99"), &mut self.added[index], 0.99, "ms", most_ms);
            table.row(&what("memory a stream"), &mut self.memory[index], "KiB", most_kib);
        }
    }
}

/// The network namespace of a user's sandbox, whose agent waits.
fn sandbox(user: &User, run: &str) -> File {
    user.stream(run, None).find(|event| event.name == "text.delta").expect("the agent's word that it waits");
    let pid = sh(&format!("systemctl show -P MainPID pi-gateway-agent-{}", user.name));
    File::open(format!("/proc/{pid}/ns/net")).expect("its network namespace")
}

/// The rows of the model relay.
pub fn all(table: &mut Table) {
    upstream::start();
    sh(&format!(
        "sed -i 's|^OPENAI_BASE_URL=.*|OPENAI_BASE_URL=http://{}/v1|' {FILE}; systemctl restart pi-gateway-launcher pi-gateway",
        upstream::ADDRESS
    ));
    until_ready();
    let users: Vec<(User, String)> = (0..USERS)
        .map(|_| {
            let user = User::new("relay");
            let run = user.start("wait");
            (user, run)
        })
        .collect();
    let sandboxes: Vec<File> = users.iter().map(|(user, run)| sandbox(user, run)).collect();
    let straight = way("straight", upstream::ADDRESS);
    for (name, start, most_ms, most_kib) in [
        ("model relay", relay as fn(&[File]) -> Result<Hop, String>, 1.0, 64.0),
        ("nginx proxy_pass", nginx, f64::INFINITY, f64::INFINITY),
        (portkey::NAME, portkey, f64::INFINITY, f64::INFINITY),
    ] {
        let mut figures = Figures::default();
        let measured = (0..LIVES).try_for_each(|_| start(&sandboxes).map(|hop| figures.measure(&hop, &straight)));
        match measured {
            Ok(()) => figures.rows(table, name, most_ms, most_kib),
            Err(why) => table.impossible(name, &why),
        }
    }
    for (user, run) in &users {
        stop(user, run);
    }
}
