"""Data blobs: stored by one participant, got by the others, off unless turned on."""

from livekit.protocol import models, rtc

from tests.support.scripted_room import Client, World

Reason = rtc.RequestResponse.Reason


def key(name: str) -> models.DataBlobKey:
    return models.DataBlobKey(generic=name)


def store(client: Client, name: str, contents: bytes, request_id: int = 7) -> None:
    blob = models.DataBlob(key=key(name), contents=contents)
    request = rtc.StoreDataBlobRequest(request_id=request_id, blob=blob)
    client.send(store_data_blob_request=request)


def get(client: Client, identity: str, name: str) -> None:
    request = rtc.GetDataBlobRequest(request_id=8, participant_identity=identity, key=key(name))
    client.send(get_data_blob_request=request)


def refusal(client: Client) -> tuple[int, int]:
    response = client.last("request_response")
    assert isinstance(response, rtc.RequestResponse)
    return response.request_id, response.reason


def test_what_one_stored_another_gets() -> None:
    world = World(stage_settings={"has_data_blobs": True})
    a, b = (world.join(name, connect=True) for name in "ab")
    for contents in (b"old", b"new"):
        store(a, "avatar", contents)
    stored = a.last("store_data_blob_response")
    assert isinstance(stored, rtc.StoreDataBlobResponse)
    assert (stored.request_id, stored.key.generic) == (7, "avatar")
    get(b, "a", "avatar")
    got = b.last("get_data_blob_response")
    assert isinstance(got, rtc.GetDataBlobResponse)
    assert (got.request_id, got.blob.contents) == (8, b"new")
    for identity, name in (("a", "other"), ("nobody", "avatar")):
        get(b, identity, name)
        assert refusal(b) == (8, Reason.NOT_FOUND)
    a.send(leave=rtc.LeaveRequest())
    get(b, "a", "avatar")
    assert refusal(b) == (8, Reason.NOT_FOUND)


def test_blobs_are_bounded() -> None:
    world = World(stage_settings={"has_data_blobs": True})
    a = world.join("a", connect=True)
    for name, contents in (("", b"x"), ("k" * 257, b"x"), ("k", b"")):
        store(a, name, contents)
        assert refusal(a) == (7, Reason.INVALID_REQUEST)
    store(a, "k", b"x" * 40_000)
    store(a, "k", b"x" * 50_000)
    assert a.cases().count("store_data_blob_response") == 2
    store(a, "other", b"x" * 14_000)
    assert refusal(a) == (7, Reason.LIMIT_EXCEEDED)


def test_blobs_are_off_unless_turned_on() -> None:
    a = World().join("a", connect=True)
    store(a, "k", b"x")
    assert refusal(a) == (7, Reason.NOT_ALLOWED)
