# ruff: noqa: E501, SIM905 (phrase templates are one line each, word lists are written as text)
"""Random values of requests: people, places, ids, numbers, dates and times, written out and in their argument form."""

import datetime
import random

from layerroute_training.embedded.conversations import pools
from layerroute_training.embedded.conversations.text import capitalise, expand, pick

Day = datetime.date
MONTHS = "January February March April May June July August September October November December".split()
WEEKDAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
DEMO_DAY = Day(2026, 11, 22)
_ONES = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen
nineteen""".split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()


def made_up(rng: random.Random, low: int = 2, high: int = 4) -> str:
    """A capitalised word that nobody has seen."""
    if rng.random() < 0.15:
        return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(4, 9))).capitalize()
    return "".join(pick(rng, pools.SYLLABLES) for _ in range(rng.randint(low, high))).capitalize()


def first_name(rng: random.Random) -> str:
    """A first name, sometimes made up."""
    return made_up(rng) if rng.random() < 0.3 else pick(rng, pools.FIRST_NAMES)


def person(rng: random.Random) -> str:
    """A full name."""
    last = made_up(rng) if rng.random() < 0.35 else pick(rng, pools.LAST_NAMES)
    roll = rng.random()
    if roll < 0.04:
        last = pick(rng, ("van ", "de ", "Al-", "O'", "von ", "Mc", "El ")) + last
    elif roll < 0.07:
        last += "-" + pick(rng, pools.LAST_NAMES)
    middle = f" {rng.choice('ABCDEFGHJKLMNPRSTW')}." if rng.random() < 0.02 else ""
    return f"{first_name(rng)}{middle} {last}"


def city(rng: random.Random) -> str:
    """A city, real or made up."""
    roll = rng.random()
    if roll < 0.7:
        return pick(rng, pools.CITIES)
    name = made_up(rng)
    if roll < 0.78:
        return pick(rng, ("San ", "New ", "Port ", "Saint ", "North ", "Los ", "Bad ", "El ", "Fort ")) + name
    return name + pick(rng, ("", "", "", "ville", "burg", "ton", " Falls", "stad", " Bay", " City", "haven", "grad"))


def item(rng: random.Random) -> str:
    """Something one can order."""
    base = pick(rng, pools.ITEMS)
    roll = rng.random()
    if roll < 0.5:
        return f"{pick(rng, pools.ADJECTIVES)} {base}" if not base.startswith(("pair", "set")) else base
    return f"{made_up(rng)} {base}" if roll < 0.6 else base


def order_id(rng: random.Random) -> str:
    """An order number, mostly like A-1042."""
    roll, letters = rng.random(), "ABCDEFGHJKLMNPQRSTUVWXYZ"
    if roll < 0.5:
        return f"A-{rng.randint(1000, 9999)}"
    if roll < 0.6:
        return f"A-10{rng.randint(0, 99):02}"
    if roll < 0.74:
        return f"{rng.choice(letters)}-{rng.randint(100, 99999)}"
    if roll < 0.8:
        return f"{pick(rng, ('ORD', 'PO', 'SO', 'INV', 'WEB', 'XL'))}-{rng.randint(1, 999999):0{rng.randint(3, 6)}}"
    if roll < 0.85:
        return "".join(rng.choice(letters) for _ in range(2)) + str(rng.randint(100, 999999))
    if roll < 0.9:
        return f"{rng.choice(letters)}{rng.randint(1000, 999999)}"
    if roll < 0.95:
        return str(rng.randint(1000, 99999999))
    return "".join(rng.choice(letters + "0123456789") for _ in range(rng.randint(5, 9)))


def shown_id(rng: random.Random, identifier: str) -> str:
    """An order number as written in a request; a hash mark in front is not part of the number."""
    return f"#{identifier}" if rng.random() < 0.06 else identifier


def money(rng: random.Random) -> float | int:
    """A price."""
    high = pick(rng, (20, 100, 500, 2000))
    value = round(rng.uniform(1, high), pick(rng, (0, 1, 2, 2)))
    return int(value) if value == int(value) else value


def number_words(value: int) -> str:
    """An integer below 1,000 in words."""
    if value < 20:
        return _ONES[value]
    if value < 100:
        return _TENS[value // 10 - 2] + ("-" + _ONES[value % 10] if value % 10 else "")
    rest = f" and {number_words(value % 100)}" if value % 100 else ""
    return f"{_ONES[value // 100]} hundred{rest}"


def amount(rng: random.Random, negative: bool = False) -> tuple[str, float | int]:
    """A number as written in a request, and its value."""
    roll = rng.random()
    if roll < 0.3:
        value: float | int = rng.randint(2, 99)
    elif roll < 0.5:
        value = rng.randint(100, 999)
    elif roll < 0.58:
        value = pick(rng, (5, 10, 15, 20, 25, 50, 75, 100, 120, 150, 200, 250, 300, 500, 750, 1000, 1500, 2000, 5000))
    elif roll < 0.68:
        value = rng.randint(1000, 99999)
    elif roll < 0.8:
        value = round(rng.uniform(0.1, 99), 1)
    elif roll < 0.93:
        value = round(rng.uniform(0.1, 2000), 2)
    elif roll < 0.95:
        value = round(rng.uniform(0.001, 1), 3)
    else:
        value = rng.randint(1, 20)
    if isinstance(value, float) and value == int(value):
        value = int(value)
    if negative and rng.random() < 0.25:
        value = -value
    return written(rng, value), value


def written(rng: random.Random, value: float | int) -> str:
    """A way to write a number."""
    if isinstance(value, int) and 1 <= value <= 100 and rng.random() < 0.1:
        return number_words(value)
    if isinstance(value, int) and abs(value) >= 1000 and rng.random() < 0.4:
        return f"{value:,}"
    return str(value)


def today(rng: random.Random) -> Day:
    """The day on which a conversation plays; often the demonstration's own."""
    if rng.random() < 0.45:
        return DEMO_DAY
    return Day(2025, 1, 1) + datetime.timedelta(days=rng.randrange(3 * 365))


def shift(day: Day, days: int) -> str:
    """The ISO form of a day some days later."""
    return (day + datetime.timedelta(days)).isoformat()


def ordinal(day: int) -> str:
    """1st, 2nd, 3rd ..."""
    suffix = "th" if 10 <= day % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
    return f"{day}{suffix}"


def when(rng: random.Random, now: Day) -> tuple[str, str, str]:
    """A day to come: how it is said on its own, how it is said after a verb ("on ..."), and its ISO form.

    Months without a year and days without a month mean the next such day; weekdays mean the next one after today.
    """
    roll = rng.random()
    if roll < 0.08:
        return "today", pick(rng, ("today", "today", "later today")), now.isoformat()
    if roll < 0.24:
        word = pick(rng, ("tomorrow", "tomorrow", "tomorrow", "tmrw")) if rng.random() < 0.15 else "tomorrow"
        return word, word, (now + datetime.timedelta(1)).isoformat()
    if roll < 0.28:
        return "the day after tomorrow", "the day after tomorrow", (now + datetime.timedelta(2)).isoformat()
    if roll < 0.34:
        days = pick(rng, (2, 3, 4, 5, 6, 7, 10, 14))
        said = f"in {rng.choice([str(days), number_words(days)])} days"
        if days in (7, 14) and rng.random() < 0.6:
            said = {7: "a week from today", 14: "two weeks from today"}[days]
        return said, said, (now + datetime.timedelta(days)).isoformat()
    if roll < 0.46:
        name = pick(rng, WEEKDAYS)
        ahead = (WEEKDAYS.index(name) - now.weekday() - 1) % 7 + 1
        said = pick(rng, ("", "", "", "this ", "next ", "this coming ")) + name
        placed = said if " " in said and rng.random() < 0.8 else f"on {said}"
        return said, placed, (now + datetime.timedelta(ahead)).isoformat()
    ahead = rng.randint(1, 40) if rng.random() < 0.6 else rng.randint(1, 360)
    day = now + datetime.timedelta(ahead)
    if roll < 0.6:
        said = day.isoformat()
    elif roll < 0.65 and ahead < 28:
        said = f"the {ordinal(day.day)}"
    else:
        said = _spoken(rng, day)
        if rng.random() < 0.3:
            said += pick(rng, (" ", " ", ", ")) + str(day.year)
        if rng.random() < 0.15 and not said.startswith("the "):
            said = f"{WEEKDAYS[day.weekday()]}{pick(rng, (', ', ' ', ', the '))}{said}".replace(
                ", the ", ", the " if said[0].isdigit() else ", "
            )
    return said, f"on {said}", day.isoformat()


def _spoken(rng: random.Random, day: Day) -> str:
    month = MONTHS[day.month - 1] if rng.random() < 0.7 else MONTHS[day.month - 1][:3]
    number = pick(rng, (str(day.day), str(day.day), ordinal(day.day)))
    roll = rng.random()
    if roll < 0.45:
        return f"{number} {month}"
    return f"{month} {number}" if roll < 0.85 else f"the {ordinal(day.day)} of {month}"


def clock(rng: random.Random) -> tuple[str, str]:
    """A time of day as said (without "at"), and as HH:MM. A bare hour before noon is said with its half of the day."""
    minute = pick(rng, (0, 0, 0, 0, 30, 30, 15, 45, 10, 20, 40, 50, 5, 25, 35, 55))
    hour = rng.randint(7, 20) if rng.random() < 0.85 else rng.randint(0, 23)
    argument, roll = f"{hour:02}:{minute:02}", rng.random()
    twelve, half = hour % 12 or 12, "am" if hour < 12 else "pm"
    if roll < 0.4:
        return (argument if rng.random() < 0.85 else f"{hour}:{minute:02}"), argument
    if roll < 0.45 and minute == 0:
        return pick(rng, (f"{hour} h", f"{hour}h", f"{hour:02}h")), argument
    if roll < 0.52:
        hour, said = pick(rng, ((12, "noon"), (12, "midday"), (0, "midnight")))
        return said, f"{hour:02}:00"
    if roll < 0.62 and 5 <= hour <= 22:
        part = "in the morning" if hour < 12 else "in the afternoon" if hour < 18 else "in the evening"
        return f"{_told(rng, twelve, minute)} {part}", argument
    if roll < 0.7 and 8 <= hour <= 12:
        return _told(rng, twelve, minute), argument
    mark = pick(rng, (half, half, half, half.upper(), f"{half[0]}.m."))
    space = pick(rng, (" ", " ", ""))
    return (f"{twelve}{space}{mark}" if minute == 0 else f"{twelve}:{minute:02}{space}{mark}"), argument


def _told(rng: random.Random, twelve: int, minute: int) -> str:
    following = number_words(twelve % 12 + 1)
    named = {0: f"{number_words(twelve)}", 15: f"quarter past {number_words(twelve)}"}
    named |= {30: f"half past {number_words(twelve)}", 45: f"quarter to {following}"}
    if minute == 0:
        return pick(rng, (str(twelve), f"{twelve} o'clock", named[0], f"{named[0]} o'clock"))
    if minute in named and rng.random() < 0.8:
        return named[minute]
    return f"{twelve}:{minute:02}"


def note(rng: random.Random) -> str:
    """A clause worth writing down."""
    return expand(
        rng,
        "{who} [prefers|asked for|wants|is allergic to|forgot|ordered|likes|needs|returned|lost] {thing}|"
        "[the|the|our] {place} {state}|{chore}|{verb} {who} [about|regarding|because of] [the|] {place}|{verb} {who} {day}|"
        "{who} [arrives|calls back|leaves|checks in|checks out|comes by|is away|works from home] [at {time}|{day}|{day} at {time}]|"
        "{chore} [before|after|by] {time}|{chore} and {chore2}|[the|] {topic} [code|number|contact|room] is {code}|"
        "{who}'s [phone|extension|room|locker|badge] [number|] is {code}|{team} [wants|needs|expects] {thing} by {day}|"
        "room {number} [needs|has no|asked for] {thing}|{place}: {state}|order {id} [is delayed|is on hold|was returned|must be checked|goes to {who}|is for {who}|has the wrong address|needs a gift box]|"
        "the [taxi|train|bus|ticket|trip] to {city} [costs {number} euros|leaves at {time}|was cancelled|is booked]|flight {code} [lands|leaves|is late] [at {time}|{day}|]|{who}'s [birthday|holiday|appointment|exam] is on {day}|"
        "[ask|call|tell|remind] {who} [about|for] the {topic}|[the|our] {topic} [is|was] {word}|{word} is the [new|] {topic} [code|word|contact|supplier]|{who} {verb}s {who2} {day}|we are out of {item}s|the {item} in {city} {state}",
        who=pick(rng, (person, first_name, first_name))(rng),
        thing=_with_article(rng, item(rng)),
        place=pick(rng, pools.NOTE_THINGS),
        state=pick(rng, pools.NOTE_STATES),
        chore=pick(rng, pools.CHORES),
        chore2=pick(rng, pools.CHORES),
        verb=pick(rng, pools.VERBS),
        day=pick(rng, (*WEEKDAYS, "tomorrow", "next week", "tonight")),
        time=clock(rng)[0],
        topic=pick(rng, pools.TOPICS),
        code=pick(
            rng,
            (
                str(rng.randint(10, 9999)),
                made_up(rng),
                order_id(rng),
                f"{rng.randint(100, 999)}-{rng.randint(1000, 9999)}",
            ),
        ),
        team=pick(rng, pools.TEAMS),
        number=rng.randint(1, 420),
        id=order_id(rng),
        city=city(rng),
        word=made_up(rng),
        who2=first_name(rng),
        item=pick(rng, pools.ITEMS),
    )


def _with_article(rng: random.Random, thing: str) -> str:
    return expand(rng, "[a|the|a new|two|extra|] {thing}", thing=thing)


def event_title(rng: random.Random) -> str:
    """The title of a calendar event, without an article."""
    kind = pick(rng, pools.EVENT_KINDS)
    title = expand(
        rng,
        "{kind}|{kind}|{kind} [with|with|for] {who}|{kind} with {team}|{topic} {kind}|{name} {kind}|call with {who}|"
        "{kind} [about|on] {topic}|meeting with {who}|{kind} at {place}",
        kind=kind,
        who=pick(rng, (person, first_name, first_name))(rng),
        team=pick(rng, pools.TEAMS),
        topic=pick(rng, pools.TOPICS),
        name=made_up(rng),
        place=pick(rng, (city(rng), made_up(rng), "the office", "the cafe", "Cafe " + made_up(rng))),
    )
    return capitalise(title) if rng.random() < 0.2 else title


def topic(rng: random.Random) -> str:
    """A search query of one to three words."""
    roll = rng.random()
    if roll < 0.55:
        return pick(rng, pools.TOPICS)
    if roll < 0.7:
        return first_name(rng)
    if roll < 0.8:
        return pick(rng, pools.ITEMS)
    if roll < 0.84:
        return f"{pick(rng, (*pools.ADJECTIVES, 'Christmas', 'summer', 'spare', 'new', 'annual', 'lost'))} {pick(rng, (*pools.TOPICS, *pools.ITEMS, *pools.EVENT_KINDS))}"
    if roll < 0.9:
        return pick(rng, (*pools.EVENT_KINDS, *pools.TEAMS)).removeprefix("the ")
    return made_up(rng).lower() if rng.random() < 0.5 else pick(rng, pools.NOTE_THINGS)
