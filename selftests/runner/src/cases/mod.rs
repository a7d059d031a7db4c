//! The cases, one function each.

mod bind_errors;
mod doctor;
mod doctor_fault;
mod doctor_machine;
mod doctor_netkit;
mod doctor_nic;
mod feel;
mod footprint;
mod hold;
mod json;
mod lease;
mod lease_ends;
mod lease_errors;
mod lease_grants;
mod lease_nic;
mod lease_notes;
mod lease_rounds;
mod lease_way;
mod leasing;
mod ncdevmem;
mod ncdevmem_client;
mod ncdevmem_probe;
mod nic;
mod nic_journal;
mod nic_plan;
mod nic_restored;
mod nic_shared;
mod receive;
mod removal;
mod round;
mod send;
mod send_errors;
mod tool_errors;
mod transfer;
mod watch;

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
    lease_grants::two_queues,
    lease_grants::queue_zero,
    lease_grants::of_either_layer,
    lease_grants::in_one_namespace,
    lease_grants::namespace_is_told,
    lease_grants::devices_down,
    lease_grants::to_two_containers,
    lease_grants::virtual_side_is_silent,
    lease_grants::other_queues_are_free,
    lease_ends::nic_goes,
    lease_ends::nic_goes_from_two_netkits,
    lease_ends::nic_goes_from_a_single,
    lease_ends::netkit_goes,
    lease_ends::netkit_goes_and_another_leases,
    lease_ends::one_netkit_of_two_goes,
    lease_ends::container_goes,
    lease_ends::one_container_of_two_goes,
    lease_ends::not_by_a_flap_of_the_nic,
    lease_ends::not_by_a_flap_of_the_netkit,
    lease_ends::not_by_a_move_of_the_netkit,
    lease_ends::not_by_a_move_of_the_nic,
    lease_rounds::by_name,
    lease_rounds::by_name_pod_first,
    lease_rounds::by_path,
    lease_rounds::by_path_pod_first,
    lease_rounds::by_pid,
    lease_rounds::by_pid_pod_first,
    lease_rounds::beside_the_nic,
    lease_way::many_queues,
    lease_way::switches_are_shared,
    lease_way::what_others_set_stays,
    lease_way::refused_half_way,
    lease_way::refused_at_once,
    lease_way::dry_runs,
    lease_way::large_receive_offload,
    lease_notes::netkits_that_went,
    lease_notes::netkit_of_somebody_else,
    lease_notes::bound,
    lease_notes::stopped_half_way,
    lease_notes::damaged_notes,
    lease_notes::nic_that_went,
    lease_nic::channels_stay,
    lease_nic::channels_stay_until_the_end,
    lease_nic::channels_as_they_are,
    lease_nic::channels_shrink_down_to_the_lease,
    lease_nic::channels_grow,
    lease_nic::netkit_has_no_channels,
    lease_nic::bind_of_leased_queue,
    lease_nic::af_xdp_of_leased_queue,
    ncdevmem::direct,
    ncdevmem::linear_bytes_are_delivered,
    ncdevmem::one_wrong_byte_fails,
    ncdevmem::ipv6_and_the_table_that_was,
    ncdevmem::signals_restore,
    ncdevmem::as_in_the_series,
    ncdevmem_probe::passes_and_restores,
    ncdevmem_probe::rx_page_size,
    ncdevmem_probe::fails_without_devmem,
    ncdevmem_probe::fails_over_a_leased_queue,
    ncdevmem_probe::signals_restore,
    ncdevmem_probe::bad_command_lines,
    ncdevmem_client::to_a_plain_listener,
    ncdevmem_client::ipv6_from_an_address_of_choice,
    ncdevmem_client::to_a_dmabuf,
    ncdevmem_client::through_a_leased_netkit,
    ncdevmem_client::other_device,
    ncdevmem_client::refusals_have_remedies,
    ncdevmem_client::reset_in_mid_send,
    ncdevmem_client::no_completion_in_time,
    ncdevmem_client::signals_leave_nothing,
    nic::link_flap_while_receiving,
    nic::moves_between_namespaces,
    nic::removed_while_receiving,
    nic::xdp_refused_while_bound,
    removal::nic_while_receiving,
    removal::nic_while_idle,
    removal::nic_behind_a_lease,
    removal::nic_that_has_moved,
    removal::netkit_while_receiving,
    removal::namespace_by_name_while_receiving,
    removal::namespace_by_path,
    removal::namespace_from_within,
    removal::namespace_by_pid,
    watch::lease_and_bind,
    watch::direct_bind_and_namespace,
    watch::namespace_without_a_name,
    feel::verbose_names_requests,
    feel::colours_on_a_terminal_only,
    feel::completions_and_man_pages,
    feel::dry_run,
    feel::progress_once_a_second,
    json::plans,
    json::leases_and_transfers,
    nic_restored::after_return,
    nic_restored::after_error,
    nic_restored::after_panic,
    nic_restored::after_abort,
    nic_restored::after_sigint,
    nic_restored::after_sigterm,
    nic_restored::after_sigterm_while_setting_up,
    nic_restored::after_sigkill,
    nic_restored::after_sigkill_while_setting_up,
    nic_restored::after_sigkill_of_both,
    nic_restored::after_sigkill_of_both_while_setting_up,
    nic_restored::after_sigkill_of_both_while_restoring,
    nic_restored::after_sigkill_of_the_guardian,
    nic_shared::two_receivers_end,
    nic_shared::two_receivers_at_once,
    nic_shared::two_want_the_same_queue,
    nic_shared::changes_of_others_stay,
    nic_journal::damaged,
    nic_journal::of_another_boot,
    nic_journal::of_another_nic,
    nic_journal::of_a_nic_that_is_gone,
    nic_journal::of_a_nic_that_moved,
    nic_journal::no_place_for_it,
    nic_plan::looking_changes_nothing,
    nic_plan::applied_to_stay,
    nic_plan::driver_that_does_not_keep,
    nic_plan::driver_that_refuses,
    nic_plan::rule_table_is_full,
    nic_plan::driver_that_refuses_the_way_back,
    send::dmabuf_to_dmabuf,
    send::through_a_lease,
    send::a_file_of_odd_length,
    send::standard_input,
    send::ranges_stay_the_kernels_until_acknowledged,
    send::small_chunks_and_little_memory,
    send_errors::bind_not_a_dmabuf,
    send_errors::bind_device_without_netmem,
    send_errors::bind_netkit_without_a_lease,
    send_errors::bound_for_receiving,
    send_errors::over_the_end,
    send_errors::route_by_another_device,
    send_errors::device_that_cannot_gather,
    send_errors::not_a_page_multiple,
    send_errors::silent_receiver,
    send_errors::reset_by_the_receiver,
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
    lease_errors::already_leased_by_itself,
    lease_errors::already_leased_by_a_single,
    lease_errors::already_bound,
    lease_errors::in_use_by_af_xdp,
    lease_errors::primary_end,
    lease_errors::no_room,
    lease_errors::room_exhausted,
    lease_errors::two_nics,
    lease_errors::two_nics_to_a_single,
    lease_errors::queue_out_of_range,
    lease_errors::virtual_lessor,
    lease_errors::itself,
    lease_errors::physical_lessee,
    lease_errors::veth_lessee,
    lease_errors::tx_lessee,
    lease_errors::tx_lessor,
    lease_errors::no_such_namespace_id,
    lease_errors::no_such_device,
    doctor::healthy,
    doctor::of_all_nics,
    doctor::in_another_namespace,
    doctor::schema,
    doctor::changes_nothing,
    doctor_nic::link_down,
    doctor_nic::no_carrier,
    doctor_nic::xdp_by_a_link,
    doctor_nic::xdp_by_netlink,
    doctor_nic::small_mtu,
    doctor_nic::no_coalescing,
    doctor_nic::split_off_and_threshold,
    doctor_nic::one_channel,
    doctor_nic::queue_bound,
    doctor_nic::queue_in_af_xdp_use,
    doctor_nic::no_such_queue,
    doctor_nic::all_queues_leased,
    doctor_nic::only_free_queue_is_rss,
    doctor_nic::rss_context_has_the_queue,
    doctor_nic::ntuple_off,
    doctor_nic::rule_table_full,
    doctor_nic::rule_for_the_queue,
    doctor_nic::ring_larger_than_the_buffer,
    doctor_nic::scatter_gather_off,
    doctor_nic::driver_without_queue_api,
    doctor_nic::driver_without_split,
    doctor_nic::driver_without_ntuple,
    doctor_nic::driver_without_netmem_tx,
    doctor_nic::driver_without_rss,
    doctor_nic::driver_without_rx_page_size,
    doctor_nic::other_devices,
    doctor_nic::journal_of_a_dead_receiver,
    doctor_machine::no_udmabuf_node,
    doctor_machine::udmabuf_of_another_user,
    doctor_machine::udmabuf_size_limit,
    doctor_machine::more_than_the_memory,
    doctor_machine::no_hugepages,
    doctor_machine::receive_buffers_larger_than_the_pool,
    doctor_machine::receive_buffers_too_small,
    doctor_machine::optmem_too_small,
    doctor_machine::no_capability,
    doctor_machine::user_namespace,
    doctor_machine::root_without_the_capability,
    doctor_netkit::healthy,
    doctor_netkit::without_a_lease,
    doctor_netkit::without_room_for_a_lease,
    doctor_netkit::the_other_end_was_named,
    doctor_netkit::ends_down,
    doctor_netkit::forwarding_off,
    doctor_netkit::fault_of_the_nic_behind,
    doctor_netkit::asked_from_within,
    doctor_netkit::bound_by_another,
    tool_errors::unknown_device,
    tool_errors::queue_out_of_range,
    tool_errors::device_without_devmem,
    tool_errors::split_off_and_no_config,
    tool_errors::without_net_admin,
    tool_errors::without_udmabuf,
    tool_errors::over_the_size_limit,
    tool_errors::port_in_use,
    tool_errors::flow_in_use,
    tool_errors::bad_command_lines,
    tool_errors::refused_lease_leaves_nothing,
];

/// A device's number, in this namespace.
pub(crate) fn ifindex(name: &str) -> Result<Ifindex> {
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

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::ALL;

    /// `selftests/lease-conformance.md`: upstream's case, ours, and what ours asserts.
    const CONFORMANCE: &str = include_str!("../../../lease-conformance.md");

    /// What stands between backticks, as names do.
    fn quoted(text: &str) -> impl Iterator<Item = &str> {
        text.split('`').skip(1).step_by(2)
    }

    fn exists(name: &str) -> bool {
        ALL.iter().any(|case| case.name == name)
    }

    #[test]
    fn names_are_unique() {
        let names: HashSet<_> = ALL.iter().map(|case| case.name).collect();
        assert_eq!(names.len(), ALL.len());
    }

    #[test]
    fn each_upstream_lease_case_has_a_twin() {
        let mut upstream = HashSet::new();
        let mut twins = HashSet::new();
        for row in CONFORMANCE.lines().filter(|line| line.starts_with("| `")) {
            let cells: Vec<_> = row.split('|').map(str::trim).collect();
            let [_, theirs, ours, asserted, _] = cells[..] else {
                panic!("not three cells: {row}")
            };
            let ours: Vec<_> = quoted(ours).collect();
            assert!(!ours.is_empty() && !asserted.is_empty(), "{row}");
            assert!(upstream.insert(theirs), "{theirs} is there twice");
            for name in ours {
                assert!(exists(name), "{theirs}: no case is called {name}");
                assert!(twins.insert(name), "{name} is the twin of two");
            }
        }
        assert_eq!(upstream.len(), 45);
    }

    #[test]
    fn the_text_beside_the_table_names_cases_that_are() {
        let module_of = |name: &str| Some(name.split_once('.')?.0.to_owned());
        let modules: HashSet<_> = ALL.iter().map(|case| module_of(case.name)).collect();
        let text = CONFORMANCE.lines().filter(|line| !line.starts_with('|'));
        for name in text.flat_map(quoted) {
            let of_ours = name.contains('.') && modules.contains(&module_of(name));
            let all_of_a_module = name.ends_with(".*");
            assert!(
                !of_ours || all_of_a_module || exists(name),
                "no case is called {name}"
            );
        }
    }
}
