//! Rows for a terminal: columns as wide as what is in them.

use jiff::Timestamp;

/// The table, its header first. What could move the terminal's cursor is replaced.
pub fn text(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..count).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{:<width$}", plain(cell)));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn plain(cell: &str) -> String {
    cell.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// A number of bytes, for people.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut unit = 0;
    // In hundredths, which are exact enough and never a float that rounds up to 1024.
    let mut hundredths = bytes.saturating_mul(100) / 1024;
    while hundredths >= 102_400 && unit + 1 < UNITS.len() {
        hundredths /= 1024;
        unit += 1;
    }
    format!("{}.{} {}", hundredths / 100, hundredths % 100 / 10, UNITS[unit])
}

/// A time to the second.
pub fn time(at: Timestamp) -> String {
    Timestamp::from_second(at.as_second()).map_or_else(|_| at.to_string(), |at| at.to_string())
}

/// A duration to the second.
pub fn duration(milliseconds: u64) -> String {
    let seconds = milliseconds / 1000;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds}.{} s", milliseconds % 1000 / 100),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_cells_and_nothing_moves_the_cursor() {
        let row = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>();
        let rows = [row(&["name", "uid"]), row(&["alice", "7"]), row(&["b\u{1b}[2J", ""])];
        assert_eq!(text(&rows), "name   uid\nalice  7\nb?[2J\n");
    }

    #[test]
    fn sizes_and_times_are_for_people() {
        for (bytes, told) in
            [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (1 << 30, "1.0 GiB"), ((1 << 20) - 1, "1023.9 KiB")]
        {
            assert_eq!(size(bytes), told);
        }
        for (milliseconds, told) in [(900, "0.9 s"), (61_000, "1 min 1 s"), (7_260_000, "2 h 1 min")] {
            assert_eq!(duration(milliseconds), told);
        }
        assert_eq!(time("2026-11-26T04:10:00.123456Z".parse().unwrap_or_default()), "2026-11-26T04:10:00Z");
    }
}
