//! Quantiles of a few measurements.

use serde::{Deserialize, Serialize};

/// The middle of some measurements, and between what the middle half of them lies.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Quartiles {
    pub(crate) lower: f64,
    pub(crate) median: f64,
    pub(crate) upper: f64,
}

impl Quartiles {
    /// `None` if nothing was measured.
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        let [lower, median, upper] = [0.25, 0.5, 0.75].map(|part| known(quantile(values, part)));
        Some(Self { lower: lower?, median: median?, upper: upper? })
    }
}

/// A count, which is the same wherever the code is, but for what depends on the process: the median, and between what all lie.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Count {
    pub(crate) least: f64,
    pub(crate) median: f64,
    pub(crate) most: f64,
}

impl Count {
    /// `None` if nothing was counted.
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        let [least, median, most] = [0.0, 0.5, 1.0].map(|part| known(quantile(values, part)));
        Some(Self { least: least?, median: median?, most: most? })
    }
}

/// A figure as it is kept, if there is one: what is beyond four places says nothing, and only makes files differ.
pub(crate) fn known(value: f64) -> Option<f64> {
    value.is_finite().then(|| (value * 1e4).round() / 1e4)
}

/// The value below which the given part of the values lies, between neighbours in proportion.
pub(crate) fn quantile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let place = part * last as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    below + (above - below) * place.fract()
}

/// What something takes while nobody else is at work: the value below which a tenth of the measurements lies. What others do on the
/// machine only adds to a time, now to every tenth one, now for a minute to nearly all.
pub(crate) fn undisturbed(values: &[f64]) -> f64 {
    quantile(values, 0.1)
}

pub(crate) fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

pub(crate) fn least(values: &[f64]) -> f64 {
    quantile(values, 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_between_neighbours() {
        let values = [4.0, 1.0, 3.0, 2.0];
        assert_eq!(least(&values), 1.0);
        assert_eq!(median(&values), 2.5);
        assert_eq!(quantile(&values, 0.25), 1.75);
        assert_eq!(quantile(&values, 1.0), 4.0);
        assert!((undisturbed(&values) - 1.3).abs() < 1e-9);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn quartiles_of_nothing_are_unknown() {
        let quartiles = Quartiles { lower: 1.75, median: 2.5, upper: 3.25 };
        assert_eq!(Quartiles::of(&[4.0, 1.0, 3.0, 2.0]), Some(quartiles));
        assert_eq!(Quartiles::of(&[]), None);
        assert_eq!(Quartiles::of(&[f64::NAN]), None);
    }
}
