"""The limited log writes few lines, and says how many it left out."""

import logging

from hypothesis import given
from hypothesis import strategies as st

from ebt_policy.hardware.remote.limited_log import LimitedLog


class Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@given(st.lists(st.floats(0, 30), max_size=200), st.integers(1, 5))
def test_no_period_has_more_lines_than_allowed_and_none_goes_uncounted(waits: list[float], lines: int):
    logger, kept, now = logging.Logger("test"), Kept(), 0.0
    logger.addHandler(kept)
    log = LimitedLog(logger, lines=lines, period_s=10.0, clock=lambda: now)
    written: list[float] = []
    for wait in waits:
        now += wait / 10
        before = len(kept.records)
        log("refused %s", now)
        written += [now] * sum("refused" in record.getMessage() for record in kept.records[before:])
    log.close()
    for i, begin in enumerate(written):  # any lines + 1 in a row span more than one period
        assert i < 2 * lines or begin - written[i - 2 * lines] >= 10.0 - 1e-9
    left_out = sum(int(str(r.args[0])) for r in kept.records if r.args and "left out" in r.msg)
    assert len(written) + left_out == len(waits)


def test_a_traceback_is_an_error():
    logger, kept = logging.Logger("test"), Kept()
    logger.addHandler(kept)
    try:
        raise RuntimeError("why")
    except RuntimeError:
        LimitedLog(logger)("failed", exc_info=True)
    assert kept.records[0].levelno == logging.ERROR and kept.records[0].exc_info
