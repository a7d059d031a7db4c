//! KTAP, the kernel's test output (Documentation/dev-tools/ktap.rst): a version line, a plan, one
//! line per case, diagnostics behind `#`.

use std::io::{self, Write};

/// Verdict on a case: passed, failed or skipped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Everything that the case asserts was true.
    Passed,
    /// The case failed; the diagnostics have the reason.
    Failed,
    /// The case can't hold here, for this reason.
    Skipped(String),
}

/// Writer of KTAP that counts the verdicts.
#[derive(Debug)]
pub(super) struct Ktap<W: Write> {
    out: W,
    passed: usize,
    failed: usize,
    skipped: usize,
}

impl<W: Write> Ktap<W> {
    /// Writes the KTAP version and the plan.
    pub(super) fn begin(mut out: W, cases: usize) -> io::Result<Self> {
        writeln!(out, "KTAP version 1\n1..{cases}")?;
        out.flush()?;
        Ok(Self {
            out,
            passed: 0,
            failed: 0,
            skipped: 0,
        })
    }

    /// Writes a diagnostic, with `#` before each of its lines.
    pub(super) fn note(&mut self, text: &str) -> io::Result<()> {
        for line in text.lines() {
            writeln!(self.out, "# {line}")?;
        }
        self.out.flush()
    }

    /// Writes the verdict of the next case.
    pub(super) fn verdict(&mut self, name: &str, verdict: &Verdict) -> io::Result<()> {
        let number = self.passed + self.failed + self.skipped + 1;
        match verdict {
            Verdict::Passed => {
                self.passed += 1;
                writeln!(self.out, "ok {number} {name}")?;
            }
            Verdict::Failed => {
                self.failed += 1;
                writeln!(self.out, "not ok {number} {name}")?;
            }
            Verdict::Skipped(why) => {
                self.skipped += 1;
                writeln!(self.out, "ok {number} {name} # SKIP {why}")?;
            }
        }
        self.out.flush()
    }

    /// Writes the totals; returns true if no case failed.
    pub(super) fn end(mut self) -> io::Result<bool> {
        let Self {
            passed,
            failed,
            skipped,
            ..
        } = self;
        writeln!(
            self.out,
            "# Totals: pass:{passed} fail:{failed} skip:{skipped}"
        )?;
        self.out.flush()?;
        Ok(failed == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_plan_verdicts_and_totals() {
        let mut text = Vec::new();
        let mut ktap = Ktap::begin(&mut text, 3).unwrap();
        ktap.verdict("first", &Verdict::Passed).unwrap();
        ktap.note("two\nlines").unwrap();
        ktap.verdict("second", &Verdict::Failed).unwrap();
        ktap.verdict("third", &Verdict::Skipped("kernel 7.2".into()))
            .unwrap();
        assert!(!ktap.end().unwrap());
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "KTAP version 1\n1..3\nok 1 first\n# two\n# lines\nnot ok 2 second\n\
             ok 3 third # SKIP kernel 7.2\n# Totals: pass:1 fail:1 skip:1\n"
        );
    }
}
