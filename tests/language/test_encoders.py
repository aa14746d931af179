"""Encoders by name, and what is said where one cannot be used."""

import numpy as np
import pytest

from ebt_policy.errors import UserError
from ebt_policy.language import encoders
from ebt_policy.language.encoders import check_name, encode, similarity


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
