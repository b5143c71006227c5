"""Roomwright package; see its README."""
