"""The animated picture of the README: a PushT and an ALOHA episode in real time, with the energy of every plan under them.

    python docs/tools/animation.py             # plays both episodes, writes docs/episodes.webp

The shipped policies play the seeds below. Played episodes stay in runs/animation and are read from there the next time.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from ebt_policy.eval.rollout import timeline
from ebt_policy.eval.rollout.evaluate import evaluate
from ebt_policy.eval.rollout.video import decode

WHOLE = (0.0, 0.0, 1.0, 1.0)  # left, top, right, bottom as shares of the picture
EPISODES = (  # title, policy, environment, seed, part of the picture to show
    ("PushT", "shipped:pusht_keypoints_ebt", "pusht_keypoints", 100_002, WHOLE),
    (
        "ALOHA TransferCube",
        "shipped:aloha_transfer_cube_ebt",
        "aloha_transfer_cube",
        100_000,
        (0.18, 0.2, 0.84, 0.86),
    ),
)
FRAMES_PER_SECOND = 10
PICTURE = (320, 240)  # width, height of an episode's picture
GRAPH_HEIGHT = 110
GAP = 12
BACKGROUND, INK, FAINT, LINE = "#ffffff", "#222222", "#d9d9d9", "#0072b2"


@dataclass(frozen=True)
class Played:
    """An episode and its picture after every control period, uint8 (H, W, 3)."""

    title: str
    episode: timeline.Timeline
    pictures: Sequence[np.ndarray]
    shown: tuple[float, float, float, float]

    @property
    def seconds(self) -> float:
        return self.episode.ticks / self.episode.fps


def play(
    title: str, policy: str, env: str, seed: int, shown: tuple[float, float, float, float], folder: Path
) -> Played:
    """The recorded episode in `folder`; it is played first where it is not there yet."""
    path = folder / f"{env}_{seed}.json"
    if not path.is_file():
        evaluate(policy, env, 1, seed, processes=1, latency=False, record=[seed], episodes_folder=folder)
    episode = timeline.read(path)
    return Played(title, episode, list(decode(timeline.video_of(path, episode))), shown)


def draw_frame(played: Played, seconds: float) -> Image.Image:
    """One column of the animation at a time of the episode; after its end, its last picture."""
    episode = played.episode
    tick = min(round(seconds * episode.fps), episode.ticks)
    width, height = PICTURE
    column = Image.new("RGB", (width, 22 + height + GRAPH_HEIGHT), BACKGROUND)
    draw = ImageDraw.Draw(column)
    draw.text((2, 2), played.title, INK, _font(14))
    if tick == episode.ticks and episode.success:
        draw.text((width - 2, 2), "solved", "#117733", _font(14), anchor="ra")
    picture = Image.fromarray(played.pictures[min(tick, len(played.pictures) - 1)])
    left, top, right, bottom = played.shown
    picture = picture.crop(
        (
            round(left * picture.width),
            round(top * picture.height),
            round(right * picture.width),
            round(bottom * picture.height),
        )
    )
    picture = ImageOps.contain(picture, PICTURE, Image.Resampling.LANCZOS)
    column.paste(picture, ((width - picture.width) // 2, 22 + (height - picture.height) // 2))
    _draw_energy(draw, episode, tick, 22 + height)
    return column


def _draw_energy(draw: ImageDraw.ImageDraw, episode: timeline.Timeline, tick: int, top: int) -> None:
    """Before each decision so far, the energy of the last plan under what is seen then, on a logarithmic axis."""
    left, right, above, below = 42, PICTURE[0] - 4, top + 18, top + GRAPH_HEIGHT - 8
    energies = [e for d in episode.decisions if (e := d.old_plan_energy)]
    low, high = math.floor(math.log10(min(energies))), math.ceil(math.log10(max(energies)))

    def x(at: int) -> float:
        return left + (right - left) * at / episode.ticks

    def y(energy: float) -> float:
        return below - (below - above) * (math.log10(energy) - low) / (high - low)

    draw.text((left, top + 2), "energy of the last plan under what is seen", INK, _font(11))
    for exponent in range(low, high + 1):
        draw.line((left, y(10.0**exponent), right, y(10.0**exponent)), FAINT)
        draw.text((left - 4, y(10.0**exponent)), f"{10.0**exponent:g}", INK, _font(10), anchor="rm")
    ends = [*(d.tick for d in episode.decisions[1:]), episode.ticks]
    for decision, end in zip(episode.decisions, ends, strict=True):
        energy = decision.old_plan_energy
        if decision.tick > tick or not energy:
            continue
        draw.line((x(decision.tick), y(energy), x(min(end, tick)), y(energy)), LINE, 3)
    draw.line((x(tick), above, x(tick), below), INK)


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def draw_animation(episodes: Sequence[Played]) -> list[Image.Image]:
    """All columns side by side, until the longest episode has ended and two seconds on."""
    frames = []
    seconds = max(played.seconds for played in episodes)
    for index in range(math.ceil((seconds + 2) * FRAMES_PER_SECOND)):
        columns = [draw_frame(played, index / FRAMES_PER_SECOND) for played in episodes]
        width = sum(c.width for c in columns) + GAP * (len(columns) + 1)
        frame = Image.new("RGB", (width, columns[0].height + GAP), BACKGROUND)
        for i, column in enumerate(columns):
            frame.paste(column, (GAP + i * (column.width + GAP), GAP // 2))
        frames.append(frame)
    return frames


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "episodes.webp")
    parser.add_argument("--recordings", type=Path, default=Path("runs/animation"))
    options = parser.parse_args()
    frames = draw_animation([play(*episode, options.recordings) for episode in EPISODES])
    frames[0].save(
        options.output,
        save_all=True,
        append_images=frames[1:],
        duration=round(1000 / FRAMES_PER_SECOND),
        loop=0,
        quality=70,
        method=4,
    )
    print(f"{options.output}: {len(frames)} frames, {options.output.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
