"""Swarms and benchmarks of Roomwright."""
