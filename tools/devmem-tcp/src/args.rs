//! Types of values on the command line.

use std::fmt;
use std::str::FromStr;

use devmem::pattern::Pattern;
use netdev::NetNs;
use udmabuf::HugePage;

/// A size in bytes: `4096`, `64K`, `256M`, `1G`, also as `64KB` or `64KiB` (powers of 1,024 all).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size(pub(crate) u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let shift = match text[digits.len()..].to_ascii_uppercase().as_str() {
            "" | "B" => 0,
            "K" | "KB" | "KIB" => 10,
            "M" | "MB" | "MIB" => 20,
            "G" | "GB" | "GIB" => 30,
            unit => return Err(format!("unit {unit:?} is not K, M or G")),
        };
        let number: u64 = digits
            .parse()
            .map_err(|_| format!("{text:?} is not a size"))?;
        number
            .checked_mul(1 << shift)
            .map(Self)
            .ok_or_else(|| format!("{text:?} is too large"))
    }
}

impl Size {
    /// Formats the size as it is written on a command line.
    pub(crate) fn flag(self) -> String {
        let units = [(30, "G"), (20, "M"), (10, "K")];
        let fits = |(shift, _): &&(u32, &str)| self.0 > 0 && self.0 % (1 << shift) == 0;
        match units.iter().find(fits) {
            Some((shift, unit)) => format!("{}{unit}", self.0 >> shift),
            None => self.0.to_string(),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
        match units
            .iter()
            .find(|(shift, _)| self.0 > 0 && self.0 % (1 << shift) == 0)
        {
            Some((shift, unit)) => write!(f, "{} {unit}", self.0 >> shift),
            None => write!(f, "{} B", self.0),
        }
    }
}

/// Parses the period of the validation pattern.
pub(crate) fn period(text: &str) -> Result<usize, String> {
    let period = text.parse().map_err(|error| format!("{error}"))?;
    match Pattern::new(period) {
        Ok(_) => Ok(period),
        Err(error) => Err(error.to_string()),
    }
}

/// Kind of pages that a dmabuf consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Pages {
    /// Reserved huge pages where enough are free, else transparent ones where memory allows, else
    /// the system's page size
    Auto,
    /// The system's page size
    #[value(name = "4K")]
    Small,
    /// Huge pages of 2 MiB, which must be reserved
    #[value(name = "2M")]
    Huge,
}

impl Pages {
    /// Kind of pages to request; `None` for the best available.
    pub(crate) fn choice(self) -> Option<HugePage> {
        match self {
            Pages::Auto => None,
            Pages::Small => Some(HugePage::None),
            Pages::Huge => Some(HugePage::Mb2),
        }
    }
}

/// A network namespace: a name as in `ip netns`, a path, or `pid:PID`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NetNsArg {
    Name(String),
    Path(String),
    Pid(u32),
}

impl FromStr for NetNsArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(pid) = text.strip_prefix("pid:") {
            return pid
                .parse()
                .map(Self::Pid)
                .map_err(|_| format!("{pid:?} is not a pid"));
        }
        match text {
            "" => Err("a namespace has a name".into()),
            path if path.contains('/') => Ok(Self::Path(path.to_owned())),
            name => Ok(Self::Name(name.to_owned())),
        }
    }
}

impl NetNsArg {
    /// Opens the network namespace.
    pub(crate) fn open(&self) -> Result<NetNs, netdev::Error> {
        match self {
            Self::Name(name) => NetNs::by_name(name),
            Self::Path(path) => NetNs::by_path(path),
            Self::Pid(pid) => NetNs::by_pid(*pid),
        }
    }
}

/// Opens the network namespace that was named, or the current one.
pub(crate) fn netns(arg: Option<&NetNsArg>) -> Result<NetNs, netdev::Error> {
    arg.map_or_else(NetNs::current, NetNsArg::open)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_parsed() {
        assert_eq!("4096".parse(), Ok(Size(4096)));
        assert_eq!("64K".parse(), Ok(Size(65536)));
        assert_eq!("1GiB".parse(), Ok(Size(1 << 30)));
        assert_eq!("64MB".parse(), Ok(Size(64 << 20)));
        assert!("".parse::<Size>().is_err());
        assert!("64Q".parse::<Size>().is_err());
        assert!("-1".parse::<Size>().is_err());
        assert!("99999999999G".parse::<Size>().is_err());
        assert_eq!(Size(256 << 20).to_string(), "256 MiB");
        assert_eq!(Size(0).to_string(), "0 B");
        assert_eq!(Size(4097).to_string(), "4097 B");
    }

    #[test]
    fn namespaces_are_parsed() {
        assert_eq!("box".parse(), Ok(NetNsArg::Name("box".into())));
        assert_eq!(
            "/proc/1/ns/net".parse(),
            Ok(NetNsArg::Path("/proc/1/ns/net".into()))
        );
        assert_eq!("pid:7".parse(), Ok(NetNsArg::Pid(7)));
        assert!("pid:x".parse::<NetNsArg>().is_err());
        assert!("".parse::<NetNsArg>().is_err());
    }
}
