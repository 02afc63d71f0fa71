//! A run beside another one, and how evenly its events come.

use std::time::{Duration, Instant};

use crate::User;

/// What a neighbour saw of his run.
pub struct Seen {
    /// The run's status.
    pub status: String,
    /// The times between events that the upstream paces, longest last.
    pub gaps: Vec<Duration>,
}

impl Seen {
    /// The gap that all but one in a hundred stay below.
    pub fn p99(&self) -> Duration {
        self.gaps[self.gaps.len() * 99 / 100]
    }

    /// The gap in the middle.
    pub fn median(&self) -> Duration {
        self.gaps[self.gaps.len() / 2]
    }
}

/// A run of `words` words with a pause before each, watched as it goes. `at_first` is called when the first word is there.
pub fn paced(user: &User, words: usize, pause_ms: u64, at_first: impl FnOnce()) -> Seen {
    let id = user.start(&format!("[[slow {words} {pause_ms}]]"));
    let mut at_first = Some(at_first);
    let (mut gaps, mut last) = (Vec::new(), None);
    for event in user.stream(&id, None).filter(|event| event.name == "text.delta") {
        if let Some(begin) = at_first.take() {
            begin();
            last = Some(Instant::now());
            continue;
        }
        let now = Instant::now();
        gaps.push(now - last.replace(now).unwrap_or(now));
        assert!(event.data["text"].is_string());
    }
    gaps.sort();
    assert!(gaps.len() > words / 4, "only {} of {words} words came by themselves", gaps.len());
    Seen { status: user.finished(&id)["status"].as_str().unwrap_or_default().to_owned(), gaps }
}
