//! Time of day in UTC: other zones need libc's tables.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Serialize, Serializer};

const DAY: u64 = 24 * 60 * 60;

/// A point in time. Displayed as a time of day, serialized with its date, as in RFC 3339.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timestamp(Duration);

impl Timestamp {
    pub(super) fn now() -> Self {
        Self(
            SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default(),
        )
    }

    /// Year, month and day of the Gregorian calendar: days are counted from the first of March of
    /// the year 0, so that a leap day is a year's last.
    fn date(self) -> (u64, u64, u64) {
        const ERA: u64 = 146_097; // days of 400 years
        let days = self.0.as_secs() / DAY + 719_468;
        let (era, day) = (days / ERA, days % ERA);
        let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        let day_of_month = day - (153 * month + 2) / 5 + 1;
        let (month, next) = if month < 10 {
            (month + 3, 0)
        } else {
            (month - 9, 1)
        };
        (era * 400 + year + next, month, day_of_month)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let second = self.0.as_secs() % DAY;
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        let milli = self.0.subsec_millis();
        write!(f, "{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (year, month, day) = self.date();
        serializer.collect_str(&format_args!("{year:04}-{month:02}-{day:02}T{self}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64, millis: u64) -> String {
        let moment = Timestamp(Duration::from_secs(seconds) + Duration::from_millis(millis));
        serde_json::to_string(&moment).unwrap()
    }

    #[test]
    fn days_are_those_of_the_calendar() {
        assert_eq!(at(0, 0), "\"1970-01-01T00:00:00.000Z\"");
        assert_eq!(at(951_782_400, 5), "\"2000-02-29T00:00:00.005Z\"");
        assert_eq!(at(951_868_800, 0), "\"2000-03-01T00:00:00.000Z\"");
        assert_eq!(at(1_735_689_599, 999), "\"2024-12-31T23:59:59.999Z\"");
        assert_eq!(at(4_107_542_400, 0), "\"2100-03-01T00:00:00.000Z\"");
    }
}
