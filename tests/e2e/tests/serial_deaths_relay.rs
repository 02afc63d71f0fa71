//! The model relay is killed at each point of a run, at swept moments and under a large prompt.

use pi_gateway_e2e::points::{RELAY, die_at_any_moment, die_at_each_point, die_while_a_large_prompt_is_written};
use pi_gateway_e2e::testhost;

#[test]
fn a_run_survives_the_death_of_the_relay_at_each_of_its_points() {
    testhost();
    die_at_each_point("relay", &[RELAY], 1);
}

#[test]
fn a_run_survives_the_death_of_the_relay_at_any_moment() {
    testhost();
    die_at_any_moment("relay-any", &[RELAY], 12, 1);
}

#[test]
fn a_prompt_of_five_megabytes_survives_the_death_of_the_relay_while_it_is_written() {
    testhost();
    die_while_a_large_prompt_is_written("relay-large", &[RELAY]);
}
