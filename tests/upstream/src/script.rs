//! The directives in a user text, and which of them belong to one answer.

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Say(String),
    Think(String),
    Bash(String),
    Image(String),
    Words { count: u64, pause_ms: u64 },
    Recall,
    Told(String),
    Error(u16),
    Flaky { status: u16, times: u32 },
    Overflow,
    Cut,
    Hang,
    Failed,
}

/// All directives of a text, in their order; the polite default when there is none.
pub fn read(text: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut rest = text;
    while let Some((_, after)) = rest.split_once("[[") {
        let Some((inside, behind)) = after.split_once("]]") else { break };
        steps.push(step(inside));
        rest = behind;
    }
    if steps.is_empty() {
        steps.push(Step::Say("Hello! I have nothing to do for that, but I am glad to help.".to_owned()));
    }
    steps
}

fn step(inside: &str) -> Step {
    let (name, rest) = inside.split_once(char::is_whitespace).unwrap_or((inside, ""));
    let numbers: Vec<u64> = rest.split_whitespace().filter_map(|w| w.parse().ok()).collect();
    let status = |n: u64| u16::try_from(n).ok().filter(|s| (400..600).contains(s));
    match (name, numbers.as_slice()) {
        ("say", _) => Step::Say(rest.to_owned()),
        ("think", _) => Step::Think(rest.to_owned()),
        ("bash", _) => Step::Bash(rest.to_owned()),
        ("image", _) => Step::Image(rest.to_owned()),
        ("slow", [count, pause_ms]) => Step::Words { count: *count, pause_ms: *pause_ms },
        ("long", [count]) => Step::Words { count: *count, pause_ms: 0 },
        ("recall", _) => Step::Recall,
        ("overflow", _) => Step::Overflow,
        ("told", _) => Step::Told(rest.to_owned()),
        ("cut", _) => Step::Cut,
        ("hang", _) => Step::Hang,
        ("failed", _) => Step::Failed,
        ("error", [n]) if status(*n).is_some() => Step::Error(status(*n).unwrap_or(500)),
        ("flaky", [n, times]) if status(*n).is_some() => {
            Step::Flaky { status: status(*n).unwrap_or(500), times: u32::try_from(*times).unwrap_or(u32::MAX) }
        }
        _ => Step::Say(format!("I do not know the directive [[{inside}]].")),
    }
}

/// The steps of the answer to the request that brings the `results`-th tool result (0: the first request).
pub fn turn(steps: &[Step], results: usize) -> &[Step] {
    let is_call = |step: &Step| matches!(step, Step::Bash(_) | Step::Image(_));
    let mut rest = steps;
    for _ in 0..results {
        match rest.iter().position(is_call) {
            Some(at) => rest = &rest[at + 1..],
            None => return &[],
        }
    }
    match rest.iter().position(is_call) {
        Some(at) => &rest[..=at],
        None => rest,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn every_directive_is_read() {
        let text = "please [[think a b]] [[bash if [ -e x ]; then echo \"]\"; fi]][[say hi]] [[slow 3 50]][[long 9]]\
                    [[recall]][[told a b]][[error 401]][[flaky 500 2]][[cut]][[hang]][[failed]][[overflow]]\
                    [[error 9]] [[what]] [[image a red fox]]";
        let steps = read(text);
        assert_eq!(steps[1], Step::Bash("if [ -e x ]; then echo \"]\"; fi".to_owned()));
        assert_eq!(steps[3], Step::Words { count: 3, pause_ms: 50 });
        assert_eq!(steps[4], Step::Words { count: 9, pause_ms: 0 });
        assert_eq!(
            steps[5..13],
            [
                Step::Recall,
                Step::Told("a b".to_owned()),
                Step::Error(401),
                Step::Flaky { status: 500, times: 2 },
                Step::Cut,
                Step::Hang,
                Step::Failed,
                Step::Overflow
            ]
        );
        assert!(matches!(&steps[13], Step::Say(t) if t.contains("error 9")));
        assert!(matches!(&steps[14], Step::Say(t) if t.contains("what")));
        assert_eq!(steps[15], Step::Image("a red fox".to_owned()));
        assert!(matches!(&read("no directive [[ open")[..], [Step::Say(_)]));
    }

    #[test]
    fn a_turn_ends_with_its_tool_call() {
        let steps = read("[[think t]][[bash one]][[bash two]][[say end]]");
        assert_eq!(turn(&steps, 0), [Step::Think("t".into()), Step::Bash("one".into())]);
        assert_eq!(turn(&steps, 1), [Step::Bash("two".into())]);
        assert_eq!(turn(&steps, 2), [Step::Say("end".into())]);
        assert_eq!(turn(&steps, 3), []);
    }
}
