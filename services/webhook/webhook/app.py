"""The composition root of the webhook service: builds everything in reading order, and nothing else does."""

from __future__ import annotations

from functools import partial

from pydantic import SecretStr

from chassis import subjects
from chassis.chassis import Chassis
from chassis.keys import ApiKeys
from chassis.reload import follow_configuration
from chassis.run import ServiceApp
from webhook.clients import DeadLetters, ProgressRecords, Sender
from webhook.core.guard import networks
from webhook.core.targets import Target
from webhook.metrics import WebhookMetrics
from webhook.runner import Dispatcher, Lost, TargetRunner
from webhook.settings import WebhookSettings


async def build(settings: WebhookSettings, chassis: Chassis) -> ServiceApp:
    """One replica; any number of them share the work."""
    metrics = WebhookMetrics(chassis.metrics)
    sender = Sender(networks(settings.allowed_networks), settings.timeout_s, settings.in_flight)
    progress = ProgressRecords(await chassis.kv(subjects.WEBHOOK_PROGRESS))
    dead = DeadLetters(chassis.bus)

    keys = ApiKeys(
        settings.api_keys, settings.api_key_projects, lambda: chassis.clock.wall_ms() / 1000
    )

    def key_of(target: Target) -> tuple[str, SecretStr] | None:
        name = target.api_key or settings.api_key
        if not name:
            return keys.signing(target.project)
        secret = keys.get(name)
        return None if secret is None else (name, secret)

    def make_runner(target: Target, lost: Lost) -> TargetRunner:
        return TargetRunner(
            target,
            partial(key_of, target),
            settings.policy,
            chassis.bus,
            sender,
            progress,
            dead,
            chassis.clock,
            metrics,
            lost,
        )

    dispatcher = Dispatcher(
        settings.node_id,
        await chassis.kv(subjects.WEBHOOK_SHARDS),
        chassis.clock,
        metrics,
        make_runner,
    )

    async def aim(now: WebhookSettings) -> None:
        await dispatcher.aim({target.id: target for target in now.targets})

    chassis.health.tell("targets", lambda: _told(dispatcher))
    return ServiceApp(
        "webhook",
        chassis,
        tasks=[
            dispatcher.run,
            partial(keys.follow_files, settings),
            partial(follow_configuration, settings, aim),
            partial(keys.follow_bucket, partial(chassis.kv, subjects.KEYS)),
        ],
        before=[partial(aim, settings)],
        after=[dispatcher.close, sender.close],
    )


def _told(dispatcher: Dispatcher) -> str:
    down = sum(runner.delivery.is_down for runner in dispatcher.runners)
    waiting = sum(runner.delivery.waiting for runner in dispatcher.runners)
    return f"{len(dispatcher.runners)} ({down} silent), {waiting} facts waiting"
