//! Who may hand a listener over to the git relay.

use super::*;

#[test]
fn a_listener_of_another_kind_and_a_uid_that_is_nobodys_are_refused() {
    let gitea = Fake::start(Mode::Answer(Vec::new()));
    let registry = format!("{} bob\n{} alice", own_uid() + 1, own_uid());
    for registry in [registry.as_str(), "", "7 bob\n"] {
        let bench = Bench::before(&gitea.base(), waits(), 1000, registry);
        let answer = bench.offer(&format!("1 git {}", bench.run), &[bench.listener.as_fd()]);
        assert!(answer.contains("no user"), "{registry:?}: {answer}");
    }
    let bench = Bench::before(&gitea.base(), waits(), 1000, &format!("{} ../x\n", own_uid()));
    let answer = bench.offer(&format!("1 git {}", bench.run), &[bench.listener.as_fd()]);
    assert!(answer.contains("registry"), "{answer}");
    let bench = Bench::before(&gitea.base(), waits(), 1000, &format!("{} alice\n", own_uid()));
    let answer = bench.offer(&format!("1 model {}", bench.run), &[bench.listener.as_fd()]);
    assert!(answer.contains("kind"), "{answer}");
    assert_eq!(bench.offer(&format!("1 git {}", bench.run), &[bench.listener.as_fd()]), "ok");
}
