//! Where a workload runs.

use super::{
    diagnostic::{Code, listed},
    document::Node,
    model::Place,
    reader::{Fields, Reader, Reported, quoted},
};

/// The ways to name a place.
pub(super) const FORMS: [&str; 3] = ["cgroup", "unit", "interface"];

/// Kinds of units that have a cgroup (systemd.resource-control(5)).
const UNIT_SUFFIXES: [&str; 6] = [".service", ".scope", ".slice", ".socket", ".mount", ".swap"];

/// Longest unit name, in bytes (systemd.unit(5)).
const UNIT_BYTES: usize = 255;
/// Longest interface name, in bytes (`IFNAMSIZ` without its final zero, linux/if.h).
const INTERFACE_BYTES: usize = 15;
/// Longest path, in bytes (`PATH_MAX`, linux/limits.h).
const PATH_BYTES: usize = 4095;

impl Reader<'_> {
    /// The place that a workload's `spec` gives, or `None` where it gives none.
    pub(super) fn place(&mut self, spec: &Fields<'_>) -> Result<Option<Place>, Reported> {
        let mut given = FORMS
            .into_iter()
            .filter_map(|form| Some((form, spec.find(form)?)));
        let Some((form, node)) = given.next() else {
            return Ok(None);
        };
        if let Some((second, _)) = given.next() {
            let at = spec.key(second).unwrap_or(spec.at);
            let message = format!("`{form}` and `{second}`: a workload runs in one place");
            let help = format!("keep one of {}", listed(FORMS));
            self.error(Code::BadPlace, at, message, help);
            return Err(Reported);
        }
        let text = self.text(node, &format!("`{form}`")).ok_or(Reported)?;
        let checked = match form {
            "cgroup" => check_cgroup(text).map(|()| Place::Cgroup(text.to_owned())),
            "unit" => check_unit(text).map(|()| Place::Unit(text.to_owned())),
            _ => check_interface(text).map(|()| Place::Interface(text.to_owned())),
        };
        self.checked(node, form, text, checked)
            .map(Some)
            .ok_or(Reported)
    }

    fn checked(
        &mut self,
        node: &Node,
        form: &str,
        text: &str,
        checked: Result<Place, (String, String)>,
    ) -> Option<Place> {
        match checked {
            Ok(place) => Some(place),
            Err((why, help)) => {
                let message = format!("{} cannot be `{form}`: {why}", quoted(text));
                self.error(Code::BadPlace, node.at, message, help);
                None
            }
        }
    }
}

type Checked = Result<(), (String, String)>;

fn wrong<T>(why: impl Into<String>, help: impl Into<String>) -> Result<T, (String, String)> {
    Err((why.into(), help.into()))
}

/// No escapes in a glob: the `\x2d` in the names that systemd makes is literal.
fn check_glob(text: &str) -> Checked {
    match globset::GlobBuilder::new(text)
        .literal_separator(true)
        .backslash_escape(false)
        .build()
    {
        Ok(_) => Ok(()),
        Err(error) => wrong(
            error.kind().to_string(),
            "close every bracket, or write `[[]` for a bracket that is meant as it is",
        ),
    }
}

fn check_cgroup(text: &str) -> Checked {
    let help = "write the path below the cgroup root, as in `/system.slice/web.service`";
    if !text.starts_with('/') {
        return wrong("it does not begin with `/`", help);
    }
    if text.starts_with("/sys/fs/cgroup") {
        return wrong(
            "it is below the mount point, not below the cgroup root",
            help,
        );
    }
    if text == "/" {
        return wrong(
            "the root holds every process",
            "name a cgroup below it; policy for the host itself has `selector: {host: true}`",
        );
    }
    if text.len() > PATH_BYTES || text.chars().any(char::is_control) {
        return wrong("no path looks like that", help);
    }
    for part in text[1..].split('/') {
        match part {
            "" => return wrong("it has an empty part", help),
            "." | ".." => return wrong("it has a part `.` or `..`", help),
            _ => {}
        }
    }
    check_glob(text)
}

pub(super) fn check_unit(text: &str) -> Checked {
    let suffix = UNIT_SUFFIXES
        .into_iter()
        .find(|suffix| text.ends_with(suffix));
    let Some(suffix) = suffix else {
        let help = match text.rsplit_once('.') {
            Some((_, "target" | "timer" | "path" | "device" | "automount")) => {
                "no process runs in a unit of this kind; name the service that it starts".to_owned()
            }
            _ => format!("write `{}.service`", text.trim_end_matches('.')),
        };
        let why = format!("it does not end in {}", listed(UNIT_SUFFIXES));
        return wrong(why, help);
    };
    let help = "write the unit's name as `systemctl` shows it, as in `web@*.service`";
    if text.len() == suffix.len() || text.len() > UNIT_BYTES {
        return wrong("no unit name looks like that", help);
    }
    // Below a unit whose cgroup is delegated, names are made by its owner: the unit comes first.
    let delegated = |part: &str| UNIT_SUFFIXES.iter().any(|s| part.ends_with(s));
    if !text.split('/').all(delegated) {
        return wrong(
            "what is before a `/` is no unit",
            "before the unit's name stands at most the unit that runs it, as in \
             `user@1000.service/web.service`",
        );
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@*?[]{},!/".contains(c);
    if let Some(c) = text.chars().find(|c| !allowed(*c)) {
        return wrong(format!("it has {}", quoted(&c.to_string())), help);
    }
    check_glob(text)
}

fn check_interface(text: &str) -> Checked {
    let help = "write the name of the host's side as `ip link` shows it, as in `veth-api`";
    if text.is_empty() || text.len() > INTERFACE_BYTES {
        return wrong("a name has 1 to 15 bytes", help);
    }
    if text.contains('*') || text.contains('?') {
        return wrong(
            "it names one interface, without `*`",
            "write one Workload for each interface",
        );
    }
    if text.contains('@') {
        return wrong(
            "it has an `@`",
            "leave out `@` and what `ip link` shows after it",
        );
    }
    let allowed = |c: char| c.is_ascii_graphic() && !matches!(c, '/' | ':');
    if matches!(text, "." | "..") || !text.chars().all(allowed) {
        return wrong("no interface has such a name", help);
    }
    if text == "lo" {
        return wrong("`lo` is no workload's interface", help);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroup_paths() {
        for good in [
            "/shop/web",
            "/a\\x2db.slice/*",
            "/shop/*",
            "/a.slice/b@*.service",
            "/x/**/y",
        ] {
            assert_eq!(check_cgroup(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "shop",
            "/",
            "//a",
            "/a/",
            "/a/../b",
            "/./a",
            "/[a",
            "/a\n",
            "/sys/fs/cgroup/a",
        ] {
            assert!(check_cgroup(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn unit_names() {
        for good in [
            "web.service",
            "web@*.service",
            "a-b\\x2dc.service",
            "app.slice",
            "user@*.service/web.service",
        ] {
            assert_eq!(check_unit(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "web",
            ".service",
            "a/b.service",
            "a.service//b.service",
            "a b.service",
            "x.timer",
            "[a.service",
        ] {
            assert!(check_unit(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn interface_names() {
        for good in ["veth-api", "eth0.100", "a"] {
            assert_eq!(check_interface(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "lo",
            "a/b",
            "veth*",
            "v@if3",
            "a b",
            "sixteen-letters-",
            "..",
        ] {
            assert!(check_interface(bad).is_err(), "{bad}");
        }
    }
}
