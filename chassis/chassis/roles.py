"""Roles: named bundles of grants that a token names, and that can be changed while a participant is in a room.

A token names a role by the attribute `roomwright.role`, which every SDK can set and every client can
see. What it is not: a grant of its own, or anything a client can give itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final

from chassis.errors import SettingsError, TokenError
from chassis.tokens import Grants, VideoGrant

ROLE_ATTRIBUTE: Final = "roomwright.role"
MEMBERS: Final = (
    "canPublish",
    "canPublishData",
    "canPublishSources",
    "canSubscribe",
    "canSubscribeMetrics",
    "canUpdateOwnMetadata",
    "hidden",
    "roomAdmin",
)
"""What a role can say, as a token spells it. What it does not say is as in a token that does not say it;
`hidden` alone is then the token's own."""


@dataclass(frozen=True, slots=True)
class Role:
    """One bundle."""

    name: str
    bundle: VideoGrant
    says_hidden: bool = False

    @property
    def is_admin(self) -> bool:
        """May whoever has it call the server API on the room of its token?"""
        return self.bundle.room_admin

    def given_to(self, video: VideoGrant) -> VideoGrant:
        """The grant with what the role says about publishing and subscribing in place of its own."""
        bundle = self.bundle
        return replace(
            video,
            can_publish=bundle.may_publish,
            can_publish_data=bundle.may_publish_data,
            can_publish_sources=bundle.can_publish_sources,
            can_subscribe=bundle.may_subscribe,
            can_subscribe_metrics=bundle.may_subscribe_metrics,
            can_update_own_metadata=bundle.may_update_own_metadata,
            hidden=bundle.hidden if self.says_hidden else video.hidden,
        )


Roles = Mapping[str, Role]


def unknown(name: str, roles: Roles) -> str:
    """What to tell whoever names a role that is not there."""
    return f"there is no role {name[:64]!r}: the roles are {', '.join(sorted(roles))}"


def as_admin(grants: Grants, roles: Roles) -> Grants | None:
    """The grants as an administrator of the token's own room, when its role makes it one."""
    role = roles.get(grants.attributes.get(ROLE_ATTRIBUTE, ""))
    if role is None or not role.is_admin or not grants.video.room:
        return None
    return replace(grants, video=replace(grants.video, room_admin=True))


def parse_roles(value: Any) -> dict[str, Role]:
    """Roles from an object of bundles or its JSON text, beside the built-in ones. Raises SettingsError."""
    if isinstance(value, str):
        try:
            value = json.loads(value or "{}")
        except ValueError:
            raise SettingsError("roles: not a JSON object") from None
    if not isinstance(value, Mapping):
        raise SettingsError("roles: not an object of bundles")
    roles = dict(BUILT_IN)
    for name, bundle in value.items():
        roles[name] = bundle if isinstance(bundle, Role) else _role(name, bundle)
    return roles


def _role(name: str, bundle: Any) -> Role:
    if not name or not isinstance(bundle, Mapping):
        raise SettingsError(f"role {name!r}: needs a name and an object of grants")
    strange = sorted(set(bundle) - set(MEMBERS))
    if strange:
        raise SettingsError(f"role {name!r}: cannot say {strange[0]!r}, only {', '.join(MEMBERS)}")
    try:
        grant = VideoGrant.from_claim(bundle)
    except TokenError as error:
        text = str(error).removeprefix("invalid token, error: claim ")
        raise SettingsError(f"role {name!r}: {text}") from None
    return Role(name, grant, says_hidden="hidden" in bundle)


BUILT_IN: Final[Roles] = MappingProxyType(
    {
        "moderator": Role(
            "moderator",
            VideoGrant(
                can_publish=True,
                can_publish_data=True,
                can_subscribe=True,
                can_update_own_metadata=True,
                room_admin=True,
            ),
        ),
        "speaker": Role(
            "speaker", VideoGrant(can_publish=True, can_publish_data=True, can_subscribe=True)
        ),
        "viewer": Role(
            "viewer", VideoGrant(can_publish=False, can_publish_data=False, can_subscribe=True)
        ),
    }
)
