//! How many connections a receiver takes before it ends.

use std::fmt;
use std::str::FromStr;

/// Number of connections after which a receiver ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Connections {
    Limited(u32),
    Unlimited,
}

impl FromStr for Connections {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "unlimited" => Ok(Self::Unlimited),
            text => match text.parse() {
                Ok(number) => Ok(Self::Limited(number)),
                Err(error) => Err(format!("{error}, nor unlimited")),
            },
        }
    }
}

impl fmt::Display for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Limited(number) => number.fmt(f),
            Self::Unlimited => f.write_str("unlimited"),
        }
    }
}
