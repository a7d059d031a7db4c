//! Median, minimum and maximum of the values of several rounds.

use std::fmt;

/// Median, minimum and maximum of the values of several rounds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Spread {
    pub(super) min: f64,
    /// The middle value, or the mean of the two in the middle.
    pub(super) median: f64,
    pub(super) max: f64,
}

impl Spread {
    /// Returns the median, minimum and maximum of `values`; `None` if there are none.
    pub(super) fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        let upper = sorted.get(sorted.len() / 2)?;
        let lower = sorted.get((sorted.len() - 1) / 2)?;
        Some(Self {
            min: *sorted.first()?,
            median: (upper + lower) / 2.0,
            max: *sorted.last()?,
        })
    }

    /// Formats as `median (min to max)`, with `digits` digits after the decimal point.
    pub(super) fn text(&self, digits: usize) -> String {
        let Self { min, median, max } = self;
        format!("{median:.digits$} ({min:.digits$} to {max:.digits$})")
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { min, median, max } = *self;
        let number = |value| number(value, median);
        match min == max {
            true => f.write_str(&number(median)),
            false => write!(f, "{} ({} to {})", number(median), number(min), number(max)),
        }
    }
}

/// Formats a value with the digits that matter for values of about `size`.
fn number(value: f64, size: f64) -> String {
    match size.abs() {
        0.0 => format!("{value}"),
        small if small < 0.1 => format!("{value:.5}"),
        middle if middle < 100.0 => format!("{value:.3}"),
        _ => format!("{value:.0}"),
    }
}

/// Returns the median of the values; `None` if there are none.
pub(super) fn median(values: &[f64]) -> Option<f64> {
    Some(Spread::of(values)?.median)
}

/// Divides one list by another, round by round, so that what the rounds had in common cancels out.
pub(super) fn ratios(one: &[f64], other: &[f64]) -> Vec<f64> {
    let pairs = one.iter().zip(other);
    pairs.map(|(one, other)| one / other).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spreads() {
        assert_eq!(Spread::of(&[]), None);
        let of = |values: &[f64]| {
            let it = Spread::of(values).unwrap();
            (it.min, it.median, it.max)
        };
        assert_eq!(of(&[3.0, 1.0, 2.0]), (1.0, 2.0, 3.0));
        assert_eq!(of(&[4.0, 1.0, 2.0, 3.0]), (1.0, 2.5, 4.0));
    }

    #[test]
    fn rounds_are_compared_with_each_other() {
        // The machine was busy in the second round.
        let (one, other) = ([1.0, 10.0, 1.0], [2.0, 20.0, 4.0]);
        assert_eq!(ratios(&one, &other), [0.5, 0.5, 0.25]);
    }

    #[test]
    fn digits_say_something() {
        let text = |values: &[f64]| Spread::of(values).unwrap().to_string();
        assert_eq!(text(&[0.003_333]), "0.00333");
        assert_eq!(text(&[0.95, 1.0, 1.25]), "1.000 (0.950 to 1.250)");
        assert_eq!(text(&[740.0, 700.0, 1648.0]), "740 (700 to 1648)");
        assert_eq!(text(&[0.0, 0.0]), "0");
    }
}
