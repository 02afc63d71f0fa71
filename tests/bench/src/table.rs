//! The rows of the bench: a figure, its spread, its limit or what it is compared with.

/// The table as it grows.
#[derive(Default)]
pub struct Table {
    /// Whether a figure has missed its limit, or a row could not be measured.
    pub missed: bool,
}

/// The value that `share` of the sorted values are not above.
pub fn quantile(sorted: &[f64], share: f64) -> f64 {
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

impl Table {
    /// The median of `values` beside a limit; infinite for none.
    pub fn row(&mut self, what: &str, values: &mut [f64], unit: &str, limit: f64) {
        self.quantile(what, values, 0.5, unit, limit);
    }

    /// A quantile of `values`, which must not be above the limit.
    pub fn quantile(&mut self, what: &str, values: &mut [f64], share: f64, unit: &str, limit: f64) {
        values.sort_by(f64::total_cmp);
        self.print(what, quantile(values, share), values, unit, limit, |figure| figure <= limit);
    }

    /// The median of `values`, which must not be below the limit.
    pub fn at_least(&mut self, what: &str, values: &mut [f64], unit: &str, limit: f64) {
        values.sort_by(f64::total_cmp);
        self.print(what, quantile(values, 0.5), values, unit, limit, |figure| figure >= limit);
    }

    /// A row that could not be measured, and why.
    pub fn impossible(&mut self, what: &str, why: &str) {
        println!("{what:<58} NOT MEASURED: {why}");
    }

    fn print(
        &mut self,
        what: &str,
        figure: f64,
        sorted: &[f64],
        unit: &str,
        limit: f64,
        holds: impl FnOnce(f64) -> bool,
    ) {
        let (least, most) = (sorted[0], sorted[sorted.len() - 1]);
        let beside = if limit.is_finite() {
            let ok = holds(figure);
            self.missed |= !ok;
            let word = if ok { "ok" } else { "MISSED" };
            format!("limit {limit:>8.1}  ratio {:.2}  {word}", figure / limit)
        } else {
            "for comparison".to_owned()
        };
        println!("{what:<58} {figure:>10.2} {unit:<7} ({least:.2} to {most:.2}, n={})  {beside}", sorted.len());
    }
}
