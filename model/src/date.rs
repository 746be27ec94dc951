//! The date that a chat template may ask for. It is passed in: this crate knows no clock.

use std::fmt::Write;

/// A point in time as a calendar shows it, in whatever time zone it was made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Date {
    year: i64,
    /// From 1 on.
    month: u8,
    /// From 1 on.
    day: u8,
    /// From 0 on, January 1st.
    day_of_year: u16,
    /// From 0 on, Sunday.
    weekday: u8,
    second_of_day: u32,
}

/// A format that [`Date::format`] does not know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the date format '{0}' is not known; known are %a %A %b %B %d %e %F %H %I %j %m %M %p %S %T %y %Y %% and %-d")]
pub struct DateFormatError(String);

impl Date {
    /// The date in UTC of a time in seconds since 1970; times beyond the year 9999 are taken for its end.
    ///
    /// The calendar is computed in years that begin in March, so that the leap day is their last.
    pub fn from_unix(seconds: u64) -> Self {
        let seconds = seconds.min(END_OF_9999);
        let (days, second_of_day) = ((seconds / 86_400) as i64, (seconds % 86_400) as u32);
        let since_march_0 = days + 719_468;
        let (era, day_of_era) = (since_march_0 / 146_097, since_march_0 % 146_097);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        let year = 400 * era + year_of_era + i64::from(month <= 2);
        let leap = i64::from(year % 4 == 0 && (year % 100 != 0 || year % 400 == 0));
        let day_of_year = if month <= 2 { day_of_year - 306 } else { day_of_year + 59 + leap };
        Self {
            year,
            month: month as u8,
            day: day as u8,
            day_of_year: day_of_year as u16,
            weekday: ((days + 4) % 7) as u8,
            second_of_day,
        }
    }

    /// The date as `format` says, as C's `strftime` has it in English.
    ///
    /// # Errors
    /// A conversion that is not known.
    pub fn format(&self, format: &str) -> Result<String, DateFormatError> {
        let mut text = String::new();
        let mut rest = format.chars();
        while let Some(c) = rest.next() {
            if c != '%' {
                text.push(c);
                continue;
            }
            let next = rest.next();
            let (padded, conversion) = if next == Some('-') { (false, rest.next()) } else { (true, next) };
            if conversion.and_then(|c| self.convert(c, padded, &mut text)).is_none() {
                return Err(DateFormatError(format.into()));
            }
        }
        Ok(text)
    }

    /// Appends one conversion; `None` if it is not known.
    fn convert(&self, conversion: char, padded: bool, text: &mut String) -> Option<()> {
        let (hour, minute) = (self.second_of_day / 3600, self.second_of_day / 60 % 60);
        let (weekday, month) = (WEEKDAYS[usize::from(self.weekday)], MONTHS[usize::from(self.month) - 1]);
        let (number, width) = match conversion {
            'd' => (self.day.into(), 2),
            'm' => (self.month.into(), 2),
            'j' => (u32::from(self.day_of_year) + 1, 3),
            'y' => ((self.year % 100) as u32, 2),
            'H' => (hour, 2),
            'I' => ((hour + 11) % 12 + 1, 2),
            'M' => (minute, 2),
            'S' => (self.second_of_day % 60, 2),
            _ if !padded => return None,
            'a' => return text.write_str(weekday.get(..3)?).ok(),
            'A' => return text.write_str(weekday).ok(),
            'b' => return text.write_str(month.get(..3)?).ok(),
            'B' => return text.write_str(month).ok(),
            'e' => return write!(text, "{:2}", self.day).ok(),
            'p' => return text.write_str(if hour < 12 { "AM" } else { "PM" }).ok(),
            'Y' => return write!(text, "{}", self.year).ok(),
            'F' => return write!(text, "{}-{:02}-{:02}", self.year, self.month, self.day).ok(),
            'T' => return write!(text, "{hour:02}:{minute:02}:{:02}", self.second_of_day % 60).ok(),
            '%' => return text.write_str("%").ok(),
            _ => return None,
        };
        if padded { write!(text, "{number:0width$}") } else { write!(text, "{number}") }.ok()
    }
}

/// The last second of the year 9999.
const END_OF_9999: u64 = 253_402_300_799;

const WEEKDAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(seconds: u64, format: &str) -> String {
        Date::from_unix(seconds).format(format).expect("a known format")
    }

    #[test]
    fn dates_around_leap_days_and_turns_of_years_are_those_of_the_calendar() {
        for (seconds, date) in [
            (0, "1970-01-01 00:00:00 Thursday 001"),
            (951_782_400, "2000-02-29 00:00:00 Tuesday 060"),
            (951_868_800, "2000-03-01 00:00:00 Wednesday 061"),
            (978_307_199, "2000-12-31 23:59:59 Sunday 366"),
            (1_709_210_096, "2024-02-29 12:34:56 Thursday 060"),
            (4_107_542_400, "2100-03-01 00:00:00 Monday 060"),
            (u64::MAX, "9999-12-31 23:59:59 Friday 365"),
        ] {
            assert_eq!(shown(seconds, "%F %T %A %j"), date);
        }
    }

    #[test]
    fn every_conversion_is_as_strftime_has_it() {
        let formats = "%a %A|%b %B|%d %-d %e|%H %-H %I %-I %p|%j %-j|%m %-m|%M %S|%y %Y %%";
        let first = "Thu Thursday|Jan January|01 1  1|00 0 12 12 AM|001 1|01 1|00 00|70 1970 %";
        assert_eq!(shown(0, formats), first);
        let afternoon = "Thu Thursday|Feb February|29 29 29|13 13 01 1 PM|060 60|02 2|34 56|24 2024 %";
        assert_eq!(shown(1_709_213_696, formats), afternoon);
        for wrong in ["%Q", "%", "%-", "%-B", "x%"] {
            let error = Date::from_unix(0).format(wrong).expect_err(wrong).to_string();
            assert!(error.contains(wrong), "{error}");
        }
    }
}
