//! What the gateway counts, as Prometheus would read it.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;

/// Where it is.
pub const URL: &str = "http://127.0.0.1:8788/metrics";
/// Where `tests/openmetrics` puts the parser, and what calls it.
const REPOSITORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// All samples at one moment.
pub struct Scrape {
    /// As it came.
    pub text: String,
    samples: Vec<Value>,
}

impl Scrape {
    /// What is there now. Fails when Prometheus' parser does not take it.
    pub fn now() -> Self {
        Self::of(crate::sh(&format!("curl -fsS {URL}")))
    }

    /// Some text.
    pub fn of(text: String) -> Self {
        let parser = format!("{REPOSITORY}/.build/openmetrics");
        assert!(std::path::Path::new(&parser).exists(), "no parser: `tests/openmetrics .build/openmetrics` gets it");
        let mut judge = Command::new("python3")
            .arg(format!("{REPOSITORY}/tests/e2e/metrics/judge.py"))
            .env("PYTHONPATH", parser)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("python3");
        // Read whole before it prints anything worth mentioning.
        judge.stdin.take().unwrap().write_all(format!("{text}\n").as_bytes()).unwrap();
        let output = judge.wait_with_output().unwrap();
        assert!(output.status.success(), "{}\n{text}", String::from_utf8_lossy(&output.stderr));
        let lines = String::from_utf8(output.stdout).unwrap();
        Scrape { text, samples: lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect() }
    }

    /// The value of a sample with exactly these labels; 0 when it is not there.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let of = |sample: &&Value| {
            let found = sample["labels"].as_object().unwrap();
            sample["name"] == name
                && found.len() == labels.len()
                && labels.iter().all(|(name, value)| found.get(*name).is_some_and(|found| found == value))
        };
        self.samples.iter().find(of).map_or(0.0, |sample| sample["value"].as_f64().unwrap())
    }

    /// How many series there are.
    pub fn series(&self) -> usize {
        self.samples.len()
    }

    /// The families, without repetition.
    pub fn families(&self) -> std::collections::BTreeSet<String> {
        self.samples.iter().map(|sample| sample["family"].as_str().unwrap().to_owned()).collect()
    }
}
