"""Encoders by name, and what is said where one cannot be used."""

import sys
from collections.abc import Iterator

import numpy as np
import pytest
from two_tasks import LEFT, RIGHT, recipe_for

from ebt_policy.errors import UserError
from ebt_policy.inference.runner import load_runner
from ebt_policy.language import encoders
from ebt_policy.language.encoders import check_name, encode, similarity
from ebt_policy.model.noise import Noise
from ebt_policy.training.train import train

# What is used of sentence-transformers 6.2: a vector of each sentence from letters and their places, so word order counts.
LIBRARY = """
import os, numpy as np
class SentenceTransformer:
    def __init__(self, name, device):
        if not os.path.isdir(name):
            raise OSError(f"No sentence-transformers model found with name {name}.\\nMore.")
    def encode(self, sentences, show_progress_bar=None):
        letters = [np.frombuffer(s.encode(), np.uint8) for s in sentences]
        return np.stack([np.bincount(np.arange(len(x)) * x % 24, minlength=24) / len(x) for x in letters])
"""


@pytest.fixture
def library(tmp_path, monkeypatch) -> Iterator[str]:
    """A stand-in for sentence-transformers is installed, with one model; the model as an encoder."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sentence_transformers.py").write_text(LIBRARY)
    (tmp_path / "model").mkdir()
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.delitem(sys.modules, "sentence_transformers", raising=False)
    encoders._hub.cache_clear()
    yield f"hub:{tmp_path / 'model'}"
    sys.modules.pop("sentence_transformers", None)
    encoders._hub.cache_clear()


@pytest.mark.parametrize("name", ["static", "table"])
def test_vectors_have_unit_size_and_depend_on_their_own_sentence_only(name):
    sentences = ["Open a drawer", "Press a button", "Reach a goal position"]
    vectors = encode(name, sentences)
    np.testing.assert_allclose(np.square(vectors).mean(1), 1, rtol=1e-5)
    if name == "static":
        np.testing.assert_array_equal(encode(name, sentences[1:2]), vectors[1:2])


def test_similar_sentences_have_similar_vectors():
    first, near, far = encode("static", ["Pick up the red cup", "Grab the red cup", "Open a drawer"])
    cosines = similarity(first[None], np.stack([near, far]))[0]
    assert cosines[0] > 0.6 > 0.3 > cosines[1]


@pytest.mark.parametrize("sentence", ["", "  ", "机器人", "a" * 5000])
def test_any_text_has_a_finite_vector(sentence):
    assert np.isfinite(encode("static", [sentence])).all()


@pytest.mark.parametrize("name", ["statik", "hub", "hub:", ""])
def test_an_unknown_name_is_refused(name):
    with pytest.raises(ValueError, match="task_encoder is"):
        check_name(name)


@pytest.mark.parametrize("name", ["static", "table", "ignore", "hub:some/model"])
def test_known_names_are_accepted(name):
    check_name(name)


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    encoders._static.cache_clear()
    monkeypatch.setattr(encoders.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="task_encoder=static needs wordllama.*pip install"):
        encode("static", ["Open a drawer"])
    with pytest.raises(UserError, match="needs sentence-transformers.*task_encoder=static"):
        encode("hub:some/model", ["Open a drawer"])


def test_a_model_of_sentence_transformers_conditions_a_policy_which_then_acts_without_the_library(
    library, two_tasks, tmp_path, monkeypatch
):
    vectors = encode(library, [LEFT, RIGHT])
    assert vectors.dtype == np.float32 and vectors.shape == (2, 24)
    np.testing.assert_allclose(np.square(vectors).mean(1), 1, rtol=1e-5)
    run = train(recipe_for(two_tasks, task_encoder=library), tmp_path / "run")
    with pytest.warns(UserWarning, match=f"most similar one that is: '{RIGHT}'"):
        assert _direction(run, RIGHT + "!") > 0
    monkeypatch.undo()  # the library is gone, as on a robot
    sys.modules.pop("sentence_transformers", None)
    encoders._hub.cache_clear()
    assert _direction(run, LEFT) < 0 < _direction(run, RIGHT)
    with pytest.raises(UserError, match="needs sentence-transformers, which is not installed"):
        _direction(run, "Lift a cup")


def test_a_model_that_cannot_be_loaded_is_named_with_the_cause(library):
    with pytest.raises(
        UserError, match=r"hub:no/model: .*Cause: No sentence-transformers model .* no/model\.$"
    ):
        encode("hub:no/model", [LEFT])


def _direction(run, sentence) -> float:
    """Mean of the first action under a sentence."""
    seen = {"observation.state": np.zeros((1, 1, 2), np.float32), "task": np.array([sentence])}
    return float(load_runner(run).decide(seen, Noise.from_seeds([0])).actions[0, 0].mean())
