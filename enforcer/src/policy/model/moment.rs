//! When something holds.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// A second of the Unix epoch.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
pub struct Moment(pub i64);

/// Why a text is no moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum MomentError {
    /// Not RFC 3339.
    #[error("it is not a date and time with an offset")]
    NotRfc3339,
    /// A fraction of a second.
    #[error("it has a fraction of a second")]
    Fraction,
}

impl Moment {
    /// By the host's clock.
    pub fn now() -> Self {
        Self(OffsetDateTime::now_utc().unix_timestamp())
    }
}

impl FromStr for Moment {
    type Err = MomentError;

    /// From RFC 3339, whole seconds.
    fn from_str(text: &str) -> Result<Self, MomentError> {
        let time = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| MomentError::NotRfc3339)?;
        if time.nanosecond() != 0 {
            return Err(MomentError::Fraction);
        }
        Ok(Self(time.unix_timestamp()))
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = OffsetDateTime::from_unix_timestamp(self.0)
            .ok()
            .and_then(|time| time.format(&Rfc3339).ok());
        match time {
            Some(time) => f.write_str(&time),
            None => write!(f, "second {}", self.0),
        }
    }
}

/// When a policy or rule holds. `from` belongs to it, `until` no more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Validity {
    /// `None`: since ever.
    pub from: Option<Moment>,
    /// `None`: for ever.
    pub until: Option<Moment>,
}

impl Validity {
    /// Always.
    pub const ALWAYS: Self = Self {
        from: None,
        until: None,
    };

    /// Whether `now` is in it.
    pub fn holds(&self, now: Moment) -> bool {
        self.from.is_none_or(|from| from <= now) && self.until.is_none_or(|until| now < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_rfc_3339_with_whole_seconds() {
        let moment: Moment = "2027-01-01T02:00:00+02:00".parse().unwrap();
        assert_eq!(moment.to_string(), "2027-01-01T00:00:00Z");
        assert_eq!("2027-01-01T00:00:00Z".parse(), Ok(moment));
        let no_time = "2027-01-01".parse::<Moment>();
        assert_eq!(no_time, Err(MomentError::NotRfc3339));
        let no_offset = "2027-01-01T00:00:00".parse::<Moment>();
        assert_eq!(no_offset, Err(MomentError::NotRfc3339));
        let fraction = "2027-01-01T00:00:00.5Z".parse::<Moment>();
        assert_eq!(fraction, Err(MomentError::Fraction));
    }

    #[test]
    fn the_first_second_belongs_to_it_and_the_last_does_not() {
        let validity = Validity {
            from: Some(Moment(10)),
            until: Some(Moment(20)),
        };
        let holds: Vec<_> = [9, 10, 19, 20]
            .into_iter()
            .map(|second| validity.holds(Moment(second)))
            .collect();
        assert_eq!(holds, [false, true, true, false]);
        assert!(Validity::ALWAYS.holds(Moment(0)));
    }
}
