//! Settings of the whole machine, which a case must leave as they were.
//!
//! Compared after each case with what they were before the first one:
//!
//! - all of `net.*` in the runner's network namespace, all of `vm.*` and of `fs.epoll.*`, but for [`VOLATILE`];
//! - the parameters of the modules in [`MODULES`];
//! - transparent huge pages, in [`HUGEPAGES`].
//!
//! A setting that a device or a module brings with it is new, not changed. A device that is still
//! there is a difference. The software NIC's own parameters are not looked at: the module is loaded
//! afresh for each case.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Directory of the kernel's sysctls.
const SYSCTLS: &str = "/proc/sys";

/// Kernel modules whose parameters cases change.
const MODULES: &[&str] = &["udmabuf"];

/// Settings of transparent huge pages.
const HUGEPAGES: &[&str] = &[
    "/sys/kernel/mm/transparent_hugepage/enabled",
    "/sys/kernel/mm/transparent_hugepage/shmem_enabled",
];

/// Sysctls that are not compared, because they change by themselves or reading them has an effect.
const VOLATILE: &[&str] = &[
    // Drawn when the first NIC with RSS is registered (`netdev_rss_key_fill`).
    "net/core/netdev_rss_key",
    // Reading it has each processor fold its counters (`vmstat_refresh`).
    "vm/stat_refresh",
];

/// Sysctl that each device has, such as `net.ipv4.conf.eth1.forwarding`, as directory and file
/// name: a new one is a device that the case left.
const BY_DEVICE: (&str, &str) = ("/proc/sys/net/ipv4/conf", "forwarding");

/// Snapshot of the machine's settings: the value of each, by its path.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Snapshot(BTreeMap<PathBuf, String>);

/// A setting that has changed since a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    path: PathBuf,
    before: Option<String>,
    now: Option<String>,
}

impl Snapshot {
    /// Reads all settings that are compared.
    ///
    /// # Errors
    /// Those of listing a folder: a file that can't be read has no value to compare.
    pub fn take() -> Result<Self> {
        let mut found = Self::default();
        for folder in ["net", "vm", "fs/epoll"] {
            found.read_folder(&Path::new(SYSCTLS).join(folder))?;
        }
        for module in MODULES {
            let parameters = Path::new("/sys/module").join(module).join("parameters");
            if parameters.exists() {
                found.read_folder(&parameters)?;
            }
        }
        for path in HUGEPAGES {
            found.read_file(Path::new(path));
        }
        Ok(found)
    }

    fn read_folder(&mut self, folder: &Path) -> Result<()> {
        let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
        for entry in entries {
            let entry = entry?;
            let path = entry.path();
            if entry.file_type()?.is_dir() {
                self.read_folder(&path)?;
            } else if !VOLATILE.iter().any(|volatile| path.ends_with(volatile)) {
                self.read_file(&path);
            }
        }
        Ok(())
    }

    /// Adds a setting's value, unless it can't be read: some can only be written
    /// (`net.ipv4.route.flush`), some are not set (`stable_secret`).
    fn read_file(&mut self, path: &Path) {
        if let Ok(value) = fs::read_to_string(path) {
            self.0.insert(path.to_owned(), value.trim_end().to_owned());
        }
    }

    /// Returns the settings that differ from `before`.
    pub fn differences(&self, before: &Self) -> Vec<Difference> {
        let difference =
            |path: &PathBuf, before: Option<&String>, now: Option<&String>| Difference {
                path: path.clone(),
                before: before.cloned(),
                now: now.cloned(),
            };
        let changed = before.0.iter().filter_map(|(path, was)| {
            let now = self.0.get(path);
            (now != Some(was)).then(|| difference(path, Some(was), now))
        });
        let left = self.0.iter().filter_map(|(path, now)| {
            let new = !before.0.contains_key(path) && is_one_of_a_device(path);
            new.then(|| difference(path, None, Some(now)))
        });
        changed.chain(left).collect()
    }

    /// Accepts new and removed settings, so that only the case that caused them fails. Values stay
    /// as they were before.
    pub fn accept_new(&mut self, now: Self) {
        self.0.retain(|path, _| now.0.contains_key(path));
        for (path, value) in now.0 {
            self.0.entry(path).or_insert(value);
        }
    }
}

fn is_one_of_a_device(path: &Path) -> bool {
    let (folder, name) = BY_DEVICE;
    path.ends_with(name) && path.starts_with(folder)
}

impl Difference {
    /// Restores the setting's old value for the next case.
    ///
    /// # Errors
    /// Those of the write. A setting that is new or gone is left alone.
    pub fn put_back(&self) -> Result<()> {
        match (&self.before, &self.now) {
            (Some(before), Some(_)) => write(&self.path, before),
            _ => Ok(()),
        }
    }
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let path = self.path.display();
        match (&self.before, &self.now) {
            (Some(before), Some(now)) => write!(f, "{path} was {before:?}, the case left {now:?}"),
            (Some(before), None) => write!(f, "{path} was {before:?}, and is gone"),
            (None, _) => write!(f, "{path} is new: the case left a device"),
        }
    }
}

/// Guard that restores a setting when it is dropped.
#[derive(Debug)]
#[must_use]
pub struct Changed {
    path: PathBuf,
    before: String,
}

/// Sets a sysctl until the guard is dropped: `set("vm.nr_hugepages", "64")`.
pub fn set(name: &str, value: &str) -> Result<Changed> {
    Changed::at(&Path::new(SYSCTLS).join(name.replace('.', "/")), value)
}

/// Sets a module's parameter until the guard is dropped.
pub fn set_parameter(module: &str, name: &str, value: &str) -> Result<Changed> {
    let parameters = Path::new("/sys/module").join(module).join("parameters");
    Changed::at(&parameters.join(name), value)
}

impl Changed {
    fn at(path: &Path, value: &str) -> Result<Self> {
        let before = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        write(path, value)?;
        Ok(Self {
            path: path.to_owned(),
            before: before.trim_end().to_owned(),
        })
    }
}

impl Drop for Changed {
    fn drop(&mut self) {
        // The runner compares, and fails the case.
        if let Err(error) = write(&self.path, &self.before) {
            eprintln!("putting back: {error:#}");
        }
    }
}

/// Writes a value, or the chosen word of a list such as `always [madvise] never`.
fn write(path: &Path, value: &str) -> Result<()> {
    let chosen = value
        .split_once('[')
        .and_then(|(_, rest)| rest.split_once(']'));
    let value = chosen.map_or(value, |(chosen, _)| chosen);
    fs::write(path, value).with_context(|| format!("writing {value:?} to {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(settings: &[(&str, &str)]) -> Snapshot {
        let settings = settings.iter();
        Snapshot(
            settings
                .map(|(path, value)| (path.into(), (*value).to_owned()))
                .collect(),
        )
    }

    fn told(before: &Snapshot, now: &Snapshot) -> Vec<String> {
        let differences = now.differences(before).into_iter();
        differences
            .map(|difference| difference.to_string())
            .collect()
    }

    #[test]
    fn what_differs_is_told_with_both_values() {
        let before = snapshot(&[
            ("/proc/sys/net/ipv4/ip_forward", "0"),
            ("/proc/sys/vm/nr_hugepages", "0"),
            ("/proc/sys/vm/swappiness", "60"),
        ]);
        let now = snapshot(&[
            ("/proc/sys/net/ipv4/ip_forward", "1"),
            ("/proc/sys/vm/nr_hugepages", "0"),
        ]);
        assert_eq!(
            told(&before, &now),
            [
                "/proc/sys/net/ipv4/ip_forward was \"0\", the case left \"1\"",
                "/proc/sys/vm/swappiness was \"60\", and is gone",
            ]
        );
        assert!(told(&before, &before).is_empty());
    }

    #[test]
    fn what_a_module_brings_is_no_difference_what_a_device_brings_is() {
        let now = snapshot(&[
            ("/proc/sys/net/bridge/bridge-nf-call-arptables", "1"),
            ("/proc/sys/net/ipv4/conf/v0/forwarding", "0"),
            ("/proc/sys/net/ipv4/conf/v0/rp_filter", "0"),
        ]);
        let mut before = snapshot(&[("/proc/sys/net/ipv4/conf/v1/rp_filter", "0")]);
        assert_eq!(
            told(&before, &now),
            [
                "/proc/sys/net/ipv4/conf/v1/rp_filter was \"0\", and is gone",
                "/proc/sys/net/ipv4/conf/v0/forwarding is new: the case left a device",
            ]
        );
        // The next case is not to blame.
        before.accept_new(now.clone());
        assert!(told(&before, &now).is_empty());
    }

    #[test]
    fn a_setting_is_put_back_when_it_is_dropped() {
        let path = std::env::temp_dir().join(format!("sysctl.{}", std::process::id()));
        fs::write(&path, "always [madvise] never\n").unwrap();
        let changed = Changed::at(&path, "always").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "always");
        drop(changed);
        assert_eq!(fs::read_to_string(&path).unwrap(), "madvise");
        let difference = Difference {
            path: path.clone(),
            before: Some("64".to_owned()),
            now: Some("madvise".to_owned()),
        };
        difference.put_back().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "64");
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn this_machines_settings_can_be_read() {
        let taken = Snapshot::take().unwrap();
        let has = |path: &str| taken.0.contains_key(Path::new(path));
        assert!(has("/proc/sys/vm/nr_hugepages") && has("/proc/sys/net/ipv4/ip_forward"));
        assert!(!has("/proc/sys/vm/stat_refresh"));
    }
}
