//! The boot that a record is of: the changes in a record end with the boot.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::error::{Result, failed};

/// File with the kernel's id of the boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// Prefix of a boot id that a container engine has mounted over the kernel's: it is random at each
/// start of a container.
const MASKED: &str = "masked-";

/// Whether a record was written in this boot, as far as that can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Boot {
    /// The record is of this boot, so its changes may be in force.
    This,
    /// The record is of an earlier boot, so its changes are gone.
    Another,
    /// Not known: a container's boot id hid the kernel's when the record was begun, or hides it
    /// now.
    Unknown,
}

impl Boot {
    /// Id of this boot, in the form that records have: marked where a container's own id hides the
    /// kernel's.
    ///
    /// # Errors
    /// Those of reading `/proc/sys/kernel/random/boot_id`.
    pub fn id() -> Result<String> {
        let path = Path::new(BOOT_ID);
        let text = fs::read_to_string(path).map_err(|source| failed("read", path, source))?;
        let mark = if is_masked()? { MASKED } else { "" };
        Ok(format!("{mark}{}", text.trim()))
    }

    /// Finds whether a record with this boot id is of this boot. Earlier versions left the id empty
    /// for [`Boot::Unknown`].
    ///
    /// # Errors
    /// As for [`Boot::id`].
    pub fn of(id: &str) -> Result<Self> {
        let here = Self::id()?;
        let unknown = |id: &str| id.is_empty() || id.starts_with(MASKED);
        Ok(if id == here {
            Self::This
        } else if unknown(id) || unknown(&here) {
            Self::Unknown
        } else {
            Self::Another
        })
    }
}

/// Whether another file is mounted over the file with the kernel's boot id.
fn is_masked() -> Result<bool> {
    let device = |path: &str| {
        let path = Path::new(path);
        let meta = fs::metadata(path).map_err(|source| failed("stat", path, source))?;
        Ok(meta.dev())
    };
    Ok(device("/proc")? != device(BOOT_ID)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_that_is_masked_may_be_any() {
        let here = Boot::id().unwrap();
        assert_eq!(Boot::of(&here).unwrap(), Boot::This);
        assert_eq!(
            Boot::of(&format!("{MASKED}another")).unwrap(),
            Boot::Unknown
        );
        assert_eq!(Boot::of("").unwrap(), Boot::Unknown);
        if !here.starts_with(MASKED) {
            assert_eq!(Boot::of("another").unwrap(), Boot::Another);
        }
    }
}
