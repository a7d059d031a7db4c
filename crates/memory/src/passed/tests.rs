use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::thread;

use super::*;

/// Error of a connection to a helper process that runs `serve`.
fn error_from_helper(name: &str, serve: impl FnOnce(UnixStream) + Send) -> Error {
    let name = format!("@devmem-tcp-{name}-{}", std::process::id());
    let socket = SocketName::new(&name).unwrap();
    let listener = UnixListener::bind_addr(&socket.address().unwrap()).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| serve(listener.accept().unwrap().0));
        received(&socket).unwrap_err()
    })
}

fn null() -> File {
    File::open("/dev/null").unwrap()
}

#[test]
fn an_fd_that_is_not_open_is_refused() {
    let error = inherited(1 << 20).unwrap_err();
    assert_eq!(error.to_string(), "fd:1048576");
}

#[test]
fn an_fd_that_is_not_a_dmabuf_is_named_and_left_open() {
    let null = null();
    let number = null.as_raw_fd().unsigned_abs();
    let error = inherited(number).unwrap_err();
    let text = format!("fd:{number}: not a dmabuf, but /dev/null");
    assert_eq!(error.to_string(), text);
    null.metadata().unwrap();
}

#[test]
fn a_socket_without_a_listener_is_an_error() {
    let socket = SocketName::new("/nowhere/at/all").unwrap();
    let error = received(&socket).unwrap_err();
    assert_eq!(error.to_string(), "connect to Unix socket /nowhere/at/all");
}

/// `offered` finds a socket that listens, and does not connect: the socket does not accept.
#[test]
fn a_socket_is_offered_or_not() {
    let of = |name: &str| offered(&SocketName::new(name).unwrap());
    let refused = |name: &str| match of(name) {
        Err(Error::Connect { source, .. }) => source.raw_os_error(),
        other => panic!("{other:?}"),
    };
    let folder = std::env::temp_dir().join(format!("offered-{}", std::process::id()));
    std::fs::create_dir(&folder).unwrap();
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    assert_eq!(refused(&path("none")), Some(libc::ENOENT));
    File::create(path("file")).unwrap();
    assert_eq!(refused(&path("file")), Some(libc::ECONNREFUSED));
    let listener = UnixListener::bind(path("stream")).unwrap();
    of(&path("stream")).unwrap();
    drop(listener);
    assert_eq!(refused(&path("stream")), Some(libc::ECONNREFUSED));
    let _datagrams = UnixDatagram::bind(path("datagrams")).unwrap();
    assert_eq!(refused(&path("datagrams")), Some(libc::EPROTOTYPE));
    let name = format!("@devmem-tcp-offered-{}", std::process::id());
    assert_eq!(refused(&name), Some(libc::ECONNREFUSED));
    let address = SocketName::new(&name).unwrap().address().unwrap();
    let _listener = UnixListener::bind_addr(&address).unwrap();
    of(&name).unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
}

/// Names of other users' sockets, which may be any bytes, hide no socket and are not mistaken for
/// one.
#[test]
fn names_of_other_users_sockets_hide_none() {
    let name = format!("@devmem-tcp-others-{}", std::process::id());
    let bind = |name: &[u8]| {
        UnixListener::bind_addr(&SocketAddr::from_abstract_name(name).unwrap()).unwrap()
    };
    let _no_text = bind(&[b"\xff\xfe".as_slice(), name.as_bytes()].concat());
    let _same_end = bind(format!("other {name}").as_bytes());
    let socket = SocketName::new(&name).unwrap();
    assert!(matches!(offered(&socket), Err(Error::Connect { .. })));
    let _listener = UnixListener::bind_addr(&socket.address().unwrap()).unwrap();
    offered(&socket).unwrap();
}

#[test]
fn a_line_of_proc_net_unix_is_parsed() {
    let line = b"0000000000000000: 00000002 00000000 00010000 0001 01    42 @a b ";
    assert_eq!(type_and_name(line), Some((&b"0001"[..], &b"@a b "[..])));
    let without = b"0000000000000000: 00000002 00000000 00010000 0002 01 123456";
    assert_eq!(type_and_name(without), None);
    assert_eq!(type_and_name(b""), None);
}

#[test]
fn an_fd_that_is_not_a_dmabuf_is_refused_from_a_helper() {
    let error = error_from_helper("other", |stream| pass(&stream, null()).unwrap());
    let text = error.to_string();
    assert!(text.ends_with("is not a dmabuf, but /dev/null"), "{text}");
}

#[test]
fn a_helper_that_passes_no_fd_is_an_error() {
    let error = error_from_helper("nothing", drop);
    assert!(matches!(error, Error::Count { fds: 0, .. }), "{error}");
    let error = error_from_helper("bytes", |mut stream| stream.write_all(b"none").unwrap());
    assert!(matches!(error, Error::Count { fds: 0, .. }), "{error}");
}

#[test]
fn a_silent_helper_is_an_error_in_time() {
    let name = format!("@devmem-tcp-silent-{}", std::process::id());
    let socket = SocketName::new(&name).unwrap();
    let _listener = UnixListener::bind_addr(&socket.address().unwrap()).unwrap();
    let error = received_within(&socket, Duration::from_millis(20)).unwrap_err();
    assert!(error.to_string().starts_with("receive an fd from"));
}

#[test]
fn a_helper_that_sends_only_bytes_is_an_error() {
    let error = error_from_helper(
        "talk",
        |mut stream| {
            while stream.write_all(&[7; 64]).is_ok() {}
        },
    );
    assert!(matches!(error, Error::Count { fds: 0, .. }), "{error}");
}

#[test]
fn a_helper_may_send_bytes_before_the_fd() {
    let error = error_from_helper("greeting", |mut stream| {
        stream.write_all(b"here it comes: ").unwrap();
        pass(&stream, null()).unwrap();
    });
    assert!(matches!(error, Error::PassedOther { .. }), "{error}");
}

#[test]
fn a_helper_that_passes_many_fds_is_an_error() {
    let before = open_fds();
    let error = error_from_helper("many", |stream| {
        let null = null();
        sys::send_fds(stream.as_fd(), &[null.as_fd(); 200]).unwrap();
    });
    assert!(matches!(error, Error::Count { fds: 200, .. }), "{error}");
    // Other tests run at the same time, and have a few open.
    assert!(open_fds() < before + 100);
}

fn open_fds() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}
