//! Exit codes, which scripts can test.
//!
//! 0 is success, 2 a wrong command line (clap's), 1 any other failure. What disappeared under a
//! receiver has a code of its own.

use std::fmt;
use std::process::ExitCode;

/// Description of the exit codes, for the help and the man page.
pub(crate) const CODES: &str = "\
Exit codes: 0 done; 1 failed; 2 wrong command line; 3 the physical NIC went away while it was
received on; 4 the netkit did; 5 its network namespace did; 6 the peer fell silent; 128 and
the signal's number: ended by a second SIGINT or SIGTERM, or by one while results are printed.";

/// Reason of an exit code: the thing that disappeared during use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ExitReason {
    /// The physical NIC disappeared, and with it the leases of its queues.
    Nic,
    /// The virtual device that received disappeared.
    Device,
    /// The network namespace disappeared, or the process that named it.
    Netns,
    /// The peer is silent: it vanished, or neither takes nor sends bytes any more.
    Silent,
}

impl ExitReason {
    fn code(self) -> u8 {
        match self {
            Self::Nic => 3,
            Self::Device => 4,
            Self::Netns => 5,
            Self::Silent => 6,
        }
    }
}

/// Error of a device, namespace or peer that disappeared, in one line.
#[derive(Debug)]
pub(crate) struct Disappeared {
    pub(crate) what: ExitReason,
    pub(crate) text: String,
    /// Remedy for the error, where there is one.
    pub(crate) remedy: Option<String>,
}

impl fmt::Display for Disappeared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Disappeared {}

/// Finds a [`Disappeared`] anywhere in an error's chain.
pub(crate) fn find_disappeared(error: &anyhow::Error) -> Option<&Disappeared> {
    // A context can be downcast, too, but is not in the chain.
    let found = error.downcast_ref::<Disappeared>();
    found.or_else(|| error.chain().find_map(|cause| cause.downcast_ref()))
}

/// Several failures in order: code and remedy are those of the first.
#[derive(Debug)]
struct Several {
    first: anyhow::Error,
    text: String,
}

impl fmt::Display for Several {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Several {}

/// Combines the errors of several steps into one.
pub(crate) fn all(results: impl IntoIterator<Item = anyhow::Result<()>>) -> anyhow::Result<()> {
    let mut failures = results.into_iter().filter_map(Result::err);
    let Some(first) = failures.next() else {
        return Ok(());
    };
    let mut text = format!("{first:#}");
    for failure in failures {
        text += &format!("; then {failure:#}");
    }
    Err(Several { first, text }.into())
}

/// The first of several errors, or the only one.
pub(crate) fn first(error: &anyhow::Error) -> &anyhow::Error {
    match error.downcast_ref::<Several>() {
        Some(several) => first(&several.first),
        None => error,
    }
}

/// Exit code of an error.
pub(crate) fn code(error: &anyhow::Error) -> ExitCode {
    find_disappeared(first(error)).map_or(ExitCode::FAILURE, |found| found.what.code().into())
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    fn example() -> Disappeared {
        Disappeared {
            what: ExitReason::Device,
            text: "recv nk0: nk0 was deleted".to_owned(),
            remedy: None,
        }
    }

    #[test]
    fn a_disappearance_has_its_code_under_any_context() {
        let same = |error: anyhow::Error, code: u8| {
            assert_eq!(
                format!("{:?}", super::code(&error)),
                format!("{:?}", ExitCode::from(code))
            );
        };
        same(example().into(), 4);
        same(anyhow::Error::from(example()).context("then this"), 4);
        same(anyhow!("that").context(example()), 4);
        same(anyhow!("that"), 1);
        same(
            all([Err(example().into()), Err(anyhow!("that"))]).unwrap_err(),
            4,
        );
    }

    #[test]
    fn all_failures_are_in_one_line() {
        assert!(all([Ok(()), Ok(())]).is_ok());
        let one = all([Ok(()), Err(anyhow!("b").context("a"))]).unwrap_err();
        let two = all([Err(one), Ok(()), Err(anyhow!("c"))]).unwrap_err();
        assert_eq!(format!("{two:#}"), "a: b; then c");
        assert_eq!(first(&two).to_string(), "a");
    }
}
