//! Check of the way between a GPU and a NIC: PCI Express bridges, NUMA nodes, IOMMU.

use std::fs;
use std::path::{Path, PathBuf};

use super::check::{Area, Check, Finding};
use super::nic::Nic;

pub(super) const CHECKS: &[Check<Nic>] = &[Check {
    id: "memory.distance",
    areas: &[Area::Rx, Area::Tx],
    what: "the NIC's way to the GPU's memory is short",
    run: check_distance,
}];

/// Folder in which sysfs has a link for each PCI function.
const PCI: &str = "/sys/bus/pci/devices";

/// Checks the distance of the GPU that `--memory cuda:N` names; nothing where the NIC is on another bus.
fn check_distance(nic: &Nic) -> Option<Finding> {
    let gpu = nic.gpu.as_deref()?;
    let (parent, bus) = (nic.link.parent.as_deref()?, nic.link.parent_bus.as_deref()?);
    if bus != "pci" {
        return None;
    }
    let (gpu, nic) = (Function::at(PCI, gpu), Function::at(PCI, parent));
    let (Some(gpu), Some(nic)) = (gpu, nic) else {
        return Some(Finding::warn(format!("not known: not both in {PCI}")));
    };
    let found = format!(
        "GPU {} and NIC {}: {}, {}, {}",
        gpu.address,
        nic.address,
        gpu.path_to(&nic).text(),
        numa(&gpu, &nic),
        iommu(&gpu, &nic)
    );
    Some(match gpu.path_to(&nic) {
        Shared::Bridge(_) | Shared::HostBridge(_) => Finding::ok(found),
        Shared::Nothing => Finding::warn(found)
            .remedy("take a NIC and a GPU below one PCI Express switch, or below one root port"),
    })
}

/// PCI function in sysfs.
#[derive(Debug)]
struct Function {
    address: String,
    /// Folder of the function, below those of all bridges on the way to it.
    path: PathBuf,
}

/// What the ways of two PCI functions to the processor have in common.
#[derive(Debug, PartialEq, Eq)]
enum Shared {
    /// A bridge, with its address: a switch, or a root port.
    Bridge(String),
    /// A host bridge (root complex) only, with its name.
    HostBridge(String),
    Nothing,
}

impl Shared {
    fn text(&self) -> String {
        match self {
            Self::Bridge(bridge) => format!("below one bridge ({bridge})"),
            Self::HostBridge(name) => format!("below one host bridge ({name})"),
            Self::Nothing => "below different host bridges".to_owned(),
        }
    }
}

impl Function {
    /// The function with this address, such as `0000:3b:00.0`; `None` if there is no such function.
    fn at(devices: impl AsRef<Path>, address: &str) -> Option<Self> {
        let path = fs::canonicalize(devices.as_ref().join(address)).ok()?;
        Some(Self {
            address: address.to_owned(),
            path,
        })
    }

    fn path_to(&self, other: &Self) -> Shared {
        let ours = self.path.components();
        let common = ours.zip(other.path.components());
        let common = common.take_while(|(ours, theirs)| ours == theirs);
        let last = common.map(|(it, _)| it.as_os_str().to_string_lossy().into_owned());
        match last.last() {
            Some(name) if is_address(&name) => Shared::Bridge(name),
            Some(name) if name.starts_with("pci") => Shared::HostBridge(name),
            _ => Shared::Nothing,
        }
    }

    /// An attribute of the function, without the end of its line.
    fn attribute(&self, name: &str) -> Option<String> {
        let text = fs::read_to_string(self.path.join(name)).ok()?;
        Some(text.trim_end().to_owned())
    }

    /// Number of the NUMA node; `None` on a machine that has only one.
    fn numa_node(&self) -> Option<u32> {
        self.attribute("numa_node")?.parse().ok()
    }
}

/// Whether text is the address of a PCI function: `0000:3b:00.0`.
fn is_address(text: &str) -> bool {
    let is_hex = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_hexdigit());
    let parts: Vec<&str> = text.split([':', '.']).collect();
    parts.len() == 4 && parts.into_iter().all(is_hex)
}

fn numa(gpu: &Function, nic: &Function) -> String {
    match (gpu.numa_node(), nic.numa_node()) {
        (None, None) => "no NUMA nodes".to_owned(),
        (Some(gpu), Some(nic)) if gpu == nic => format!("both at NUMA node {gpu}"),
        (gpu, nic) => {
            let node = |node: Option<u32>| node.map_or("none".to_owned(), |node| node.to_string());
            format!("NUMA nodes {} and {}", node(gpu), node(nic))
        }
    }
}

/// Kind of translation in the IOMMU (`/sys/kernel/iommu_groups/N/type`): with any but `identity`, writes of the
/// NIC pass through the root complex, whatever switch is nearer.
fn iommu(gpu: &Function, nic: &Function) -> String {
    let kinds = [gpu, nic].map(|function| function.attribute("iommu_group/type"));
    match kinds {
        [None, None] => "no IOMMU".to_owned(),
        [Some(gpu), Some(nic)] if gpu == nic && gpu == "identity" => {
            "IOMMU without translation".to_owned()
        }
        kinds => {
            let [gpu, nic] = kinds.map(|kind| kind.unwrap_or_else(|| "none".to_owned()));
            format!("IOMMU of kind {gpu} and {nic}: by way of the root complex")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const SWITCH: &str = "pci0000:00/0000:00:01.0/0000:01:00.0/";

    /// Creates a tree like that of sysfs: each function with the bridges on the way to it.
    fn functions(paths: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let devices = folder.path().join("devices");
        fs::create_dir(&devices).unwrap();
        for (path, node) in paths {
            let path = folder.path().join("tree").join(path);
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join("numa_node"), format!("{node}\n")).unwrap();
            symlink(&path, devices.join(path.file_name().unwrap())).unwrap();
        }
        folder
    }

    fn between(paths: [(&str, &str); 2]) -> (Shared, String) {
        let folder = functions(&paths);
        let at = |path: &str| {
            let address = path.rsplit('/').next().unwrap();
            Function::at(folder.path().join("devices"), address).unwrap()
        };
        let [gpu, nic] = paths.map(|(path, _)| at(path));
        (gpu.path_to(&nic), numa(&gpu, &nic))
    }

    #[test]
    fn functions_below_one_switch_share_its_port() {
        let gpu = format!("{SWITCH}0000:02:00.0/0000:03:00.0");
        let nic = format!("{SWITCH}0000:02:01.0/0000:04:00.0");
        let (shared, numa) = between([(&gpu, "1"), (&nic, "1")]);
        assert_eq!(shared, Shared::Bridge("0000:01:00.0".to_owned()));
        assert_eq!(numa, "both at NUMA node 1");
    }

    #[test]
    fn functions_of_one_processor_share_its_host_bridge() {
        let gpu = "pci0000:00/0000:00:01.0/0000:01:00.0";
        let nic = "pci0000:00/0000:00:02.0/0000:02:00.0";
        let (shared, numa) = between([(gpu, "-1"), (nic, "-1")]);
        assert_eq!(shared, Shared::HostBridge("pci0000:00".to_owned()));
        assert_eq!(numa, "no NUMA nodes");
    }

    #[test]
    fn functions_of_two_processors_share_nothing() {
        let gpu = "pci0000:00/0000:00:01.0/0000:01:00.0";
        let nic = "pci0000:80/0000:80:01.0/0000:81:00.0";
        let (shared, numa) = between([(gpu, "0"), (nic, "1")]);
        assert_eq!(shared, Shared::Nothing);
        assert_eq!(numa, "NUMA nodes 0 and 1");
    }

    #[test]
    fn an_address_is_of_four_hex_numbers() {
        assert!(is_address("0000:3b:00.0"));
        for other in ["pci0000:00", "devices", "0000:3b:00", "0000:3b:00.x", ""] {
            assert!(!is_address(other), "{other}");
        }
    }
}
