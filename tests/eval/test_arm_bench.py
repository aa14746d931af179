"""The bench of kind arm: what it reads, keeps and refuses. What it measures is for a machine at rest."""

import json
from pathlib import Path

import pytest

from ebt_policy.errors import UserError
from ebt_policy.eval import arm_bench as benches
from ebt_policy.eval.arm_config import ArmBench, is_arm_bench, is_fault_bench, read_arm_bench
from ebt_policy.eval.report import Table


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "bench.yaml"
    path.write_text("kind: arm\nepisodes: 3\nparts: [parity, thinking]\n")
    return path


def test_a_file_says_its_kind(file: Path, tmp_path: Path):
    assert is_arm_bench(file) and not is_fault_bench(file)
    configs = Path(benches.__file__).parents[1] / "configs"
    assert is_fault_bench(configs / "bench_faults.yaml") and is_arm_bench(configs / "bench_arm.yaml")
    assert not is_arm_bench(configs / "bench_pusht.yaml") and not is_arm_bench(tmp_path / "none.yaml")


def test_an_unknown_option_is_refused_by_name(file: Path):
    assert read_arm_bench(file) == ArmBench(episodes=3, parts=("parity", "thinking"))
    file.write_text("kind: arm\nepisode: 3\n")
    with pytest.raises(UserError, match="'episode'.*episodes"):
        read_arm_bench(file)


def test_parts_that_are_done_are_kept_and_others_done_again(file: Path, tmp_path: Path, monkeypatch):
    measured: list[str] = []

    def stand_in(name: str):
        def measure(bench: ArmBench, folder: Path):
            measured.append(name)
            return Table(("a", "b"), ((name, str(bench.episodes)),)), {"n": bench.episodes}

        return measure

    monkeypatch.setattr(benches, "_parity", stand_in("parity"))
    monkeypatch.setattr(benches, "_thinking", stand_in("thinking"))
    text = benches.arm_bench(file, tmp_path / "out")
    assert measured == ["parity", "thinking"] and "parity" in text and "thinking" in text
    assert benches.arm_bench(file, tmp_path / "out") == text and len(measured) == 2
    assert (tmp_path / "out" / "report.md").read_text() == text
    assert json.loads((tmp_path / "out" / "parity" / "part.json").read_text())["figures"] == {"n": 3}
    benches.arm_bench(file, tmp_path / "out", resume=False)
    assert len(measured) == 4
    file.write_text("kind: arm\nepisodes: 4\nparts: [parity]\n")
    benches.arm_bench(file, tmp_path / "out")
    assert measured[4:] == ["parity"]


def test_rates_and_differences_carry_their_intervals():
    assert benches._rate([True] * 9 + [False]) == ("90.0% [59.6%, 98.2%]", "10")
    assert benches._difference([True, True, False], [True, False, False]).startswith("+33.3 [")
