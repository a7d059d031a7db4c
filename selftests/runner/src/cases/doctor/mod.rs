//! `devmem-tcp doctor`: what it finds, and that its remedies work.

mod doctor;
mod doctor_agrees;
mod doctor_left;
mod doctor_machine;
mod doctor_netkit;
mod doctor_nic;
