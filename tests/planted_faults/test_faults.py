"""Every planted fault still fits the source: its text occurs once, and its tests exist."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import plant


def test_every_fault_can_be_planted() -> None:
    faults = plant.load_faults()
    assert len(faults) >= 40
    for fault in faults:
        source = (plant.ROOT / fault.file).read_text()
        assert fault.planted(source) != source
        assert fault.tests and all(plant.file_of(test).is_file() for test in fault.tests)
