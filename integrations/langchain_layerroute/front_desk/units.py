"""Unit conversion by exact factors: every unit is defined by a rational number of its dimension's base unit."""

import math
from dataclasses import dataclass
from fractions import Fraction

from langchain_layerroute.front_desk.replies import DeskError, Reply, tidy


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit: `base = (value + offset) * factor` in the base unit of its dimension."""

    name: str
    dimension: str
    factor: Fraction
    offset: Fraction = Fraction(0)


# dimension: {short name: (factor, other names)}; factors are the legal definitions, hence exact.
_DEFINITIONS: dict[str, dict[str, tuple[str, str]]] = {
    "length": {
        "mm": ("1/1000", "millimeter millimetre"),
        "cm": ("1/100", "centimeter centimetre"),
        "m": ("1", "meter metre"),
        "km": ("1000", "kilometer kilometre"),
        "in": ("0.0254", "inch inches"),
        "ft": ("0.3048", "foot feet"),
        "yd": ("0.9144", "yard"),
        "mi": ("1609.344", "mile"),
        "nmi": ("1852", "nautical_mile"),
    },
    "mass": {
        "mg": ("1/1000000", "milligram"),
        "g": ("1/1000", "gram gramme"),
        "kg": ("1", "kilogram kilo"),
        "t": ("1000", "tonne"),
        "oz": ("0.028349523125", "ounce"),
        "lb": ("0.45359237", "lbs pound"),
        "st": ("6.35029318", "stone"),
    },
    "volume": {
        "ml": ("1/1000", "milliliter millilitre"),
        "cl": ("1/100", "centiliter centilitre"),
        "dl": ("1/10", "deciliter decilitre"),
        "l": ("1", "liter litre"),
        "m3": ("1000", "m³ cubic_meter cubic_metre"),
        "tsp": ("0.00492892159375", "teaspoon"),
        "tbsp": ("0.01478676478125", "tablespoon"),
        "floz": ("0.0295735295625", "fl_oz fluid_ounce"),
        "cup": ("0.2365882365", ""),
        "pt": ("0.473176473", "pint"),
        "qt": ("0.946352946", "quart"),
        "gal": ("3.785411784", "gallon"),
    },
    "time": {
        "ms": ("1/1000", "millisecond"),
        "s": ("1", "sec second"),
        "min": ("60", "minute"),
        "h": ("3600", "hr hour"),
        "d": ("86400", "day"),
        "wk": ("604800", "week"),
    },
    "speed": {
        "m/s": ("1", "mps meter_per_second metre_per_second meters_per_second metres_per_second"),
        "km/h": ("5/18", "kmh kph kilometers_per_hour kilometres_per_hour"),
        "mph": ("0.44704", "mi/h miles_per_hour"),
        "ft/s": ("0.3048", "feet_per_second"),
        "kn": ("463/900", "knot"),
    },
    "area": {
        "cm2": ("1/10000", "cm² square_centimeter square_centimetre"),
        "m2": ("1", "m² sqm square_meter square_metre"),
        "km2": ("1000000", "km² square_kilometer square_kilometre"),
        "ha": ("10000", "hectare"),
        "ft2": ("0.09290304", "ft² sqft square_foot square_feet"),
        "acre": ("4046.8564224", ""),
        "mi2": ("2589988.110336", "mi² square_mile"),
    },
    "data": {
        "bit": ("1/8", ""),
        "B": ("1", "byte"),
        "KB": ("1000", "kilobyte"),
        "MB": ("1000000", "megabyte"),
        "GB": ("1000000000", "gigabyte"),
        "TB": ("1000000000000", "terabyte"),
        "KiB": ("1024", "kibibyte"),
        "MiB": ("1048576", "mebibyte"),
        "GiB": ("1073741824", "gibibyte"),
    },
}
_TEMPERATURES = {  # factor and offset to kelvin
    "C": ("1", "273.15", "celsius centigrade °c"),
    "F": ("5/9", "459.67", "fahrenheit °f"),
    "K": ("1", "0", "kelvin"),
}


def _index() -> dict[str, Unit]:
    units: dict[str, Unit] = {}

    def enter(unit: Unit, others: str) -> None:
        long_names = others.split()
        for name in (unit.name, *long_names, *(f"{name}s" for name in long_names)):
            units.setdefault(name.lower(), unit)

    for dimension, definitions in _DEFINITIONS.items():
        for name, (factor, others) in definitions.items():
            enter(Unit(name, dimension, Fraction(factor)), others)
    for name, (factor, offset, others) in _TEMPERATURES.items():
        enter(Unit(name, "temperature", Fraction(factor), Fraction(offset)), f"{others} degree_{others.split()[0]}")
    for name in ("cup", "acre", "bit"):
        units[f"{name}s"] = units[name]
    return units


_UNITS = _index()
UNIT_NAMES: tuple[str, ...] = tuple(dict.fromkeys(unit.name for unit in _UNITS.values()))
"""Short names of all units."""


def find_unit(name: str) -> Unit:
    """Look a unit up by its short name or a long one, singular or plural, in any case ("degrees Celsius" too).

    Raises:
        DeskError: no such unit.
    """
    key = "_".join(name.lower().removeprefix("degrees").removeprefix("degree").split())
    if key not in _UNITS:
        raise DeskError(f"unknown unit {name}")
    return _UNITS[key]


def convert_units(value: float, from_unit: str, to_unit: str) -> Reply:
    """Convert between two units of one dimension, rounded to three decimals."""
    source, target = find_unit(from_unit), find_unit(to_unit)
    if source.dimension != target.dimension:
        raise DeskError(f"cannot convert {source.dimension} ({source.name}) to {target.dimension} ({target.name})")
    if not math.isfinite(value):
        raise DeskError("the value is not a finite number")
    base = (Fraction(value) + source.offset) * source.factor
    if source.dimension == "temperature" and base < 0:
        raise DeskError("that is below absolute zero")
    try:
        result = float(base / target.factor - target.offset)
    except OverflowError:
        raise DeskError("the result is too large") from None
    return {"result": tidy(result, places=3), "unit": target.name}
