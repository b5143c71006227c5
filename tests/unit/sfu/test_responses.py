"""Messages to clients that are put together from serialized parts."""

from livekit.protocol import models, rtc

from sfu.core.responses import UPDATE_CHUNK_BYTES, participant_updates


def test_a_large_update_comes_in_parts_of_128_kib_in_order() -> None:
    infos = [
        models.ParticipantInfo(sid=f"PA_{n}", metadata="m" * 30_000).SerializeToString()
        for n in range(20)
    ]
    parts = participant_updates(infos)
    assert max(map(len, parts)) <= UPDATE_CHUNK_BYTES + 32
    assert len(parts) == 5
    sids = [
        info.sid
        for part in parts
        for info in rtc.SignalResponse.FromString(part).update.participants
    ]
    assert sids == [f"PA_{n}" for n in range(20)]


def test_one_participant_larger_than_a_part_goes_alone() -> None:
    large = models.ParticipantInfo(sid="PA_1", metadata="m" * 200_000).SerializeToString()
    small = models.ParticipantInfo(sid="PA_2").SerializeToString()
    assert len(participant_updates([small, large, small])) == 3
    assert participant_updates([]) == []
