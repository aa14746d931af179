"""The bench of the policy server: its file is checked, its figures follow from the times, and it runs against LeRobot's server."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from ebt_policy.errors import UserError
from ebt_policy.eval.benchmarks.served_bench import Line, _summary, load_server_bench, server_bench

SHIPPED = Path(__file__).resolve().parents[3] / "configs" / "bench_server.yaml"


def test_the_shipped_file_is_valid_and_has_a_hundred_thousand_messages():
    config = load_server_bench(SHIPPED)
    assert config.mutated + config.invented + config.large == 100_000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decisons": 3}, "unknown key 'decisons'. Did you mean 'decisions'"),
        ({"decisions": "many"}, "expected 'decisions' to be like 1000, found 'many'"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, change: dict, message: str):
    path = tmp_path / "bench.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(SHIPPED.read_text()) | change))
    with pytest.raises(UserError, match=message):
        load_server_bench(path)


def test_figures_are_those_of_the_times():
    ours = np.arange(1.0, 102.0)
    found = _summary(Line("x", ours.tolist(), (2 * ours).tolist()))
    assert (found["n"], found["ours_p50"], found["ours_p99"]) == (101, 51.0, 100.0)
    assert (found["quotient"], found["ours_first"]) == (2.0, 1.0)
    assert found["ours_per_second"] == pytest.approx(1e3 / 51) == 2 * found["lerobot_per_second"]


@pytest.mark.slow
def test_a_small_bench_runs_against_lerobots_server(tmp_path: Path):
    pytest.importorskip("grpc")
    path = tmp_path / "small.yaml"
    small = {
        "decisions": 5,
        "warm_up": 2,
        "mutated": 50,
        "invented": 10,
        "large": 4,
        "frames": 5,
        "handshakes": 5,
    }
    path.write_text(yaml.safe_dump({"kind": "server", "image_size": [48, 64]} | small))
    report = server_bench(path, tmp_path / "out")
    assert "Round trip of a decision" in report.read_text()
    record = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [len(line["ours"]) for line in record["latency"]] == [5, 5, 5]
    assert record["malformed"]["alive"] and record["run"]["versions"]["grpcio"]
