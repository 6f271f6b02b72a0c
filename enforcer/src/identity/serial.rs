//! Serial numbers of certificates.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Longest serial number, in bytes (RFC 5280, 4.1.2.2). Some authorities go a little beyond.
const LONGEST: usize = 32;

/// A serial number, without leading zeros. Written in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Serial(Vec<u8>);

/// What is no serial number.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not the serial number of a certificate: write it in hexadecimal, as \
     `openssl x509 -serial` and `enforcer identity verify` show it"
)]
pub struct SerialError(String);

impl Serial {
    /// From the bytes in a certificate.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        Self(bytes[zeros..].to_vec())
    }
}

impl FromStr for Serial {
    type Err = SerialError;

    fn from_str(text: &str) -> Result<Self, SerialError> {
        let wrong = || SerialError(text.chars().take(80).collect());
        let digits: String = text
            .strip_prefix("0x")
            .unwrap_or(text)
            .chars()
            .filter(|c| *c != ':')
            .collect();
        if digits.is_empty() || digits.len() > 2 * LONGEST {
            return Err(wrong());
        }
        let padded = format!("{}{digits}", if digits.len() % 2 == 1 { "0" } else { "" });
        let mut bytes = Vec::with_capacity(padded.len() / 2);
        for pair in padded.as_bytes().chunks(2) {
            let pair = std::str::from_utf8(pair).map_err(|_| wrong())?;
            if !pair.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(wrong());
            }
            bytes.push(u8::from_str_radix(pair, 16).map_err(|_| wrong())?);
        }
        Ok(Self::from_bytes(&bytes))
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("00");
        }
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl TryFrom<String> for Serial {
    type Error = SerialError;

    fn try_from(text: String) -> Result<Self, SerialError> {
        text.parse()
    }
}

impl From<Serial> for String {
    fn from(serial: Serial) -> Self {
        serial.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_is_one_number() {
        let serial = Serial::from_bytes(&[0, 0x0a, 0xbc]);
        for text in ["0abc", "abc", "0A:BC", "0x0abc", "000abc"] {
            assert_eq!(text.parse(), Ok(serial.clone()), "{text}");
        }
        assert_eq!(serial.to_string(), "0abc");
        assert_eq!(Serial::from_bytes(&[0]).to_string(), "00");
        for text in ["", "xyz", "+1", "ä0", &"0".repeat(65)] {
            assert!(text.parse::<Serial>().is_err(), "{text}");
        }
    }
}
