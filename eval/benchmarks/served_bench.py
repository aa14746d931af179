"""`ebt-policy bench` on a file of kind server: robustness and latency of the policy server.

    <output>/report.md, results.json, server.log

Latency is compared with LeRobot's asynchronous inference (`lerobot_async`). Both servers run at the same time, each with one
torch thread, and one client asks them in turn with the same observations, so both have the same load on the machine.
"""

from __future__ import annotations

import importlib.metadata
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ebt_policy.errors import UserError
from ebt_policy.eval.benchmarks.bench_file import record
from ebt_policy.eval.report.report import Table
from ebt_policy.provenance import run_record, write_atomic, write_json

_PACKAGES = ("msgspec", "websockets", "grpcio", "protobuf", "hypothesis")
_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class ServerBench:
    """policy: the served policy. env: its observations come from episodes of it. decisions: measured for each line of the
    table, after warm_up. image_size: (H, W) of the two pictures in the line with pictures. mutated, invented, large, frames,
    handshakes: numbers of malformed messages of each kind (see hardware/emulation/malformed.py).
    """

    policy: str = "shipped:pusht_keypoints_ebt"
    env: str = "pusht_keypoints"
    decisions: int = 1000
    warm_up: int = 50
    image_size: tuple[int, int] = (480, 640)
    mutated: int = 80_000
    invented: int = 19_800
    large: int = 200
    frames: int = 5_000
    handshakes: int = 5_000
    seed: int = 0


@dataclass(frozen=True)
class Line:
    """Round trip times in ms of the same decisions by both servers, in the order of the requests."""

    name: str
    ours: Sequence[float]
    lerobots: Sequence[float]


def load_server_bench(path: Path) -> ServerBench:
    """Read a file of kind `server`. Raises UserError naming an unknown key or a value of another type."""
    data: dict[str, Any] = yaml.safe_load(path.read_text())
    data.pop("kind")
    config, usual = record(ServerBench, data, str(path)), ServerBench()
    for name in data:
        value, like = getattr(config, name), getattr(usual, name)
        if type(value) is not type(like):
            raise UserError(f"{path}: expected '{name}' to be like {like!r}, found {value!r}.")
    return config


def server_bench(path: Path, output: Path | None = None) -> Path:
    """Run the bench and print its tables; returns the path of report.md. Raises UserError for missing packages."""
    config = load_server_bench(path)
    folder = (output or Path("runs") / path.stem).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        from ebt_policy.hardware.emulation import malformed, server_fuzzing
    except ModuleNotFoundError as missing:
        raise UserError(
            f"This bench needs {missing.name}: pip install 'lerobot_policy_ebt[serve]' psutil"
        ) from None
    from ebt_policy.eval.benchmarks.lerobot_async import check_installed

    check_installed()
    print(f"Inventing and damaging {config.mutated + config.invented + config.large:,} messages", flush=True)
    messages: dict[str, Sequence[bytes]] = {
        "mutation": malformed.damaged_messages(config.mutated, random.Random(config.seed)),
        "hypothesis": malformed.generated_messages(config.invented),
        "16 MiB and more": malformed.large_messages(config.large),
    }
    # Latency first: it is the shorter part.
    lines = _latency(config, folder)
    print(_latency_table(lines).markdown(), flush=True)
    fuzzed = server_fuzzing.fuzz_server(messages, config.frames, config.handshakes, folder, config.seed)
    tables = [_latency_table(lines), _fuzz_table(fuzzed, server_fuzzing.CAP_MIB)]
    print(tables[1].markdown())
    record = run_record()
    record["versions"] |= {name: importlib.metadata.version(name) for name in _PACKAGES}
    write_json(
        folder / "results.json",
        {
            "config": asdict(config),
            "latency": [asdict(line) | {"summary": _summary(line)} for line in lines],
            "malformed": asdict(fuzzed),
            "run": record,
        },
    )
    details = {
        "Policy": config.policy,
        "Command": record["command"],
        "Commit": record["git"] or "not a checkout",
        "Started": record["started"],
        "Machine": f"{record['machine']['cores']} cores",
        "Versions": ", ".join(f"{name} {version}" for name, version in record["versions"].items()),
    }
    head = "# Policy server\n\n" + "".join(f"- {name}: {value}\n" for name, value in details.items())
    write_atomic(folder / "report.md", "\n".join([head, *(table.markdown() for table in tables)]))
    return folder / "report.md"


# -- latency -----------------------------------------------------------------------------------------------------------
def _latency(config: ServerBench, folder: Path) -> list[Line]:
    from ebt_policy.hardware.emulation.server_fuzzing import Constant
    from ebt_policy.hardware.remote.wire import Feature

    seen = _observations(config)
    draw = np.random.default_rng(config.seed)
    shape = (3, *config.image_size)
    pictures = [
        {
            "observation.images.front": draw.integers(0, 256, shape, np.uint8),
            "observation.images.wrist": draw.integers(0, 256, shape, np.uint8),
        }
        for _ in range(8)
    ]
    filmed = [frame | pictures[i % 8] for i, frame in enumerate(seen)]
    vectors = {name: Feature(value.shape, "float32") for name, value in seen[0].items()}
    cameras = {name: Feature(shape, "uint8") for name in pictures[0]}
    height, width = config.image_size
    return [
        _line(config, folder, "EBT, state", partial(_served, config.policy), config.policy, seen),
        _line(config, folder, "No policy, state", partial(Constant, vectors), None, seen),
        _line(
            config,
            folder,
            f"No policy, state and 2 pictures {width} × {height}",
            partial(Constant, vectors | cameras),
            None,
            filmed,
        ),
    ]


def _line(
    config: ServerBench,
    folder: Path,
    name: str,
    make: Callable[[], Any],
    policy: str | None,
    observations: Sequence[Mapping[str, np.ndarray]],
) -> Line:
    """Run both servers at once and ask them in turn, in alternating order."""
    from ebt_policy.eval.benchmarks import lerobot_async
    from ebt_policy.hardware.emulation.server_fuzzing import child, serve_until_closed
    from ebt_policy.hardware.remote.client import RemotePolicy

    with (
        child(serve_until_closed, make, folder / "server.log") as (port, _),
        RemotePolicy(f"ws://127.0.0.1:{port}") as ours,
    ):
        ticks = ours.welcome.n_action_steps
        with child(lerobot_async.serve_until_closed, policy, ticks, folder) as (other, _):
            theirs = lerobot_async.LeRobotClient(other, observations[0], ticks)
            times: tuple[list[float], list[float]] = ([], [])
            for i in range(config.warm_up + config.decisions):
                observation = observations[i % len(observations)]
                for which in (0, 1) if i % 2 else (1, 0):
                    if which:
                        spent, actions = theirs.decide(observation)
                    else:
                        if policy is not None:  # the ticks that execute the last actions
                            for _ in range(ticks - 1):
                                ours.observe(observation)
                        reply = ours.decide(observation, _TIMEOUT_S)
                        spent, actions = reply.round_trip_s, reply.actions
                    if len(actions) != ticks:
                        raise UserError(
                            f"{name}: expected {ticks} actions of both servers, found {len(actions)}."
                        )
                    if i >= config.warm_up:
                        times[which].append(spent * 1e3)
            theirs.close()
    return Line(name, *times)


def _served(policy: str) -> Any:
    """In the server's process: the policy of `ebt-policy serve`."""
    import torch

    from ebt_policy.hardware.planners.served import ServedRunner
    from ebt_policy.inference.runner import load_runner

    torch.set_num_threads(1)
    return ServedRunner(load_runner(policy))


def _observations(config: ServerBench) -> list[dict[str, np.ndarray]]:
    """The observations of all decisions in some episodes: {feature: array without batch or time}. They are reused if the
    bench needs more.
    """
    from ebt_policy.eval.rollout.one_thread import one_thread
    from ebt_policy.eval.rollout.rollout import rollout
    from ebt_policy.inference.runner import load_runner

    runner = load_runner(config.policy)
    found: list[dict[str, np.ndarray]] = []

    def note(observations: dict[str, np.ndarray], *_: Any) -> None:
        found.append({name: observations[name][0, -1].astype(np.float32) for name in runner.needs})

    wanted = config.warm_up + config.decisions
    with one_thread():
        for seed in range(config.seed, config.seed + 20):
            rollout(runner, config.env, [seed], on_decision=note)
            if len(found) >= wanted:
                break
    return found


# -- tables ------------------------------------------------------------------------------------------------------------
def _summary(line: Line) -> dict[str, float]:
    """Median and 99th percentile in ms, decisions per second one after the other, and the median ratio of paired times."""
    found: dict[str, float] = {"n": len(line.ours)}
    for name, times in (("ours", line.ours), ("lerobot", line.lerobots)):
        found |= {f"{name}_p{q}": float(np.percentile(times, q)) for q in (50, 99)}
        found[f"{name}_per_second"] = 1e3 / float(np.mean(times))
    found["quotient"] = float(np.median(np.divide(line.lerobots, line.ours)))
    found["ours_first"] = float(np.mean(np.less(line.ours, line.lerobots)))
    return found


def _latency_table(lines: Sequence[Line]) -> Table:
    rows = []
    for line in lines:
        s = _summary(line)
        rows.append(
            (
                line.name,
                f"{s['n']:.0f}",
                *(f"{s[f'{who}_p50']:.2f} / {s[f'{who}_p99']:.2f}" for who in ("ours", "lerobot")),
                *(f"{s[f'{who}_per_second']:.0f}" for who in ("ours", "lerobot")),
                f"{s['quotient']:.2f}",
                f"{s['ours_first']:.0%}",
            )
        )
    return Table(
        (
            "Served",
            "n",
            "Ours p50 / p99, ms",
            "LeRobot p50 / p99, ms",
            "Ours, decisions/s",
            "LeRobot, decisions/s",
            "LeRobot / ours, median of pairs",
            "Ours faster in",
        ),
        tuple(rows),
        "Round trip of a decision on loopback",
        (
            "From the observation in the client to the actions in the client. Both servers run at once and are asked in turn "
            "on the same observations. LeRobot's server has the policy put in by the bench, with its wait of 1/30 s and its log "
            "off; without a policy it neither prepares the observation nor post-processes.",
        ),
    )


def _fuzz_table(found: Any, cap: float) -> Table:
    trips = found.round_trips_ms or [float("nan")]
    sent = sum(found.sent.values())
    rows = (
        *((f"sent: {name}", f"{count:,}") for name, count in found.sent.items()),
        ("answered with a Fault that says so", f"{found.faults:,} of {sent:,}"),
        ("with the end of the connection", f"{found.closed:,}"),
        ("without answer within 20 s", f"{found.unanswered:,}"),
        ("server alive at the end, and decides", "yes" if found.alive and found.decided_at_the_end else "NO"),
        ("errors in its log", f"{found.errors_logged:,}"),
        ("controller lost its server", f"{len(found.losses)} times"),
        ("its decisions meanwhile", f"{found.decisions - found.without_decision:,} of {found.decisions:,}"),
        ("their round trip p50 / p99", f"{np.percentile(trips, 50):.1f} / {np.percentile(trips, 99):.1f} ms"),
        (
            "controllers that send malformed messages",
            f"{found.seats - found.seats_refused:,} of {found.seats:,}",
        ),
        ("not at the first try, within 2 s", f"{found.seats_waited_for - found.seats_refused:,}"),
        ("memory before / after", f"{found.memory_before:.0f} / {found.memory_after:.0f} MiB"),
        ("memory at most", f"{found.memory_peak:.0f} MiB, {found.memory_peak - found.memory_before:+.0f}"),
        ("cap on its growth: 8 messages of 16 MiB, 3 times each", f"{cap:.0f} MiB"),
        ("memory at 0, 10, ... 100 % of the time", " ".join(f"{m:.0f}" for m in found.memory_course)),
        ("time", f"{found.seconds / 60:.1f} min"),
    )
    return Table(("Malformed messages", "Found"), rows, "What the server survives")
