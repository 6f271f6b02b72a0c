//! systemd's unit names as they stand in the cgroup tree.
//!
//! systemd makes one cgroup directory for each unit, named as the unit. Below a service or scope
//! whose cgroup is delegated (a user's own manager, a container) anybody who owns the delegated
//! part can make directories with any name, so a name alone proves nothing there. Such a unit is
//! therefore addressed together with the unit that it was delegated to:
//! `user@1000.service/foo.service`. A name without that prefix means a unit of the host's own
//! manager only.

/// Suffixes of the unit types that have a cgroup (systemd.unit(5)).
const TYPES: [&str; 6] = [".service", ".scope", ".slice", ".socket", ".mount", ".swap"];

/// The unit whose own directory is `directory` (one component of a path), or `None` where it is
/// no unit's. systemd puts `_` before a name that would collide with a file of the cgroup file
/// system (`cpu.service` lives in `_cpu.service`); it is taken off here.
pub fn unit_of_directory(directory: &str) -> Option<&str> {
    let name = directory.strip_prefix('_').unwrap_or(directory);
    is_unit_name(name).then_some(name)
}

/// The innermost unit that a cgroup belongs to: its own directory's, or the nearest one above
/// it. `path` is below the cgroup root.
pub fn unit_of_cgroup(path: &str) -> Option<&str> {
    path.rsplit('/').find_map(unit_of_directory)
}

/// The name by which `unit:` addresses the cgroup `path`, if its own directory is a unit's:
/// the unit name, with the units that it was delegated to before it.
pub fn address_of_cgroup(path: &str) -> Option<String> {
    let (parents, last) = path.rsplit_once('/').unwrap_or(("", path));
    let name = unit_of_directory(last)?;
    let mut address = String::new();
    for parent in parents.split('/').filter_map(unit_of_directory) {
        // Slices only group; a service or scope with units inside is a delegated one.
        if !is_slice(parent) {
            address.push_str(parent);
            address.push('/');
        }
    }
    address.push_str(name);
    Some(address)
}

/// Whether a unit is a slice: a group of units with no process of its own.
pub fn is_slice(unit: &str) -> bool {
    unit.strip_suffix(".slice").is_some()
}

/// The cgroup above, `None` for the root `/`.
pub(super) fn parent(path: &str) -> Option<&str> {
    match path.rsplit_once('/') {
        Some(("", "")) | None => None,
        Some(("", _)) => Some("/"),
        Some((parent, _)) => Some(parent),
    }
}

/// The path itself and every one above it, the root last.
pub(super) fn ancestors_and_self(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(path), |p| parent(p))
}

fn is_unit_name(name: &str) -> bool {
    TYPES
        .iter()
        .any(|t| name.len() > t.len() && name.ends_with(t))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn innermost_unit_of_a_cgroup() {
        for (path, unit) in [
            ("/system.slice/foo.service", Some("foo.service")),
            (
                "/system.slice/system-foo.slice/foo@a.service",
                Some("foo@a.service"),
            ),
            ("/system.slice/foo.service/worker/1", Some("foo.service")),
            ("/system.slice/_cpu.service", Some("cpu.service")),
            ("/init.scope", Some("init.scope")),
            ("/a\\x2db.slice", Some("a\\x2db.slice")),
            ("/app/web", None),
            ("/.service", None),
            ("/", None),
        ] {
            assert_eq!(unit_of_cgroup(path), unit, "{path}");
        }
    }

    #[test]
    fn only_the_hosts_manager_is_addressed_by_a_bare_name() {
        assert_eq!(
            address_of_cgroup("/system.slice/foo.service").as_deref(),
            Some("foo.service")
        );
        assert_eq!(
            address_of_cgroup("/user.slice/user-7.slice/user@7.service/app.slice/foo.service")
                .as_deref(),
            Some("user@7.service/foo.service")
        );
        assert_eq!(
            address_of_cgroup("/machine.slice/c.scope/system.slice/foo.service/x.service")
                .as_deref(),
            Some("c.scope/foo.service/x.service")
        );
        assert_eq!(address_of_cgroup("/system.slice/foo.service/worker"), None);
    }
}
