//! The registry of cases. Each case registers itself beside its code.

use std::sync::LazyLock;

use anyhow::Result;
use framework::memory::Kind;

/// Directories of the cases ("rooms"), in the order in which they run.
const ROOMS: [&str; 6] = ["receive", "memory", "lease", "tools", "nic", "doctor"];

/// A test case: its name, its function, and the kinds of memory it runs with.
pub(crate) struct Case {
    /// Name of the case: `module.function`.
    pub(crate) name: String,
    pub(crate) run: fn() -> Result<()>,
    /// Kinds of memory that the case runs with, once for each.
    pub(crate) memories: &'static [Kind],
}

/// All cases in the order in which they run: by room, by file (that of the room's name first), and
/// by line.
pub(crate) static ALL: LazyLock<Vec<Case>> = LazyLock::new(|| {
    let mut all: Vec<_> = inventory::iter::<Registration>.into_iter().collect();
    all.sort_by_key(|case| case.sort_key());
    all.into_iter().map(Registration::case).collect()
});

/// What `case!` records about a case's function.
pub(crate) struct Registration {
    /// Module path of the case: `selftests::cases::ROOM::MODULE`.
    pub(crate) path: &'static str,
    pub(crate) function: &'static str,
    pub(crate) line: u32,
    pub(crate) run: fn() -> Result<()>,
    pub(crate) memories: &'static [Kind],
}

inventory::collect!(Registration);

impl Registration {
    fn module(&self) -> &'static str {
        self.path.rsplit("::").next().unwrap_or(self.path)
    }

    fn room(&self) -> &'static str {
        self.path.rsplit("::").nth(1).unwrap_or(self.path)
    }

    /// Returns the key that cases are sorted by.
    fn sort_key(&self) -> impl Ord + use<> {
        let (room, module) = (self.room(), self.module());
        let number = ROOMS.iter().position(|name| *name == room);
        let number = number.unwrap_or(ROOMS.len());
        (number, module != room, module, self.line)
    }

    fn case(&self) -> Case {
        Case {
            name: format!("{}.{}", self.module(), self.function),
            run: self.run,
            memories: self.memories,
        }
    }
}

/// Registers the function below as a case named `module.function`: `case!(function);`.
///
/// `on any_memory` and the like have it run once for each of these kinds of memory. That is for cases
/// which receive and look at what is received. Of those with an fd, a part runs with one that was
/// passed over a socket, too: once it is there, it is an fd like any other.
macro_rules! case {
    ($function:ident $(, on $memory:ident)?) => {
        inventory::submit! {
            $crate::runner::registry::Registration {
                path: module_path!(),
                function: stringify!($function),
                line: line!(),
                run: $function,
                memories: {
                    #[allow(unused_imports)]
                    use framework::memory::Kind;
                    case!(@ $($memory)?)
                },
            }
        }
    };
    (@) => { &[Kind::Udmabuf] };
    (@ any_memory) => { &[Kind::Udmabuf, Kind::Heap, Kind::Fd, Kind::Drm] };
    (@ and_passed) => { &[Kind::Udmabuf, Kind::Heap, Kind::Fd, Kind::Socket, Kind::Drm] };
    (@ drm_too) => { &[Kind::Udmabuf, Kind::Drm] };
    (@ drm) => { &[Kind::Drm] };
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::{ALL, ROOMS, Registration};

    /// The document `selftests/lease-conformance.md`: upstream's lease cases, ours, and what ours
    /// assert.
    const CONFORMANCE: &str = include_str!("../../../lease-conformance.md");

    /// Returns the texts between backticks.
    fn quoted(text: &str) -> impl Iterator<Item = &str> {
        text.split('`').skip(1).step_by(2)
    }

    fn exists(name: &str) -> bool {
        ALL.iter().any(|case| case.name == name)
    }

    #[test]
    fn each_case_is_in_a_room() {
        for case in inventory::iter::<Registration> {
            assert!(ROOMS.contains(&case.room()), "{}", case.path);
        }
    }

    #[test]
    fn names_are_unique() {
        let names: HashSet<_> = ALL.iter().map(|case| &case.name).collect();
        assert_eq!(names.len(), ALL.len());
    }

    #[test]
    fn each_upstream_lease_case_has_a_twin() {
        let mut upstream = HashSet::new();
        let mut twins = HashSet::new();
        for row in CONFORMANCE.lines().filter(|line| line.starts_with("| `")) {
            let cells: Vec<_> = row.split('|').map(str::trim).collect();
            let [_, theirs, ours, asserted, _] = cells[..] else {
                panic!("not three cells: {row}")
            };
            let ours: Vec<_> = quoted(ours).collect();
            assert!(!ours.is_empty() && !asserted.is_empty(), "{row}");
            assert!(upstream.insert(theirs), "{theirs} is there twice");
            for name in ours {
                assert!(exists(name), "{theirs}: no case is called {name}");
                assert!(twins.insert(name), "{name} is the twin of two");
            }
        }
        assert_eq!(upstream.len(), 45);
    }

    #[test]
    fn the_text_beside_the_table_names_cases_that_are() {
        let module_of = |name: &str| Some(name.split_once('.')?.0.to_owned());
        let modules: HashSet<_> = ALL.iter().map(|case| module_of(&case.name)).collect();
        let text = CONFORMANCE.lines().filter(|line| !line.starts_with('|'));
        for name in text.flat_map(quoted) {
            let of_ours = name.contains('.') && modules.contains(&module_of(name));
            let all_of_a_module = name.ends_with(".*");
            assert!(
                !of_ours || all_of_a_module || exists(name),
                "no case is called {name}"
            );
        }
    }
}
