//! Checks of the machine: its kernel, and the privileges of this process.

use std::fs::{self, File};
use std::net::IpAddr;
use std::process::Command;

use memory::Choice;
use netdev::queues::{BindOptions, Lease};
use netdev::{Error, Ifindex, Netdev, QueueId};
use udmabuf::HugePage;

use super::check::{Area, Check, Finding};
use super::namespace::{Namespace, program};
use crate::address::Address;

/// State of the machine.
#[derive(Debug)]
pub(super) struct Machine {
    /// Namespace of the device.
    pub(super) namespace: Namespace,
    /// Memory and addresses that `recv` is to use.
    pub(super) wanted: Wanted,
    /// Arguments of `doctor` on a command line like the current one.
    pub(super) arguments: String,
    /// Kernel release (`uname -r`).
    release: String,
    /// Configuration of the kernel, where it can be read.
    config: Option<String>,
    bind: Permission,
    lease: Permission,
}

/// Memory and addresses that `recv` is to use.
#[derive(Debug, Clone, Default)]
pub(super) struct Wanted {
    pub(super) memory: Choice,
    /// Size of the dmabuf in bytes.
    pub(super) size: u64,
    /// Whether the size was given, not the default.
    pub(super) given: bool,
    /// Requested pages; `None` for the best available.
    pub(super) pages: Option<HugePage>,
    /// Addresses to listen on; empty if none was given.
    pub(super) listen: Vec<Address>,
    /// Address that connections must come from.
    pub(super) from: Option<IpAddr>,
}

impl Wanted {
    /// Whether hugepages were requested.
    pub(super) fn is_huge(&self) -> bool {
        self.pages == Some(HugePage::Mb2)
    }

    /// PCI address of the GPU whose memory was requested; `None` for other memory, and for a GPU that the driver
    /// does not know.
    pub(super) fn gpu(&self) -> Option<String> {
        let Choice::Cuda(ordinal, _) = self.memory else {
            return None;
        };
        let devices = cuda::Driver::load()
            .and_then(|driver| driver.devices())
            .ok()?;
        let gpu = devices.into_iter().find(|gpu| gpu.ordinal == ordinal)?;
        Some(gpu.pci)
    }

    /// Whether the checks of udmabuf apply.
    pub(super) fn is_udmabuf(&self) -> bool {
        self.memory == Choice::Udmabuf
    }
}

/// Answer of the kernel to a request about a device that does not exist, which tells whether this
/// process has the privilege.
#[derive(Debug, PartialEq, Eq)]
enum Permission {
    /// The kernel looked for the device: the privilege is there.
    Allowed,
    /// Privilege is missing (`EPERM`).
    Forbidden,
    /// The kernel does not know the requested operation.
    Unknown,
    Other(String),
}

impl Machine {
    pub(super) fn look(namespace: Namespace, wanted: Wanted, arguments: String) -> Self {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let release = release.trim().to_owned();
        Self {
            bind: Permission::of(try_to_bind(&namespace)),
            lease: Permission::of(try_to_lease(&namespace)),
            config: read_kernel_config(&release),
            namespace,
            wanted,
            arguments,
            release,
        }
    }

    /// Major and minor version of the kernel.
    pub(super) fn version(&self) -> (u32, u32) {
        let mut parts = self.release.split(['.', '-', '+']).map(str::parse);
        match (parts.next(), parts.next()) {
            (Some(Ok(major)), Some(Ok(minor))) => (major, minor),
            _ => (0, 0),
        }
    }

    /// Whether a netkit can be made without loading a module.
    pub(super) fn has_netkit(&self) -> bool {
        self.option("CONFIG_NETKIT") == Some('y') || fs::metadata("/sys/module/netkit").is_ok()
    }

    /// Value of a configuration option of the kernel: `y`, `m` or `n`; `None` if it is not known.
    fn option(&self, name: &str) -> Option<char> {
        let config = self.config.as_ref()?;
        let value = |line: &str| line.strip_prefix(name)?.strip_prefix('=')?.chars().next();
        Some(config.lines().find_map(value).unwrap_or('n'))
    }
}

impl Permission {
    fn of(error: Option<Error>) -> Self {
        let Some(error) = error else {
            return Self::Other("granted, although the device does not exist".to_owned());
        };
        match error.raw_os_error() {
            Some(libc::ENODEV) => Self::Allowed,
            Some(libc::EPERM) => Self::Forbidden,
            Some(libc::EOPNOTSUPP | libc::ENOENT) => Self::Unknown,
            _ => Self::Other(error.to_string()),
        }
    }
}

/// Interface number that no device has: the kernel assigns them from 1 on.
const NO_DEVICE: u32 = i32::MAX as u32;

/// Requests a binding to no device, to learn whether it is permitted: privilege is checked first,
/// `GENL_UNS_ADMIN_PERM`.
fn try_to_bind(namespace: &Namespace) -> Option<Error> {
    let refused = || {
        let null = File::open("/dev/null");
        let null = null.map_err(|e| Error::from_io("open", "/dev/null", &e))?;
        let queues = [QueueId::new(0)];
        let netdev = Netdev::open_in(&namespace.netns)?;
        netdev.bind_rx(
            Ifindex::new(NO_DEVICE),
            null,
            &queues,
            BindOptions::default(),
        )
    };
    refused().err()
}

/// Requests a lease to no device, to learn whether it is permitted: privilege is checked first,
/// `GENL_ADMIN_PERM`, in the initial user namespace.
fn try_to_lease(namespace: &Namespace) -> Option<Error> {
    let lease = Lease {
        of: Ifindex::new(NO_DEVICE),
        queue: QueueId::new(0),
        netns_id: None,
    };
    let asked = Netdev::open_in(&namespace.netns)
        .and_then(|mut netdev| netdev.lease(Ifindex::new(NO_DEVICE), lease));
    asked.err()
}

/// Reads the kernel's configuration from where distributions keep it; `/proc/config.gz` last,
/// because it needs gzip.
fn read_kernel_config(release: &str) -> Option<String> {
    let paths = [
        format!("/boot/config-{release}"),
        format!("/lib/modules/{release}/config"),
        format!("/lib/modules/{release}/build/.config"),
    ];
    let readable = paths.iter().find_map(|path| fs::read_to_string(path).ok());
    readable.or_else(|| {
        fs::metadata("/proc/config.gz").ok()?;
        let mut gzip = Command::new("gzip");
        let out = gzip.args(["-dc", "/proc/config.gz"]).output().ok()?;
        String::from_utf8(out.stdout).ok()
    })
}

/// Checks of the kernel, then of privilege.
pub(super) const CHECKS: &[Check<Machine>] = &[
    Check {
        id: "kernel.version",
        areas: &[Area::Rx],
        what: "Linux 6.12 or later",
        run: check_kernel_version,
    },
    Check {
        id: "kernel.devmem",
        areas: &[Area::Rx, Area::Tx],
        what: "CONFIG_NET_DEVMEM",
        run: check_kernel_devmem,
    },
    Check {
        id: "kernel.lease",
        areas: &[Area::Lease],
        what: "queue leases, of Linux 7.1",
        run: check_kernel_leases,
    },
    Check {
        id: "kernel.netkit",
        areas: &[Area::Lease],
        what: "CONFIG_NETKIT",
        run: check_kernel_netkit,
    },
    Check {
        id: "privilege.bind",
        areas: &[Area::Rx],
        what: "CAP_NET_ADMIN in the user namespace that the network namespace belongs to",
        run: check_privilege_to_bind,
    },
    Check {
        id: "privilege.lease",
        areas: &[Area::Lease],
        what: "CAP_NET_ADMIN in the initial user namespace",
        run: check_privilege_to_lease,
    },
];

fn check_kernel_version(machine: &Machine) -> Option<Finding> {
    let found = format!("Linux {}", machine.release);
    Some(if machine.version() >= (6, 12) {
        Finding::ok(found)
    } else {
        Finding::fail(found).remedy("boot Linux 6.12 or later, for leases 7.1 or later")
    })
}

fn check_kernel_devmem(machine: &Machine) -> Option<Finding> {
    let rebuild = "boot a kernel with CONFIG_NET_DEVMEM=y";
    Some(match (machine.option("CONFIG_NET_DEVMEM"), &machine.bind) {
        (_, Permission::Unknown) => {
            Finding::fail("the kernel does not know bind-rx").remedy(rebuild)
        }
        (Some('y'), _) => Finding::ok("CONFIG_NET_DEVMEM=y"),
        (Some(_), _) => Finding::fail("CONFIG_NET_DEVMEM is not set").remedy(rebuild),
        (None, _) => Finding::ok("no configuration to read; the kernel knows bind-rx"),
    })
}

fn check_kernel_leases(machine: &Machine) -> Option<Finding> {
    Some(match &machine.lease {
        Permission::Unknown => Finding::fail(format!(
            "the kernel does not know queue-create: Linux {}",
            machine.release
        ))
        .remedy("boot Linux 7.1 or later"),
        _ => Finding::ok("the kernel knows queue-create"),
    })
}

fn check_kernel_netkit(machine: &Machine) -> Option<Finding> {
    let loaded = fs::metadata("/sys/module/netkit").is_ok();
    Some(match machine.option("CONFIG_NETKIT") {
        Some('y') => Finding::ok("CONFIG_NETKIT=y"),
        Some('m') => Finding::ok("CONFIG_NETKIT=m, loaded when it is needed"),
        Some(_) => Finding::fail("CONFIG_NETKIT is not set").remedy("boot a kernel with it"),
        None if loaded => Finding::ok("the module is loaded"),
        None => Finding::warn("no configuration to read").remedy("modprobe netkit"),
    })
}

fn check_privilege_to_bind(machine: &Machine) -> Option<Finding> {
    Some(match &machine.bind {
        Permission::Forbidden => {
            Finding::fail(format!("not granted, {}", user_name())).remedy(become_root(machine))
        }
        Permission::Other(error) => Finding::warn(error.clone()),
        Permission::Allowed | Permission::Unknown => {
            Finding::ok(format!("granted, {}", user_name()))
        }
    })
}

fn check_privilege_to_lease(machine: &Machine) -> Option<Finding> {
    Some(match &machine.lease {
        Permission::Forbidden if !initial_user_namespace() => {
            Finding::fail(format!("not granted, {}", user_name()))
                .remedy("leases are made from the initial user namespace: run `devmem-tcp lease` on the host, not in here")
        }
        Permission::Forbidden => Finding::fail(format!("not granted, {}", user_name())).remedy(become_root(machine)),
        Permission::Other(error) => Finding::warn(error.clone()),
        Permission::Allowed => Finding::ok(format!("granted, {}", user_name())),
        Permission::Unknown => return None,
    })
}

/// Whether this process is in the initial user namespace (`PROC_USER_INIT_INO` of `proc_ns.h`).
fn initial_user_namespace() -> bool {
    let link = fs::read_link("/proc/self/ns/user");
    link.is_ok_and(|link| link.as_os_str() == "user:[4026531837]")
}

fn user_name() -> String {
    let uid = nix::unistd::geteuid();
    let namespace = if initial_user_namespace() {
        "the initial user namespace"
    } else {
        "a user namespace of its own"
    };
    format!("uid {uid} in {namespace}")
}

fn become_root(machine: &Machine) -> String {
    if nix::unistd::geteuid().is_root() {
        "give this container CAP_NET_ADMIN over its network namespace, or run it on the host"
            .to_owned()
    } else {
        format!("sudo {} doctor {}", program(), machine.arguments)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(release: &str, config: Option<&str>) -> Machine {
        Machine {
            namespace: Namespace::new(netdev::NetNs::current().unwrap()).unwrap(),
            wanted: Wanted::default(),
            arguments: String::new(),
            release: release.to_owned(),
            config: config.map(str::to_owned),
            bind: Permission::Allowed,
            lease: Permission::Allowed,
        }
    }

    #[test]
    fn a_release_has_a_version() {
        assert_eq!(machine("7.3.4+deb13-cloud-amd64", None).version(), (7, 3));
        assert_eq!(machine("6.12-rc1", None).version(), (6, 12));
        assert_eq!(machine("strange", None).version(), (0, 0));
    }

    #[test]
    fn an_option_that_is_not_there_is_off() {
        let text = "CONFIG_NETKIT=m\n# CONFIG_FOO is not set\nCONFIG_NETKIT_X=y\n";
        let machine = machine("7.3.0", Some(text));
        assert_eq!(machine.option("CONFIG_NETKIT"), Some('m'));
        assert_eq!(machine.option("CONFIG_FOO"), Some('n'));
        assert_eq!(machine.option("CONFIG_NET"), Some('n'));
    }

    #[test]
    fn answers_to_a_device_that_does_not_exist() {
        let of = |errno| Permission::of(Some(Error::from_errno("bind-rx", "", errno)));
        assert_eq!(of(libc::ENODEV), Permission::Allowed);
        assert_eq!(of(libc::EPERM), Permission::Forbidden);
        assert_eq!(of(libc::EOPNOTSUPP), Permission::Unknown);
        assert!(matches!(Permission::of(None), Permission::Other(_)));
    }
}
