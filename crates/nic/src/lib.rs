//! What a NIC must look like to receive into device memory, applied and taken back.
