//! `strftime_now`: some templates tell the model the date.

use super::budget::Budget;
use super::fault::Fault;

/// A moment as a wall clock and a calendar show it. Whoever renders says when it is: a template
/// has no clock of its own, so the same conversation always renders the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CivilTime {
    pub year: u16,
    /// `1..=12`
    pub month: u8,
    /// `1..=31`
    pub day: u8,
    /// `0..=23`
    pub hour: u8,
    pub minute: u8,
    pub second: u8,
}

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
const DAYS: [&str; 7] =
    ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

impl CivilTime {
    /// The moment `seconds` after 1970-01-01 00:00:00, in the same zone.
    ///
    /// Years past 65535 stay at 65535.
    pub fn from_unix_seconds(seconds: u64) -> Self {
        let (days, second_of_day) = (seconds / 86_400, (seconds % 86_400) as u32);
        // Days to a calendar date by eras of 400 years that begin on a first of March
        // (H. Hinnant, "chrono-Compatible Low-Level Date Algorithms").
        let shifted = days + 719_468;
        let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
        let year = era * 400 + year_of_era + u64::from(month <= 2);
        Self {
            year: u16::try_from(year).unwrap_or(u16::MAX),
            month: month as u8,
            day: (day_of_year - (153 * shifted_month + 2) / 5 + 1) as u8,
            hour: (second_of_day / 3_600) as u8,
            minute: (second_of_day / 60 % 60) as u8,
            second: (second_of_day % 60) as u8,
        }
    }

    /// C's `strftime` in English, with the directives templates use.
    pub(super) fn format(self, format: &str, budget: &mut Budget) -> Result<String, Fault> {
        // No directive gives more than nine letters for its two.
        budget.spend_bytes(format.len().saturating_mul(5))?;
        let month = MONTHS[usize::from(self.month.clamp(1, 12)) - 1];
        let weekday = DAYS[self.weekday()];
        let hour_of_12 = (self.hour + 11) % 12 + 1;
        let mut text = String::new();
        let mut characters = format.chars();
        while let Some(character) = characters.next() {
            if character != '%' {
                text.push(character);
                continue;
            }
            let directive = characters.next();
            let written = match directive {
                Some('Y') => format!("{:04}", self.year),
                Some('y') => format!("{:02}", self.year % 100),
                Some('m') => format!("{:02}", self.month),
                Some('d') => format!("{:02}", self.day),
                Some('e') => format!("{:2}", self.day),
                Some('H') => format!("{:02}", self.hour),
                Some('I') => format!("{hour_of_12:02}"),
                Some('M') => format!("{:02}", self.minute),
                Some('S') => format!("{:02}", self.second),
                Some('p') => if self.hour < 12 { "AM" } else { "PM" }.to_owned(),
                Some('B') => month.to_owned(),
                Some('b') => month[..3].to_owned(),
                Some('A') => weekday.to_owned(),
                Some('a') => weekday[..3].to_owned(),
                Some('j') => format!("{:03}", self.day_of_year()),
                Some('F') => format!("{:04}-{:02}-{:02}", self.year, self.month, self.day),
                Some('T') => format!("{:02}:{:02}:{:02}", self.hour, self.minute, self.second),
                Some('%') => "%".to_owned(),
                _ => {
                    let directive = directive.map_or(String::new(), String::from);
                    return Err(Fault::Unsupported(format!("the date format `%{directive}`")));
                }
            };
            text.push_str(&written);
        }
        Ok(text)
    }

    fn is_leap(self) -> bool {
        self.year.is_multiple_of(4)
            && (!self.year.is_multiple_of(100) || self.year.is_multiple_of(400))
    }

    fn day_of_year(self) -> u16 {
        const DAYS_BEFORE: [u16; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
        let before = DAYS_BEFORE[usize::from(self.month.clamp(1, 12)) - 1];
        before + u16::from(self.day) + u16::from(self.month > 2 && self.is_leap())
    }

    /// Days after Sunday.
    fn weekday(self) -> usize {
        let past_years = u64::from(self.year).saturating_sub(1);
        let days = past_years * 365 + past_years / 4 - past_years / 100 + past_years / 400;
        ((days + u64::from(self.day_of_year())) % 7) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_as_strftime() {
        let moment = CivilTime { year: 2024, month: 2, day: 29, hour: 0, minute: 5, second: 9 };
        let format = "%A %a %d %B %b %Y %y %m %j %H:%M:%S %I %p %F %T 100%%";
        let expected =
            "Thursday Thu 29 February Feb 2024 24 02 060 00:05:09 12 AM 2024-02-29 00:05:09 100%";
        assert_eq!(moment.format(format, &mut Budget::unlimited()).unwrap(), expected);
    }

    #[test]
    fn unix_seconds_become_dates() {
        let cases = [
            (0, "Thu 1970-01-01 00:00:00"),
            (951_782_399, "Mon 2000-02-28 23:59:59"),
            (951_782_400, "Tue 2000-02-29 00:00:00"),
            (4_107_542_400, "Mon 2100-03-01 00:00:00"),
        ];
        for (seconds, expected) in cases {
            let moment = CivilTime::from_unix_seconds(seconds);
            assert_eq!(moment.format("%a %F %T", &mut Budget::unlimited()).unwrap(), expected);
        }
    }

    #[test]
    fn an_unknown_directive_is_refused() {
        let moment = CivilTime::from_unix_seconds(0);
        for format in ["%Q", "%"] {
            let fault = moment.format(format, &mut Budget::unlimited()).unwrap_err();
            assert!(matches!(fault, Fault::Unsupported(_)), "{format}");
        }
    }
}
