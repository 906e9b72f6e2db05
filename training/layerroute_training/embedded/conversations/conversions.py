# ruff: noqa: E501 (phrase templates are one line each)
"""Jobs for `convert_units` and `convert_currency`: unit arguments are short names, currencies ISO codes."""

from typing import Any

from langchain_layerroute.front_desk.replies import DeskError, tidy
from langchain_layerroute.front_desk.units import convert_units
from layerroute_training.embedded.conversations import values
from layerroute_training.embedded.conversations.jobs import Call, Job, Scene, make_job
from layerroute_training.embedded.conversations.text import pick

# dimension: {short name: names in requests, the first two being singular and plural}
UNITS: dict[str, dict[str, tuple[str, ...]]] = {
    "length": {
        "mm": ("millimeter", "millimeters", "millimetres", "mm", "mm"),
        "cm": ("centimeter", "centimeters", "centimetres", "cm"),
        "m": ("meter", "meters", "metres", "m"),
        "km": ("kilometer", "kilometers", "kilometres", "km", "km", "kms", "kilometres"),
        "in": ("inch", "inches", "in"),
        "ft": ("foot", "feet", "ft"),
        "yd": ("yard", "yards", "yd"),
        "mi": ("mile", "miles", "mi", "miles"),
        "nmi": ("nautical mile", "nautical miles", "nmi"),
    },
    "mass": {
        "mg": ("milligram", "milligrams", "mg"),
        "g": ("gram", "grams", "g", "grammes"),
        "kg": ("kilogram", "kilograms", "kg", "kilos", "kilo"),
        "t": ("tonne", "tonnes", "t"),
        "oz": ("ounce", "ounces", "oz"),
        "lb": ("pound", "pounds", "lb", "lbs", "pounds"),
        "st": ("stone", "stone", "st"),
    },
    "volume": {
        "ml": ("milliliter", "milliliters", "millilitres", "ml"),
        "cl": ("centiliter", "centiliters", "cl"),
        "dl": ("deciliter", "deciliters", "dl"),
        "l": ("liter", "liters", "litres", "l"),
        "tsp": ("teaspoon", "teaspoons", "tsp"),
        "tbsp": ("tablespoon", "tablespoons", "tbsp"),
        "floz": ("fluid ounce", "fluid ounces", "fl oz"),
        "cup": ("cup", "cups"),
        "pt": ("pint", "pints", "pt"),
        "qt": ("quart", "quarts", "qt"),
        "gal": ("gallon", "gallons", "gal"),
        "m3": ("cubic meter", "cubic meters", "m3"),
    },
    "time": {
        "ms": ("millisecond", "milliseconds", "ms"),
        "s": ("second", "seconds", "s", "sec"),
        "min": ("minute", "minutes", "min"),
        "h": ("hour", "hours", "h"),
        "d": ("day", "days", "d"),
        "wk": ("week", "weeks", "wk"),
    },
    "speed": {
        "m/s": ("meter per second", "meters per second", "m/s"),
        "km/h": ("kilometer per hour", "kilometers per hour", "km/h", "kph", "kmh"),
        "mph": ("mile per hour", "miles per hour", "mph"),
        "ft/s": ("foot per second", "feet per second", "ft/s"),
        "kn": ("knot", "knots", "kn"),
    },
    "area": {
        "cm2": ("square centimeter", "square centimeters", "cm2"),
        "m2": ("square meter", "square meters", "square metres", "m2", "sqm"),
        "km2": ("square kilometer", "square kilometers", "km2"),
        "ha": ("hectare", "hectares", "ha"),
        "ft2": ("square foot", "square feet", "sq ft", "ft2"),
        "acre": ("acre", "acres"),
        "mi2": ("square mile", "square miles", "mi2"),
    },
    "data": {
        "KB": ("kilobyte", "kilobytes", "KB"),
        "MB": ("megabyte", "megabytes", "MB"),
        "GB": ("gigabyte", "gigabytes", "GB"),
        "TB": ("terabyte", "terabytes", "TB"),
    },
    "temperature": {
        "C": ("degree Celsius", "degrees Celsius", "Celsius", "°C", "C", "celsius", "degrees C", "centigrade"),
        "F": ("degree Fahrenheit", "degrees Fahrenheit", "Fahrenheit", "°F", "F", "fahrenheit", "degrees F"),
        "K": ("kelvin", "kelvin", "K"),
    },
}
_DIMENSIONS = ("length", "mass", "volume", "time", "speed", "area", "data", "temperature")
_DIMENSION_WEIGHTS = (30, 22, 16, 6, 6, 5, 3, 14)
_COMMON = {"length": ("km", "mi", "m", "ft", "cm", "in"), "mass": ("kg", "lb", "g", "oz"), "volume": ("l", "gal", "ml")}

# code: (names in requests, symbol, units per euro)
CURRENCIES: dict[str, tuple[tuple[str, ...], str, float]] = {
    "EUR": (("euros", "euro", "euros"), "€", 1.0),
    "USD": (("dollars", "US dollars", "dollars", "American dollars", "bucks", "u.s. dollars"), "$", 1.09),
    "GBP": (("pounds", "British pounds", "pounds sterling", "sterling", "quid"), "£", 0.86),
    "JPY": (("yen", "Japanese yen"), "¥", 163.0),
    "CHF": (("Swiss francs", "francs"), "", 0.96),
    "SEK": (("Swedish kronor", "Swedish krona", "kronor"), "", 11.4),
    "NOK": (("Norwegian kroner", "Norwegian krone", "Norwegian crowns"), "", 11.6),
    "DKK": (("Danish kroner", "Danish krone", "Danish crowns"), "", 7.46),
    "ISK": (("Icelandic kronur", "Icelandic krona"), "", 150.0),
    "PLN": (("zloty", "Polish zloty", "zlotys"), "", 4.3),
    "CZK": (("Czech koruna", "koruna", "Czech crowns"), "", 25.1),
    "HUF": (("forint", "Hungarian forint", "forints"), "", 395.0),
    "RON": (("lei", "Romanian lei"), "", 4.97),
    "BGN": (("leva", "Bulgarian lev"), "", 1.956),
    "TRY": (("lira", "Turkish lira"), "", 35.0),
    "CAD": (("Canadian dollars",), "", 1.48),
    "AUD": (("Australian dollars", "Aussie dollars"), "", 1.65),
    "NZD": (("New Zealand dollars", "Kiwi dollars"), "", 1.8),
    "SGD": (("Singapore dollars",), "", 1.45),
    "HKD": (("Hong Kong dollars",), "", 8.5),
    "CNY": (("yuan", "renminbi", "Chinese yuan"), "", 7.8),
    "KRW": (("won", "Korean won", "South Korean won"), "₩", 1480.0),
    "INR": (("rupees", "Indian rupees"), "₹", 91.0),
    "IDR": (("rupiah", "Indonesian rupiah"), "", 17000.0),
    "TWD": (("Taiwan dollars", "New Taiwan dollars"), "", 34.5),
    "THB": (("baht", "Thai baht"), "", 37.5),
    "MYR": (("ringgit", "Malaysian ringgit"), "", 4.8),
    "PHP": (("Philippine pesos", "Filipino pesos"), "", 62.0),
    "VND": (("dong", "Vietnamese dong"), "", 27000.0),
    "BRL": (("reais", "Brazilian reais", "Brazilian real"), "", 6.1),
    "MXN": (("Mexican pesos", "pesos"), "", 20.5),
    "ARS": (("Argentine pesos",), "", 1050.0),
    "CLP": (("Chilean pesos",), "", 1020.0),
    "COP": (("Colombian pesos",), "", 4500.0),
    "ZAR": (("rand", "South African rand"), "", 19.8),
    "EGP": (("Egyptian pounds",), "", 53.0),
    "MAD": (("Moroccan dirhams",), "", 10.7),
    "AED": (("dirhams", "UAE dirhams", "Emirati dirhams"), "", 4.0),
    "SAR": (("riyals", "Saudi riyals"), "", 4.1),
    "ILS": (("shekels", "Israeli shekels"), "", 4.0),
    "KES": (("Kenyan shillings",), "", 141.0),
    "NGN": (("naira", "Nigerian naira"), "", 1700.0),
    "GHS": (("cedis", "Ghanaian cedis"), "", 16.0),
    "UAH": (("hryvnia", "Ukrainian hryvnia"), "", 45.0),
}
_CODES = tuple(CURRENCIES)
COMMON_CODES = (
    "EUR",
    "USD",
    "GBP",
    "JPY",
    "CHF",
    "SEK",
    "NOK",
    "DKK",
    "CAD",
    "AUD",
    "INR",
    "CNY",
    "PLN",
    "CZK",
    "BRL",
    "MXN",
)


def convert(value: float, source: str, target: str) -> Call:
    """The unit converter's call and true result."""
    try:
        result: dict[str, Any] = convert_units(value, source, target)
    except DeskError as error:
        result = {"error": str(error)}
    return Call("convert_units", {"value": value, "from_unit": source, "to_unit": target}, result)


def exchange(scene: Scene, value: float, source: str, target: str) -> Call:
    """The currency converter's call; rates differ from conversation to conversation and hold within one."""
    for code in (source, target):
        scene.rates.setdefault(code, CURRENCIES[code][2] * (scene.rng.uniform(0.85, 1.15) if code != "EUR" else 1))
    result = tidy(value / scene.rates[source] * scene.rates[target], places=2)
    reply = {"result": result, "currency": target, "rate_date": scene.rate_date}
    return Call("convert_currency", {"amount": value, "from_currency": source, "to_currency": target}, reply)


def units_pair(scene: Scene) -> tuple[str, str, str]:
    """A dimension and two different units of it."""
    dimension = scene.rng.choices(_DIMENSIONS, _DIMENSION_WEIGHTS)[0]
    names = list(UNITS[dimension])
    if dimension in _COMMON and scene.chance(0.6):
        names = list(_COMMON[dimension])
    source, target = scene.rng.sample(names, 2)
    return dimension, source, target


def unit_word(scene: Scene, dimension: str, unit: str, plural: bool = True) -> str:
    """How a user names a unit."""
    names = UNITS[dimension][unit]
    return pick(scene.rng, names[1:]) if plural else names[0]


_UNIT_QUESTIONS = (
    "how many {to} [is|are|are there in|are in|make|equal|do I get from|correspond to] {v} {src}?|how [much|long|far|big] is {v} {src} in {to}?|"
    "what [is|are|would be|'s] {v} {src} in {to}?|{v} {src} in {to}[?|]|{v} {src} to {to}[?|]|{v} {src} is how many {to}?|how much is {v} {src} in {to}?|"
    "[I need to know|tell me|I'd like to know|do you know|any idea|can you tell me] how many {to} {v} {src} [is|are|makes]|"
    "[I need|I want|give me] {v} {src} in {to}|what does {v} {src} [come to|amount to|make|equal] in {to}?|{v} {src} = ? {to}|"
    "the [recipe|form|map|sign|manual|guide|label] says {v} {src}; [what is that|how much is that|how many is that] in {to}?|"
    "my [suitcase|desk|walk|tank|room|parcel] [is|has|measures] {v} {src}, what is that in {to}?|{v} {src} [expressed|given|written] in {to}?|"
    "[if|when] something [is|measures] {v} {src}, [what is it|how many is it] in {to}?|{v} {src} as {to}?|in {to}, how much is {v} {src}?|"
    "it [is|was] {v} {src} [outside|here|today|long|], [what is that|how much is that|what would that be] in {to}?|[I ran|I walked|we drove|I weigh|it weighs|I bought|I need|we have] {v} {src}[,|;] [how many {to} is that|how much is that in {to}|what is that in {to}]?|a guest [asks|wants to know] how many {to} {v} {src} [is|are]|how many {to} in {v} {src}?|{v} {src} would be how many {to}?"
)
_UNIT_COMMANDS = (
    "[convert|change|turn|translate|switch|recalculate] {v} {src} [to|into|in] {to}|[tell me|give me|show me|work out|calculate|find out] [how many {to} {v} {src} [is|are|make]|what {v} {src} is in {to}]|"
    "express {v} {src} in {to}|[give|show] {v} {src} in {to}|convert {v} {src} to {to}|convert {v} {src} into {to}"
)


def unit_job(scene: Scene) -> Job:
    """Convert a measure."""
    dimension, source, target = units_pair(scene)
    if dimension == "temperature":
        number = scene.rng.choice([scene.rng.randint(-40, 120), scene.rng.randint(10, 40), scene.rng.randint(80, 450)])
        value: float | int = round(number + 0.5, 1) if scene.chance(0.12) else number
        said = f"minus {abs(value)}" if value < 0 and scene.chance(0.3) else str(value)
    else:
        said, value = values.amount(scene.rng)
        if scene.chance(0.03):
            said, value = pick(
                scene.rng, (("half a", 0.5), ("a quarter", 0.25), ("one and a half", 1.5), ("two and a half", 2.5))
            )
    plural = not (value in (1, 0.5) or said == "half a")
    call = convert(value, source, target)
    slots = {"v": said, "src": unit_word(scene, dimension, source, plural), "to": unit_word(scene, dimension, target)}
    answer = unit_answer(scene, call)
    return make_job(scene, _UNIT_QUESTIONS, _UNIT_COMMANDS, (call,), answer, **slots)


def unit_answer(scene: Scene, call: Call) -> str:
    """What a conversion came to."""
    if "error" in call.result:
        return scene.reply("I cannot convert that: {error}.", error=call.result["error"])
    return scene.reply(
        "{v} {a} is {r} {u}.|{v} {a} = {r} {u}.|That is {r} {u}.|{v} {a} equals {r} {u}.",
        v=call.arguments["value"],
        a=call.arguments["from_unit"],
        r=call.result["result"],
        u=call.result["unit"],
    )


def currency_word(scene: Scene, code: str) -> str:
    """How a user names a currency."""
    if scene.chance(0.42):
        return code
    names = CURRENCIES[code][0]
    return names[0] if scene.chance(0.5) else pick(scene.rng, names)


def money_phrase(scene: Scene, said: str, code: str) -> str:
    """An amount with its currency."""
    symbol = CURRENCIES[code][1]
    if symbol and scene.chance(0.35) and said[0].isdigit():
        return pick(scene.rng, (f"{symbol}{said}", f"{symbol}{said}", f"{said}{symbol}", f"{said} {symbol}"))
    word = currency_word(scene, code)
    return f"{code} {said}" if word == code and scene.chance(0.15) else f"{said} {word}"


def currency_pair(scene: Scene) -> tuple[str, str]:
    """Two different currencies."""
    source, target = scene.rng.sample(COMMON_CODES if scene.chance(0.6) else _CODES, 2)
    return source, target


_MONEY_QUESTIONS = (
    "how much [is|are] {money} [in {to}|right now in {to}|worth in {to}]?|what [is|are|'s] {money} [worth|] in {to}?|{money} in {to}[?|]|{money} to {to}[?|]|"
    "how many {to} [do I get for|can I get for|is|are|will I get for|would I get for|does one get for] {money}?|{money} is how much in {to}?|how much is {money} in {to} [today|at the moment|]?|"
    "[I have|I've got|a guest has|we owe|the bill is|it costs|the invoice is|the hotel charges|the ticket is] {money}[;|,] [what is that|how much is that|what would that be] in {to}?|"
    "[I need to know|tell me|I'd like to know|do you know|can you tell me] [what {money} is in {to}|how much {money} is in {to}|how many {to} {money} is]|"
    "[I want|I need] [to change|to exchange|to convert] {money} [into|to] {to}|what would {money} be in {to}?|in {to}, how much is {money}?|"
    "if I [exchange|change] {money}, how many {to} [do I get|will I have]?|what's the {to} equivalent of {money}?|a price of {money} [is|means] how much in {to}?"
)
_MONEY_COMMANDS = (
    "[convert|change|exchange|turn|translate|swap] {money} [to|into|in] {to}|[tell me|work out|calculate|find out|show me] [what {money} is in {to}|how many {to} {money} is|how much {money} is in {to}]|"
    "[give me|get me|express|show|quote] {money} in {to}|convert {money} to {to}|convert {money} into {to}"
)


def currency_job(scene: Scene) -> Job:
    """Convert money."""
    source, target = currency_pair(scene)
    said, value = values.amount(scene.rng)
    call = exchange(scene, value, source, target)
    slots = {"money": money_phrase(scene, said, source), "to": currency_word(scene, target)}
    return make_job(scene, _MONEY_QUESTIONS, _MONEY_COMMANDS, (call,), currency_answer(scene, call), **slots)


def currency_answer(scene: Scene, call: Call) -> str:
    """What a conversion came to."""
    return scene.reply(
        "{v} {a} is {r} {u}.|{v} {a} is {r} {u} (rate of {d}).|That is {r} {u}.|{v} {a} = {r} {u} at the rate of {d}.",
        v=call.arguments["amount"],
        a=call.arguments["from_currency"],
        r=call.result["result"],
        u=call.result["currency"],
        d=call.result["rate_date"],
    )
