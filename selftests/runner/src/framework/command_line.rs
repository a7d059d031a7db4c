//! Typed command lines of `devmem-tcp recv` and `devmem-tcp send`.

use std::fmt::Display;
use std::process::Command;

use anyhow::Result;

use crate::memory;
use crate::receiver::wait_until_bound;
use crate::testbed::PEER;
use crate::tool::{Running, command, finish};
use crate::transfer::devmem_tcp;

/// Command line of `devmem-tcp recv --json`, with the kind of memory that the case runs with.
#[derive(Debug, Clone)]
#[must_use]
pub struct Recv {
    within: Option<String>,
    arguments: Vec<String>,
    size: Option<String>,
    dmabuf_per_queue: bool,
}

impl Recv {
    /// A receiver on this device, without further options.
    pub fn on(device: impl Display) -> Self {
        let arguments = ["recv", "--json", "-f"].map(str::to_owned);
        Self {
            within: None,
            arguments: arguments.into(),
            size: None,
            dmabuf_per_queue: false,
        }
        .argument(device)
    }

    /// Runs the receiver in this network namespace, by `ip netns exec`.
    pub fn within(mut self, netns: impl Display) -> Self {
        self.within = Some(netns.to_string());
        self
    }

    /// Finds the device in this network namespace (`--netns`).
    pub fn netns(self, netns: impl Display) -> Self {
        self.with("--netns", netns)
    }

    pub fn queue(self, queue: impl Display) -> Self {
        self.with("--queue", queue)
    }

    pub fn listen(self, address: impl Display) -> Self {
        self.with("--listen", address)
    }

    /// Sets the size of the memory, such as `16M`.
    pub fn size(mut self, size: &str) -> Self {
        self.size = Some(size.to_owned());
        self.with("--size", size)
    }

    pub fn connections(self, connections: impl Display) -> Self {
        self.with("--connections", connections)
    }

    /// Takes connections from this address only.
    pub fn from(self, address: impl Display) -> Self {
        self.with("--from", address)
    }

    /// Makes the receiver compare the payload with the pattern of this period.
    pub fn validate(self, period: u32) -> Self {
        self.with("--validate", period)
    }

    pub fn output(self, path: impl Display) -> Self {
        self.with("--output", path)
    }

    pub fn checksum(self) -> Self {
        self.argument("--checksum")
    }

    pub fn by_device(self) -> Self {
        self.argument("--by-device")
    }

    pub fn refuse_linear(self) -> Self {
        self.argument("--refuse-linear")
    }

    pub fn refuse_unsteered(self) -> Self {
        self.argument("--refuse-unsteered")
    }

    /// Leaves the NIC's settings unchanged (`--no-config`).
    pub fn no_config(self) -> Self {
        self.argument("--no-config")
    }

    pub fn thread_per_queue(self) -> Self {
        self.argument("--thread-per-queue")
    }

    pub fn dmabuf_per_queue(mut self) -> Self {
        self.dmabuf_per_queue = true;
        self.argument("--dmabuf-per-queue")
    }

    pub fn rx_page_size(self, size: impl Display) -> Self {
        self.with("--rx-page-size", size)
    }

    /// Sets the milliseconds that the last bytes of a busy connection may wait (`--patience`).
    pub fn patience(self, milliseconds: impl Display) -> Self {
        self.with("--patience", milliseconds)
    }

    /// Sets the seconds of silence after which a peer is given up (`--idle-timeout`).
    pub fn idle_timeout(self, seconds: impl Display) -> Self {
        self.with("--idle-timeout", seconds)
    }

    /// Appends further options, as they stand on a command line.
    pub fn options(self, options: &str) -> Self {
        options.split_whitespace().fold(self, Self::argument)
    }

    fn with(self, option: &str, value: impl Display) -> Self {
        self.argument(option).argument(value)
    }

    fn argument(mut self, argument: impl Display) -> Self {
        self.arguments.push(argument.to_string());
        self
    }

    /// Builds the command.
    pub fn command(&self) -> Result<Command> {
        let memory = memory::of_receiver(self.size.as_deref(), self.dmabuf_per_queue)?;
        let mut command = command(self.within.as_deref(), &devmem_tcp(), "");
        command
            .args(&self.arguments)
            .args(memory.split_whitespace());
        Ok(command)
    }

    /// Starts the receiver.
    pub fn start(&self) -> Result<Running> {
        Running::start(self.command()?)
    }

    /// Starts the receiver and waits until a queue is bound.
    pub fn start_bound(&self) -> Result<Running> {
        let running = self.start()?;
        wait_until_bound()?;
        Ok(running)
    }
}

/// Command line of `devmem-tcp send` at the far end of the wire. It waits for a listener.
#[derive(Debug, Clone)]
#[must_use]
pub struct Sender(String);

impl Sender {
    /// A sender of 1 MiB of the pattern to this address.
    pub fn to(address: impl Display) -> Self {
        Self(format!("send --wait 20 {address}"))
    }

    /// Sets the number of bytes to send: a number, or `2M`.
    pub fn bytes(self, bytes: impl Display) -> Self {
        self.with("--bytes", bytes)
    }

    /// Sets the period of the pattern to send.
    pub fn pattern(self, period: u32) -> Self {
        self.with("--pattern", period)
    }

    /// Sends the contents of this file.
    pub fn input(self, path: impl Display) -> Self {
        self.with("--input", path)
    }

    /// Sends from this local address.
    pub fn from(self, address: impl Display) -> Self {
        self.with("--from", address)
    }

    /// Sends over this device.
    pub fn device(self, name: impl Display) -> Self {
        self.with("--dev", name)
    }

    fn with(mut self, option: &str, value: impl Display) -> Self {
        self.0 += &format!(" {option} {value}");
        self
    }

    fn command(&self) -> Command {
        command(Some(PEER), &devmem_tcp(), &self.0)
    }

    /// Runs the sender to its end; its failure is an error.
    pub fn run(&self) -> Result<()> {
        finish(self.command())?.good("send").map(drop)
    }

    /// Starts the sender.
    pub fn start(&self) -> Result<Running> {
        Running::start(self.command())
    }
}

#[cfg(test)]
mod tests {
    use super::{Recv, Sender};

    fn words(command: &std::process::Command) -> String {
        let words = command.get_args().map(|word| word.to_string_lossy());
        words.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_receiver_is_said_in_the_tools_options() {
        let recv = Recv::on("eth1").queue(3).size("16M").connections(2);
        let recv = recv.listen("192.0.2.2:5000").validate(251).refuse_linear();
        assert_eq!(
            words(&recv.command().unwrap()),
            "recv --json -f eth1 --queue 3 --size 16M --connections 2 --listen 192.0.2.2:5000 \
             --validate 251 --refuse-linear"
        );
    }

    #[test]
    fn a_receiver_may_run_in_another_namespace() {
        let recv = Recv::on("nk0").within("box").listen("198.51.100.2:5000");
        let words = words(&recv.command().unwrap());
        assert!(words.starts_with("netns exec box "), "{words}");
        assert!(
            words.ends_with(" -f nk0 --listen 198.51.100.2:5000"),
            "{words}"
        );
    }

    #[test]
    fn a_sender_is_at_the_far_end() {
        let sender = Sender::to("192.0.2.2:5000").bytes("2M").pattern(7);
        let words = words(&sender.command());
        assert!(words.starts_with("netns exec peer "), "{words}");
        let options = "send --wait 20 192.0.2.2:5000 --bytes 2M --pattern 7";
        assert!(words.ends_with(options), "{words}");
    }
}
