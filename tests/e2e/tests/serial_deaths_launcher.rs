//! The launcher is killed at each point of a run, at swept moments and under a large prompt.

use pi_gateway_e2e::points::{LAUNCHER, die_at_any_moment, die_at_each_point, die_while_a_large_prompt_is_written};
use pi_gateway_e2e::testhost;

#[test]
fn a_run_survives_the_death_of_the_launcher_at_each_of_its_points() {
    testhost();
    die_at_each_point("launcher", &[LAUNCHER], 0);
}

#[test]
fn a_run_survives_the_death_of_the_launcher_at_any_moment() {
    testhost();
    die_at_any_moment("launcher-any", &[LAUNCHER], 12, 0);
}

#[test]
fn a_prompt_of_five_megabytes_survives_the_death_of_the_launcher_while_it_is_written() {
    testhost();
    die_while_a_large_prompt_is_written("launcher-large", &[LAUNCHER]);
}
