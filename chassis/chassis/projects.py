"""Projects: namespaces of rooms. An API key is of one project, and its tokens know no other's rooms.

Behind signaling a room goes by its scoped name, in which the project stands first; clients, and the messages they get,
know the bare name alone. What it is not: a quota or an account.
"""

from __future__ import annotations

from typing import Final

SEPARATOR: Final = "\x1f"  # ASCII unit separator: refused in names that come from outside


def scoped(project: str, room: str) -> str:
    """The name of a project's room within the cluster; rooms of the default project ("") keep theirs."""
    return f"{project}{SEPARATOR}{room}" if project else room


def split(scoped_name: str) -> tuple[str, str]:
    """The project and the bare name."""
    project, separator, room = scoped_name.partition(SEPARATOR)
    return (project, room) if separator else ("", scoped_name)
