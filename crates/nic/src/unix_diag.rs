//! The user that has a Unix socket, by the socket's inode, from the kernel (`unix_diag_get_exact`).

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use netlink::Attrs;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};

/// Message type of a request for sockets: `SOCK_DIAG_BY_FAMILY`.
const BY_FAMILY: u16 = 20;
/// Parts of the answer that are requested: `UDIAG_SHOW_NAME | UDIAG_SHOW_UID`.
const SHOW: u32 = 0x41;
/// Netlink attribute with a Unix socket's name: `UNIX_DIAG_NAME`.
const NAME: u16 = 0;
/// Netlink attribute with the user of a Unix socket: `UNIX_DIAG_UID`.
const UID: u16 = 7;
/// Length of a `struct nlmsghdr`, and of a `struct unix_diag_msg`.
const HEADER: usize = 16;

/// Id of the user that has the Unix socket with this inode and abstract name, in the caller's
/// network namespace. Any user can have a socket with a name that looks like a line of
/// `/proc/net/unix`, and in it another socket's inode.
///
/// # Errors
/// `ENOENT` without such a socket, or where the kernel has no `unix_diag` (`CONFIG_UNIX_DIAG`).
pub(crate) fn socket_owner(inode: u32, name: &str) -> io::Result<u32> {
    let asker: OwnedFd = socket(
        AddressFamily::Netlink,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkSockDiag,
    )?;
    send(asker.as_raw_fd(), &request(inode), MsgFlags::empty())?;
    let mut answer = [0; 4096];
    // The kernel has answered before `send` returns.
    let len = recv(asker.as_raw_fd(), &mut answer, MsgFlags::MSG_DONTWAIT)?;
    parse(answer.get(..len).unwrap_or_default(), name)
}

/// Encodes a request for a Unix socket: a `struct nlmsghdr` and a `struct unix_diag_req`.
fn request(inode: u32) -> Vec<u8> {
    const FAMILY: u8 = libc::AF_UNIX as u8;
    let mut body = vec![FAMILY, 0, 0, 0];
    // Any state; the inode; what to show; any cookie.
    for word in [u32::MAX, inode, SHOW, u32::MAX, u32::MAX] {
        body.extend(word.to_ne_bytes());
    }
    let len = (HEADER + body.len()) as u32;
    let flags = libc::NLM_F_REQUEST as u16;
    let mut request = len.to_ne_bytes().to_vec();
    request.extend(BY_FAMILY.to_ne_bytes());
    request.extend(flags.to_ne_bytes());
    request.extend([0; 8]);
    request.extend(body);
    request
}

fn parse(answer: &[u8], name: &str) -> io::Result<u32> {
    let short = || io::Error::from(io::ErrorKind::InvalidData);
    let word = |at: usize| -> Option<[u8; 4]> { answer.get(at..at + 4)?.try_into().ok() };
    let [low, high, ..] = word(4).ok_or_else(short)?;
    if i32::from(u16::from_ne_bytes([low, high])) == libc::NLMSG_ERROR {
        let errno = i32::from_ne_bytes(word(HEADER).ok_or_else(short)?);
        return Err(io::Error::from_raw_os_error(errno.saturating_neg()));
    }
    let (mut uid, mut is_named) = (None, false);
    for attr in Attrs::new(answer.get(2 * HEADER..).ok_or_else(short)?) {
        let attr = attr.map_err(|_| short())?;
        match attr.kind() {
            UID => uid = Some(attr.u32().map_err(|_| short())?),
            NAME => is_named = attr.bytes().strip_prefix(b"\0") == Some(name.as_bytes()),
            _ => {}
        }
    }
    if !is_named {
        return Err(io::Error::from_raw_os_error(libc::ENOENT));
    }
    // Before Linux 5.3 there is none.
    uid.ok_or_else(|| io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_request_has_the_kernels_layout() {
        let request = request(7);
        assert_eq!(request.len(), 40);
        assert_eq!(request[..4], 40u32.to_ne_bytes());
        assert_eq!(request[24..28], 7u32.to_ne_bytes());
    }

    #[test]
    fn an_error_answer_is_its_errno() {
        let mut answer = vec![0; 36];
        answer[4..6].copy_from_slice(&2u16.to_ne_bytes());
        answer[16..20].copy_from_slice(&(-libc::ENOENT).to_ne_bytes());
        assert_eq!(
            parse(&answer, "a").unwrap_err().raw_os_error(),
            Some(libc::ENOENT)
        );
    }

    proptest! {
        #[test]
        fn any_answer_is_parsed_or_refused(answer in prop::collection::vec(any::<u8>(), 0..80)) {
            let _answer = parse(&answer, "a");
        }
    }
}
