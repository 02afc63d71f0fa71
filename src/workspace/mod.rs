//! The users' workspaces, seen from the front: it never opens a path in one. A worker of the user's opens what is asked
//! for and hands over descriptors, which are looked at before a byte is moved.

pub mod connection;
pub mod disk;
pub mod door;
pub mod file;
pub mod workers;
