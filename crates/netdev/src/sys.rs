//! Ioctls on network devices: names, the driver, and flow rules, which netlink does not have.
//!
//! The ioctls act in the network namespace of their socket, and take a netlink socket as any other
//! (`sock_do_ioctl`, as `netlink_ioctl` has none of its own).
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use crate::Ifindex;

/// Request number of ethtool's ioctl: `SIOCETHTOOL`, which libc lacks for some C libraries.
const SIOCETHTOOL: libc::c_ulong = 0x8946;
/// Request number of the ioctl that returns a device's name: `SIOCGIFNAME`.
const SIOCGIFNAME: libc::c_ulong = 0x8910;

/// Commands of ethtool's ioctl: `ETHTOOL_*`.
pub(crate) mod cmd {
    pub(crate) const GDRVINFO: u32 = 0x03;
    pub(crate) const GRXCLSRLCNT: u32 = 0x2e;
    pub(crate) const GRXCLSRULE: u32 = 0x2f;
    pub(crate) const GRXCLSRLALL: u32 = 0x30;
    pub(crate) const SRXCLSRLDEL: u32 = 0x31;
    pub(crate) const SRXCLSRLINS: u32 = 0x32;
}

/// The kernel's `struct ethtool_drvinfo`: name and versions of a driver.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct DrvInfo {
    pub(crate) cmd: u32,
    pub(crate) driver: [u8; 32],
    pub(crate) version: [u8; 32],
    pub(crate) fw_version: [u8; 32],
    pub(crate) bus_info: [u8; 32],
    pub(crate) erom_version: [u8; 32],
    pub(crate) reserved2: [u8; 12],
    pub(crate) n_priv_flags: u32,
    pub(crate) n_stats: u32,
    pub(crate) testinfo_len: u32,
    pub(crate) eedump_len: u32,
    pub(crate) regdump_len: u32,
}

/// The kernel's `struct ethtool_rx_flow_spec`, a flow rule, with its unions as bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FlowSpec {
    pub(crate) flow_type: u32,
    pub(crate) value: [u8; 52],
    pub(crate) value_ext: [u8; 20],
    pub(crate) mask: [u8; 52],
    pub(crate) mask_ext: [u8; 20],
    pub(crate) ring_cookie: u64,
    pub(crate) location: u32,
}

impl FlowSpec {
    pub(crate) const EMPTY: Self = Self {
        flow_type: 0,
        value: [0; 52],
        value_ext: [0; 20],
        mask: [0; 52],
        mask_ext: [0; 20],
        ring_cookie: 0,
        location: 0,
    };
}

/// `struct ethtool_rxnfc`. Its padding is the begin of the array of locations.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RxNfc {
    pub(crate) cmd: u32,
    pub(crate) flow_type: u32,
    pub(crate) data: u64,
    pub(crate) fs: FlowSpec,
    /// Number of rules, or the RSS context of a rule.
    pub(crate) count_or_context: u32,
    pub(crate) first_location: u32,
}

impl RxNfc {
    pub(crate) const fn new(cmd: u32) -> Self {
        Self {
            cmd,
            flow_type: 0,
            data: 0,
            fs: FlowSpec::EMPTY,
            count_or_context: 0,
            first_location: 0,
        }
    }
}

/// Checks the structures against the kernel's layout (`include/uapi/linux/ethtool.h`), which is the
/// same on every 64-bit machine.
#[cfg(target_pointer_width = "64")]
const _: () = {
    use std::mem::{offset_of, size_of};
    assert!(size_of::<DrvInfo>() == 196 && offset_of!(DrvInfo, bus_info) == 100);
    assert!(size_of::<FlowSpec>() == 168);
    assert!(offset_of!(FlowSpec, value_ext) == 56 && offset_of!(FlowSpec, mask) == 76);
    assert!(offset_of!(FlowSpec, mask_ext) == 128 && offset_of!(FlowSpec, ring_cookie) == 152);
    assert!(offset_of!(FlowSpec, location) == 160);
    assert!(size_of::<RxNfc>() == 192 && offset_of!(RxNfc, fs) == 16);
    assert!(offset_of!(RxNfc, count_or_context) == LOCATIONS - 4);
    assert!(offset_of!(RxNfc, first_location) == LOCATIONS);
};

/// Offset of the array of rule locations in bytes: `offsetof(struct ethtool_rxnfc, rule_locs)`.
#[cfg(target_pointer_width = "64")]
const LOCATIONS: usize = 188;

/// A structure that a fixed set of ethtool commands reads and writes, within its size.
///
/// # Safety
/// `fits` must hold only where the structure's command makes the kernel stay within it: the kernel
/// takes its length from the command. Any bytes must make a valid value.
unsafe trait Argument {
    /// Whether the ethtool command in the structure is one that uses this type of structure.
    fn fits(&self) -> bool;
}

// SAFETY: `ethtool_get_drvinfo` copies a `struct ethtool_drvinfo`; it consists of integers.
unsafe impl Argument for DrvInfo {
    fn fits(&self) -> bool {
        self.cmd == cmd::GDRVINFO
    }
}

// SAFETY: `ethtool_rxnfc_copy_struct` and `ethtool_rxnfc_copy_to_user` copy one `struct
// ethtool_rxnfc` for these commands; it consists of integers. The command that is also given an
// array of locations is not among them.
unsafe impl Argument for RxNfc {
    fn fits(&self) -> bool {
        use cmd::{GRXCLSRLCNT, GRXCLSRULE, SRXCLSRLDEL, SRXCLSRLINS};
        matches!(
            self.cmd,
            GRXCLSRLCNT | GRXCLSRULE | SRXCLSRLDEL | SRXCLSRLINS
        )
    }
}

/// Runs an ethtool command on the device `name`. The answer replaces `argument`.
fn ethtool<T: Argument>(socket: impl AsFd, name: &str, argument: &mut T) -> io::Result<()> {
    assert!(
        argument.fits(),
        "an ethtool command goes with its structure"
    );
    let pointer: *mut T = argument;
    // SAFETY: `Argument` promises that the kernel stays within a `T`, and this one is borrowed
    // for as long as the call lasts.
    unsafe { ethtool_raw(socket, name, pointer.cast()) }
}

/// Calls ethtool's ioctl.
///
/// # Safety
/// `argument` must be valid for what its command reads and writes.
unsafe fn ethtool_raw(
    socket: impl AsFd,
    name: &str,
    argument: *mut libc::c_char,
) -> io::Result<()> {
    let mut request = ifreq(name)?;
    request.ifr_ifru.ifru_data = argument;
    // SAFETY: the descriptor is open as long as it is borrowed, and the kernel reads one `ifreq`;
    // the caller answers for the data that it points to.
    check(unsafe {
        libc::ioctl(
            socket.as_fd().as_raw_fd(),
            SIOCETHTOOL as _,
            &raw mut request,
        )
    })
}

fn ifreq(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: an `ifreq` of zeroes is valid: integers and a null pointer.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let room = request.ifr_name.len() - 1;
    if name.len() > room {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    Ok(request)
}

fn check(status: libc::c_int) -> io::Result<()> {
    if status < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Socket option that returns the namespace's cookie on most architectures, since Linux 5.14:
/// `SO_NETNS_COOKIE`.
const SO_NETNS_COOKIE: libc::c_int = 71;

/// Cookie of the socket's network namespace, which is not used again in this boot
/// (`sock_net(sk)->net_cookie`).
pub(crate) fn netns_cookie(socket: impl AsFd) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut len: libc::socklen_t = 8;
    // SAFETY: the descriptor is open as long as it is borrowed, and the kernel writes `len` bytes at most,
    // which `cookie` has, and the length itself.
    check(unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    })?;
    match len {
        8 => Ok(cookie),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Name of a device in the socket's network namespace (`dev_ifname`).
pub(crate) fn name_of(socket: impl AsFd, ifindex: Ifindex) -> io::Result<String> {
    let mut request = ifreq("")?;
    request.ifr_ifru.ifru_ifindex = i32::try_from(ifindex.get()).unwrap_or(0);
    // SAFETY: the descriptor is open as long as it is borrowed, and the kernel reads and writes
    // one `ifreq`.
    check(unsafe {
        libc::ioctl(
            socket.as_fd().as_raw_fd(),
            SIOCGIFNAME as _,
            &raw mut request,
        )
    })?;
    let name = request.ifr_name.map(|byte| byte.to_ne_bytes()[0]);
    Ok(text(&name))
}

/// Name of a device for errors: its name, or its number if it has none here.
pub(crate) fn device_name(socket: impl AsFd, ifindex: Ifindex) -> String {
    name_of(socket, ifindex).unwrap_or_else(|_| format!("ifindex {ifindex}"))
}

/// Text in a NUL-padded field of fixed size.
pub(crate) fn text(field: &[u8]) -> String {
    match CStr::from_bytes_until_nul(field) {
        Ok(text) => text.to_string_lossy().into_owned(),
        Err(_) => String::from_utf8_lossy(field).into_owned(),
    }
}

/// Reads name and versions of a device's driver (`ETHTOOL_GDRVINFO`).
pub(crate) fn driver(socket: impl AsFd, name: &str) -> io::Result<DrvInfo> {
    let mut info = DrvInfo {
        cmd: cmd::GDRVINFO,
        driver: [0; 32],
        version: [0; 32],
        fw_version: [0; 32],
        bus_info: [0; 32],
        erom_version: [0; 32],
        reserved2: [0; 12],
        n_priv_flags: 0,
        n_stats: 0,
        testinfo_len: 0,
        eedump_len: 0,
        regdump_len: 0,
    };
    let done = ethtool(socket, name, &mut info);
    let describe = || {
        let driver = text(&info.driver);
        ("ETHTOOL_GDRVINFO".to_owned(), format!("driver {driver}"))
    };
    log_ioctl(name, &done, describe);
    done.map(|()| info)
}

/// Runs an ethtool command on one flow rule, or on the table of flow rules as a whole.
pub(crate) fn rxnfc(socket: impl AsFd, name: &str, argument: &mut RxNfc) -> io::Result<()> {
    let asked = *argument;
    let done = ethtool(socket, name, argument);
    log_ioctl(name, &done, || {
        (describe_rule(&asked), describe_rule(argument))
    });
    done
}

/// Logs an ioctl in the form of netlink requests.
fn log_ioctl<T>(name: &str, done: &io::Result<T>, describe: impl FnOnce() -> (String, String)) {
    if tracing::enabled!(target: "netlink", tracing::Level::DEBUG) {
        let (asked, answer) = describe();
        match done {
            Ok(_) => tracing::debug!(target: "netlink", "ioctl {name}: {asked} -> {answer}"),
            Err(error) => tracing::debug!(target: "netlink", "ioctl {name}: {asked} -> {error}"),
        }
    }
}

/// Describes an ioctl about flow rules: `ETHTOOL_SRXCLSRLINS, location 1, queue 3`.
fn describe_rule(rule: &RxNfc) -> String {
    let location = rule.fs.location;
    let queue = rule.fs.ring_cookie;
    match rule.cmd {
        cmd::GRXCLSRLCNT => format!(
            "ETHTOOL_GRXCLSRLCNT, rules {}, table {:#x}",
            rule.count_or_context, rule.data
        ),
        cmd::GRXCLSRULE => {
            format!("ETHTOOL_GRXCLSRULE, location {location:#x}, queue {queue:#x}")
        }
        cmd::SRXCLSRLDEL => format!("ETHTOOL_SRXCLSRLDEL, location {location:#x}"),
        cmd::SRXCLSRLINS => format!(
            "ETHTOOL_SRXCLSRLINS, flow type {:#x}, location {location:#x}, queue {queue:#x}",
            rule.fs.flow_type
        ),
        other => format!("command {other:#x}"),
    }
}

/// Locations of flow rules and size of their table (`ETHTOOL_GRXCLSRLALL`).
#[derive(Debug)]
pub(crate) struct Locations {
    pub(crate) rules: Vec<u32>,
    /// Size of the flow rule table; 0 where the driver does not say.
    pub(crate) size: u64,
}

/// Reads the locations of at most `room` flow rules (`ETHTOOL_GRXCLSRLALL`).
///
/// The answer is right only where `room` is the number of rules: with more room
/// `mlx5e_ethtool_get_all_flows` fails, and `gve_get_flow_rule_ids` leaves zeroes behind the last;
/// with less, mlx5 silently leaves rules out.
pub(crate) fn locations(socket: impl AsFd, name: &str, room: u32) -> io::Result<Locations> {
    const COUNT: usize = LOCATIONS / 4 - 1;
    const DATA: usize = std::mem::offset_of!(RxNfc, data) / 4;
    let len = usize::try_from(room).unwrap_or(usize::MAX).max(1);
    // The structure's padding is the first entry of the array, so that one more word for each is
    // enough.
    let mut buffer = vec![0_u32; (LOCATIONS / 4).saturating_add(len)];
    if let Some(first) = buffer.first_mut() {
        *first = cmd::GRXCLSRLALL;
    }
    if let Some(count) = buffer.get_mut(COUNT) {
        *count = room;
    }
    // SAFETY: the kernel copies one `struct ethtool_rxnfc`, 192 bytes, and then at most `room`
    // locations from byte 188 on (`ethtool_rxnfc_copy_to_user`): the vector is that long.
    let done = unsafe { ethtool_raw(socket, name, buffer.as_mut_ptr().cast()) };
    log_ioctl(name, &done, || {
        let count = buffer.get(COUNT).copied().unwrap_or(0);
        let asked = format!("ETHTOOL_GRXCLSRLALL, room {room}");
        (asked, format!("rules {count}"))
    });
    done?;
    let found = buffer.get(COUNT).copied().unwrap_or(0).min(room);
    let found = usize::try_from(found).unwrap_or(0);
    let half = |at: usize| buffer.get(at).map_or([0; 4], |word| word.to_ne_bytes());
    let (first, second) = (half(DATA), half(DATA + 1));
    let mut size = [0; 8];
    for (to, from) in size.iter_mut().zip(first.into_iter().chain(second)) {
        *to = from;
    }
    Ok(Locations {
        size: u64::from_ne_bytes(size),
        rules: buffer.into_iter().skip(LOCATIONS / 4).take(found).collect(),
    })
}
