"""What a subscriber should have received, and did."""

from loadtest.figures import MediaFigures
from loadtest.meter import GRACE_S, Meter, TrackCount

RATES = {"audio": 50.0, "video": 100.0}


def test_the_first_reading_and_a_new_track_count_nothing() -> None:
    meter = Meter(RATES)
    assert meter.read([TrackCount(1, "audio", 500, 3)], 10.0) == MediaFigures()
    later = [TrackCount(1, "audio", 550, 3), TrackCount(2, "video", 40, 0)]
    assert meter.read(later, 11.0) == MediaFigures(expected=50.0, received=50)


def test_silence_of_a_track_that_had_packets_is_missed_at_once() -> None:
    meter = Meter(RATES)
    meter.read([TrackCount(1, "video", 10, 0)], 0.0)
    figures = meter.read([TrackCount(1, "video", 10, 0)], 2.0)
    assert figures == MediaFigures(expected=200.0)
    assert figures.received_percent == 0.0


def test_a_track_that_never_sends_is_missed_after_the_grace() -> None:
    meter = Meter(RATES)
    silent = [TrackCount(1, "audio", 0, 0)]
    meter.read(silent, 0.0)
    assert meter.read(silent, GRACE_S) == MediaFigures()
    assert meter.read(silent, GRACE_S + 1) == MediaFigures(expected=50.0)


def test_loss_is_the_change_and_may_fall() -> None:
    meter = Meter(RATES)
    meter.read([TrackCount(1, "audio", 10, 4)], 0.0)
    assert meter.read([TrackCount(1, "audio", 60, 6)], 1.0).lost == 2
    assert meter.read([TrackCount(1, "audio", 112, 5)], 2.0).lost == -1


def test_a_track_that_went_and_a_track_that_came_in_its_place_are_two() -> None:
    meter = Meter(RATES)
    meter.read([TrackCount(1, "audio", 10, 0)], 0.0)
    assert meter.read([TrackCount(2, "audio", 90, 0)], 1.0) == MediaFigures()
