//! Images: what may be asked for ([`wish`]) and what counts as one ([`picture`]). Front and model relay judge by the same
//! rules, so that neither lets through what the other would not. The front asks the relay ([`maker`]).

pub mod maker;
pub mod picture;
pub mod wish;
