"""A fault lasts from the last success to the next one, and a hold until both ways work."""

from ebt_policy.hardware.control.bus_faults import READ, SEND, BusFaults


def test_a_fault_is_counted_from_the_last_success():
    bus = BusFaults()
    assert bus.works(READ, 1.0) is None and not bus.failing(READ)
    assert bus.failed(READ, 1.5) == (True, 0.5)
    assert bus.failed(READ, 2.0) == (False, 1.0)
    assert bus.failing(READ) and not bus.failing(SEND)
    assert bus.works(READ, 3.0) == 2.0 and not bus.failing(READ)


def test_a_hold_ends_once_when_both_ways_work():
    bus = BusFaults()
    bus.failed(READ, 0.0)
    bus.failed(SEND, 0.0)
    bus.held = True
    bus.works(READ, 1.0)
    assert not bus.over() and bus.held
    bus.works(SEND, 1.0)
    assert bus.over() and not bus.held and not bus.over()
