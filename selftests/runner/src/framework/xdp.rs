//! BPF programs and sockets that compete with a memory provider (XDP on the device, AF_XDP on the
//! queue), and a list of the loaded programs.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result};

pub use sys::Hook;

/// Attaches an XDP program that passes every packet to the device's generic hook, until the
/// returned link is dropped.
///
/// It is one for packets with fragments: a device with header split takes no other
/// (`netif_xdp_attach`).
pub fn attach(ifindex: u32) -> Result<OwnedFd> {
    let program = sys::load_pass_program().context("BPF_PROG_LOAD")?;
    sys::link(&program, ifindex, sys::Hook::Generic).context("BPF_LINK_CREATE")
}

/// Attaches an XDP program that passes every packet to the driver's own hook, until the returned
/// link is dropped.
pub fn attach_native(ifindex: u32) -> Result<OwnedFd> {
    let program = sys::load_pass_program().context("BPF_PROG_LOAD")?;
    sys::link(&program, ifindex, sys::Hook::Native).context("BPF_LINK_CREATE")
}

/// Returns the ids of all loaded BPF programs.
pub fn programs() -> io::Result<Vec<u32>> {
    let mut ids = Vec::new();
    while let Some(id) = sys::next_program(ids.last().copied().unwrap_or(0))? {
        ids.push(id);
    }
    Ok(ids)
}

/// Loads an XDP program that passes every packet, attached to no device.
pub fn program() -> Result<OwnedFd> {
    sys::load_pass_program().context("BPF_PROG_LOAD")
}

/// Attaches an XDP program by rtnetlink, as `ip link set dev IF xdpgeneric` or `xdpdrv` does: until
/// it is detached.
pub fn attach_by_netlink(ifindex: u32, program: &OwnedFd, hook: Hook) -> Result<()> {
    /// `IFLA_XDP`, and in it `IFLA_XDP_FD` and `IFLA_XDP_FLAGS`.
    const XDP: u16 = 43;
    const FD: u16 = 1;
    const FLAGS: u16 = 3;
    // struct ifinfomsg
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&ifindex.to_ne_bytes());
    let mut request = netlink::Request::new(nix::libc::RTM_SETLINK, &header, "link-set", "xdp");
    request.attrs().nest(XDP, |nest| {
        nest.i32(FD, program.as_raw_fd()).u32(FLAGS, hook as u32);
    });
    Ok(netlink::Socket::route()?.tell(&request)?)
}

/// Opens an AF_XDP socket, in copy mode, on a queue until it is dropped.
pub fn socket(ifindex: u32, queue: u32) -> io::Result<sys::XdpSocket> {
    sys::XdpSocket::bind(ifindex, queue)
}

#[allow(unsafe_code)]
mod sys {
    use std::io;
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

    use nix::libc;

    const BPF_PROG_LOAD: libc::c_long = 5;
    const BPF_PROG_GET_NEXT_ID: libc::c_long = 11;
    const BPF_LINK_CREATE: libc::c_long = 28;
    const BPF_PROG_TYPE_XDP: u32 = 6;
    const BPF_XDP: u32 = 37;
    const BPF_F_XDP_HAS_FRAGS: u32 = 1 << 5;

    /// XDP hook of a device, as the flags of BPF_LINK_CREATE and IFLA_XDP.
    #[derive(Clone, Copy)]
    #[repr(u32)]
    pub enum Hook {
        /// `XDP_FLAGS_SKB_MODE`
        Generic = 1 << 1,
        /// `XDP_FLAGS_DRV_MODE`
        Native = 1 << 2,
    }

    /// BPF instructions of a program that passes every packet: `r0 = XDP_PASS; exit`.
    const PASS: [u64; 2] = [0x0000_0002_0000_00b7, 0x0000_0000_0000_0095];

    /// The part of `union bpf_attr` that BPF_PROG_LOAD reads, up to `expected_attach_type`.
    #[repr(C)]
    #[derive(Default)]
    struct ProgLoad {
        prog_type: u32,
        insn_cnt: u32,
        insns: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log_buf: u64,
        kern_version: u32,
        prog_flags: u32,
        prog_name: [u8; 16],
        prog_ifindex: u32,
        expected_attach_type: u32,
    }

    /// The part of `union bpf_attr` that BPF_LINK_CREATE reads.
    #[repr(C)]
    struct LinkCreate {
        prog_fd: u32,
        target_ifindex: u32,
        attach_type: u32,
        flags: u32,
    }

    /// The part of `union bpf_attr` that BPF_PROG_GET_NEXT_ID reads and writes
    /// (`bpf_obj_get_next_id`).
    #[repr(C)]
    struct NextId {
        start_id: u32,
        next_id: u32,
        open_flags: u32,
    }

    /// Returns the smallest id of a BPF program greater than `above`.
    pub(super) fn next_program(above: u32) -> io::Result<Option<u32>> {
        let mut attributes = NextId {
            start_id: above,
            next_id: 0,
            open_flags: 0,
        };
        // SAFETY: `attributes` outlives the call, and its size is what the kernel reads and writes
        // at most.
        let status = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                BPF_PROG_GET_NEXT_ID,
                &raw mut attributes,
                size_of_val(&attributes),
            )
        };
        if status == 0 {
            return Ok(Some(attributes.next_id));
        }
        match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            error => Err(error),
        }
    }

    fn bpf<T>(command: libc::c_long, attributes: &T) -> io::Result<OwnedFd> {
        // SAFETY: `attributes` outlives the call, and its size is what the kernel reads at most.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                command,
                std::ptr::from_ref(attributes),
                size_of_val(attributes),
            )
        };
        owned(fd)
    }

    fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
        let fd = libc::c_int::try_from(fd).map_err(io::Error::other)?;
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just opened this descriptor for us, and nobody else knows it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    pub(super) fn load_pass_program() -> io::Result<OwnedFd> {
        bpf(
            BPF_PROG_LOAD,
            &ProgLoad {
                prog_type: BPF_PROG_TYPE_XDP,
                insn_cnt: PASS.len() as u32,
                insns: PASS.as_ptr().addr() as u64,
                license: c"GPL".as_ptr().addr() as u64,
                prog_flags: BPF_F_XDP_HAS_FRAGS,
                expected_attach_type: BPF_XDP,
                ..ProgLoad::default()
            },
        )
    }

    pub(super) fn link(program: &OwnedFd, ifindex: u32, hook: Hook) -> io::Result<OwnedFd> {
        bpf(
            BPF_LINK_CREATE,
            &LinkCreate {
                prog_fd: program.as_raw_fd().unsigned_abs(),
                target_ifindex: ifindex,
                attach_type: BPF_XDP,
                flags: hook as u32,
            },
        )
    }

    /// A bound AF_XDP socket and its memory for packets.
    pub struct XdpSocket {
        _socket: OwnedFd,
        _frames: Box<Frames>,
    }

    /// Memory for packets in whole pages, as XDP_UMEM_REG requires.
    #[repr(C, align(4096))]
    struct Frames([u8; 16 * 4096]);

    impl XdpSocket {
        pub(super) fn bind(ifindex: u32, queue: u32) -> io::Result<Self> {
            // SAFETY: no pointers are passed.
            let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW, 0) };
            let socket = owned(fd.into())?;
            let frames = Box::new(Frames([0; 16 * 4096]));
            let umem = libc::xdp_umem_reg {
                addr: std::ptr::from_ref(frames.as_ref()).addr() as u64,
                len: size_of::<Frames>() as u64,
                chunk_size: 4096,
                headroom: 0,
                flags: 0,
                tx_metadata_len: 0,
            };
            set(&socket, libc::XDP_UMEM_REG, &umem)?;
            for ring in [
                libc::XDP_UMEM_FILL_RING,
                libc::XDP_UMEM_COMPLETION_RING,
                libc::XDP_RX_RING,
            ] {
                set(&socket, ring, &16_u32)?;
            }
            let address = libc::sockaddr_xdp {
                sxdp_family: libc::AF_XDP as u16,
                sxdp_flags: libc::XDP_COPY,
                sxdp_ifindex: ifindex,
                sxdp_queue_id: queue,
                sxdp_shared_umem_fd: 0,
            };
            // SAFETY: `address` is a whole `sockaddr_xdp` and outlives the call.
            let bound = unsafe {
                libc::bind(
                    socket.as_raw_fd(),
                    std::ptr::from_ref(&address).cast(),
                    size_of_val(&address) as libc::socklen_t,
                )
            };
            if bound < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(Self {
                _socket: socket,
                _frames: frames,
            })
        }
    }

    fn set<T>(socket: &OwnedFd, option: libc::c_int, value: &T) -> io::Result<()> {
        // SAFETY: `value` outlives the call and is as long as the kernel is told.
        let done = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_XDP,
                option,
                std::ptr::from_ref(value).cast(),
                size_of_val(value) as libc::socklen_t,
            )
        };
        if done < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }
}
