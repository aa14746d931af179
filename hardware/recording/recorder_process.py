"""The process behind `Recorder`: takes messages from a pipe and writes episodes until the pipe ends."""

from __future__ import annotations

import contextlib
import errno
import os
import pickle
import shutil
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import av.logging

from ebt_policy.errors import UserError
from ebt_policy.hardware.recording.episode_writer import DatasetSpec, EpisodeWriter

NICENESS = 5  # the control loop has priority


def record(
    source: Connection,
    answers: Connection,
    open_writer: Callable[[DatasetSpec], EpisodeWriter],
    spec: DatasetSpec,
) -> None:
    """Answers (kind, detail): ready once; saved, short, discarded or failed for each end of an episode; failed also when it
    happens in between. After a failure it reads and drops all messages, so that the sender never waits for room in the pipe.
    """
    # Ctrl-C, a terminal that closes and a service that stops reach all processes; this one ends when the pipe does, and so the
    # episode that its parent ends on these signals is saved.
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):  # Windows has no SIGHUP
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    os.environ.setdefault("SVT_LOG", "1")  # the AV1 encoder would write into the operator's terminal
    av.logging.set_libav_level(av.logging.WARNING)  # so would FFmpeg, of each video
    if hasattr(os, "nice"):
        os.nice(NICENESS)

    def answer(kind: str, detail: str = "") -> None:
        with contextlib.suppress(
            OSError
        ):  # nobody listens any more; finished episodes are saved nevertheless
            answers.send((kind, detail))

    writer: EpisodeWriter | None = None
    try:
        writer = open_writer(spec)
        answer("ready")
    except Exception as error:
        answer("failed", _reason(error, spec.root))
    while (message := _received(source)) is not None:
        kind, *arguments = message
        ends = kind in ("save", "discard")
        if writer is None:
            if ends:
                answer("failed", "recording has failed before")
            continue
        failure = None
        try:
            result = _handle(writer, kind, arguments)
        except Exception as error:
            failure = _reason(error, spec.root)
        if failure is not None:  # after the block, when the error no longer keeps objects alive
            answer("failed", failure)
            writer.close()
            writer = None
        elif ends:
            answer(*result)
    if writer is not None:
        writer.close()


def _handle(writer: EpisodeWriter, kind: str, arguments: list[Any]) -> tuple[str, str]:
    if kind == "add":
        writer.add(*arguments)
    elif kind == "note":
        writer.note(*arguments)
    elif kind == "discard":
        writer.discard()
        return "discarded", ""
    elif kind == "save":
        index = writer.save(*arguments)
        return ("short", "less than two frames") if index is None else ("saved", f"episode {index}")
    return "taken", ""


def _received(source: Connection) -> tuple[Any, ...] | None:
    """The next message, or None when there will be none: the recorder is closed or its process is dead.

    Only the parent process can write into this pipe, so unpickling is safe.
    """
    try:
        header, buffers = source.recv()
        return pickle.loads(header, buffers=[source.recv_bytes() for _ in range(buffers)])
    except (EOFError, OSError):
        return None


def _reason(error: Exception, root: Path) -> str:
    if isinstance(error, UserError):
        return str(error)
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if full or "No space left" in str(error):
        with contextlib.suppress(OSError):
            free = shutil.disk_usage(Path(root).parent).free / 1e6
            return (
                f"The disk under {root} is full ({free:.0f} MB free), so recording has ended. Finished episodes are safe. "
                "Free space and start again; episodes are appended."
            )
    return f"Recording has ended ({type(error).__name__}: {error}). Finished episodes are safe in {root}."
