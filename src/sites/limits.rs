//! The limits of an exported site. `trusted/build-site` tells the agent the first three early; a test compares.

/// Files, directories and whatever else there is in `dist`.
pub const MAX_ENTRIES: usize = 20_000;
/// Levels of directories.
pub const MAX_DEPTH: usize = 32;
/// Bytes of all files.
pub const MAX_BYTES: u64 = 256 << 20;
/// Bytes of a path below `dist`.
pub const MAX_PATH: usize = 1024;
/// Bytes of what build-site has left to be read.
pub const MAX_REPORT: u64 = 4096;
/// Characters of what build-site says that are shown.
pub const MAX_MESSAGE: usize = 400;
/// What was left out and is named; more is only counted.
pub const MAX_NAMED: usize = 50;
/// Entries that the worker is asked for at a time.
pub const PAGE: u32 = 1000;

#[cfg(test)]
mod tests {
    #[test]
    fn build_site_tells_the_same_limits() {
        let program = include_str!("../../trusted/build-site").replace('_', "");
        for limit in [
            format!("MAXENTRIES = {};", super::MAX_ENTRIES),
            format!("MAXDEPTH = {};", super::MAX_DEPTH),
            format!("MAXBYTES = {} * 1024 * 1024;", super::MAX_BYTES >> 20),
        ] {
            assert!(program.contains(&limit), "{limit}");
        }
    }
}
