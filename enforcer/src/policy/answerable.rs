//! When policies and rules hold, and who answers for them.

use std::collections::BTreeSet;

use super::{
    diagnostic::Code,
    document::Node,
    model::{Accountability, Moment, MomentError, Validity},
    reader::{Fields, Reader, quoted},
};

/// The fields, of `spec` and of rules.
pub(super) const FIELDS: [&str; 5] = ["validFrom", "validUntil", "owner", "ticket", "controls"];

/// Longest owner, ticket and control, in characters.
const WORD_CHARS: usize = 253;
/// Most controls of one policy or rule.
const CONTROLS: usize = 64;

impl Reader<'_> {
    /// `validFrom` and `validUntil`.
    pub(super) fn validity(&mut self, fields: &Fields<'_>) -> Option<Validity> {
        let from = match fields.find("validFrom") {
            Some(node) => self.moment(node, "`validFrom`").map(Some),
            None => Some(None),
        };
        let until = match fields.find("validUntil") {
            Some(node) => self.moment(node, "`validUntil`").map(Some),
            None => Some(None),
        };
        let validity = Validity {
            from: from?,
            until: until?,
        };
        if let (Some(from), Some(until)) = (validity.from, validity.until)
            && until <= from
        {
            let at = fields.key("validUntil").unwrap_or(fields.at);
            let message = format!("it ends at {until}, and begins at {from}");
            let help = "write a `validUntil` that is later than `validFrom`";
            self.error(Code::BadTime, at, message, help);
            return None;
        }
        Some(validity)
    }

    fn moment(&mut self, node: &Node, what: &str) -> Option<Moment> {
        let text = self.text(node, what)?;
        match text.parse() {
            Ok(moment) => Some(moment),
            Err(error) => {
                let help = match error {
                    MomentError::Fraction => "write whole seconds",
                    MomentError::NotRfc3339 => {
                        "write date, time and offset by RFC 3339, as in `2027-01-31T18:00:00Z` \
                         or `2027-01-31T18:00:00+01:00`"
                    }
                };
                let message = format!("{what} cannot be {}: {error}", quoted(text));
                self.error(Code::BadTime, node.at, message, help);
                None
            }
        }
    }

    /// `owner`, `ticket` and `controls`.
    pub(super) fn accountability(&mut self, fields: &Fields<'_>) -> Option<Accountability> {
        let mut word = |name: &str| match fields.find(name) {
            Some(node) => self.note(node, &format!("`{name}`")).map(Some),
            None => Some(None),
        };
        let (owner, ticket) = (word("owner"), word("ticket"));
        let controls = match fields.find("controls") {
            Some(node) => self.controls(node),
            None => Some(BTreeSet::new()),
        };
        Some(Accountability {
            owner: owner?,
            ticket: ticket?,
            controls: controls?,
        })
    }

    fn controls(&mut self, node: &Node) -> Option<BTreeSet<String>> {
        let items = self.list(node, "`controls`", Some("remove it, or name a control"))?;
        if items.len() > CONTROLS {
            let message = format!("{} controls", items.len());
            let help = format!("at most {CONTROLS} can be named in one place");
            self.error(Code::BadName, items[CONTROLS].at, message, help);
            return None;
        }
        let mut controls = BTreeSet::new();
        let mut good = true;
        for item in items {
            match self.note(item, "a control") {
                Some(control) => {
                    controls.insert(control);
                }
                None => good = false,
            }
        }
        good.then_some(controls)
    }

    fn note(&mut self, node: &Node, what: &str) -> Option<String> {
        let text = self.text(node, what)?;
        let good = !text.trim().is_empty()
            && text.chars().count() <= WORD_CHARS
            && !text.chars().any(char::is_control);
        if !good {
            let message = format!("{what} cannot be {}", quoted(text));
            let help = format!("write one line of text, at most {WORD_CHARS} characters");
            self.error(Code::BadName, node.at, message, help);
            return None;
        }
        Some(text.to_owned())
    }
}
