"""The node's metrics: the media core's totals under stable names."""

from pathlib import Path

from chassis.telemetry import Metrics
from sfu.metrics import DROPPED, WITHHELD, SfuMetrics

SOURCES = Path(__file__).parents[3] / "media"


def test_totals_of_the_media_core_are_shown_as_they_are_now() -> None:
    metrics, totals = Metrics(), {"packets_in": 5, "stun_unknown": 2, "muted": 1}
    SfuMetrics(metrics).read_media(lambda: totals)
    totals["stun_unknown"] = 3
    lines = metrics.render().splitlines()
    assert 'roomwright_sfu_media_datagrams_total{direction="in"} 5' in lines
    assert 'roomwright_sfu_media_dropped_total{reason="stun_unknown"} 3' in lines
    assert 'roomwright_sfu_media_dropped_total{reason="rtp_malformed"} 0' in lines
    assert 'roomwright_sfu_media_withheld_total{reason="muted"} 1' in lines
    assert 'roomwright_sfu_media_panics_total{part="engine"} 0' in lines


def test_every_name_is_one_that_the_media_core_counts() -> None:
    sources = [SOURCES / "core/src/stats.rs", SOURCES / "driver/src/counters.rs"]
    text = "".join(path.read_text() for path in sources)
    named = (*DROPPED, *WITHHELD, "packets_in", "packets_out", "protocol_panics")
    assert [name for name in named if f'"{name}"' not in text] == []
