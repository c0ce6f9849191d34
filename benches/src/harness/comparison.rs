//! Ratios as rows of a table, for benches that measure in their own way.

use super::statistics::{median, quantile};

/// The heading of a table of comparisons.
pub(crate) fn heading() -> Vec<String> {
    ["", "median", "quartiles", "goal", ""].map(String::from).to_vec()
}

/// One comparison: its ratio in each repetition, and the goal for the upper quartile.
pub(crate) fn row(name: String, ratios: &[f64], at_most: Option<f64>) -> Vec<String> {
    let upper = quantile(ratios, 0.75);
    vec![
        name,
        format!("{:.2}", median(ratios)),
        format!("{:.2} – {upper:.2}", quantile(ratios, 0.25)),
        at_most.map_or(String::new(), |goal| format!("≤ {goal}")),
        match at_most {
            Some(goal) if upper <= goal => "met".to_owned(),
            Some(_) => "**missed**".to_owned(),
            None => String::new(),
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_upper_quartile_meets_the_goal_or_not() {
        let cells = row("a ÷ b".to_owned(), &[0.1, 0.2, 0.3], Some(0.25));
        assert_eq!(cells, ["a ÷ b", "0.20", "0.15 – 0.25", "≤ 0.25", "met"]);
        assert_eq!(row(String::new(), &[0.3], Some(0.25))[4], "**missed**");
        assert_eq!(row(String::new(), &[0.3], None)[3..], ["", ""]);
        assert_eq!(heading().len(), cells.len());
    }
}
