"""`ebt-policy bench configs/bench_faults.yaml`: injects faults, and reports reaction, time, and commands beyond a limit."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from ebt_policy import provenance
from ebt_policy.hardware.emulation import fault_bus
from ebt_policy.hardware.emulation.fault_list import CASES, END, ERROR, GO_ON, HOLD, REMAINDER_S, STOP, Case
from ebt_policy.hardware.emulation.fault_world import (
    ACCELERATION,
    FAULT_AT_S,
    VELOCITY,
    WATCHDOG_S,
    Cell,
    motion,
)

# Time to brake from full speed, plus two ticks to notice the fault and react.
BRAKING_S = VELOCITY / ACCELERATION + 2 / 50
BUS_S = 0.2  # LeRobot's driver retries for so long before it reports that a motor does not answer


@dataclass(frozen=True)
class Row:
    """The result of one case.

    held_s: seconds from the fault until the commands stand still (from the end of the current plan, if it is still followed).
    excess: how far commands went beyond a limit, as a fraction of the limit; None if not measured. told: the first event.
    """

    fault: str
    expected: str
    reaction: str
    held_s: float | None
    allowed_s: float | None
    excess: float | None
    told: str

    @property
    def passed(self) -> bool:
        in_time = self.allowed_s is None or (self.held_s is not None and self.held_s <= self.allowed_s + 1e-6)
        return self.reaction == self.expected and in_time and not self.excess


def run_case(case: Case) -> Row:
    """Runs one episode with one fault."""
    cell = Cell(case.operator)
    outcome = cell.run(case.fault, case.lift, case.lasts)
    since = FAULT_AT_S
    if case.remainder:  # the last plan before the fault is still followed
        plans = [e for e in cell.events if isinstance(e, dict) and e.get("kind") == "plan"]
        useful = [plan["stamp"] for plan in plans if plan["time"] <= FAULT_AT_S + 0.07]
        since = max(since, max(stamp for stamp in useful if stamp <= FAULT_AT_S + 0.1) + REMAINDER_S)
    moved = motion(cell.arm.sent, since, FAULT_AT_S + case.lasts)
    told = [
        f"{event.kind}: {event.detail}"
        for event in cell.events
        if not isinstance(event, dict)
        and event.time >= FAULT_AT_S - 1e-9
        and event.detail != "the episode is over"
    ]
    if outcome.end == "error":
        reaction = ERROR
    elif outcome.end == "quit":
        reaction = END
    elif cell.safe.stopped:
        reaction = STOP
    elif any(text.startswith("hold: ") for text in told) and moved.resumed:
        reaction = HOLD if moved.held_s is not None else GO_ON
    else:
        reaction = GO_ON
    waits = reaction in (HOLD, STOP, ERROR, END)
    allowed = WATCHDOG_S + BRAKING_S + case.delay if waits else None
    return Row(
        case.name,
        case.reaction,
        reaction,
        moved.held_s if waits else None,
        allowed,
        moved.excess,
        told[0] if told else "",
    )


def run_bus_case(case: fault_bus.BusCase) -> Row:
    """Runs one episode in real time on emulated servos. The same filter limits the commands; that is not measured here."""
    run = fault_bus.run_bus_case(case)
    if run.impossible:
        reaction = f"{run.impossible} impossible states reached the policy"
    elif run.outcome.end == "error":
        reaction = ERROR
    elif run.stopped:
        reaction = STOP
    elif any(text.startswith("hold: ") for text in run.told) and run.resumed:
        reaction = HOLD
    else:
        reaction = GO_ON
    waits = reaction in (HOLD, ERROR, STOP)
    allowed = WATCHDOG_S + BRAKING_S + BUS_S if waits else None
    told = run.told[0] if run.told else ""
    return Row(case.name, case.reaction, reaction, run.held_s if waits else None, allowed, None, told)


def fault_bench(config: Path, output: Path | None) -> str:
    """Runs every case; writes report.md and rows.json, and returns the table."""
    folder = output or Path("runs") / config.stem
    folder.mkdir(parents=True, exist_ok=True)
    rows = [run_case(case) for case in CASES]
    try:
        rows += [run_bus_case(case) for case in fault_bus.CASES]
    except ModuleNotFoundError as missing:
        print(f"The bus is left out: {missing}. pip install 'lerobot_policy_ebt[feetech]'")
    text = table(rows)
    provenance.write_atomic(folder / "report.md", text)
    record = provenance.run_record() | {"rows": [asdict(row) | {"passed": row.passed} for row in rows]}
    provenance.write_json(folder / "rows.json", record)
    return text


def table(rows: list[Row]) -> str:
    """Returns the table in Markdown. Times: seconds from the fault, or from the end of the plan that was followed."""
    lines = [
        f"{sum(row.passed for row in rows)} of {len(rows)} as demanded; watchdog {WATCHDOG_S} s, braking from full speed "
        f"{VELOCITY / ACCELERATION:.2f} s. No command beyond position, velocity or acceleration limits in "
        f"{sum(row.excess == 0 for row in rows)} of the {sum(row.excess is not None for row in rows)} in simulated time.",
        "",
        "| fault | reaction | still after | at most | first words | |",
        "|---|---|---:|---:|---|---|",
    ]
    for row in rows:
        held = "" if row.held_s is None else f"{row.held_s:.2f} s"
        allowed = "" if row.allowed_s is None else f"{row.allowed_s:.2f} s"
        verdict = "" if row.passed else f"**expected: {row.expected}**"
        told = row.told.replace("|", "/")
        lines.append(f"| {row.fault} | {row.reaction} | {held} | {allowed} | {told} | {verdict} |")
    return "\n".join(lines) + "\n"
