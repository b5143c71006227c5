//! The sans-IO media core: no socket, no clock.
