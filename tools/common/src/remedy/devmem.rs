//! Remedies for sockets, receiving and sending.

use std::net::SocketAddr;

use devmem::engine::{ConnectionError, EngineError};
use devmem::listen::SocketError;
use devmem::send::SendError;
use devmem::sink::SinkError;

/// Returns a one-line remedy for an error of a socket; `None` if none is known. Its commands begin
/// with `within`, which enters the socket's namespace and ends with a space; empty for the current
/// one.
pub fn of_socket(error: &SocketError, within: &str) -> Option<String> {
    let object = error.object();
    Some(match error.raw_os_error()? {
        libc::EACCES | libc::EPERM if error.operation() == "connect to" => {
            format!(
                "a route or a firewall ({within}nft list ruleset) forbids it: {within}{}",
                route(object)
            )
        }
        libc::EADDRINUSE => format!(
            "see who listens there: {within}ss -ltnp | grep {}",
            port(object)
        ),
        libc::EADDRNOTAVAIL => {
            format!("no device here has that address: see {within}ip address, or give another")
        }
        libc::EACCES => "ports below 1024 want CAP_NET_BIND_SERVICE".to_owned(),
        libc::EPERM => "SO_BINDTODEVICE wants CAP_NET_RAW: run as root".to_owned(),
        libc::ENODEV => format!("see the devices of this network namespace: {within}ip link"),
        libc::ECONNREFUSED => "nobody listens there: start the receiver first".to_owned(),
        libc::EHOSTUNREACH | libc::ENETUNREACH => {
            format!("see the way there: {within}{}", route(object))
        }
        _ => return None,
    })
}

/// Returns the command that shows the route to an address, which is given with its port.
fn route(address: &str) -> String {
    match address.parse::<SocketAddr>() {
        Ok(address) => format!("ip route get {}", address.ip()),
        Err(_) => format!("ip route get {address}"),
    }
}

/// Returns the part `:PORT` of an address and port.
fn port(address: &str) -> &str {
    address
        .rfind(':')
        .map_or(address, |colon| &address[colon..])
}

/// Returns a one-line remedy for a connection that failed; `None` if none is known.
pub fn of_connection(error: &ConnectionError) -> Option<&'static str> {
    Some(match error {
        ConnectionError::Unsteered { .. } => {
            "steer the flow to a bound queue (ethtool -N IF), keep RSS off that queue (ethtool -X IF) and \
             header split on (ethtool -g IF)"
        }
        ConnectionError::Linear { .. } => {
            "the NIC leaves payload with the headers: see tcp-data-split and hds-thresh (ethtool -g IF)"
        }
        ConnectionError::Register(source) if source.raw_os_error() == Some(libc::ENOSPC) => {
            "allow more: sysctl fs.epoll.max_user_watches"
        }
        ConnectionError::Stalled { .. } => "take a sink that gives back sooner, or a larger dmabuf",
        ConnectionError::Sink(SinkError::ForeignDmabuf(_)) => {
            "steer each flow to a queue of the binding that it is received with (ethtool -n IF)"
        }
        ConnectionError::Sink(SinkError::Mismatch(_)) => {
            "have the peer send the pattern of the same period; if it does, bytes came wrongly"
        }
        _ => return None,
    })
}

/// Returns a one-line remedy for an error of the event loop; `None` if none is known.
pub fn of_engine(error: &EngineError) -> Option<&'static str> {
    match error {
        EngineError::BusyPoll(source) if source.raw_os_error() == Some(libc::ENOTTY) => {
            Some("this kernel's epoll does not poll NICs: that is of Linux 6.9")
        }
        EngineError::Pin(_, source) if source.raw_os_error() == Some(libc::EINVAL) => Some(
            "see which processors there are (lscpu -e), and which it may use (taskset -cp PID)",
        ),
        _ => None,
    }
}

/// Returns a one-line remedy for a failed send from a dmabuf; `None` if none is known.
pub fn of_send(error: &SendError) -> Option<String> {
    Some(match error {
        SendError::OtherDevice { .. } => {
            "see ip route get ADDR: bind the dmabuf to the device that it names".to_owned()
        }
        SendError::NotBound { .. } => {
            "bind it with bind-tx, and keep the binding while you send".to_owned()
        }
        SendError::TooManyInFlight(_) => {
            "allow more: sysctl net.core.optmem_max, or send larger pieces".to_owned()
        }
        SendError::Deadline { .. } => {
            "does the receiver still read? see ss -tnoi; does the device gather? ethtool -K IF \
             tx-scatter-gather on"
                .to_owned()
        }
        _ => return None,
    })
}
