//! A TCP socket whose payload is in device memory: segments in stream order, tokens, an event loop.
