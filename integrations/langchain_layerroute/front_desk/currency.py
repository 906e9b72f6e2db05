"""Currency conversion from a fixed demonstration table (`data/rates.json`)."""

import functools
import math
from dataclasses import dataclass
from decimal import Decimal

from langchain_layerroute.front_desk.data import load
from langchain_layerroute.front_desk.replies import DeskError, Reply, tidy


@dataclass(frozen=True, slots=True)
class RateTable:
    """Units of each currency for one euro, on one day."""

    date: str
    rates: dict[str, Decimal]


@functools.cache
def rate_table() -> RateTable:
    """Return the bundled table; see its "note" for what the values are."""
    document = load("rates.json")
    return RateTable(document["date"], {code: Decimal(str(rate)) for code, rate in document["rates"].items()})


def convert_currency(amount: float, from_currency: str, to_currency: str) -> Reply:
    """Convert an amount by the table's rates, rounded to cents."""
    table = rate_table()
    source, target = from_currency.strip().upper(), to_currency.strip().upper()
    for given, code in ((from_currency, source), (to_currency, target)):
        if code not in table.rates:
            raise DeskError(f"unknown currency {given}")
    if not math.isfinite(amount):
        raise DeskError("the amount is not a finite number")
    result = float(Decimal(str(amount)) / table.rates[source] * table.rates[target])
    return {"result": tidy(result, places=2), "currency": target, "rate_date": table.date}
