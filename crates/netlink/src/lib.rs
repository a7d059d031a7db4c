//! A blocking netlink socket that reports the kernel's refusals in its own words.
