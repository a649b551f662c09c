"""Public docstrings are complete: one sentence, shapes, what is raised, the source, and for a verb an example that is run."""

from __future__ import annotations

import inspect
import re

import pytest

strobe = pytest.importorskip("strobe.api") and pytest.importorskip("strobe")
pytestmark = pytest.mark.torch

VERBS = ("append", "attention", "attention_state", "explain", "merge", "run")
TYPES = sorted(name for name in strobe.__all__ if inspect.isclass(getattr(strobe, name)))
HOLD_ARRAYS = ("Alibi", "Blocks", "Dense", "Documents", "Packed", "Paged", "Prefix", "Ranged", "Rotary", "Scaled", "Sink", "Tree")


def words(name: str) -> str:
    return inspect.getdoc(getattr(strobe, name)) or ""


def test_a_name_is_a_verb_a_type_or_the_context() -> None:
    assert sorted([*VERBS, *TYPES, "using"]) == sorted(strobe.__all__)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("part", ["Args:", "Raises:", "Error:", "Source:", ">>> "])
def test_a_verb_has_every_part(verb: str, part: str) -> None:
    assert any(line.strip().startswith(part) for line in words(verb).splitlines()), f"{verb} has no {part}"


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "append"])
def test_a_verb_says_what_it_returns(verb: str) -> None:
    assert "\nReturns:" in words(verb)


@pytest.mark.parametrize("verb", VERBS)
def test_the_parts_stand_in_one_order(verb: str) -> None:
    places = [words(verb).find(part) for part in ("Args:", "Returns:", "Raises:", "Error:", "Source:", ">>> ")]
    found = [place for place in places if place >= 0]
    assert found == sorted(found)


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_names_every_parameter(verb: str) -> None:
    section = words(verb).split("Args:")[1].split("\nRaises:")[0].split("\nReturns:")[0]
    told = set(re.findall(r"\w+", "\n".join(line.split(":")[0] for line in section.splitlines())))
    assert not set(inspect.signature(getattr(strobe, verb)).parameters) - told


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_shows_shapes_and_a_formula(verb: str) -> None:
    has_shapes = re.search(r"`\[[A-Z.…]", words(verb))
    assert has_shapes or verb in ("explain", "run"), f"{verb} has no shapes"
    assert "\n    " in words(verb).split("Args:")[0], f"{verb} has no formula"


@pytest.mark.parametrize("name", strobe.__all__)
def test_the_first_line_is_a_sentence(name: str) -> None:
    sentence = words(name).split("\n\n")[0]
    assert sentence[0].isupper() or sentence.startswith("`")
    assert sentence.rstrip()[-1] in ".:)"


@pytest.mark.parametrize("name", HOLD_ARRAYS)
def test_a_type_that_holds_arrays_says_their_shapes(name: str) -> None:
    assert re.search(r"`\[[^\]]+\]", words(name)), f"{name} has no shapes"


@pytest.mark.parametrize("name", ["Alibi", "Dropout", "Rotary", "Sink", "SoftCap"])
def test_a_term_names_its_source(name: str) -> None:
    assert re.search(r"arXiv:\d{4}\.\d{5}|et al\.|gpt-oss", words(name))
