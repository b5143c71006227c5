//! Sockets, threads and timers around the core.
