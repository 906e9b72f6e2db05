"""Options: what is honoured is in range, what is refused is named, and requests to the engine obey the same rule."""

import math
import threading
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from layerroute.engine.config import EngineConfig
from layerroute.engine.request import GenerationRequest, Sampling
from layerroute.errors import RequestError, shown, suggesting
from layerroute.options import CallOptions, EngineOptions, canonical, read

HUGE = 10**5000  # Python refuses to spell it
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["\ud800", "full", "sequence"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def in_range(options: CallOptions) -> bool:
    counts = {"top_k": (0, 2**63), "seed": (0, 2**63), "max_tokens": (1, 2**63), "max_tool_calls": (1, 129)}
    for name, (least, end) in counts.items():
        value = getattr(options, name)
        assert value is None or (type(value) is int and least <= value < end)
    assert type(options.temperature) is float
    assert 0 <= options.temperature <= 100
    assert options.top_p is None or 0 < options.top_p <= 1
    assert options.timeout is None or 0 < options.timeout <= threading.TIMEOUT_MAX
    texts = [options.router, options.program, *(options.stop or ())]
    assert all(text is None or text.encode() for text in texts)
    return options.scope in ("generation", "sequence")


@given(given_=st.dictionaries(st.sampled_from(list(CallOptions.model_fields)), VALUES))
def test_what_is_honoured_is_in_range_and_what_is_refused_is_named(given_: dict[str, Any]):
    options, refusal = None, ""
    try:
        options = read(CallOptions, given_)
    except RequestError as error:
        refusal = str(error)
    if options is None:
        assert any(f"{name} must be" in refusal for name in given_)
        assert len(refusal.splitlines()) == 1
    else:
        assert in_range(options)
        assert all(value is not None or getattr(options, name) is None for name, value in given_.items())


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("temperature", np.float32(0.5), 0.5),
        ("temperature", Fraction(1, 2), 0.5),
        ("temperature", 1, 1.0),
        ("seed", np.int64(7), 7),
        ("seed", torch.tensor(7), 7),
        ("max_tokens", np.uint8(7), 7),
        ("stop", "a", ["a"]),
        ("stop", ("a", "b"), ["a", "b"]),
        ("stop", [], []),
    ],
)
def test_numbers_of_other_libraries_and_single_strings_are_taken(name: str, value: Any, expected: Any):
    taken = getattr(read(CallOptions, {name: value}), name)
    assert (taken, type(taken)) == (expected, type(expected))


def test_a_request_holds_pythons_own_numbers():
    request = GenerationRequest(
        (1,), max_tokens=np.int16(3), sampling=Sampling(Decimal("0.5"), np.int32(4), Fraction(1, 2), np.uint8(7))
    )
    assert repr(request.sampling) == "Sampling(temperature=0.5, top_k=4, top_p=0.5, seed=7)"
    assert type(request.max_tokens) is int


def test_two_names_of_one_option_may_hold_values_that_cannot_be_compared():
    with pytest.raises(RequestError, match="are one option"):
        canonical({"max_tokens": [], "max_completion_tokens": np.int16(3)}, CallOptions.model_fields, "")


@pytest.mark.parametrize(
    "value", [np.bool_(True), np.float64("nan"), Fraction(10**400), HUGE, np.ones(2)], ids=range(5)
)
def test_what_is_no_number_in_range_is_refused(value: Any):
    with pytest.raises(RequestError, match="temperature must be a number from 0"):
        read(CallOptions, {"temperature": value})


def test_several_wrong_options_are_all_named():
    with pytest.raises(RequestError, match=r"top_p must be .*; seed must be "):
        read(CallOptions, {"top_p": 0, "seed": -1})


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Sampling(temperature=math.inf),
        lambda: Sampling(top_p=0.0),
        lambda: Sampling(top_k=-1),
        lambda: Sampling(seed=2**64),
        lambda: GenerationRequest((1,), max_tokens=math.nan),  # type: ignore[arg-type]
        lambda: GenerationRequest((1,), stop=("",)),
        lambda: GenerationRequest((1,), stop="ab"),  # type: ignore[arg-type]
        lambda: GenerationRequest((1,), router=5),  # type: ignore[arg-type]
        lambda: GenerationRequest((1,), program=""),
        lambda: GenerationRequest((1,), scope="all"),  # type: ignore[arg-type]
        lambda: EngineConfig(model=["embedded"]),  # type: ignore[arg-type]
        lambda: EngineConfig(context_window="512"),  # type: ignore[arg-type]
    ],
)
def test_requests_and_configurations_obey_the_same_rule(wrong: Any):
    with pytest.raises(RequestError, match="must be"):
        wrong()


def test_the_defaults_of_an_engine_are_those_of_its_options():
    config = EngineConfig()
    assert {name: getattr(config, name) for name in EngineOptions.model_fields} == EngineOptions().model_dump()


def test_names_are_made_canonical_or_refused():
    known = CallOptions.model_fields
    assert canonical({"max_completion_tokens": 5, "seed": 1}, known, "") == {"max_tokens": 5, "seed": 1}
    assert canonical({"max_completion_tokens": 5, "max_tokens": 5}, known, "") == {"max_tokens": 5}
    for one, other in ((5, None), (True, 1)):
        with pytest.raises(RequestError, match=f"{one} is not {other}: give one"):
            canonical({"max_tokens": one, "max_completion_tokens": other}, known, "")
    with pytest.raises(RequestError, match=r"unknown option 'sed' \(did you mean 'seed'\?\): no such thing"):
        canonical({"sed": 1}, known, "no such thing")


def test_foreign_values_are_shown_short_and_on_one_line():
    class Shy:
        def __repr__(self) -> str:
            raise ZeroDivisionError

    assert shown(HUGE) == "this int"
    assert shown(Shy()) == "this Shy"
    assert shown("a\nb") == r"'a\nb'"
    assert shown("x" * 1000) == f"'{'x' * 39}... (1002 characters)"
    assert suggesting("x" * 10**6, ["router"]) == f"'{'x' * 39}... (1000002 characters)"
