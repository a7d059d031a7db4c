//! A performance target, its verdict, and tables of targets.

use std::fmt::Write;

use super::spread::Spread;
use crate::Guest;

/// Subject of a target: decides which explanation is given when the target is missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Subject {
    Cpu,
    CpuValidating,
    Calls,
    CpuTwo,
    Goodput,
    GoodputValidating,
    Connections,
    Echo,
    UserSpace,
    Validation,
    Setup,
    Copy,
    Netkit,
    Lost,
    Memory,
    /// A figure that is shown without a limit.
    NoLimit,
}

/// A performance target: a figure and its limit.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Target {
    pub(super) about: Subject,
    pub(super) what: String,
    pub(super) guest: Option<Guest>,
    /// Whether receive coalescing is on; `None` where that makes no difference.
    pub(super) gro: Option<bool>,
    /// The measured figure; `None` if it was not measured.
    pub(super) figure: Option<Spread>,
    /// The limit; `None` for a figure that is only shown.
    pub(super) limit: Option<Limit>,
    /// Whether each round must meet the limit, not just the median.
    pub(super) each: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Limit {
    AtMost(f64),
    AtLeast(f64),
}

impl Target {
    pub(super) fn new(
        about: Subject,
        what: impl Into<String>,
        figure: Option<Spread>,
        limit: Limit,
    ) -> Self {
        Self {
            about,
            what: what.into(),
            guest: None,
            gro: None,
            figure,
            limit: Some(limit),
            each: false,
        }
    }

    pub(super) fn without_limit(what: impl Into<String>, figure: Option<Spread>) -> Self {
        Self {
            limit: None,
            ..Self::new(Subject::NoLimit, what, figure, Limit::AtMost(0.0))
        }
    }

    pub(super) fn in_guest(self, guest: Guest, gro: bool) -> Self {
        Self {
            guest: Some(guest),
            gro: Some(gro),
            ..self
        }
    }

    /// Whether the target is met; `None` without a limit or a figure.
    pub(super) fn is_met(&self) -> Option<bool> {
        let figure = self.figure?;
        let figure = |worst: fn(Spread) -> f64| match self.each {
            true => worst(figure),
            false => figure.median,
        };
        Some(match self.limit? {
            Limit::AtMost(limit) => figure(|it| it.max) <= limit,
            Limit::AtLeast(limit) => figure(|it| it.min) >= limit,
        })
    }

    /// Verdict on the target: `met`, `NOT MET`, `not measured`; empty without a limit.
    pub(super) fn verdict(&self) -> &'static str {
        match (self.limit, self.is_met()) {
            (None, _) => "",
            (_, Some(true)) => "met",
            (_, Some(false)) => "NOT MET",
            (_, None) => "not measured",
        }
    }

    pub(super) fn limit_text(&self) -> String {
        let each = if self.each { ", each round" } else { "" };
        let number = |limit: f64| match limit > 0.0 && limit < 0.1 {
            true => format!("1/{:.0}", 1.0 / limit),
            false => format!("{limit}"),
        };
        match self.limit {
            Some(Limit::AtMost(limit)) => format!("at most {}{each}", number(limit)),
            Some(Limit::AtLeast(limit)) => format!("at least {}{each}", number(limit)),
            None => String::new(),
        }
    }

    /// Formats the figure; a small one also as one part in so many.
    pub(super) fn figure_text(&self) -> String {
        let Some(figure) = self.figure else {
            return "-".to_owned();
        };
        if matches!(self.about, Subject::Lost | Subject::Memory) {
            return format!("{:.0}", figure.median);
        }
        match self.limit {
            Some(Limit::AtMost(limit)) if limit > 0.0 && limit < 0.1 => {
                let part = |value: f64| 1.0 / value.max(1e-9);
                let (most, least) = (part(figure.max), part(figure.min));
                format!("1/{:.0} (1/{least:.0} to 1/{most:.0})", part(figure.median))
            }
            _ => figure.to_string(),
        }
    }
}

pub(super) fn guest_text(guest: Option<Guest>) -> &'static str {
    match guest {
        Some(Guest::OneCpu | Guest::Words) => "one",
        Some(Guest::TwoCpu) => "two",
        None => "",
    }
}

pub(super) fn processors(guest: Guest) -> &'static str {
    match guest {
        Guest::OneCpu | Guest::Words => "one processor",
        Guest::TwoCpu => "two processors",
    }
}

pub(super) fn gro_text(gro: Option<bool>) -> &'static str {
    gro.map_or("", |gro| if gro { "with" } else { "without" })
}

/// Formats a table of targets: a line for each, and at the end how many are met.
pub(super) fn text(title: &str, targets: &[Target]) -> String {
    let mut text = format!(
        "{title:<66} {:<4} {:<8} {:<26} {:<24}\n",
        "CPUs", "coalesc.", "figure (least to most)", "target"
    );
    for target in targets {
        let line = format!(
            "{:<66} {:<4} {:<8} {:<26} {:<24} {}",
            target.what,
            guest_text(target.guest),
            gro_text(target.gro),
            target.figure_text(),
            target.limit_text(),
            target.verdict()
        );
        let _infallible = writeln!(text, "{}", line.trim_end());
    }
    text + &summary(targets) + "\n"
}

/// Formats how many targets are met, and how many were not measured.
pub(super) fn summary(targets: &[Target]) -> String {
    let of = |met: Option<bool>| {
        let limited = targets.iter().filter(|it| it.limit.is_some());
        limited.filter(|it| it.is_met() == met).count()
    };
    let (met, missed, open) = (of(Some(true)), of(Some(false)), of(None));
    let all = met + missed + open;
    let open = match open {
        0 => String::new(),
        open => format!(", {open} not measured"),
    };
    format!("{met} of {all} met, {missed} not met{open}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_figures_are_parts_of_one() {
        let target = |figure: f64, limit| {
            Target::new(
                Subject::Calls,
                "x",
                Spread::of(&[figure]),
                Limit::AtMost(limit),
            )
        };
        let small = target(1.0 / 300.0, 1.0 / 200.0);
        assert_eq!(small.figure_text(), "1/300 (1/300 to 1/300)");
        assert_eq!(small.limit_text(), "at most 1/200");
        assert_eq!(target(0.5, 1.0).figure_text(), "0.500");
        let count = Target::new(Subject::Lost, "x", Spread::of(&[27.0]), Limit::AtMost(0.0));
        assert_eq!(count.figure_text(), "27");
    }

    #[test]
    fn all_are_counted() {
        let target = |figure: Option<f64>, limit| {
            let figure = figure.and_then(|it| Spread::of(&[it]));
            Target::new(Subject::NoLimit, "x", figure, limit)
        };
        let all = [
            target(Some(0.5), Limit::AtMost(0.4)),
            target(Some(0.5), Limit::AtLeast(0.4)),
            target(None, Limit::AtMost(1.0)),
            Target::without_limit("x", Spread::of(&[2.0])),
        ];
        assert_eq!(summary(&all), "1 of 3 met, 1 not met, 1 not measured");
        let text = text("targets", &all);
        let ends: Vec<_> = text.lines().collect();
        assert!(ends[1].ends_with("NOT MET"), "{text}");
        assert!(ends[2].ends_with(" met"), "{text}");
        assert!(ends[3].ends_with("not measured"), "{text}");
        assert!(ends[4].ends_with("2.000"), "{text}");
    }
}
