//! `devmem-tcp doctor`: what it finds, and that its remedies work.

pub(super) mod doctor;
pub(super) mod doctor_agrees;
pub(super) mod doctor_left;
pub(super) mod doctor_machine;
pub(super) mod doctor_netkit;
pub(super) mod doctor_nic;
