//! A DMA buffer: an fd, a length, a CPU mapping read and written by raw copies.
