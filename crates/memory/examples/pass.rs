//! A helper for `--memory socket:PATH`: listens on a Unix socket and passes a new dmabuf to each
//! process that connects.
//!
//! ```text
//! pass heap:system 67108864 /run/memory.sock &
//! devmem-tcp recv --memory socket:/run/memory.sock …
//! ```
//!
//! Any process that may write to the socket's file can take memory, so restrict the permissions of
//! its directory.

use std::env;
use std::error::Error;
use std::os::unix::net::UnixListener;

use memory::{AnyMemory, Choice, passed};

fn main() -> Result<(), Box<dyn Error>> {
    let [_, choice, len, socket] = &env::args().collect::<Vec<_>>()[..] else {
        return Err("usage: pass MEMORY BYTES SOCKET".into());
    };
    let choice: Choice = choice.parse()?;
    let len: u64 = len.parse()?;
    let socket = passed::SocketName::new(socket).ok_or("SOCKET is a path, or @ and a name")?;
    let listener = UnixListener::bind_addr(&socket.address()?)?;
    for stream in listener.incoming() {
        let memory = AnyMemory::make(&choice, Some(len), None)?;
        // A client that disconnects early must not end the helper.
        if let Err(error) = stream.and_then(|stream| passed::pass(&stream, &memory)) {
            eprintln!("pass: {error}");
        }
    }
    Ok(())
}
