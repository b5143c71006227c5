"""Unit tests: no IO, no waiting."""
