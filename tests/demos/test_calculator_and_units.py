"""Calculator and conversions: right where Python or the definitions say so, an error in words everywhere else."""

import math
from fractions import Fraction

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from langchain_layerroute.front_desk.arithmetic import MAX_BITS, calculator, evaluate
from langchain_layerroute.front_desk.currency import convert_currency, rate_table
from langchain_layerroute.front_desk.replies import DeskError
from langchain_layerroute.front_desk.units import UNIT_NAMES, convert_units, find_unit

NUMBERS = st.one_of(
    st.integers(0, 10**6).map(str),
    st.floats(0.001, 1e6, allow_nan=False).map(lambda number: f"{number:.3f}"),
)


def combine(children):
    binary = st.tuples(children, st.sampled_from(["+", "-", "*", "/", "//", "%"]), children).map(" ".join)
    return st.one_of(binary, binary.map("({})".format), children.map("-({})".format))


EXPRESSIONS = st.recursive(NUMBERS, combine, max_leaves=8).filter(lambda text: len(text) <= 200)


@settings(deadline=None)
@given(EXPRESSIONS)
def test_calculator_agrees_with_python(expression):
    try:
        expected = eval(expression)
    except ZeroDivisionError:
        with pytest.raises(DeskError, match="division by zero"):
            evaluate(expression)
        return
    assert evaluate(expression) == expected
    assume(abs(expected) < 1e15)
    shown = calculator(expression)["result"]
    assert math.isclose(shown, expected, rel_tol=1e-3, abs_tol=1e-12)
    assert isinstance(shown, int) or shown != int(shown)


@settings(deadline=None)
@given(st.integers(-50, 50), st.integers(0, 60))
def test_powers_agree_with_python(base, exponent):
    assert evaluate(f"({base}) ** {exponent}") == base**exponent == evaluate(f"({base}) ^ {exponent}")


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("12 * 7", 84),
        ("84 / 2", 42),
        ("10 / 3", 3.3333),
        ("0.1 + 0.2", 0.3),
        ("260 * 15 / 100", 39),
        ("2 ** -1", 0.5),
        ("1 / 30000", 3.333e-05),
        ("2 ^ 3 + 1", 9),
        ("6 ÷ 4 × 2", 3),
        ("10 ** 30 + 1", 10**30 + 1),
        (" (2 + 3)*4 ", 20),
    ],
)
def test_results_are_rounded_for_people(expression, result):
    shown = calculator(expression)["result"]
    assert shown == result
    assert type(shown) is type(result)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("1 / 0", "division by zero"),
        ("5 % 0", "division by zero"),
        ("0 ** -1", "division by zero"),
        ("9 ** 9 ** 9", "too large"),
        ("9.9 ** 9999", "too large"),
        ("1e308 * 10", "too large"),
        ("(2 ** 4000) * (2 ** 4000)", "too large"),
        ("2 ** -99999999", "too large"),
        ("(-8) ** 0.5", "not a real number"),
        ("", "cannot read"),
        ("2 +", "cannot read"),
        ("1 2", "cannot read"),
        ("\x00", "cannot read"),
        ("(" * 150 + "1", "cannot read"),
        ("1 + " * 60 + "1", "longer than"),
        ("x + 1", "only numbers"),
        ("True + 1", "only numbers"),
        ("'a' * 9", "only numbers"),
        ("1j * 1j", "only numbers"),
        ("1 << 9", "only numbers"),
        ("1 < 2", "only numbers"),
        ("[1] * 99", "only numbers"),
        ("abs(-1)", "only numbers"),
        ("__import__('os').getcwd()", "only numbers"),
        ("(1).__class__", "only numbers"),
        ("(lambda: 1)()", "only numbers"),
    ],
)
def test_what_is_no_arithmetic_is_refused(expression, message):
    with pytest.raises(DeskError, match=message):
        calculator(expression)


@settings(deadline=None)
@given(st.text(max_size=40))
def test_any_text_gives_a_number_or_a_refusal(text):
    try:
        result = evaluate(text)
    except DeskError:
        return
    assert isinstance(result, float) or abs(result).bit_length() <= MAX_BITS


def dimension_of(name):
    return find_unit(name).dimension


@settings(deadline=None)
@given(st.sampled_from(UNIT_NAMES), st.sampled_from(UNIT_NAMES), st.floats(1, 1000).map(lambda value: round(value, 2)))
def test_converting_there_and_back(one, other, value):
    if dimension_of(one) != dimension_of(other):
        with pytest.raises(DeskError, match="cannot convert"):
            convert_units(value, one, other)
        return
    there = convert_units(value, one, other)
    assert there["unit"] == other
    assume(abs(there["result"]) >= 1)
    back = convert_units(there["result"], other, one)
    spread = abs(convert_units(there["result"] + 0.001, other, one)["result"] - back["result"])  # one unit of rounding
    assert math.isclose(back["result"], value, rel_tol=1e-3, abs_tol=0.002 + spread)


@pytest.mark.parametrize(
    ("value", "source", "target", "result"),
    [
        (5, "km", "mi", 3.107),
        (26.2, "mi", "km", 42.165),
        (1, "mi", "ft", 5280),
        (180, "C", "F", 356),
        (-40, "F", "C", -40),
        (0, "K", "C", -273.15),
        (81, "kg", "lb", 178.574),
        (5, "gal", "l", 18.927),
        (72, "in", "cm", 182.88),
        (1, "gal", "cup", 16),
        (90, "min", "h", 1.5),
        (100, "km/h", "mph", 62.137),
        (1, "ha", "m2", 10000),
        (1, "GiB", "MiB", 1024),
        (1, "MB", "bit", 8_000_000),
        (1, "mm", "km", 1e-06),
    ],
)
def test_known_conversions(value, source, target, result):
    assert convert_units(value, source, target) == {"result": result, "unit": target}


RELATIONS = """1 km = 1000 m; 1 m = 100 cm; 1 m = 1000 mm; 1 in = 2.54 cm; 1 ft = 12 in; 1 yd = 3 ft; 1 mi = 1760 yd
1 nmi = 1.852 km; 1 kg = 1000 g; 1 g = 1000 mg; 1 t = 1000 kg; 1 lb = 16 oz; 1 st = 14 lb; 1 lb = 453.59237 g
1 l = 10 dl; 1 l = 100 cl; 1 l = 1000 ml; 1 m3 = 1000 l; 1 gal = 4 qt; 1 qt = 2 pt; 1 pt = 2 cup; 1 cup = 8 floz
1 floz = 2 tbsp; 1 tbsp = 3 tsp; 1 gal = 3.785411784 l; 1 s = 1000 ms; 1 min = 60 s; 1 h = 60 min; 1 d = 24 h
1 wk = 7 d; 1 m/s = 3.6 km/h
1 mph = 1.609344 km/h; 1 kn = 1.852 km/h; 1 ft/s = 0.3048 m/s; 1 km2 = 100 ha; 1 ha = 10000 m2
1 m2 = 10000 cm2; 1 acre = 43560 ft2; 1 mi2 = 640 acre; 1 ft2 = 929.0304 cm2; 1 B = 8 bit; 1 KB = 1000 B; 1 MB = 1000 KB
1 GB = 1000 MB; 1 TB = 1000 GB; 1 KiB = 1024 B; 1 MiB = 1024 KiB; 1 GiB = 1024 MiB"""


@pytest.mark.parametrize("relation", [part.strip() for line in RELATIONS.splitlines() for part in line.split(";")])
def test_factors_are_exact(relation):
    _, one, _, count, other = relation.split()
    assert find_unit(one).factor == Fraction(count) * find_unit(other).factor


SPELLINGS = {
    "km": ["Kilometers", "KM"],
    "m": ["metre", "meters"],
    "mi": ["mile", "miles"],
    "ft": ["foot", "feet"],
    "in": ["inches"],
    "lb": ["pounds", "lbs"],
    "kg": ["kilos"],
    "C": ["degrees Celsius", "°C"],
    "F": ["fahrenheit"],
    "l": ["litres", "L"],
    "floz": ["fluid ounces", "fl oz"],
    "cup": ["cups"],
    "m2": ["square meters", "m²"],
    "acre": ["acres"],
    "km/h": ["kph"],
    "mph": ["miles per hour"],
    "h": ["hours"],
    "d": ["days"],
    "GiB": ["gib"],
}


@pytest.mark.parametrize(("spelling", "name"), [(text, name) for name, texts in SPELLINGS.items() for text in texts])
def test_long_names_and_plurals(spelling, name):
    assert find_unit(spelling).name == name


@pytest.mark.parametrize("name", UNIT_NAMES)
def test_every_short_name_means_itself(name):
    assert find_unit(name).name == name


@pytest.mark.parametrize(
    ("value", "source", "target", "message"),
    [
        (1, "parsec", "km", "unknown unit parsec"),
        (1, "", "km", "unknown unit"),
        (1, "kg", "km", r"cannot convert mass \(kg\) to length \(km\)"),
        (-300, "C", "F", "absolute zero"),
        (math.inf, "km", "m", "finite"),
        (math.nan, "km", "m", "finite"),
        (1e308, "km", "mm", "too large"),
    ],
)
def test_conversions_that_cannot_be(value, source, target, message):
    with pytest.raises(DeskError, match=message):
        convert_units(value, source, target)


def test_currency_by_hand():
    rates = rate_table().rates
    assert convert_currency(100, "usd", " eur ") == {"result": 92.41, "currency": "EUR", "rate_date": "2026-11-20"}
    assert convert_currency(7.5, "CHF", "CHF")["result"] == 7.5
    assert convert_currency(10, "GBP", "JPY")["result"] == round(10 / float(rates["GBP"]) * float(rates["JPY"]), 2)


def test_the_rate_table_is_dated_based_on_the_euro_and_plausible():
    table = rate_table()
    assert table.date == "2026-11-20"
    assert table.rates["EUR"] == 1
    assert len(table.rates) >= 30
    assert all(len(code) == 3 and code.isupper() and rate > 0 for code, rate in table.rates.items())


@pytest.mark.parametrize(
    ("amount", "source", "target", "message"),
    [
        (1, "XXX", "EUR", "unknown currency XXX"),
        (1, "EUR", "euro", "unknown currency euro"),
        (math.nan, "EUR", "USD", "finite"),
    ],
)
def test_currencies_that_cannot_be(amount, source, target, message):
    with pytest.raises(DeskError, match=message):
        convert_currency(amount, source, target)
