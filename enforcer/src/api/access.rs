//! Who may do what at the control socket.

use clap::ValueEnum;

/// What a caller may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Access {
    /// Look.
    Read,
    /// Change, too.
    Full,
}

/// The operator's choice: who else than root may use the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccessRules {
    /// User that the daemon runs as; has the same access as root.
    pub owner: u32,
    /// What members of the socket's group may do; `None` where no group was named. Membership
    /// itself is checked by the kernel at `connect(2)`: the socket's mode lets in nobody else.
    pub group: Option<Access>,
}

impl AccessRules {
    /// What the user behind a connection may do (`SO_PEERCRED`); `None`: nothing.
    pub const fn of(&self, uid: u32) -> Option<Access> {
        if uid == 0 || uid == self.owner {
            Some(Access::Full)
        } else {
            self.group
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_may_all_the_group_what_it_was_given() {
        let closed = AccessRules {
            owner: 0,
            group: None,
        };
        assert_eq!(closed.of(0), Some(Access::Full));
        assert_eq!(closed.of(1000), None);
        let open = AccessRules {
            owner: 0,
            group: Some(Access::Read),
        };
        assert_eq!(open.of(0), Some(Access::Full));
        assert_eq!(open.of(1000), Some(Access::Read));
        assert!(Access::Read < Access::Full);
    }
}
