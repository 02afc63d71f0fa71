//! Several services are killed at once. The agents, which are no services of the gateway, are left alone.

use pi_gateway_e2e::points::{FRONT, LAUNCHER, RELAY, die_at_any_moment, die_while_a_large_prompt_is_written};
use pi_gateway_e2e::testhost;

#[test]
fn a_run_survives_the_death_of_front_and_launcher_at_any_moment() {
    testhost();
    die_at_any_moment("two", &[FRONT, LAUNCHER], 8, 0);
}

#[test]
fn a_run_survives_the_death_of_everything_but_its_agent_at_any_moment() {
    testhost();
    die_at_any_moment("three", &[FRONT, LAUNCHER, RELAY], 8, 1);
}

#[test]
fn a_prompt_of_five_megabytes_survives_the_death_of_everything_but_its_agent() {
    testhost();
    die_while_a_large_prompt_is_written("three-large", &[FRONT, LAUNCHER, RELAY]);
}
