//! What a user's session has cost: the usage of the runs since it began, as the model relay counted it.

use std::io;

use pi_gateway_helper::names::User;

use super::Services;
use crate::relay::model::usage::Usage;

/// Runs that are looked at; what older ones have cost is left out, and that is said.
const MAX_RUNS: usize = 10_000;

/// What was spent.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub struct Spent {
    /// The price by the catalogue, in USD.
    pub cost_usd: f64,
    /// Whether some of it is an estimate.
    pub estimated: bool,
}

impl Services {
    /// Sums up the runs of the user's session that are kept.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn spent(&self, user: &User) -> io::Result<Spent> {
        // Runs and the session before have ids of the front's own clock.
        let begun = self.store.asides(user)?.into_iter().max();
        let runs = self.store.list(user, None, MAX_RUNS + 1)?;
        let runs: Vec<_> = runs.into_iter().filter(|run| begun.is_none_or(|begun| *run > begun)).collect();
        let mut spent = Spent { cost_usd: 0.0, estimated: runs.len() > MAX_RUNS };
        // A user keeps his uid; a run whose sandbox never started has none, and has asked for nothing.
        let mut uid = None;
        for run in runs.into_iter().take(MAX_RUNS) {
            if uid.is_none() {
                uid = self.store.load(user, run)?.and_then(|record| record.uid);
            }
            let Some(uid) = uid else { continue };
            let usage = Usage::read(&self.usage, uid, run, &self.catalogue)?;
            spent.cost_usd += usage.cost_usd;
            spent.estimated |= usage.estimated;
        }
        Ok(spent)
    }
}
