//! Who decides the node's mode.

use crate::{
    api::status::{ModeSource, ModeStatus},
    policy::model::{Mode, NodeSettings},
};

/// The mode in effect: the operator's `apply --mode`, else the `Node` document, else
/// `run --mode`, else audit.
pub fn effective(flag: Option<Mode>, node: &NodeSettings, operator: Option<Mode>) -> ModeStatus {
    let (effective, from) = if let Some(mode) = operator {
        (mode, ModeSource::Operator)
    } else if let Some(mode) = node.mode {
        (mode, ModeSource::Node)
    } else if let Some(mode) = flag {
        (mode, ModeSource::Flag)
    } else {
        (Mode::Audit, ModeSource::Default)
    };
    ModeStatus {
        effective,
        from,
        origin: (from == ModeSource::Node)
            .then(|| node.origin.clone())
            .flatten(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_later_word_counts() {
        let silent = NodeSettings::default();
        let says = |mode| NodeSettings {
            mode: Some(mode),
            ..NodeSettings::default()
        };
        let by = |flag, node: &NodeSettings, operator| {
            let status = effective(flag, node, operator);
            (status.effective, status.from)
        };
        assert_eq!(by(None, &silent, None), (Mode::Audit, ModeSource::Default));
        assert_eq!(
            by(Some(Mode::Enforce), &silent, None),
            (Mode::Enforce, ModeSource::Flag)
        );
        assert_eq!(
            by(Some(Mode::Enforce), &says(Mode::Audit), None),
            (Mode::Audit, ModeSource::Node)
        );
        assert_eq!(
            by(Some(Mode::Audit), &says(Mode::Audit), Some(Mode::Enforce)),
            (Mode::Enforce, ModeSource::Operator)
        );
    }
}
