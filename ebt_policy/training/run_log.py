"""What a run shows and writes while it trains: progress bar, metrics.jsonl, TensorBoard."""

import json
import math
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ebt_policy.provenance import write_atomic
from ebt_policy.training.recipe import TrainRecipe
from ebt_policy.training.tracker import Tracker, start_tracker

METRICS = "metrics.jsonl"
FORECAST_STEPS = 5, 20  # timed for the forecast: after the first ones, which compile and warm up
FORECAST_SECONDS = 60.0  # with fewer of them, where they take long
LONG_HOURS = 2.0  # a training that takes longer is told how to be faster
PLAIN_LINE_SECONDS = 30.0  # between lines where there is no terminal to draw a bar on


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Rows of a run's metrics.jsonl, oldest first; without a last line that a crash cut short."""
    path = Path(run) / METRICS
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


class RunLog:
    """A context manager around the training loop. `quiet`: neither show nor write (other ranks)."""

    def __init__(
        self, run: Path, recipe: TrainRecipe, start: int = 0, quiet: bool = False, faster: str = ""
    ) -> None:
        """start: the step that the training continues from. faster: what to tell where the training will take hours."""
        self.run, self.recipe, self.start, self.quiet = run, recipe, start, quiet
        self.steps, self.batch_size = recipe.steps, recipe.batch_size
        self.console, self.faster = Console(quiet=quiet), faster
        self._timed_from: tuple[int, float] | None = None  # step and time; the forecast is still to come
        self._forecast_made = False
        self._sums: dict[str, float] = defaultdict(float)
        self._count = 0
        self._writer: Any = None
        self._tracker: Tracker | None = None

    def __enter__(self) -> Self:
        self._row_step, self._row_time = self.start, time.perf_counter()
        self._last_line = self._row_time
        if not self.quiet:
            from torch.utils.tensorboard import SummaryWriter

            # Rows after the checkpoint belong to the part of the run that is about to be repeated.
            kept = [row for row in read_metrics(self.run) if row["step"] <= self.start]
            write_atomic(self.run / METRICS, "".join(json.dumps(row) + "\n" for row in kept))
            self._file = open(self.run / METRICS, "a")
            self._writer = SummaryWriter(str(self.run / "log"), purge_step=self.start + 1)
            self._tracker = start_tracker(self.run, self.recipe)
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            refresh_per_second=2,  # drawing takes milliseconds that the training steps would miss
            disable=self.quiet or not self.console.is_terminal,
        )
        self._task = self._bar.add_task("training", total=self.steps, completed=self.start, rate="")
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
        if not self.quiet:
            self._file.close()
            self._writer.close()
            if self._tracker:
                self._tracker.finish()

    def step(self, step: int, values: dict[str, Any]) -> None:
        """Counts one training step; `values` are averaged until the next `row` (none for a step left out)."""
        for name, value in values.items():
            self._sums[name] += value
        self._count += bool(values)
        self._bar.update(self._task, completed=step)
        self._forecast(step)
        # Between rows only where steps take long.
        if time.perf_counter() - self._last_line > PLAIN_LINE_SECONDS and step < self.steps and self._count:
            self._show(step, float(self._sums.get("loss", math.nan)) / self._count)

    def _forecast(self, step: int) -> None:
        """Says once, after some steps, how long the training takes, and what would be faster where that is hours."""
        now, (skipped, timed) = time.perf_counter(), FORECAST_STEPS
        if self._forecast_made or step < self.start + min(skipped, 1 + (self.steps - self.start) // 4):
            return
        if self._timed_from is None:
            self._timed_from = step, now
            return
        steps, seconds = step - self._timed_from[0], now - self._timed_from[1]
        if steps < timed and seconds < FORECAST_SECONDS:
            return
        self._forecast_made = True
        hours = (self.steps - step) * seconds / steps / 3600
        if hours * 3600 > PLAIN_LINE_SECONDS:
            self.console.print(
                forecast(hours, steps * self.batch_size / seconds, self.faster),
                soft_wrap=True,
                highlight=False,
            )

    def row(self, step: int, seconds: float, extra: dict[str, float]) -> None:
        """Writes one row: the averages since the last one, and `extra` as it is."""
        means = {name: float(total) / self._count for name, total in self._sums.items()}
        self._sums.clear()
        self._count = 0
        values = means | extra
        self._show(step, values.get("loss", math.nan))
        self._row_step, self._row_time = step, time.perf_counter()
        if self.quiet:
            return
        row = {"step": step, "samples": step * self.batch_size, "seconds": round(seconds, 3)} | values
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._writer.add_scalar(f"train/{name}", value, step)
        if self._tracker:
            self._tracker.log({f"train/{name}": value for name, value in values.items()}, step)

    def _show(self, step: int, loss: float) -> None:
        """Loss and speed beside the bar; without a terminal as a line, at most one each PLAIN_LINE_SECONDS."""
        now = time.perf_counter()
        rate = (step - self._row_step) / (now - self._row_time)
        speed = f"{rate:.1f} steps/s" if rate >= 1 else f"{1 / rate:.1f} s/step"
        text = f"loss {loss:.4f}  {speed}  {rate * self.batch_size:,.{0 if rate > 1 else 1}f} samples/s"
        self._bar.update(self._task, rate=text)
        if now - self._last_line > PLAIN_LINE_SECONDS or step == self.steps:
            self._last_line = now
            if not self.console.is_terminal:
                left = (self.steps - step) / rate / 60
                self.console.print(f"step {step}/{self.steps}  {text}  {left:.1f} min left", highlight=False)


def forecast(hours: float, rate: float, faster: str) -> str:
    """How long the training takes at `rate` samples a second, in a line."""
    left = f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.0f} minutes"
    text = f"About {left} left at {rate:,.0f} samples/s."
    return text + (f" Faster: {faster}." if hours > LONG_HOURS and faster else "")
