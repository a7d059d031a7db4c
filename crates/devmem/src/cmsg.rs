//! Control messages of devmem TCP, `SCM_DEVMEM_DMABUF` and `SCM_DEVMEM_LINEAR`, and `TCP_CM_INQ`,
//! out of raw bytes.
//!
//! The bytes come from `recvmsg` as `put_cmsg` (`net/core/scm.c`) laid them out: a `struct cmsghdr`,
//! the payload, padding to the size of a long. They are read as untrusted input, by copies: no
//! alignment is assumed and every length is checked. What the parser doesn't know it reports.

/// `SCM_DEVMEM_LINEAR` (`tcp_recvmsg_dmabuf`): a number of bytes that are in the iov.
const LINEAR: i32 = libc::SCM_DEVMEM_LINEAR;
/// `SCM_DEVMEM_DMABUF` (`tcp_recvmsg_dmabuf`): a frag in a dmabuf.
const DMABUF: i32 = libc::SCM_DEVMEM_DMABUF;

/// Size of a `struct cmsghdr` as the kernel writes it: `size_t cmsg_len; int cmsg_level; int
/// cmsg_type`.
const HEADER: usize = size_of::<usize>() + 8;
/// Size of a `struct dmabuf_cmsg`: `u64 frag_offset; u32 frag_size, frag_token, dmabuf_id, flags`.
const PAYLOAD: usize = 24;
/// Size of a `struct sock_extended_err`: `u32 ee_errno; u8 ee_origin, ee_type, ee_code, ee_pad; u32
/// ee_info, ee_data`.
const EXTENDED_ERROR: usize = 16;

/// Size in bytes of one devmem message in a control buffer: `CMSG_SPACE(sizeof(struct
/// dmabuf_cmsg))`, 40 on 64-bit machines.
pub const SPACE: usize = align(HEADER + PAYLOAD);
/// Size in bytes of a `TCP_CM_INQ` message in a control buffer: `CMSG_SPACE(sizeof(int))`.
pub(crate) const QUEUED_SPACE: usize = align(HEADER + size_of::<i32>());

/// Rounds a length up as `CMSG_ALIGN` does.
const fn align(len: usize) -> usize {
    len.next_multiple_of(size_of::<usize>())
}

/// A frag as the kernel describes it (`struct dmabuf_cmsg`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DmabufCmsg {
    /// Offset in bytes of the frag's first byte in the dmabuf, whatever the size of a niov.
    pub frag_offset: u64,
    /// Length of the frag in bytes.
    pub frag_size: u32,
    /// Token of the frag, for `SO_DEVMEM_DONTNEED`.
    pub frag_token: u32,
    /// Id of the binding's dmabuf, as `bind-rx` returned it.
    pub dmabuf_id: u32,
}

/// An entry of a socket's error queue: `struct sock_extended_err` (`include/uapi/linux/errqueue.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExtendedError {
    /// Error number of the entry (`ee_errno`); 0 of a completion.
    pub errno: u32,
    /// Origin of the entry (`ee_origin`): `SO_EE_ORIGIN_ZEROCOPY` of a completion.
    pub origin: u8,
    /// Type of the entry (`ee_type`).
    pub kind: u8,
    /// Code of the entry (`ee_code`): `SO_EE_CODE_ZEROCOPY_COPIED` of a completion whose bytes were
    /// copied.
    pub code: u8,
    /// Number of the first completed send (`ee_info`).
    pub info: u32,
    /// Number of the last completed send (`ee_data`).
    pub data: u32,
}

/// A control message of a kind that this crate does not use: a timestamp, or one of a newer kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unknown {
    /// Protocol level of the control message (`cmsg_level`).
    pub level: i32,
    /// Type of the control message (`cmsg_type`).
    pub kind: i32,
    /// Length of the control message's payload in bytes.
    pub len: usize,
}

/// A parsed control message of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// A frag in a dmabuf (`SCM_DEVMEM_DMABUF`).
    Dmabuf(DmabufCmsg),
    /// Number of the next bytes of the stream, which are in the iov (`SCM_DEVMEM_LINEAR`).
    Linear(u32),
    /// Number of bytes left to receive (`TCP_CM_INQ`, `tcp_inq_hint`); 1 also stands for the end of
    /// the stream.
    Queued(i32),
    /// An entry of the socket's error queue (`IP_RECVERR`, `IPV6_RECVERR`).
    Error(ExtendedError),
    /// A control message of any other kind.
    Unknown(Unknown),
}

/// Error of malformed control messages. `at` is the offset of the message's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CmsgError {
    /// The control bytes end within a message's header.
    #[error("control message at byte {at}: {left} bytes are no header")]
    Header {
        /// Offset of the message's header in the control bytes.
        at: usize,
        /// Number of control bytes left from the header on.
        left: usize,
    },
    /// A message's `cmsg_len` is shorter than a header or longer than what is left.
    #[error("control message at byte {at}: length {len} of {left} bytes left")]
    Length {
        /// Offset of the message's header in the control bytes.
        at: usize,
        /// Value of `cmsg_len`.
        len: usize,
        /// Number of control bytes left from the header on.
        left: usize,
    },
    /// A control message of a known kind has too short a payload.
    #[error("control message at byte {at}: {len} bytes of payload are too few")]
    Payload {
        /// Offset of the message's header in the control bytes.
        at: usize,
        /// Length of the message's payload in bytes.
        len: usize,
    },
}

/// Iterator over the messages in the control bytes of one `recvmsg`. It ends after the first error:
/// where the next header would be is not known then.
#[derive(Debug, Clone)]
pub struct Messages<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Messages<'a> {
    /// Iterates over the messages in `control`, the bytes the kernel filled in: `msg_controllen` of
    /// them.
    pub fn new(control: &'a [u8]) -> Self {
        Self {
            bytes: control,
            at: 0,
        }
    }

    /// Returns the next message if it is a frag's in the form that kernels write today; otherwise
    /// leaves it for `next`. This is the fast path: most messages are of that form.
    #[inline]
    pub(crate) fn next_frag(&mut self) -> Option<DmabufCmsg> {
        let (message, _) = self.bytes.get(self.at..)?.split_first_chunk::<SPACE>()?;
        let len = usize::from_ne_bytes(field(message, 0));
        let level = i32::from_ne_bytes(field(message, size_of::<usize>()));
        let kind = i32::from_ne_bytes(field(message, size_of::<usize>() + 4));
        if (len, level, kind) != (HEADER + PAYLOAD, libc::SOL_SOCKET, DMABUF) {
            return None;
        }
        self.at += SPACE;
        Some(parse_frag(&field(message, HEADER)))
    }

    fn parse(&mut self, left: &[u8]) -> Result<Message, CmsgError> {
        let at = self.at;
        let Some((header, _)) = left.split_first_chunk::<HEADER>() else {
            return Err(CmsgError::Header {
                at,
                left: left.len(),
            });
        };
        let len = usize::from_ne_bytes(field(header, 0));
        let level = i32::from_ne_bytes(field(header, size_of::<usize>()));
        let kind = i32::from_ne_bytes(field(header, size_of::<usize>() + 4));
        let Some(payload) = left.get(HEADER..len) else {
            return Err(CmsgError::Length {
                at,
                len,
                left: left.len(),
            });
        };
        // The padding of the last message may be missing (`put_cmsg`: the smaller of both).
        self.at += align(len).min(left.len());
        match (level, kind) {
            (libc::SOL_SOCKET, DMABUF | LINEAR) => {
                parse_devmem(kind, payload).ok_or(CmsgError::Payload {
                    at,
                    len: payload.len(),
                })
            }
            (libc::SOL_TCP, libc::TCP_CM_INQ) => match payload.first_chunk() {
                Some(queued) => Ok(Message::Queued(i32::from_ne_bytes(*queued))),
                None => Err(CmsgError::Payload {
                    at,
                    len: payload.len(),
                }),
            },
            (libc::SOL_IP, libc::IP_RECVERR) | (libc::SOL_IPV6, libc::IPV6_RECVERR) => {
                parse_extended_error(payload).ok_or(CmsgError::Payload {
                    at,
                    len: payload.len(),
                })
            }
            _ => Ok(Message::Unknown(Unknown {
                level,
                kind,
                len: payload.len(),
            })),
        }
    }
}

impl Iterator for Messages<'_> {
    type Item = Result<Message, CmsgError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let left = self.bytes.get(self.at..)?;
        if left.is_empty() {
            return None;
        }
        let parsed = self.parse(left);
        if parsed.is_err() {
            self.at = self.bytes.len();
        }
        Some(parsed)
    }
}

/// Parses the payload of a devmem message. Bytes behind the fields known today are ignored: later
/// kernels may add fields.
fn parse_devmem(kind: i32, payload: &[u8]) -> Option<Message> {
    let (payload, _) = payload.split_first_chunk::<PAYLOAD>()?;
    let frag_size = u32::from_ne_bytes(field(payload, 8));
    if kind == LINEAR {
        return Some(Message::Linear(frag_size));
    }
    Some(Message::Dmabuf(parse_frag(payload)))
}

/// Parses a `struct dmabuf_cmsg`.
#[inline]
fn parse_frag(payload: &[u8; PAYLOAD]) -> DmabufCmsg {
    DmabufCmsg {
        frag_offset: u64::from_ne_bytes(field(payload, 0)),
        frag_size: u32::from_ne_bytes(field(payload, 8)),
        frag_token: u32::from_ne_bytes(field(payload, 12)),
        dmabuf_id: u32::from_ne_bytes(field(payload, 16)),
    }
}

/// Parses a `struct sock_extended_err`. The address of the error's sender, which may follow, is
/// ignored.
fn parse_extended_error(payload: &[u8]) -> Option<Message> {
    let (payload, _) = payload.split_first_chunk::<EXTENDED_ERROR>()?;
    let [origin, kind, code, _] = field(payload, 4);
    Some(Message::Error(ExtendedError {
        errno: u32::from_ne_bytes(field(payload, 0)),
        origin,
        kind,
        code,
        info: u32::from_ne_bytes(field(payload, 8)),
        data: u32::from_ne_bytes(field(payload, 12)),
    }))
}

/// Field of `N` bytes at the constant offset `at` of a structure; its bounds are checked by the
/// compiler.
#[inline]
fn field<const N: usize, const SIZE: usize>(bytes: &[u8; SIZE], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

/// Appends `message` to `control` as `put_cmsg` would: the counterpart of [`Messages`], for tests
/// and simulations. An [`Message::Unknown`] gets a payload of zeroes.
pub fn encode(message: &Message, control: &mut Vec<u8>) {
    let mut payload = Vec::with_capacity(PAYLOAD);
    let (level, kind) = match message {
        Message::Dmabuf(frag) => {
            payload.extend(frag.frag_offset.to_ne_bytes());
            payload.extend(frag.frag_size.to_ne_bytes());
            payload.extend(frag.frag_token.to_ne_bytes());
            payload.extend(frag.dmabuf_id.to_ne_bytes());
            payload.resize(PAYLOAD, 0);
            (libc::SOL_SOCKET, DMABUF)
        }
        Message::Linear(size) => {
            payload.resize(8, 0);
            payload.extend(size.to_ne_bytes());
            payload.resize(PAYLOAD, 0);
            (libc::SOL_SOCKET, LINEAR)
        }
        Message::Queued(bytes) => {
            payload.extend(bytes.to_ne_bytes());
            (libc::SOL_TCP, libc::TCP_CM_INQ)
        }
        Message::Error(error) => {
            payload.extend(error.errno.to_ne_bytes());
            payload.extend([error.origin, error.kind, error.code, 0]);
            payload.extend(error.info.to_ne_bytes());
            payload.extend(error.data.to_ne_bytes());
            (libc::SOL_IPV6, libc::IPV6_RECVERR)
        }
        Message::Unknown(unknown) => {
            payload.resize(unknown.len, 0);
            (unknown.level, unknown.kind)
        }
    };
    control.extend((HEADER + payload.len()).to_ne_bytes());
    control.extend(level.to_ne_bytes());
    control.extend(kind.to_ne_bytes());
    control.extend(payload);
    control.resize(align(control.len()), 0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message() -> impl Strategy<Value = Message> {
        let frag = any::<(u64, u32, u32, u32)>().prop_map(|(offset, size, token, id)| {
            Message::Dmabuf(DmabufCmsg {
                frag_offset: offset,
                frag_size: size,
                frag_token: token,
                dmabuf_id: id,
            })
        });
        let unknown = (any::<i32>(), 100..200, 0..64usize)
            .prop_map(|(level, kind, len)| Message::Unknown(Unknown { level, kind, len }));
        let linear = any::<u32>().prop_map(Message::Linear);
        let queued = any::<i32>().prop_map(Message::Queued);
        let error = any::<(u32, u8, u8, u8, u32, u32)>().prop_map(
            |(errno, origin, kind, code, info, data)| {
                Message::Error(ExtendedError {
                    errno,
                    origin,
                    kind,
                    code,
                    info,
                    data,
                })
            },
        );
        prop_oneof![frag, linear, queued, error, unknown]
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_parsed(messages in prop::collection::vec(message(), 0..20)) {
            let mut control = Vec::new();
            messages.iter().for_each(|message| encode(message, &mut control));
            let parsed: Result<Vec<_>, _> = Messages::new(&control).collect();
            prop_assert_eq!(parsed.unwrap(), messages);
        }

        #[test]
        fn arbitrary_bytes_are_parsed_or_refused(control in prop::collection::vec(any::<u8>(), 0..400)) {
            let parsed: Vec<_> = Messages::new(&control).collect();
            prop_assert!(parsed.len() <= control.len() / HEADER + 1);
        }

        #[test]
        fn the_fast_path_parses_the_same(
            messages in prop::collection::vec(message(), 0..20),
            rubbish in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            let mut control = Vec::new();
            messages.iter().for_each(|message| encode(message, &mut control));
            control.extend(rubbish);
            let mut short = Messages::new(&control);
            let next = || match short.next_frag() {
                Some(frag) => Some(Ok(Message::Dmabuf(frag))),
                None => short.next(),
            };
            let by_both: Vec<_> = std::iter::from_fn(next).collect();
            prop_assert_eq!(by_both, Messages::new(&control).collect::<Vec<_>>());
        }

        #[test]
        fn a_cut_is_an_error_or_fewer_messages(
            messages in prop::collection::vec(message(), 1..10),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut control = Vec::new();
            messages.iter().for_each(|message| encode(message, &mut control));
            control.truncate(cut.index(control.len()));
            let parsed: Vec<_> = Messages::new(&control).collect();
            let whole = parsed.iter().filter_map(|message| message.ok());
            prop_assert!(whole.zip(&messages).all(|(got, sent)| got == *sent));
        }
    }

    #[test]
    fn the_layout_is_libcs() {
        assert_eq!(SPACE % size_of::<usize>(), 0);
        assert_eq!(PAYLOAD, size_of::<libc::dmabuf_cmsg>());
        assert_eq!(HEADER, size_of::<libc::cmsghdr>());
        assert_eq!(EXTENDED_ERROR, size_of::<libc::sock_extended_err>());
        let mut control = Vec::new();
        encode(&Message::Linear(7), &mut control);
        assert_eq!(control.len(), SPACE);
    }

    #[test]
    fn a_wrong_length_is_refused() {
        let mut control = Vec::new();
        encode(&Message::Linear(7), &mut control);
        for len in [0usize, HEADER - 1, control.len() + 1, usize::MAX] {
            control[..size_of::<usize>()].copy_from_slice(&len.to_ne_bytes());
            let first = Messages::new(&control).next().unwrap();
            assert!(
                matches!(first, Err(CmsgError::Length { at: 0, .. })),
                "{len}: {first:?}"
            );
        }
        control[..size_of::<usize>()].copy_from_slice(&(HEADER + 8).to_ne_bytes());
        let first = Messages::new(&control).next().unwrap();
        assert_eq!(first, Err(CmsgError::Payload { at: 0, len: 8 }));
    }
}
