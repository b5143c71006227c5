"""All services in one process, joined by gRPC over loopback, beside a private nats-server.

The services are the same apps that run alone elsewhere: each has its own settings and its own
connection to NATS. What it is not: a second way of doing anything.
"""

from __future__ import annotations

import asyncio
import errno
import importlib
import os
import secrets
import shutil
import socket
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from pydantic import SecretStr, ValidationError

from chassis import subjects
from chassis.chassis import Chassis, open_chassis
from chassis.configuration import Configuration
from chassis.errors import SettingsError
from chassis.run import observe, on_signals, settings_error_text
from chassis.settings import ChassisSettings
from chassis.tokens import Grants, VideoGrant, sign
from roomwright import nats_server
from roomwright.dev_settings import DevSettings
from roomwright.errors import CommandError
from roomwright.nats_server import NatsServer, NatsServerError

ROOM: Final = "demo"
TOKEN_LIFE_S: Final = 6 * 3600.0
NODE_WAIT_S: Final = 10.0
DRAIN_S: Final = 5.0  # for those who want to say goodbye; a developer waits no longer

Say = Callable[[str], None]


async def run(settings: DevSettings, say: Say) -> None:
    """Start everything, print how to use it, and serve until SIGINT or SIGTERM.

    Raises `CommandError` when something cannot start, or ended by itself.
    """
    stop = asyncio.Event()
    task = asyncio.current_task()
    assert task is not None
    forced = False

    def force() -> None:
        nonlocal forced
        forced = True
        task.cancel()

    on_signals(stop, force)
    try:
        async with AsyncExitStack() as stack:
            await _serve(settings, stack, stop, say)
    except asyncio.CancelledError:
        if not forced:
            raise
    except (SettingsError, NatsServerError) as error:
        raise CommandError(str(error)) from None
    except ValidationError as error:
        raise CommandError(settings_error_text(error)) from None


async def _serve(
    settings: DevSettings, stack: AsyncExitStack, stop: asyncio.Event, say: Say
) -> None:
    for warning in settings.configuration.warnings:
        say(warning)
    hosts = usable_addresses(settings)
    require_free_ports(settings, hosts)
    nats = await nats_server.start(settings.data_dir.absolute() / "nats")
    stack.push_async_callback(nats.stop)
    say(f"nats-server   {nats.url}, data in {settings.data_dir}")
    shared = shared_settings(settings, nats)

    told = settings.configuration
    placement = await _start(stack, "placement", shared | {"grpc_address": "127.0.0.1:0"}, told)
    placed = {"placement_address": placement.app.grpc_address}
    say(f"placement     {placement.app.grpc_address}")

    sfu = await _start(
        stack,
        "sfu",
        shared
        | placed
        | media_settings(settings, hosts)
        | {"spool_directory": settings.data_dir.absolute() / "spool"}
        # SDKs test themselves with faults on demand; beyond loopback strangers could ask for them.
        | ({"simulate_allowed": True} if settings.is_local else {}),
        told,
    )
    await _wait_until_known(sfu)
    say(f"sfu           media on UDP port {settings.udp_port} and TCP port {settings.tcp_port}")

    webhook = await _start(
        stack,
        "webhook",
        shared
        # Receivers run on the developer's own machine.
        | {"allowed_networks": _LOCAL_NETWORKS}
        | ({"urls": settings.webhook_urls} if settings.webhook_urls else {}),
        told,
    )
    if settings.webhook_urls:
        say(f"webhook       tells {', '.join(settings.webhook_urls)}")

    signaling = await _start(
        stack,
        "signaling",
        shared
        | placed
        | {
            "http_addresses": tuple(_host_port(host, settings.port) for host in hosts),
            "web_directory": web_directory(settings),
        },
        told,
    )
    # Before signaling closes: everybody is told why while their sockets still work.
    stack.push_async_callback(sfu.app.end_calls)
    say(f"signaling     {', '.join(_host_port(host, settings.port) for host in hosts)}")
    services = {"placement": placement, "sfu": sfu, "webhook": webhook, "signaling": signaling}
    for name, service in services.items():
        say(f"metrics       http://{service.app.health_address}/metrics of {name}")
    _say_how_to_use(settings, hosts, say)

    running = [signaling, webhook, sfu, placement]
    await _until_stopped(running, nats, stop)
    # Signaling's own drain sends clients to other replicas, and there is none.
    await _drain([sfu, placement], sfu.app.node.participants, say)


async def _drain(running: list[_Running], participants: int, say: Say) -> None:
    """Let those in calls leave for a while; at once when there is nobody."""
    if participants:
        who = "1 participant" if participants == 1 else f"{participants} participants"
        say(f"waiting {DRAIN_S:g} s for {who} to leave; Ctrl-C again ends their calls now")
    try:
        async with asyncio.timeout(DRAIN_S):
            await asyncio.gather(*(service.app.drain() for service in running))
    except TimeoutError:
        say("ending the calls")


@dataclass(frozen=True, slots=True)
class _Running:
    app: Any
    chassis: Chassis


async def _start(
    stack: AsyncExitStack, name: str, values: dict[str, Any], configuration: Configuration
) -> _Running:
    """Build and start one service; it is closed when the stack is."""
    try:
        # Imported here so that `roomwright token` and --help need no service.
        build = importlib.import_module(f"{name}.app").build
        settings_module = importlib.import_module(f"{name}.settings")
    except ImportError as error:
        raise CommandError(f"{name} cannot be loaded: {error}; `make setup` installs it") from error
    settings_class = getattr(settings_module, f"{name.capitalize()}Settings")
    configured = configuration.of(name, settings_class.model_fields)
    settings: ChassisSettings = settings_class(**(configured | values))
    # A task of its own, so that each service's logs and traces carry its own name.
    return await asyncio.create_task(_start_named(stack, name, settings, build))


async def _start_named(
    stack: AsyncExitStack, name: str, settings: ChassisSettings, build: Any
) -> _Running:
    stack.callback(observe(name, settings))
    chassis = await stack.enter_async_context(open_chassis(settings))
    app = await build(settings, chassis)
    stack.push_async_callback(app.close)
    await app.start()
    return _Running(app, chassis)


async def _wait_until_known(sfu: _Running) -> None:
    """Until the node's first heartbeat is stored: a join before that would find no node."""
    nodes = await sfu.chassis.kv(subjects.NODES)
    try:
        async with asyncio.timeout(NODE_WAIT_S):
            async for change in nodes.watch(sfu.chassis.settings.node_id):
                if getattr(change, "key", None) == sfu.chassis.settings.node_id:
                    return
    except TimeoutError:
        raise CommandError("the sfu did not register in time; see the log") from None


async def _until_stopped(services: list[_Running], nats: NatsServer, stop: asyncio.Event) -> None:
    """Until `stop`; `CommandError` when a service or nats-server ends before."""
    stopping = asyncio.ensure_future(stop.wait())
    nats_ended = asyncio.ensure_future(nats.wait())
    failures = [service.app.failed for service in services if getattr(service.app, "failed", None)]
    try:
        await asyncio.wait({stopping, nats_ended, *failures}, return_when=asyncio.FIRST_COMPLETED)
        if nats_ended.done():
            raise CommandError(f"nats-server ended by itself (status {nats_ended.result()})")
        for failure in failures:
            if failure.done():
                raise CommandError(f"a service failed: {failure.exception()}; see the log")
    finally:
        stopping.cancel()
        nats_ended.cancel()


def shared_settings(settings: DevSettings, nats: NatsServer) -> dict[str, Any]:
    """What every service is told; the secrets among it live as long as this process."""
    return {
        "nats_url": nats.url,
        "nats_user": nats.user,
        "nats_password": SecretStr(nats.password),
        "internal_token": SecretStr(_PROCESS_TOKEN),
        "api_keys": dict(settings.keys),
        "dev_keys": settings.is_local or settings.insecure_dev_keys,
        "otlp_endpoint": settings.otlp_endpoint or None,
        "otlp_sample_ratio": 1.0,
    }


def media_settings(settings: DevSettings, hosts: list[str]) -> dict[str, Any]:
    """Where the media engine listens, and what clients are told."""
    wildcard = any(host in ("0.0.0.0", "::") for host in hosts)
    node_ip = settings.node_ip or (own_address() if wildcard else "")
    return {
        "udp_addresses": tuple(_host_port(host, settings.udp_port) for host in hosts),
        "tcp_addresses": tuple(_host_port(host, settings.tcp_port) for host in hosts),
        "node_ip": node_ip,
    }


def usable_addresses(settings: DevSettings) -> list[str]:
    """The addresses to listen on; of the default ones, those this machine has."""
    if not settings.binds_by_default:
        return list(settings.bind)
    return [host for host in settings.bind if _bind_error(host, 0, socket.SOCK_STREAM) is None]


def require_free_ports(settings: DevSettings, hosts: list[str]) -> None:
    """Say which port is in use, and the flag that moves it, before anything starts."""
    wanted = [
        (settings.port, socket.SOCK_STREAM, "--port"),
        (settings.tcp_port, socket.SOCK_STREAM, "--tcp-port"),
        (settings.udp_port, socket.SOCK_DGRAM, "--udp-port"),
    ]
    for port, kind, flag in wanted:
        for host in hosts:
            error = _bind_error(host, port, kind)
            if error is None:
                continue
            name = "UDP" if kind == socket.SOCK_DGRAM else "TCP"
            if error.errno == errno.EADDRINUSE:
                raise CommandError(
                    f"{name} port {port} on {host} is in use: stop what uses it, or move with {flag}"
                )
            raise CommandError(f"cannot listen on {host}, {name} port {port}: {error.strerror}")


def own_address() -> str:
    """The address this machine sends from; `CommandError` when it has no route anywhere."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Nothing is sent: connecting a datagram socket only chooses a source address.
            probe.connect(("192.0.2.1", 9))
        except OSError:
            raise CommandError(
                "this machine's address cannot be found: give it with --node-ip"
            ) from None
        return str(probe.getsockname()[0])


def web_directory(settings: DevSettings) -> Path | None:
    """The built page: as told, else of the checkout this package stands in, when it is there."""
    if settings.web_dir is not None:
        if not (settings.web_dir / "index.html").is_file():
            raise CommandError(f"--web-dir {settings.web_dir}: there is no index.html")
        return settings.web_dir
    built = Path(__file__).resolve().parents[2] / "web" / "dist"
    return built if (built / "index.html").is_file() else None


def make_token(settings: DevSettings, identity: str) -> str:
    """A token for the demo room, signed with the first key."""
    key, secret = next(iter(settings.keys.items()))
    video = VideoGrant(room_join=True, room=ROOM, can_update_own_metadata=True)
    return sign(Grants(identity=identity, name=identity, video=video), key, secret, TOKEN_LIFE_S)


def page_link(http_url: str, ws_url: str, token: str) -> str:
    """The page's link; what follows `#` never leaves the browser, so no log can have it."""
    return f"{http_url}/app/#" + urlencode({"url": ws_url, "token": token})


def _say_how_to_use(settings: DevSettings, hosts: list[str], say: Say) -> None:
    host = settings.node_ip or next(
        own_address() if host in ("0.0.0.0", "::") else host for host in hosts
    )
    place = _host_port("localhost" if settings.is_local else host, settings.port)
    say("")
    say(f"URL    ws://{place}")
    say(f"keys   {', '.join(settings.keys)}")
    say(f"token  {make_token(settings, 'ann')}")
    say(f"       (room {ROOM!r}, identity 'ann', for 6 hours)")
    same = "" if "devkey" in settings.keys else ", and the --keys or --config given here"
    say(f"       (others: {_own_command()} token --room {ROOM} --identity NAME{same})")
    if web_directory(settings) is None:
        say("page   not built: `make setup` builds it")
    else:
        for identity in ("ann", "ben"):
            token = make_token(settings, identity)
            say(f"page   {page_link(f'http://{place}', f'ws://{place}', token)}")
        say("       (one link per browser tab)")
    say("")


def _own_command() -> str:
    """How the person at the terminal can call this program again."""
    if shutil.which("roomwright"):
        return "roomwright"
    called = Path(sys.argv[0])
    return os.path.relpath(called) if called.name == "roomwright" else "python -m roomwright"


def _bind_error(host: str, port: int, kind: socket.SocketKind) -> OSError | None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, kind) as probe:
            if kind == socket.SOCK_STREAM:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind((host, port))
    except OSError as error:
        return error
    return None


def _host_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


_LOCAL_NETWORKS: Final = (
    "127.0.0.0/8",
    "::1/128",
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
)
_PROCESS_TOKEN: Final = secrets.token_urlsafe(32)
