"""Bench files of kind arm: reading, resuming and errors. The measurements themselves need an idle machine and are not run here."""

import json
from pathlib import Path

import pytest

from ebt_policy.cli.measure import bench
from ebt_policy.errors import UserError
from ebt_policy.eval.benchmarks import arm_bench as benches
from ebt_policy.eval.benchmarks.arm_config import ArmBench, read_arm_bench
from ebt_policy.eval.benchmarks.bench_file import bench_kind
from ebt_policy.eval.report.report import Table


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "bench.yaml"
    path.write_text("kind: arm\nepisodes: 3\nparts: [parity, thinking]\n")
    return path


def test_a_file_says_its_kind(file: Path, tmp_path: Path):
    configs = Path(__file__).parents[3] / "configs"
    kinds = {path.stem: bench_kind(path) for path in configs.glob("bench_*.yaml")}
    assert kinds["bench_pusht"] is None and bench_kind(tmp_path / "none.yaml") is None
    for kind in ("arm", "faults", "monitor", "server"):
        assert kinds[f"bench_{kind}"] == kind
    assert bench_kind(file) == "arm"


def test_a_kind_that_nobody_knows_is_refused(file: Path):
    file.write_text("kind: amr\n")
    with pytest.raises(UserError, match="'amr'.*monitor, server, faults, arm"):
        bench(file)


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
    file.write_text("kind: arm\nepisodes: 4\nparts: [parity]\n")
    benches.arm_bench(file, tmp_path / "out")
    assert measured[2:] == ["parity"]


def test_rates_and_differences_carry_their_intervals():
    assert benches._rate([True] * 9 + [False]) == ("90.0% [59.6%, 98.2%]", "10")
    assert benches._difference([True, True, False], [True, False, False]).startswith("+33.3 [")
