# ruff: noqa: E501 (phrase templates are one line each)
"""Jobs that ask the same thing twice in one breath: "mark A-1 as shipped and A-2 as delivered", "12 * 3 and 4 * 5"."""

from collections.abc import Callable

from layerroute_training.embedded.conversations import arithmetic, conversions, desk, diary, values
from layerroute_training.embedded.conversations.jobs import Job, Scene, make_job
from layerroute_training.embedded.conversations.text import pick


def two_measures_job(scene: Scene) -> Job:
    """Convert two measures."""
    parts, calls = [], []
    for _ in range(2):
        dimension, source, target = conversions.units_pair(scene)
        said, value = values.amount(scene.rng)
        if dimension == "temperature":
            value = scene.rng.randint(1, 110)
            said = str(value)
        parts.append(
            (
                f"{said} {conversions.unit_word(scene, dimension, source)}",
                conversions.unit_word(scene, dimension, target),
            )
        )
        calls.append(conversions.convert(value, source, target))
    (a, x), (b, y) = parts
    answer = " ".join(conversions.unit_answer(scene, call) for call in calls)
    return make_job(
        scene,
        "[what is|how much is] {a} in {x} and {b} in {y}?|how many {x} is {a}, and how many {y} is {b}?|{a} in {x} and {b} in {y}?",
        "convert {a} [to|into] {x} and {b} [to|into] {y}|convert {a} to {x} and {b} to {y}",
        tuple(calls),
        answer,
        a=a,
        b=b,
        x=x,
        y=y,
    )


def two_amounts_job(scene: Scene) -> Job:
    """Convert two sums of money."""
    parts, calls = [], []
    same = pick(scene.rng, conversions.COMMON_CODES) if scene.chance(0.5) else ""
    for _ in range(2):
        source, target = conversions.currency_pair(scene)
        if same and source != same:
            target = same
        said, value = values.amount(scene.rng)
        parts.append((conversions.money_phrase(scene, said, source), conversions.currency_word(scene, target), target))
        calls.append(conversions.exchange(scene, value, source, target))
    (a, x, first), (b, y, second) = parts
    answer = " ".join(conversions.currency_answer(scene, call) for call in calls)
    if first == second:
        return make_job(
            scene,
            "[what are|how much are] {a} and {b} in {x}?|how much is {a} in {x}, and how much is {b}?",
            "convert {a} and {b} [to|into] {x}|[change|exchange] {a} and {b} [to|into] {x}",
            tuple(calls), answer, a=a, b=b, x=x,
        )  # fmt: skip
    return make_job(
        scene,
        "[what is|how much is] {a} in {x} and {b} in {y}?|{a} in {x} and {b} in {y}?",
        "[convert|change|exchange] {a} [to|into] {x} and {b} [to|into] {y}",
        tuple(calls), answer, a=a, b=b, x=x, y=y,
    )  # fmt: skip


def two_sums_job(scene: Scene) -> Job:
    """Two calculations."""
    shapes = (
        ("{a} times {b}", "{a} * {b}"),
        ("{a} plus {b}", "{a} + {b}"),
        ("{a} minus {b}", "{a} - {b}"),
        ("{a} divided by {b}", "{a} / {b}"),
        ("{b} percent of {a}", "{a} * {b} / 100"),
    )
    parts, calls = [], []
    for _ in range(2):
        said, expression = pick(scene.rng, shapes)
        numbers = {"a": scene.rng.randint(2, 900), "b": scene.rng.randint(2, 60)}
        shown = expression if scene.chance(0.4) and "100" not in expression else said
        parts.append(shown.format(**numbers))
        calls.append(arithmetic.calculate(expression.format(**numbers)))
    return make_job(
        scene,
        "what is {a} and [what is|] {b}?|what's {a}, and {b}?|how much is {a} and how much is {b}?",
        "[calculate|compute|work out] {a} and {b}|[calculate|work out] {a}, then {b}",
        tuple(calls),
        " ".join(f"{call.arguments['expression']} = {call.result.get('result')}." for call in calls),
        a=parts[0],
        b=parts[1],
    )


def two_statuses_job(scene: Scene) -> Job:
    """Give two orders a status each."""
    ids = [values.order_id(scene.rng) for _ in range(2)]
    first, second = scene.rng.sample(desk.STATUSES, 2)
    calls = tuple(desk.update(scene, order_id, status) for order_id, status in zip(ids, (first, second), strict=True))
    answer = " ".join(desk.update_answer(scene, call) for call in calls)
    slots = {"a": ids[0], "b": ids[1], "x": first, "y": second}
    if first == "cancelled":
        commands = "cancel [order|] {a} and [mark|set] [order|] {b} [as|to] {y}"
    elif second == "cancelled":
        commands = "[mark|set] [order|] {a} [as|to] {x} and cancel [order|] {b}"
    else:
        commands = "[mark|set] [order|] {a} [as|to] {x} and [order|] {b} [as|to] {y}"
    return make_job(
        scene, "order {a} is {x} and order {b} is {y}[, please update them|]", commands, calls, answer, **slots
    )


def two_customers_job(scene: Scene) -> Job:
    """The orders of two customers."""
    names = [values.person(scene.rng) for _ in range(2)]
    calls = tuple(desk.orders_of(scene, name) for name in names)
    return make_job(
        scene,
        "what [have|did] {a} and {b} [ordered|order]?|which orders do {a} and {b} have?|what did {a} order, and what about {b}?",
        "[list|show|look up] the orders of {a} and [of|] {b}|[list|show] {a}'s and {b}'s orders|list the orders of {a} and {b}",
        calls,
        " ".join(desk.orders_answer(scene, call) for call in calls),
        a=names[0],
        b=names[1],
    )


def two_searches_job(scene: Scene) -> Job:
    """Search the notes twice."""
    first, second = (scene.own(values.topic(scene.rng)) for _ in range(2))
    calls = tuple(diary.search(scene, query) for query in (first, second))
    return make_job(
        scene,
        "[what do|do] [my|the] notes say about {a} and about {b}?|do I have notes about {a} and [about|] {b}?|any notes on {a} or {b}?",
        "[search|look through] [my|the] notes for {a} and [for|then for] {b}|find [my|the|] notes about {a} and [about|] {b}",
        calls,
        " ".join(diary.notes_answer(scene, call) for call in calls),
        a=first,
        b=second,
    )


def two_days_job(scene: Scene) -> Job:
    """The events of two days."""
    days = [values.when(scene.rng, scene.today) for _ in range(2)]
    calls = tuple(diary.events_of(scene, date) for _, _, date in days)
    return make_job(
        scene,
        "what [is|do I have] [planned|scheduled|in the calendar|] {a} and {b}?|am I free {a} and {b}?|what's on {a} and [what's on|] {b}?",
        "[list|show|show me] [the|my] [events|calendar|appointments] for {x} and [for|] {y}|[check|show] what is planned {a} and {b}",
        calls,
        " ".join(diary.events_answer(scene, call) for call in calls),
        a=days[0][1],
        b=days[1][1],
        x=days[0][0],
        y=days[1][0],
    )


def two_events_job(scene: Scene) -> Job:
    """Put two events into the calendar, on one day or two."""
    titles = [scene.own(values.event_title(scene.rng)) for _ in range(2)]
    times = [values.clock(scene.rng) for _ in range(2)]
    days = [values.when(scene.rng, scene.today) for _ in range(2)]
    if same := scene.chance(0.5):
        days[1] = days[0]
    calls = tuple(
        diary.add_event(scene, title, day[2], time[1]) for title, day, time in zip(titles, days, times, strict=True)
    )
    where = "{w} at {s} and {b} at {t}" if same else "{w} at {s} and {b} {v} at {t}"
    return make_job(
        scene,
        "[I have|there is|we have] {a} " + where + "[, please add both|; add them to the calendar]",
        "[add|schedule|book|put in] {a} " + where + "|[add|schedule|book] {a} " + where,
        calls,
        " ".join(diary.event_answer(scene, call) for call in calls),
        a=titles[0],
        b=titles[1],
        w=days[0][1],
        v=days[1][1],
        s=times[0][0],
        t=times[1][0],
    )


def two_notes_job(scene: Scene) -> Job:
    """Write two notes."""
    first, second = scene.own(diary.chore(scene)), scene.own(diary.chore(scene))
    calls = tuple(diary.add_note(scene, text) for text in (first, second))
    commands = 'add two notes: {a}; {b}|[make|add|write] a note to {a} and [one|another one|a second one] to {b}|add the notes "{a}" and "{b}"'
    return make_job(
        scene,
        commands,
        commands,
        calls,
        " ".join(f"Saved as note {call.result['note_id']}." for call in calls),
        a=first,
        b=second,
    )


PAIRS: tuple[Callable[[Scene], Job], ...] = (
    two_measures_job,
    two_amounts_job,
    two_sums_job,
    two_statuses_job,
    two_customers_job,
    two_searches_job,
    two_days_job,
    two_events_job,
    two_notes_job,
)


def pair_job(scene: Scene) -> Job:
    """One of the doubled requests."""
    return pick(scene.rng, PAIRS)(scene)
