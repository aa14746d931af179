"""Sentences -> vectors, by the name of the encoder. All are frozen: nothing here is trained.

Legend: N sentences, D size of a vector.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ebt_policy.errors import UserError
from ebt_policy.extras import missing_extra
from ebt_policy.suggestions import did_you_mean

Vectors = NDArray[np.float32]

TASK = "task"  # LeRobot's key of the sentence
OBS_TASK = "observation.task"  # what a policy sees of the sentence
STATIC, TABLE, IGNORE, HUB = "static", "table", "ignore", "hub:"
NAMES = (STATIC, TABLE, IGNORE, f"{HUB}<sentence-transformers id>")


def check_name(name: str) -> None:
    """Raises ValueError unless `name` is an encoder, or `ignore`."""
    with_id = name.startswith(HUB) and name.removeprefix(HUB).strip(" /")
    if name not in (STATIC, TABLE, IGNORE) and not with_id:
        raise ValueError(
            f"task_encoder is {name!r};{did_you_mean(name, [STATIC, TABLE, IGNORE])} expected one of {', '.join(NAMES)}."
        )


def is_closed(name: str) -> bool:
    """Whether the encoder knows the sentences of its training only."""
    return name == TABLE


def has_static() -> bool:
    """Whether the package with the word vectors of `static` is installed."""
    return importlib.util.find_spec("wordllama") is not None


def encode(name: str, sentences: Sequence[str]) -> Vectors:
    """Vectors (N, D) with a root mean square of 1 each. For `table` the i-th sentence is the i-th one-hot vector.

    Raises UserError where the package or the weights of the encoder are missing, or a sentence has no words.
    """
    if is_closed(name):
        return np.eye(len(sentences), dtype=np.float32) * np.float32(np.sqrt(len(sentences)))
    embed = _static() if name == STATIC else _hub(name.removeprefix(HUB))
    vectors = np.asarray(embed([sentence.strip() or "." for sentence in sentences]), np.float32)
    size = np.sqrt(np.square(vectors).mean(1, keepdims=True))
    return vectors / np.maximum(size, 1e-8)


def similarity(vectors: Vectors, others: Vectors) -> NDArray[np.float32]:
    """Cosines (N, M) of vectors (N, D) and others (M, D)."""
    lengths = np.linalg.norm(vectors, axis=1)[:, None] * np.linalg.norm(others, axis=1)
    return vectors @ others.T / np.maximum(lengths, 1e-8)


@cache
def _static() -> Callable[[list[str]], Any]:
    """Mean of the word vectors that come with the package wordllama (256 numbers, MIT licence); needs no network.

    The files are read directly: importing the package changes the logging of the whole program.
    """
    found = importlib.util.find_spec("wordllama")
    if found is None or found.origin is None:
        raise missing_extra("wordllama", "task_encoder=static")
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer

    folder = Path(found.origin).parent
    words = load_file(folder / "weights" / "l2_supercat_256.safetensors")["embedding.weight"]  # (words, 256)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizers" / "l2_supercat_tokenizer_config.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()

    def embed(sentences: list[str]) -> Vectors:
        tokens = [one.ids for one in tokenizer.encode_batch(sentences, add_special_tokens=False)]
        return np.stack([words[np.minimum(ids, len(words) - 1)].astype(np.float32).mean(0) for ids in tokens])

    return embed


@cache
def _hub(model_id: str) -> Callable[[list[str]], Any]:
    """A model of the library sentence-transformers, from its cache or the Hugging Face Hub."""
    if importlib.util.find_spec("sentence_transformers") is None:
        raise UserError(
            f"task_encoder=hub:{model_id} needs sentence-transformers, which is not installed: pip install "
            "sentence-transformers. Or use task_encoder=static, which needs no network."
        )
    library: Any = importlib.import_module(
        "sentence_transformers"
    )  # no dependency of ours, so unknown to type checkers

    try:
        model = library.SentenceTransformer(model_id, device="cpu")
    except Exception as error:  # of the network, the Hub, or the files of the model
        cause = str(error).strip().splitlines()[0]
        raise UserError(
            f"task_encoder=hub:{model_id}: the model cannot be loaded. Is the name right, and is there a network? Or use "
            f"task_encoder=static. Cause: {cause}"
        ) from error
    return partial(model.encode, show_progress_bar=False)  # it has one while LeRobot logs
