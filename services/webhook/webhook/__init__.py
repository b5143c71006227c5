"""Tells webhook targets what happened in rooms, from the EVENTS stream."""
