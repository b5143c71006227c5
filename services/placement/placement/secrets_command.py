"""`roomwright-placement make-secrets` and `delete-secrets`: what the chart's hook Jobs run.

Nothing secret is ever printed. Safe to run again, and twice at the same time.
"""

from __future__ import annotations

import argparse
import base64
import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import assert_never

from kubernetes import client
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from chassis.errors import SettingsError
from placement.core.secrets import (
    MADE_BY,
    MADE_BY_LABEL,
    Add,
    Leave,
    Make,
    Present,
    Refuse,
    decide,
    internal_entries,
    keys_entries,
    nats_entries,
)
from placement.kubernetes import CALL_TIMEOUT_S, connect, error_text

NATS_USERS = ("placement", "sfu", "signaling", "admin")
ATTEMPTS = 5


def main(arguments: Sequence[str], api: client.CoreV1Api | None = None) -> None:
    """Run the command; exits with a sentence when it cannot be done."""
    options = _parser().parse_args(arguments)
    try:
        api = api or connect()
        if options.command == "make-secrets":
            _make_all(api, options)
        else:
            _delete_all(api, options.namespace, options.names)
    except SettingsError as error:
        sys.exit(str(error))
    except ApiException as error:
        hint = "; its role lacks a rule" if error.status == _FORBIDDEN else ""
        sys.exit(f"the Kubernetes API refused: {error_text(error)}{hint}")
    except (HTTPError, OSError) as error:
        sys.exit(f"the Kubernetes API cannot be reached: {error_text(error)}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="roomwright-placement")
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("make-secrets", help="make the Secrets that are not there")
    make.add_argument("--namespace", required=True)
    make.add_argument("--keys", metavar="NAME", help="Secret for keys.yaml: one API key")
    make.add_argument("--internal", metavar="NAME", help="Secret for token")
    make.add_argument("--nats", metavar="NAME", help="Secret for a password of each NATS user")
    make.add_argument(
        "--nats-user", action="append", metavar="USER", help=f"by default: {', '.join(NATS_USERS)}"
    )
    make.add_argument("--label", action="append", default=[], type=_pair, metavar="KEY=VALUE")
    make.add_argument("--annotation", action="append", default=[], type=_pair, metavar="KEY=VALUE")
    delete = commands.add_parser("delete-secrets", help="delete those that make-secrets made")
    delete.add_argument("--namespace", required=True)
    delete.add_argument("names", nargs="+", metavar="NAME")
    return parser


def _make_all(api: client.CoreV1Api, options: argparse.Namespace) -> None:
    choose = secrets.choice
    wanted = {
        options.keys: keys_entries(choose),
        options.internal: internal_entries(choose),
        options.nats: nats_entries(options.nats_user or NATS_USERS, choose),
    }
    named = {name: entries for name, entries in wanted.items() if name}
    if not named:
        raise SettingsError("nothing to make: name a Secret with --keys, --internal or --nats")
    metadata = client.V1ObjectMeta(
        namespace=options.namespace,
        labels={**dict(options.label), MADE_BY_LABEL: MADE_BY},
        annotations=dict(options.annotation),
    )
    for name, entries in named.items():
        print(f"secret {name}: {_make(api, name, metadata, entries)}")  # noqa: T201 - a command


def _make(
    api: client.CoreV1Api,
    name: str,
    metadata: client.V1ObjectMeta,
    wanted: Mapping[str, Callable[[], str]],
) -> str:
    namespace = str(metadata.namespace)
    for _ in range(ATTEMPTS):
        found = _read(api, namespace, name)
        present = None if found is None else _present(found)
        try:
            match decide(wanted, present):
                case Leave():
                    return "is there"
                case Make(entries):
                    made = client.V1Secret(
                        metadata=metadata.model_copy(update={"name": name}),
                        type="Opaque",
                        string_data=dict(entries),
                    )
                    api.create_namespaced_secret(namespace, made, _request_timeout=CALL_TIMEOUT_S)
                    return "made"
                case Add(entries):
                    assert found is not None  # something is there to be added to
                    found.data = {**(found.data or {}), **_encoded(entries)}
                    # The resource version within makes this fail when somebody wrote meanwhile.
                    api.replace_namespaced_secret(
                        name, namespace, found, _request_timeout=CALL_TIMEOUT_S
                    )
                    return f"was there, added {', '.join(entries)}"
                case Refuse(missing):
                    raise SettingsError(
                        f"secret {name} was not made by this command and lacks {', '.join(missing)}: "
                        "add what is missing, or name another Secret"
                    )
                case decision:
                    assert_never(decision)
        except ApiException as error:
            if error.status != _CONFLICT:
                raise
    raise SettingsError(f"secret {name} kept changing; try again")


def _delete_all(api: client.CoreV1Api, namespace: str, names: Sequence[str]) -> None:
    for name in names:
        found = _read(api, namespace, name)
        if found is None:
            outcome = "is not there"
        elif not _present(found).is_ours:
            outcome = "was not made by this command; it stays"
        else:
            outcome = _delete(api, namespace, found)
        print(f"secret {name}: {outcome}")  # noqa: T201 - a command


def _delete(api: client.CoreV1Api, namespace: str, found: client.V1Secret) -> str:
    assert found.metadata is not None  # `_present` looked at it
    preconditions = client.V1Preconditions(uid=found.metadata.uid)
    try:
        api.delete_namespaced_secret(
            str(found.metadata.name),
            namespace,
            body=client.V1DeleteOptions(preconditions=preconditions),
            _request_timeout=CALL_TIMEOUT_S,
        )
    except ApiException as error:
        if error.status not in (_NOT_FOUND, _CONFLICT):
            raise
        return "is not there"
    return "deleted"


def _read(api: client.CoreV1Api, namespace: str, name: str) -> client.V1Secret | None:
    try:
        return api.read_namespaced_secret(name, namespace, _request_timeout=CALL_TIMEOUT_S)
    except ApiException as error:
        if error.status == _NOT_FOUND:
            return None
        raise


def _present(found: client.V1Secret) -> Present:
    labels = found.metadata.labels if found.metadata else None
    return Present(frozenset(found.data or {}), labels or {})


def _encoded(entries: Mapping[str, str]) -> dict[str, str]:
    return {name: base64.b64encode(value.encode()).decode() for name, value in entries.items()}


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form KEY=VALUE")
    return key, value


_FORBIDDEN, _NOT_FOUND, _CONFLICT = 403, 404, 409
