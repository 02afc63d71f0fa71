//! The privileged part of pi-gateway, as a library: names, wire format, settings, units.

pub mod names;
pub mod settings;
pub mod wire;
