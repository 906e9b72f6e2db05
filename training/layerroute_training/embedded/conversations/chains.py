# ruff: noqa: E501 (phrase templates are one line each)
"""Jobs of several calls: the same tool for several values, and calls that need the result of an earlier one."""

from collections.abc import Callable

from layerroute_training.embedded.conversations import (
    arithmetic,
    conversions,
    desk,
    diary,
    order_chains,
    pairs,
    pools,
    values,
)
from layerroute_training.embedded.conversations.jobs import Call, Job, Scene, make_job, stop_at_error
from layerroute_training.embedded.conversations.text import listing, pick


def cities_job(scene: Scene) -> Job:
    """The weather of two or three cities, all on one day or each on its own."""
    rng = scene.rng
    cities = [values.city(rng) for _ in range(pick(rng, (2, 2, 2, 3)))]
    said, day = desk.day_words(scene)
    days = [day for _ in cities]
    questions = (
        "[what is|what's|how is|how's] the weather in {cities} {day}?|weather in {cities} {day}[?|]|[will|does] it rain in {cities} {day}?|how [warm|cold] is it in {cities} {day}?|"
        "[I'd like to know|tell me] the weather in {cities} {day}|do I need an umbrella in {cities} {day}?|which city is [warmer|colder|nicer] {day}, {cities_or}?|where is it [warmer|colder|drier] {day}, in {cities_or}?"
    )
    commands = "[check|get|look up|tell me|compare|show me] the [weather|forecast] [in|for] {cities} {day}"
    places = listing(cities)
    if scene.chance(0.35):
        days = [pick(rng, ("today", "tomorrow")) for _ in cities]
        said, places = "", listing([f"{city} {day}" for city, day in zip(cities, days, strict=True)])
        if scene.chance(0.5):
            places = places.replace(" and ", " and in ")
        questions = "[what is|what's|how is|how's|what will be] the weather in {cities}?|weather in {cities}[?|]|will it rain in {cities}?"
    calls = tuple(desk.weather(scene, city, day) for city, day in zip(cities, days, strict=True))
    answer = " ".join(desk.weather_answer(scene, call) for call in calls)
    return make_job(scene, questions, commands, calls, answer, cities=places, cities_or=" or ".join(cities), day=said)


def both_days_job(scene: Scene) -> Job:
    """The weather of one city today and tomorrow."""
    city = values.city(scene.rng)
    calls = tuple(desk.weather(scene, city, day) for day in ("today", "tomorrow"))
    if "error" in calls[0].result:
        calls = calls[:1]
    return make_job(
        scene,
        "[what is|what's|how is] the weather in {city} today and tomorrow?|[weather|forecast] [in|for] {city} today and tomorrow[?|]|will it rain in {city} today or tomorrow?|is it warmer in {city} today or tomorrow?|"
        "how is the weather in {city} today, and [what about|how about|what will it be] tomorrow?",
        "[check|get|look up|compare] the [weather|forecast] [in|for] {city} today and tomorrow",
        calls,
        " ".join(desk.weather_answer(scene, call) for call in calls),
        city=city,
    )


def convert_then_calculate_job(scene: Scene) -> Job:
    """Convert a measure or money, then calculate with the result."""
    said, value = values.amount(scene.rng)
    if scene.chance(0.5):
        dimension, source, target = conversions.units_pair(scene)
        first = conversions.convert(value, source, target)
        what, to = (
            f"{said} {conversions.unit_word(scene, dimension, source)}",
            conversions.unit_word(scene, dimension, target),
        )
        intro = ""
    else:
        source, target = conversions.currency_pair(scene)
        first = conversions.exchange(scene, value, source, target)
        what, to = conversions.money_phrase(scene, said, source), conversions.currency_word(scene, target)
        intro = conversions.currency_answer(scene, first) + " "
    if "error" in first.result:
        return conversions.unit_job(scene)
    then, second = arithmetic.aftermath(
        scene, first.result["result"], pick(scene.rng, ("it", "the result", "that", "the result"))
    )
    answer = arithmetic.calculation_answer(scene, second)
    return make_job(
        scene,
        "how much is {what} in {to}? Then {then}|what is {what} in {to}? [Then|And then|After that] {then}|[I have|we have] {what}; convert that to {to} and {then}|how many {to} is {what}? And then {then}",
        "[convert|change|turn] {what} [to|into] {to} [and|, then|and then] {then}|convert {what} to {to} and {then}",
        stop_at_error([first, second]),
        f"{intro}{answer}",
        what=what,
        to=to,
        then=then,
    )


def calculate_then_convert_job(scene: Scene) -> Job:
    """Calculate an amount, then convert it."""
    count, price = scene.rng.randint(2, 40), values.money(scene.rng)
    form, expression = pick(
        scene.rng,
        (
            ("{a} times {b}", "{a} * {b}"), ("multiply {a} by {b}", "{a} * {b}"), ("add {a} and {b}", "{a} + {b}"), ("{a} plus {b}", "{a} + {b}"), ("{a} * {b}", "{a} * {b}"),
            ("{a} + {b}", "{a} + {b}"), ("the product of {a} and {b}", "{a} * {b}"), ("the sum of {a} and {b}", "{a} + {b}"),
        ),
    )  # fmt: skip
    first = arithmetic.calculate(expression.format(a=count, b=price))
    value = first.result["result"]
    shape = form.format(a=count, b=price)
    if scene.chance(0.5):
        source, target = conversions.currency_pair(scene)
        src, to = conversions.currency_word(scene, source), conversions.currency_word(scene, target)
        second = conversions.exchange(scene, value, source, target)
        answer = conversions.currency_answer(scene, second)
        if scene.chance(0.45):
            things = pick(
                scene.rng, ("tickets", "chairs", "books", "rooms", "mugs", "lamps", "nights", "boxes", "seats")
            )
            first = arithmetic.calculate(f"{count} * {price}")
            second = conversions.exchange(scene, first.result["result"], source, target)
            return make_job(
                scene,
                "what do {a} {things} at {b} {src} each cost in {to}?|{a} {things} cost {b} {src} each; [what is|how much is] the total in {to}?|how much are {a} {things} at {b} {src} each in {to}?",
                "[calculate|work out] the total of {a} {things} at {b} {src} each and convert it to {to}|calculate {a} * {b} and convert [it|the result] from {src} to {to}",
                (first, second),
                conversions.currency_answer(scene, second),
                a=count,
                b=price,
                things=things,
                src=src,
                to=to,
            )
    else:
        dimension, source, target = conversions.units_pair(scene)
        if dimension == "temperature":
            dimension, source, target = "length", "km", "mi"
        src, to = conversions.unit_word(scene, dimension, source), conversions.unit_word(scene, dimension, target)
        second = conversions.convert(value, source, target)
        answer = scene.reply(
            "{e} = {v} {s}, which is {r} {u}.|That is {r} {u}.",
            e=first.arguments["expression"],
            v=value,
            s=source,
            r=second.result["result"],
            u=second.result["unit"],
        )
    if shape.startswith(("multiply", "add")):
        asked = "{shape}[, then| and| and then|. Then] convert [it|the result|that] from {src} [to|into] {to}"
        return make_job(scene, asked, asked, (first, second), answer, shape=shape, src=src, to=to)
    return make_job(
        scene,
        "what is {shape} {src} in {to}?|how many {to} is {shape} {src}?|what is {shape}? [Then|And then] convert the result from {src} to {to}",
        "[calculate|compute|work out] {shape} and convert [it|the result|that] from {src} to {to}|[calculate|work out] {shape}, then convert [it|the result] from {src} [to|into] {to}",
        (first, second),
        answer,
        shape=shape,
        src=src,
        to=to,
    )


def weather_then_write_job(scene: Scene) -> Job:
    """Look at the weather; if it is so and so, write a note or add an event."""
    city = values.city(scene.rng)
    day = pick(scene.rng, ("today", "tomorrow", "tomorrow"))
    forecast = desk.weather(scene, city, day)
    calls, condition = [forecast], forecast.result.get("condition", "")
    is_wet = any(word in condition for word in pools.WET)
    wish = pick(scene.rng, ("wet", "wet", "dry", "always"))
    holds = wish == "always" or is_wet == (wish == "wet")
    when_said = {
        "wet": pick(scene.rng, ("it rains", "it is raining", "it will rain", "there is rain")),
        "dry": pick(scene.rng, ("it does not rain", "it is dry", "it stays dry", "there is no rain")),
    }.get(wish, "")
    if scene.chance(0.5):
        text = scene.own(
            pick(
                scene.rng,
                (
                    diary.chore(scene),
                    f"take an umbrella to {city}",
                    f"pack for {city}",
                    f"bring {values.item(scene.rng)}",
                ),
            )
        )
        act = scene.say(
            "[add a note to|make a note to|note to|leave a note to] {text}|[add a note|write a note|save a note]: {text}",
            text=text,
        )
        written = diary.add_note(scene, text)
        done = diary.note_answer(scene, written)
    else:
        title = scene.own(values.event_title(scene.rng))
        _, placed, date = values.when(scene.rng, scene.today)
        if scene.chance(0.7):
            placed, date = day, values.shift(scene.today, 1 if day == "tomorrow" else 0)
        said_time, time = values.clock(scene.rng)
        act = scene.say(
            "[schedule|add|put in|book] {art} {title} {placed} at {time}",
            art="",
            title=title,
            placed=placed,
            time=said_time,
        )
        written = diary.add_event(scene, title, date, time)
        done = diary.event_answer(scene, written)
    if "error" in forecast.result:
        answer = desk.weather_answer(scene, forecast)
    elif holds:
        calls.append(written)
        answer = f"{desk.weather_answer(scene, forecast)} {done}"
    else:
        answer = f"{desk.weather_answer(scene, forecast)} {scene.reply('So I added nothing.|Nothing was added.|So nothing to do.')}"
    if wish == "always":
        return make_job(
            scene,
            "[what's|what is|how is] the weather in {city} {day}? [Then|And|Also,] {act}",
            "check the [weather|forecast] [in|for] {city} {day} [and|, then|and then|and after that] {act}",
            tuple(calls), answer, city=city, day=day, act=act,
        )  # fmt: skip
    return make_job(
        scene,
        "if {wish} in {city} {day}, {act}|will it rain in {city} {day}? If [so|yes], {act}" if wish == "wet" else "if {wish} in {city} {day}, {act}|will it rain in {city} {day}? If not, {act}",
        "[check|see] [whether|if] it [rains|will rain] in {city} {day}, and if {wish2}, {act}|check the weather in {city} {day} and if {wish}, {act}|{act} if {wish} in {city} {day}",
        tuple(calls), answer, city=city, day=day, act=act, wish=when_said, wish2="so" if wish == "wet" else "not",
    )  # fmt: skip


def free_then_book_job(scene: Scene) -> Job:
    """Look at a day, then add an event, sometimes only if the day is free."""
    _, placed, date = values.when(scene.rng, scene.today)
    title = scene.own(values.event_title(scene.rng))
    said_time, time = values.clock(scene.rng)
    listed = diary.events_of(scene, date)
    conditional = scene.chance(0.5)
    book = not conditional or not listed.result["events"]
    calls = [listed, diary.add_event(scene, title, date, time)] if book else [listed]
    tail = diary.event_answer(scene, calls[-1]) if book else "So I added nothing."
    answer = f"{diary.events_answer(scene, listed)} {tail}" if scene.chance(0.5) or not book else tail
    article = "a" if title[0] in "bcdfghjklmnpqrstvwxyz" else ""
    slots = {"when": placed, "title": title, "time": said_time, "art": article}
    if conditional:
        return make_job(
            scene,
            "if [I am free|I'm free|nothing is planned|nothing is on|the calendar is empty|there is nothing] {when}, [add|schedule|book|put in] {art} {title} at {time}|am I free {when}? If [so|yes], [add|schedule|book] {art} {title} at {time}",
            "[check|see] [if|whether] I am free {when} and if so [add|schedule|book] {art} {title} at {time}|[add|schedule|book] {art} {title} {when} at {time} if nothing else is planned",
            tuple(calls), answer, **slots,
        )  # fmt: skip
    return make_job(
        scene,
        "what is [planned|on] {when}? Then [add|schedule|book] {art} {title} at {time}|what do I have {when}? [And|Also] [add|put in] {art} {title} at {time}",
        "[check|show me|look at|list] [the calendar|what is on|my events] {when} and [then|] [add|schedule|book] {art} {title} at {time}",
        tuple(calls), answer, **slots,
    )  # fmt: skip


def add_then_show_job(scene: Scene) -> Job:
    """Add an event, then show its day."""
    _, placed, date = values.when(scene.rng, scene.today)
    title = scene.own(values.event_title(scene.rng))
    said_time, time = values.clock(scene.rng)
    added = diary.add_event(scene, title, date, time)
    listed = diary.events_of(scene, date)
    events = [*listed.result["events"], {"event_id": added.result["event_id"], "title": title, "time": time}]
    listed = Call(
        "list_events", {"date": date}, {"date": date, "events": sorted(events, key=lambda event: event["time"])}
    )
    return make_job(
        scene,
        "[I have|there is] {title} {when} at {time}; add it and [show|tell] me [what else is on|the whole day|everything on that day]",
        "[add|schedule|book|put in] {title} {when} at {time} and [then|] [show me|list|tell me] [that day|everything on that day|the events of that day|what else is on that day]",
        (added, listed),
        diary.events_answer(scene, listed),
        title=title,
        when=placed,
        time=said_time,
    )


def two_targets_job(scene: Scene) -> Job:
    """Convert one amount into two currencies or units."""
    said, value = values.amount(scene.rng)
    if scene.chance(0.55):
        source, first, second = scene.rng.sample(
            conversions.COMMON_CODES if scene.chance(0.7) else list(conversions.CURRENCIES), 3
        )
        calls = tuple(conversions.exchange(scene, value, source, target) for target in (first, second))
        what = conversions.money_phrase(scene, said, source)
        words = [conversions.currency_word(scene, target) for target in (first, second)]
        answer = " ".join(conversions.currency_answer(scene, call) for call in calls)
    else:
        dimension = pick(scene.rng, ("length", "mass", "volume", "time", "speed"))
        source, first, second = scene.rng.sample(list(conversions.UNITS[dimension]), 3)
        calls = tuple(conversions.convert(value, source, target) for target in (first, second))
        what = f"{said} {conversions.unit_word(scene, dimension, source)}"
        words = [conversions.unit_word(scene, dimension, target) for target in (first, second)]
        answer = scene.reply(
            "That is {a} {x} or {b} {y}.", a=calls[0].result["result"], x=first, b=calls[1].result["result"], y=second
        )
    return make_job(
        scene,
        "[what is|how much is] {what} in {x} and [in|] {y}?|{what} in {x} and {y}[?|]|how much is {what} in {x}, and in {y}?",
        "[convert|change|show me] {what} [to|into|in] {x} and {y}|convert {what} to {x} and to {y}",
        calls,
        answer,
        what=what,
        x=words[0],
        y=words[1],
    )


CHAINS: tuple[tuple[Callable[[Scene], Job], int], ...] = (
    (pairs.pair_job, 26),
    (cities_job, 9),
    (both_days_job, 3),
    (order_chains.several_orders_job, 9),
    (order_chains.find_then_update_job, 14),
    (order_chains.list_then_act_job, 11),
    (order_chains.customer_of_order_job, 6),
    (order_chains.change_all_job, 3),
    (convert_then_calculate_job, 14),
    (calculate_then_convert_job, 9),
    (order_chains.order_total_job, 10),
    (weather_then_write_job, 9),
    (free_then_book_job, 6),
    (add_then_show_job, 3),
    (two_targets_job, 5),
)


def chain_job(scene: Scene) -> Job:
    """One of the multi-call jobs."""
    jobs, weights = zip(*CHAINS, strict=True)
    job: Job = scene.rng.choices(jobs, weights)[0](scene)
    return job
