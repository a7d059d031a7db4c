//! Log on standard error, formatted for people.

use std::fmt;

use common::stdio::Log;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::style::Style;

/// Target of log events about netlink requests and ioctls (`netlink::Socket::set_message_specs`).
const NETLINK: &str = "netlink";

/// Starts the log: warnings; with `--verbose` also netlink requests and their answers; or what
/// `RUST_LOG` selects.
pub(crate) fn init(verbose: bool) {
    let unless_told = if verbose {
        "info,netlink=debug"
    } else {
        "warn"
    };
    let filter = match EnvFilter::try_from_default_env() {
        Ok(filter) if !verbose => filter,
        _ => EnvFilter::new(unless_told),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| Log)
        .event_format(Lines {
            style: Style::stderr(),
        })
        .init();
}

/// Formatter of events, a line each: target, level, message.
struct Lines {
    style: Style,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let meta = event.metadata();
        let head = match *meta.level() {
            _ if meta.target() == NETLINK => self.style.dim("netlink: "),
            Level::ERROR => format!("devmem-tcp: {}: ", self.style.bad("error")),
            Level::WARN => format!("devmem-tcp: {}: ", self.style.warn("warning")),
            _ => "devmem-tcp: ".to_owned(),
        };
        writer.write_str(&head)?;
        let mut fields = String::new();
        context
            .field_format()
            .format_fields(Writer::new(&mut fields), event)?;
        writeln!(writer, "{fields}")
    }
}
