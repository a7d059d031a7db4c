//! DMA buffers made out of a memfd by /dev/udmabuf.
