"""The first response on a socket: `join` of a new session, `reconnect` of one that is resumed."""

from __future__ import annotations

from livekit.protocol import models, rtc

from contracts.room.v1 import room_pb2
from sfu.core import responses
from sfu.core.codecs import CodecPolicy, enabled_publish_codecs
from sfu.core.connections import Connections
from sfu.core.devices import client_configuration
from sfu.core.effects import Step
from sfu.core.fallback import Preference
from sfu.core.session import SignalSession


class Greetings:
    """What one session's client is told of the server, the network and itself."""

    def __init__(self, session: SignalSession, connections: Connections, node_id: str) -> None:
        self._session = session
        self._connections = connections
        self._server_info = responses.server_info(node_id, session.settings.region)

    @property
    def configuration(self) -> models.ClientConfiguration:
        """Of this client, as its connections are to be now."""
        configuration = client_configuration(self._session.client)
        if self._connections.preference is Preference.RELAY:
            configuration.force_relay = models.ClientConfigSetting.ENABLED
        return configuration

    def join(
        self, room: models.Room, order: room_pb2.Admit, codecs: CodecPolicy, step: Step
    ) -> bytes:
        """The Room took the participant in: the `join` response."""
        session, settings, info = self._session, self._session.settings, self._server_info
        join = rtc.JoinResponse(
            room=room,
            participant=models.ParticipantInfo.FromString(order.participant),
            server_version=info.version,
            server_region=info.region,
            subscriber_primary=self._connections.is_subscriber_primary,
            client_configuration=self.configuration,
            ping_interval=settings.ping_interval,
            ping_timeout=settings.ping_timeout,
            server_info=info,
            sif_trailer=order.sif_trailer,
            enabled_publish_codecs=enabled_publish_codecs(codecs),
            # An offer that may be for nothing costs time where connections are hard to get.
            fast_publish=session.grants.permission.can_publish
            and self._connections.preference is Preference.ANY,
            ice_servers=settings.ice_servers.entries(session.sid, step.wall_ms),
        )
        return responses.join(join, order.others)

    def reconnect(self, last_sequence: int, step: Step) -> rtc.ReconnectResponse:
        """The session goes on; `last_sequence` of the reliable packets that came."""
        session = self._session
        return rtc.ReconnectResponse(
            client_configuration=self.configuration,
            server_info=self._server_info,
            last_message_seq=last_sequence,
            ice_servers=session.settings.ice_servers.entries(session.sid, step.wall_ms),
        )
