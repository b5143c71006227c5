"""Targets as configured, where they may be, what their answers mean, and who delivers which shard."""

from __future__ import annotations

import pytest
from pydantic import SecretStr, ValidationError

from chassis.errors import SettingsError
from chassis.subjects import EVENT_PARTITIONS
from webhook.clients import outcome_of
from webhook.core.delivery import Answer
from webhook.core.guard import PRIVATE, is_allowed, networks
from webhook.core.shards import SHARDS, GiveBack, Shards, Take, partitions_of
from webhook.core.targets import Target, parse_targets
from webhook.settings import WebhookSettings

KEYS = {"one": SecretStr("x" * 32), "two": SecretStr("y" * 32)}


def test_urls_and_objects_are_targets() -> None:
    plain, full = parse_targets(
        ["https://a.example/hook", {"url": "http://b/x", "project": "p", "exclude_events": []}],
        exclude=["track_published"],
    )
    assert plain.exclude_events == {"track_published"}
    assert (full.project, full.exclude_events) == ("p", frozenset())


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("ftp://a/", "https://host/path"),
        ("https://", "https://host/path"),
        ("http://a:99999/", "https://host/path"),
        (7, "neither a URL"),
        ({"url": "http://a/", "colour": 1}, "colour"),
        ({"url": "http://a/", "include_events": ["room_exploded"]}, "room_exploded"),
        ({"url": "http://a/", "include_events": "room_started"}, "list of names"),
        ({"url": "http://a/", "api_key": 1}, "api_key"),
    ],
)
def test_a_wrong_target_is_named(value: object, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        parse_targets([value])


def test_secrets_of_a_url_are_not_shown() -> None:
    (target,) = parse_targets(["https://user:pass@a.example:8443/hook?token=abc"])
    assert target.shown == "https://a.example:8443/hook"


def test_a_target_hears_of_its_own_project_alone() -> None:
    target = Target("http://a/", project="p")
    assert target.wants("room_started", "p", "")
    assert not target.wants("room_started", "", "")
    assert target.wants("room_started", "p", "*")
    assert target.wants("room_started", "p", target.id)
    assert not target.wants("room_started", "p", Target("http://b/", project="p").id)


@pytest.mark.parametrize(
    ("address", "allowed", "verdict"),
    [
        ("93.184.215.14", (), True),
        ("10.1.2.3", PRIVATE, True),
        ("10.1.2.3", (), False),
        ("127.0.0.1", PRIVATE, False),
        ("127.0.0.1", ("127.0.0.0/8",), True),
        ("169.254.169.254", PRIVATE, False),
        ("::1", PRIVATE, False),
        ("fe80::1%eth0", PRIVATE, False),
        ("fd00::1", PRIVATE, True),
        ("::ffff:169.254.169.254", PRIVATE, False),
        ("::ffff:127.0.0.1", PRIVATE, False),
        ("2002:7f00:1::", PRIVATE, False),
        ("0.0.0.0", PRIVATE, False),
        ("224.0.0.1", PRIVATE, False),
        ("2606:2800:21f:cb07::1", (), True),
        ("no address", PRIVATE, False),
    ],
)
def test_where_webhooks_may_go(address: str, allowed: tuple[str, ...], verdict: bool) -> None:
    assert is_allowed(address, networks(allowed)) is verdict


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (200, Answer.TAKEN),
        (204, Answer.TAKEN),
        (302, Answer.FAILED),
        (400, Answer.REFUSED),
        (401, Answer.FAILED),
        (410, Answer.REFUSED),
        (429, Answer.UNREACHABLE),
        (500, Answer.FAILED),
        (501, Answer.REFUSED),
        (503, Answer.UNREACHABLE),
        (999, Answer.FAILED),
    ],
)
def test_what_a_status_means(status: int, answer: Answer) -> None:
    assert outcome_of(status).answer is answer


def test_retry_after_is_believed_within_bounds() -> None:
    assert outcome_of(429, "7").retry_after_s == 7
    assert outcome_of(429, "99999999").retry_after_s == 3600
    assert outcome_of(429, "Wed, 21 Oct 2015 07:28:00 GMT").retry_after_s == 0


def test_wrong_networks_and_unsigned_webhooks_are_refused_at_the_start() -> None:
    with pytest.raises(ValidationError, match="there is none"):
        WebhookSettings(urls=["http://a/"])
    with pytest.raises(ValidationError, match="no-net"):
        WebhookSettings(allowed_networks=("no-net",))


def test_shards_cover_every_partition_once() -> None:
    covered = [partition for shard in range(SHARDS) for partition in partitions_of(shard)]
    assert sorted(covered) == list(range(EVENT_PARTITIONS))


def test_a_lone_replica_takes_every_shard() -> None:
    shards = Shards("a")
    assert sorted(take.shard for take in shards.decide(0) if isinstance(take, Take)) == list(
        range(SHARDS)
    )


def test_replicas_come_to_equal_shares() -> None:
    one, two = Shards("a"), Shards("b")
    for shard in range(SHARDS):
        one.took(shard)
        two.saw_shard(shard, "a", 1, 0)
    one.saw_replica("b", 0)
    two.saw_replica("a", 0)
    assert two.decide(0.5) == []
    for revision in range(2, 6):
        (given,) = one.decide(0.5)
        assert isinstance(given, GiveBack)
        one.gave_back(given.shard)
        two.saw_shard(given.shard, "", revision, 0.5)
        assert two.decide(0.5) == [Take(given.shard, revision)]
        two.took(given.shard)
    assert one.decide(0.5) == []
    assert (len(one.owned), len(two.owned)) == (4, 4)


def test_shards_of_a_silent_replica_are_taken_by_the_own_clock() -> None:
    shards = Shards("b")
    for shard in range(SHARDS):
        shards.saw_shard(shard, "a", 1, 0)
    shards.saw_replica("a", 0)
    assert shards.decide(4.9) == []
    shards.saw_shard(3, "a", 2, 4.0)
    taken = [take.shard for take in shards.decide(5) if isinstance(take, Take)]
    assert sorted(taken) == [0, 1, 2, 4, 5, 6, 7]
