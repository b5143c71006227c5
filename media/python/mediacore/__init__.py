"""Roomwright's media core from Python: see `_native.pyi` for what each name is."""

from mediacore._native import *  # noqa: F403
