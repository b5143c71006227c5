"""Integration tests: real sockets, real nats-server, neighbors in memory."""
