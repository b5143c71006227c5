"""A verified token's content as nodes are told of it; the token itself goes no further than this service."""

import json

from chassis.tokens import Grants
from contracts.node.v1 import node_pb2


def claims_of(grants: Grants, *, identity: str | None = None) -> node_pb2.Claims:
    """The claims message of grants; `identity` when the join changed it."""
    return node_pb2.Claims(
        api_key=grants.api_key,
        identity=grants.identity if identity is None else identity,
        name=grants.name,
        kind=grants.kind,
        kind_details=grants.kind_details,
        metadata=grants.metadata,
        attributes=grants.attributes,
        video_grant_json=json.dumps(grants.video.to_claim()),
        room_config_json=grants.room_config_json,
        room_preset=grants.room_preset,
        expires_at=grants.expires_at,
        project=grants.project,
        origin=grants.origin or grants.digest,
    )
