//! The cases, one function each.

mod bind_errors;
mod hold;
mod lease;
mod lease_errors;
mod ncdevmem;
mod nic;
mod receive;
mod tool_errors;
mod transfer;

use anyhow::{Result, bail, ensure};
use netdev::{Ifindex, Link, NetkitSingle};

/// A name and what must hold.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) run: fn() -> Result<()>,
}

/// Why a case cannot hold here: an error that is no failure.
#[derive(Debug)]
pub(crate) struct Skip(pub(crate) String);

impl std::fmt::Display for Skip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}

/// Names each function's case after its module and itself.
macro_rules! cases {
    ($($module:ident::$function:ident,)*) => {
        &[$(Case {
            name: concat!(stringify!($module), ".", stringify!($function)),
            run: $module::$function,
        },)*]
    };
}

/// All cases, in the order in which they run.
pub(crate) const ALL: &[Case] = cases![
    receive::direct,
    receive::direct_ipv6,
    receive::not_a_multiple_of_the_page,
    receive::linear_bytes_in_stream_order,
    receive::wholly_linear_packets_in_stream_order,
    receive::unsteered,
    hold::pool_exhausted_and_refilled,
    receive::two_queues_one_dmabuf,
    receive::payload_to_a_file,
    receive::wrong_byte_is_named,
    receive::killed_receiver_leaves_no_binding,
    receive::interrupted_receiver_restores_the_nic,
    receive::rx_page_size,
    lease::through_a_pair,
    lease::through_a_single,
    lease::across_namespaces,
    lease::of_an_existing_netkit,
    lease::shown_from_both_sides,
    lease::ends_with_the_netkit,
    ncdevmem::direct,
    ncdevmem::as_in_the_series,
    nic::link_flap_while_receiving,
    nic::moves_between_namespaces,
    nic::removed_while_receiving,
    nic::xdp_refused_while_bound,
    nic::channels_stay_while_leased,
    bind_errors::split_off,
    bind_errors::threshold_not_zero,
    bind_errors::queue_out_of_range,
    bind_errors::no_such_device,
    bind_errors::device_without_queue_ops,
    bind_errors::netkit_without_a_lease,
    bind_errors::not_a_dmabuf,
    bind_errors::xdp_attached,
    bind_errors::already_bound,
    bind_errors::in_use_by_af_xdp,
    bind_errors::leased_out,
    bind_errors::split_stays_on_while_bound,
    bind_errors::channels_stay_while_bound,
    bind_errors::rx_page_size_not_a_power_of_two,
    bind_errors::rx_page_size_unaligned_memory,
    bind_errors::rx_page_size_unsupported_by_kernel,
    lease_errors::already_leased,
    lease_errors::already_bound,
    lease_errors::in_use_by_af_xdp,
    lease_errors::primary_end,
    lease_errors::capacity,
    lease_errors::two_nics,
    lease_errors::queue_out_of_range,
    lease_errors::virtual_lessor,
    lease_errors::physical_lessee,
    lease_errors::veth_lessee,
    lease_errors::no_such_namespace_id,
    lease_errors::no_such_device,
    tool_errors::unknown_device,
    tool_errors::queue_out_of_range,
    tool_errors::device_without_devmem,
    tool_errors::split_off_and_no_config,
    tool_errors::without_net_admin,
    tool_errors::without_udmabuf,
    tool_errors::over_the_size_limit,
    tool_errors::port_in_use,
    tool_errors::bad_command_lines,
    tool_errors::refused_lease_leaves_nothing,
];

/// A device's number, in this namespace.
fn ifindex(name: &str) -> Result<Ifindex> {
    Ok(Link::open()?.by_name(name)?.ifindex)
}

/// A single netkit, with so many rx queues: its own and those that it may lease.
fn netkit(name: &str, rx_queues: u32) -> Result<Ifindex> {
    let mut single = NetkitSingle::new(name);
    single.rx_queues = Some(rx_queues);
    Ok(Link::open()?.create_netkit_single(&single)?)
}

/// Holds if the kernel refused with this error number and, if one is expected, this text.
fn refused<T>(result: netdev::Result<T>, errno: i32, text: Option<&str>) -> Result<()> {
    let Err(error) = result else {
        bail!("not refused, expected errno {errno} {text:?}")
    };
    println_line(&format!("{error}"));
    ensure!(
        error.raw_os_error() == Some(errno),
        "expected errno {errno}, got: {error}"
    );
    if let Some(text) = text {
        let said = error
            .message()
            .is_some_and(|message| message.contains(text));
        ensure!(said, "expected {text:?}, got: {error}");
    }
    Ok(())
}

/// A diagnostic of the case.
#[allow(clippy::print_stdout)] // the runner reads it and prints it behind `#`
fn println_line(text: &str) {
    println!("{text}");
}
