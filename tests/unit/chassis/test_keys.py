"""API keys that change, projects, and tokens that are good no more: what is decided, without a bus."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from chassis.errors import SettingsError
from chassis.keys import ApiKeys
from chassis.kv import Deleted, Entry, MemoryKv
from chassis.projects import SEPARATOR, scoped, split
from chassis.revocations import Revocations, TokenUse
from chassis.settings import ChassisSettings, read_keys
from chassis.subjects import REVOCATIONS
from contracts.access.v1 import access_pb2

LONG = "x" * 32


def record(**fields: object) -> bytes:
    return access_pb2.KeyRecord(schema=1, **fields).SerializeToString()  # type: ignore[arg-type]


def keys(**given_keys: str) -> ApiKeys:
    given_secrets = {name: SecretStr(secret) for name, secret in given_keys.items()}
    return ApiKeys(given_secrets, {"acme": "p"}, lambda: 1000.0)


def secret_of(known: ApiKeys, name: str) -> str | None:
    secret = known.get(name)
    return None if secret is None else secret.get_secret_value()


def test_keys_of_settings_and_of_the_bucket_are_good_at_once() -> None:
    known = keys(one="first")
    known.learn(Entry("two", record(secret="second", project="p"), 1))
    assert (secret_of(known, "one"), secret_of(known, "two")) == ("first", "second")
    assert (known.project_of("one"), known.project_of("two")) == ("", "p")
    known.learn(Deleted("two", 2))
    assert known.get("two") is None


def test_a_given_key_can_be_disabled_for_the_whole_cluster() -> None:
    known = keys(acme="first")
    known.learn(Entry("acme", record(disabled=True), 1))
    assert known.get("acme") is None
    known.learn(Deleted("acme", 2))
    assert secret_of(known, "acme") == "first"
    assert known.project_of("acme") == "p"


@pytest.mark.parametrize(("not_after", "is_good"), [(0, True), (1000, True), (999, False)])
def test_a_key_ends_in_time(not_after: int, is_good: bool) -> None:
    known = keys(one="first")
    known.learn(Entry("one", record(not_after=not_after), 1))
    assert (known.get("one") is not None) is is_good


def test_the_first_key_of_a_project_signs_for_it() -> None:
    known = keys(one="first", two="second", acme="third")
    signer = known.signing("p")
    assert signer is not None
    assert signer[0] == "acme"
    known.learn(Entry("one", record(disabled=True), 1))
    assert (known.signing() or ("",))[0] == "two"
    assert known.signing("nobody") is None


def test_a_record_that_cannot_be_read_changes_nothing() -> None:
    known = keys(one="first")
    known.learn(Entry("one", b"\xff\xff", 1))
    assert secret_of(known, "one") == "first"


def test_a_directory_is_read_as_kubernetes_mounts_a_secret(tmp_path: Path) -> None:
    (tmp_path / "..data").mkdir()
    for path, secret in ((tmp_path / "one", LONG), (tmp_path / "two", LONG + "2\n")):
        path.write_text(secret)
        path.chmod(0o600)
    read = read_keys(None, tmp_path)
    assert {name: secret.get_secret_value() for name, secret in read.items()} == {
        "one": LONG,
        "two": LONG + "2",
    }
    settings = ChassisSettings(api_keys={"zero": LONG}, api_keys_directory=tmp_path)
    assert sorted(settings.api_keys) == ["one", "two", "zero"]


def test_faulty_files_are_refused_without_their_secrets(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text("one: short-secret")
    path.chmod(0o600)
    with pytest.raises(SettingsError, match="shorter than 32") as refused:
        read_keys(path, None)
    assert "short-secret" not in str(refused.value)
    with pytest.raises(SettingsError, match="FileNotFoundError"):
        read_keys(tmp_path / "none", None)


def test_projects_of_keys_are_told_in_one_line() -> None:
    settings = ChassisSettings(api_key_projects="one=p, two=q")  # type: ignore[arg-type]
    assert settings.api_key_projects == {"one": "p", "two": "q"}


@given(project=st.text().filter(lambda text: SEPARATOR not in text), room=st.text())
def test_a_scoped_name_is_split_again(project: str, room: str) -> None:
    bare = room.replace(SEPARATOR, "")
    assert split(scoped(project, bare)) == (project, bare)


async def test_a_participants_tokens_are_refused_by_when_they_were_issued() -> None:
    revocations, bucket = Revocations(), MemoryKv(REVOCATIONS)
    await revocations.revoke_participant(bucket, "room", "ann", 100)
    for issued_at, is_refused in ((0, True), (100, True), (101, False)):
        assert revocations.refuses(TokenUse("room", "ann", issued_at, ())) is is_refused
    assert not revocations.refuses(TokenUse("other", "ann", 0, ()))
    assert not revocations.refuses(TokenUse("room", "ben", 0, ()))


async def test_a_revocation_never_goes_back_in_time() -> None:
    one, two, bucket = Revocations(), Revocations(), MemoryKv(REVOCATIONS)
    await one.revoke_participant(bucket, "room", "ann", 100)
    await two.revoke_participant(bucket, "room", "ann", 50)
    assert two.refuses(TokenUse("room", "ann", 100, ()))


async def test_a_token_is_refused_with_those_that_come_from_it() -> None:
    revocations, bucket = Revocations(), MemoryKv(REVOCATIONS)
    await revocations.revoke_token(bucket, "d1", 100, 200)
    assert revocations.refuses(TokenUse("room", "ann", 150, ("d1",)))
    assert revocations.refuses(TokenUse("room", "ann", 150, ("d2", "d1")))
    assert not revocations.refuses(TokenUse("room", "ann", 150, ("d2",)))
