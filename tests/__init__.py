"""Tests at three levels: unit (no IO), integration (real nats-server, real sockets), conformance (real clients)."""
