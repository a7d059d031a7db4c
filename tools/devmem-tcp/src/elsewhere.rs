//! Search for a device in other namespaces than the one where it was expected.

use netdev::{Link, NetNs};

use crate::enter::enter;

/// Finds the namespaces, other than the current one, that have a device of this name, as arguments
/// of `--netns`. Namespaces that can't be entered are left out.
pub(crate) fn namespaces_of(device: &str) -> Vec<String> {
    let Ok(visible) = NetNs::visible() else {
        return Vec::new();
    };
    let has = |netns: &NetNs| Link::open_in(netns).is_ok_and(|mut it| it.by_name(device).is_ok());
    let found = visible
        .namespaces
        .iter()
        .filter_map(|seen| seen.open().ok());
    let found = found.filter(has).filter_map(|netns| enter(&netns));
    found.map(|(_, argument)| argument).collect()
}
