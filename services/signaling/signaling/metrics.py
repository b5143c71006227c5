"""Every metric of signaling."""

from chassis.telemetry import Meter


class Metrics:
    """Counters of the front door; names are stable, labels are few and never personal."""

    def __init__(self, meter: Meter) -> None:
        self.sockets_accepted = meter.create_counter("roomwright_signaling_sockets_accepted")
        self.sockets_too_slow = meter.create_counter("roomwright_signaling_sockets_too_slow")
        self.joins_refused = meter.create_counter("roomwright_signaling_joins_refused")
        self.bad_frames = meter.create_counter("roomwright_signaling_bad_frames")
