"""What a client may ask for: one function for each SignalRequest case, all of the same signature.

Each reads the request, checks it, and calls the participant; a bad request is answered with a
`request_response` and changes nothing. Unknown cases are ignored, as newer clients send them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from livekit.protocol import rtc

from contracts.room.v1 import room_pb2
from sfu.core.data_blobs import MAX_KEY_BYTES, is_key
from sfu.core.effects import ABNORMAL, Step
from sfu.core.fallback import Preference
from sfu.core.limits import (
    MAX_TRACK_LIST,
    MAX_TRACKS_PER_REQUEST,
    excess_of_add_track,
    excess_of_permission,
)
from sfu.core.participant import Action, DisconnectReason, Participant
from sfu.core.peer_connection import BadCandidate
from sfu.core.quality import TrackSetting
from sfu.core.session import Reason

NO_TRACK = "track does not exist"


def dispatch(participant: Participant, request: rtc.SignalRequest, step: Step) -> None:
    """Call the function of the request's case."""
    participant.last_signal_ms = step.wall_ms
    case = request.WhichOneof("message")
    if case is None:
        return
    handler = CASES.get(case)
    if handler is not None:
        handler(participant, getattr(request, case), step)


def offer(participant: Participant, request: rtc.SessionDescription, step: Step) -> None:
    """The client (re)negotiates what it publishes, or all in single mode."""
    participant.take_offer(request, step)


def answer(participant: Participant, request: rtc.SessionDescription, step: Step) -> None:
    """The client answers our offer."""
    participant.take_answer(request, step)


def trickle(participant: Participant, request: rtc.TrickleRequest, step: Step) -> None:
    """A candidate of the client."""
    try:
        participant.trickle(request, step)
    except BadCandidate as error:
        participant.respond_to(step, Reason.UNCLASSIFIED_ERROR, str(error), trickle=request)


def add_track(participant: Participant, request: rtc.AddTrackRequest, step: Step) -> None:
    """The client announces a track."""
    excess = excess_of_add_track(request)
    if excess is not None:
        participant.respond_to(step, Reason.LIMIT_EXCEEDED, excess, add_track=request)
        return
    participant.publishing.add_track(request, step)


def mute(participant: Participant, request: rtc.MuteTrackRequest, step: Step) -> None:
    """The client muted or unmuted an own track."""
    if not participant.publishing.mute(request.sid, is_muted=request.muted, step=step):
        participant.respond_to(step, Reason.NOT_FOUND, NO_TRACK, mute=request)


def subscription(participant: Participant, request: rtc.UpdateSubscription, step: Step) -> None:
    """The client wants tracks, or no longer."""
    track_sids = [
        *request.track_sids,
        *(sid for tracks in request.participant_tracks for sid in tracks.track_sids),
    ]
    for track_sid in track_sids[:MAX_TRACKS_PER_REQUEST]:
        participant.subscribing.subscribe(track_sid, is_wanted=request.subscribe, step=step)


def track_setting(participant: Participant, request: rtc.UpdateTrackSettings, step: Step) -> None:
    """Size, quality, frame rate or pause of subscribed tracks."""
    setting = TrackSetting.from_request(request)
    for track_sid in request.track_sids[:MAX_TRACKS_PER_REQUEST]:
        participant.subscribing.set_track(track_sid, setting, step)


def leave(participant: Participant, request: rtc.LeaveRequest, step: Step) -> None:
    """The client leaves for good."""
    participant.leave(int(request.reason), step)


def subscription_permission(
    participant: Participant, request: rtc.SubscriptionPermission, step: Step
) -> None:
    """Who may subscribe; a permission that names nobody makes the whole message void."""
    if any(
        not (entry.participant_sid or entry.participant_identity)
        for entry in request.track_permissions
    ):
        return
    excess = excess_of_permission(request)
    if excess is not None:
        participant.respond_to(step, Reason.LIMIT_EXCEEDED, excess)
        return
    participant.restrict(request, step)


def sync_state(participant: Participant, request: rtc.SyncState, step: Step) -> None:
    """After a resume: what the client believes. Wrong about its tracks: the session ends."""
    believed = [published.track.sid for published in request.publish_tracks]
    believed_data = {published.info.sid for published in request.publish_data_tracks}
    if any(participant.publishing.publications.get(sid) is None for sid in believed) or not (
        participant.data_publishing.knows(believed_data)
    ):
        participant.fail(step, "sync_state names tracks that are not published here")
        return
    for track_sid in request.track_sids_disabled[:MAX_TRACKS_PER_REQUEST]:
        participant.subscribing.set_track(track_sid, TrackSetting(is_disabled=True), step)
    if request.HasField("subscription"):
        subscription(participant, request.subscription, step)
    participant.data_subscribing.update(request.data_subscription, step)


def simulate(  # noqa: C901 - a table
    participant: Participant, request: rtc.SimulateScenario, step: Step
) -> None:
    """Faults on demand, for tests of SDKs; only where the node allows it.

    A flag that is false asks for nothing. What a scenario leaves for later is in scenarios.py.
    """
    case = request.WhichOneof("scenario")
    if case is None or not participant.is_simulation_allowed:
        return
    value = getattr(request, case)
    match case:
        case "speaker_update":
            participant.scenarios.speak(value, step)
        case "switch_candidate_protocol":
            known = value in rtc.CandidateProtocol.values()
            preference = Preference(value) if known else Preference.ANY
            participant.switch_candidates(preference, step)
        case "subscriber_bandwidth":
            participant.cap_bandwidth(max(value, 0), step)
        case _ if not value:
            pass
        case "server_leave":
            participant.end(DisconnectReason.SERVER_SHUTDOWN, Action.DISCONNECT, step)
            participant.tell_left(DisconnectReason.SERVER_SHUTDOWN, step)
        case "leave_request_full_reconnect":
            participant.end(DisconnectReason.CLIENT_INITIATED, Action.RECONNECT, step)
            participant.tell_left(DisconnectReason.CLIENT_INITIATED, step)
        case "node_failure" | "migration":
            participant.depart(DisconnectReason.STATE_MISMATCH, step, code=ABNORMAL)
        case "disconnect_signal_on_resume":
            participant.scenarios.spoil_resume(step)
        case "disconnect_signal_on_resume_no_messages":
            participant.scenarios.spoil_resumes_silently(step)
        case _:
            pass


def ping(participant: Participant, request: int, step: Step) -> None:
    """The old ping: our clock."""
    participant.respond(step, pong=step.wall_ms)


def ping_req(participant: Participant, request: rtc.Ping, step: Step) -> None:
    """The ping by which clients judge the socket; it says how long the last one took."""
    if request.rtt > 0:
        participant.signal_rtt_ms = request.rtt
    pong = rtc.Pong(last_ping_timestamp=request.timestamp, timestamp=step.wall_ms)
    participant.respond(step, pong_resp=pong)


def update_metadata(
    participant: Participant, request: rtc.UpdateParticipantMetadata, step: Step
) -> None:
    """The client changes its name, metadata or attributes: the Room decides."""
    if not participant.grants.permission.can_update_metadata:
        participant.respond_to(
            step,
            Reason.NOT_ALLOWED,
            "does not have permission to update own metadata",
            request_id=request.request_id,
            update_metadata=request,
        )
        return
    excess = participant.settings.profile_limits.excess(
        name=request.name, metadata=request.metadata, attributes=request.attributes
    )
    if excess is not None:
        participant.respond_to(
            step,
            Reason.LIMIT_EXCEEDED,
            excess,
            request_id=request.request_id,
            update_metadata=request,
        )
        return
    change = room_pb2.ProfileChangeRequested(
        request_id=request.request_id, attributes=dict(request.attributes)
    )
    if request.name:
        change.name = request.name
    if request.metadata:
        change.metadata = request.metadata
    participant.tell_room(step, profile_change_requested=change)


def update_audio_track(
    participant: Participant, request: rtc.UpdateLocalAudioTrack, step: Step
) -> None:
    """Other audio features of an own track."""
    track = participant.publishing.publications.get(request.track_sid)
    if track is None:
        participant.respond_to(step, Reason.NOT_FOUND, NO_TRACK, update_audio_track=request)
        return
    if len(request.features) > MAX_TRACK_LIST:
        excess = f"features are {len(request.features)}, the limit is {MAX_TRACK_LIST}"
        participant.respond_to(step, Reason.LIMIT_EXCEEDED, excess, update_audio_track=request)
        return
    if list(track.info.audio_features) == list(request.features):
        return
    track.set_audio_features(request.features)
    participant.publishing.tell_track(track, step)


def update_video_track(
    participant: Participant, request: rtc.UpdateLocalVideoTrack, step: Step
) -> None:
    """Other dimensions of an own track."""
    track = participant.publishing.publications.get(request.track_sid)
    if track is None:
        participant.respond_to(step, Reason.NOT_FOUND, NO_TRACK, update_video_track=request)
        return
    if (track.info.width, track.info.height) == (request.width, request.height):
        return
    track.info.width = request.width
    track.info.height = request.height
    participant.publishing.tell_track(track, step)


def publish_data_track_request(
    participant: Participant, request: rtc.PublishDataTrackRequest, step: Step
) -> None:
    """The client begins a data track."""
    participant.data_publishing.publish(request, step)


def unpublish_data_track_request(
    participant: Participant, request: rtc.UnpublishDataTrackRequest, step: Step
) -> None:
    """The client ends a data track."""
    participant.data_publishing.unpublish(request, step)


def update_data_subscription(
    participant: Participant, request: rtc.UpdateDataSubscription, step: Step
) -> None:
    """The client wants data tracks, or no longer."""
    participant.data_subscribing.update(request, step)


def store_data_blob_request(
    participant: Participant, request: rtc.StoreDataBlobRequest, step: Step
) -> None:
    """The client stores something for the others: the Room keeps it."""
    if not participant.settings.has_data_blobs:
        _refuse_blobs(participant, request.request_id, step)
    elif not is_key(request.blob.key) or not request.blob.contents:
        participant.respond_to(
            step,
            Reason.INVALID_REQUEST,
            f"a blob needs contents and a key of 1..{MAX_KEY_BYTES} bytes",
            request_id=request.request_id,
        )
    else:
        stored = room_pb2.BlobStored(request=request.SerializeToString())
        participant.tell_room(step, blob_stored=stored)


def get_data_blob_request(
    participant: Participant, request: rtc.GetDataBlobRequest, step: Step
) -> None:
    """The client wants what another one stored."""
    if not participant.settings.has_data_blobs:
        _refuse_blobs(participant, request.request_id, step)
        return
    wanted = room_pb2.BlobWanted(request=request.SerializeToString())
    participant.tell_room(step, blob_wanted=wanted)


def _refuse_blobs(participant: Participant, request_id: int, step: Step) -> None:
    participant.respond_to(
        step, Reason.NOT_ALLOWED, "data blobs are not enabled", request_id=request_id
    )


CASES: dict[str, Callable[[Participant, Any, Step], None]] = {
    "offer": offer,
    "answer": answer,
    "trickle": trickle,
    "add_track": add_track,
    "mute": mute,
    "subscription": subscription,
    "track_setting": track_setting,
    "leave": leave,
    "subscription_permission": subscription_permission,
    "sync_state": sync_state,
    "simulate": simulate,
    "ping": ping,
    "ping_req": ping_req,
    "update_metadata": update_metadata,
    "update_audio_track": update_audio_track,
    "update_video_track": update_video_track,
    "publish_data_track_request": publish_data_track_request,
    "unpublish_data_track_request": unpublish_data_track_request,
    "update_data_subscription": update_data_subscription,
    "store_data_blob_request": store_data_blob_request,
    "get_data_blob_request": get_data_blob_request,
}
