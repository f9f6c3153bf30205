//! Times as Azure prints them: `2020-12-13T18:32:55.719758+00:00`.
//!
//! Only "now, in UTC, as text" is needed, so one function stands in for a date library.

use std::time::{SystemTime, UNIX_EPOCH};

/// Now, in UTC, with microseconds.
pub(crate) fn now() -> String {
    iso8601(SystemTime::now())
}

/// That time in UTC, with microseconds; a clock set before 1970 reads as 1970.
pub(super) fn iso8601(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil_from_days(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let micros = since.subsec_micros();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}+00:00")
}

/// Year, month and day of a day counted from 1970-01-01, in the Gregorian calendar.
///
/// Years are counted from March, so that the leap day is the last day of a year, and eras of 400
/// years, which all have the same number of days (Howard Hinnant's `civil_from_days`).
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468; // from 0000-03-01
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn known_moments_read_as_azure_prints_them() {
        for (micros, text) in [
            (0, "1970-01-01T00:00:00.000000+00:00"),
            (951_782_399_999_999, "2000-02-28T23:59:59.999999+00:00"),
            (951_782_400_000_000, "2000-02-29T00:00:00.000000+00:00"),
            (951_868_800_000_000, "2000-03-01T00:00:00.000000+00:00"),
            (1_607_884_375_719_758, "2020-12-13T18:32:55.719758+00:00"),
            (4_107_542_400_000_000, "2100-03-01T00:00:00.000000+00:00"),
            (253_402_300_799_000_000, "9999-12-31T23:59:59.000000+00:00"),
        ] {
            assert_eq!(iso8601(UNIX_EPOCH + Duration::from_micros(micros)), text);
        }
        assert_eq!(iso8601(UNIX_EPOCH - Duration::from_secs(9)), "1970-01-01T00:00:00.000000+00:00");
    }

    /// Every day of 400 years follows the one before it: the whole cycle of the calendar.
    #[test]
    fn days_follow_each_other() {
        let leap = |y: u64| y.is_multiple_of(4) && (!y.is_multiple_of(100) || y.is_multiple_of(400));
        let length = |y, m| match m {
            2 => 28 + u64::from(leap(y)),
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        let (mut year, mut month, mut day) = (1970, 1, 1);
        for days in 0..=146_097 {
            assert_eq!(civil_from_days(days), (year, month, day), "day {days}");
            day += 1;
            if day > length(year, month) {
                (day, month) = (1, month + 1);
            }
            if month > 12 {
                (month, year) = (1, year + 1);
            }
        }
    }
}
