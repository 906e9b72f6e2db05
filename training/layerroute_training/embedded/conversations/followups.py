# ruff: noqa: E501 (phrase templates are one line each)
"""Jobs that refer back to the last call: "and in Oslo?", "cancel it", "divide that by 4"."""

from layerroute_training.embedded.conversations import arithmetic, conversions, desk, diary, values
from layerroute_training.embedded.conversations.jobs import Call, Job, Scene, make_job
from layerroute_training.embedded.conversations.text import pick


def followup_job(scene: Scene, last: Call) -> Job | None:
    """A request that only makes sense after `last`; None where nothing suits."""
    if "error" in last.result:
        return None
    maker = {
        "get_weather": _weather,
        "find_order": _order,
        "update_order": _undo,
        "list_orders": _one_of_them,
        "convert_units": _same_measure,
        "convert_currency": _same_money,
        "calculator": _go_on,
        "list_events": _another_day,
        "add_event": _same_day,
        "add_note": _note_again,
    }.get(last.name)
    return maker(scene, last) if maker else None


def _weather(scene: Scene, last: Call) -> Job:
    city, day = last.arguments["city"], last.arguments["day"]
    if scene.chance(0.4):
        other = "tomorrow" if day == "today" else "today"
        call = desk.weather(scene, city, other)
        questions, commands = (
            "and {day}?|[what|how] about {day}?|and how is it {day}?|{day}?|will it rain there {day}?",
            "check {day} [too|as well]|[show me|tell me] {day} [too|as well]",
        )
        return make_job(scene, questions, commands, (call,), desk.weather_answer(scene, call), day=other)
    city = values.city(scene.rng)
    call = desk.weather(scene, city, day)
    return make_job(
        scene,
        "and [in|] {city}?|[what|how] about {city}?|and {city}?|{city}?|is it warmer in {city}?|same question for {city}",
        "[check|do] the same for {city}|[check|look up] {city} [too|as well]",
        (call,),
        desk.weather_answer(scene, call),
        city=city,
    )


def _order(scene: Scene, last: Call) -> Job:
    order_id = last.arguments["order_id"]
    if scene.chance(0.25):
        listed = desk.orders_of(scene, last.result["customer"], error=0)
        questions = "what else did [they|she|he|that customer] order?|which other orders does [the|that] customer have?|does [that customer|she|he] have other orders?"
        return make_job(
            scene, questions, "[list|show me] all orders of that customer", (listed,), desk.orders_answer(scene, listed)
        )
    if scene.chance(0.3):
        then, call = arithmetic.aftermath(scene, last.result["total"], "the total")
        return make_job(scene, then, then, (call,), arithmetic.calculation_answer(scene, call))
    status = pick(scene.rng, [status for status in desk.STATUSES if status != last.result["status"]])
    call = desk.update(scene, order_id, status, old=last.result["status"], error=0)
    if status == "cancelled":
        questions, commands = (
            "[it|that order] is no longer needed, cancel it|I don't want it any more|can it be cancelled?|ok, cancel it",
            "cancel [it|it|that order|that one|this order]",
        )
    else:
        questions, commands = (
            "it [is|was] {status} [now|]|it should be {status}",
            "[mark|set|change] [it|that order] [as|to] {status}|set its status to {status}",
        )
    return make_job(scene, questions, commands, (call,), desk.update_answer(scene, call), status=status)


def _undo(scene: Scene, last: Call) -> Job:
    order_id, old = last.arguments["order_id"], last.result["old_status"]
    if scene.chance(0.5):
        call = desk.update(scene, order_id, old, old=last.result["status"], error=0)
        questions = "[sorry|oops|wait], [that was wrong|I was wrong], set it back to {old}|it should be {old} after all"
        return make_job(
            scene, questions, "[set|change] it back to {old}", (call,), desk.update_answer(scene, call), old=old
        )
    order = desk.an_order(scene, order_id, status=last.result["status"])
    call = Call("find_order", {"order_id": order_id}, order)
    questions = "who placed [it|that order]?|what was in [it|that order]?|how much was it?|whose order is it?"
    return make_job(
        scene,
        questions,
        "[show me|look up|check] [that order|it] [again|now|]",
        (call,),
        desk.order_answer(scene, call),
    )


def _one_of_them(scene: Scene, last: Call) -> Job:
    orders = last.result["orders"]
    index = scene.rng.randrange(len(orders))
    order = orders[index]
    names = ["the first one", "the second one", "the third one", "the fourth one"]
    which = pick(scene.rng, (names[index], f"the {order['item']}", f"the {order['item']}", order["order_id"]))
    if len(orders) > 1 and index == len(orders) - 1 and scene.chance(0.2):
        which = "the last one"
    if scene.chance(0.4):
        found = desk.an_order(scene, order["order_id"], last.result["customer"], order["status"])
        call = Call("find_order", {"order_id": order["order_id"]}, {**found, "item": order["item"]})
        questions = (
            "how much was {which}?|what did {which} cost?|what is the total of {which}?|how many pieces is {which}?"
        )
        return make_job(
            scene,
            questions,
            "[look up|show me|open|check] {which}",
            (call,),
            desk.order_answer(scene, call),
            which=which,
        )
    status = pick(
        scene.rng,
        [status for status in ("cancelled", "cancelled", "shipped", "delivered") if status != order["status"]],
    )
    call = desk.update(scene, order["order_id"], status, old=order["status"], error=0)
    if status == "cancelled":
        questions, commands = (
            "I no longer want {which}|{which} can be cancelled|{which} is not needed any more, cancel it",
            "cancel {which}",
        )
    else:
        questions, commands = (
            "{which} [is|was] {status} [now|today|]|{which} has been {status}",
            "[mark|set] {which} [as|to] {status}",
        )
    return make_job(scene, questions, commands, (call,), desk.update_answer(scene, call), which=which, status=status)


def _same_measure(scene: Scene, last: Call) -> Job:
    source, target = last.arguments["from_unit"], last.arguments["to_unit"]
    dimension = next(name for name, units in conversions.UNITS.items() if source in units)
    roll = scene.rng.random()
    if roll < 0.4:
        said, value = values.amount(scene.rng)
        call = conversions.convert(value, source, target)
        questions, commands = "and {v}?|[what|how] about {v}?|and {v} {src}?", "do the same for {v} {src}"
        slots = {"v": said, "src": conversions.unit_word(scene, dimension, source)}
        return make_job(scene, questions, commands, (call,), conversions.unit_answer(scene, call), **slots)
    others = [unit for unit in conversions.UNITS[dimension] if unit not in (source, target)]
    if roll < 0.7 and others:
        unit = pick(scene.rng, others)
        call = conversions.convert(last.arguments["value"], source, unit)
        questions, commands = (
            "and in {to}?|[what|how] about {to}?|how much is that in {to}?|in {to}?",
            "[show|give] [it|that] in {to} [too|as well]|convert it to {to} as well",
        )
        return make_job(
            scene,
            questions,
            commands,
            (call,),
            conversions.unit_answer(scene, call),
            to=conversions.unit_word(scene, dimension, unit),
        )
    then, call = arithmetic.aftermath(scene, last.result["result"], pick(scene.rng, ("it", "that", "the result")))
    return make_job(scene, then, then, (call,), arithmetic.calculation_answer(scene, call))


def _same_money(scene: Scene, last: Call) -> Job:
    source, target = last.arguments["from_currency"], last.arguments["to_currency"]
    roll = scene.rng.random()
    if roll < 0.35:
        said, value = values.amount(scene.rng)
        call = conversions.exchange(scene, value, source, target)
        questions, commands = "and {v}?|[what|how] about {v}?|and {m}?", "do the same for {m}"
        slots = {"v": said, "m": f"{said} {conversions.currency_word(scene, source)}"}
        return make_job(scene, questions, commands, (call,), conversions.currency_answer(scene, call), **slots)
    if roll < 0.7:
        code = pick(scene.rng, [code for code in conversions.COMMON_CODES if code not in (source, target)])
        call = conversions.exchange(scene, last.arguments["amount"], source, code)
        questions, commands = (
            "and in {to}?|[what|how] about {to}?|how much is [that|it] in {to}?|in {to}?",
            "[show|give] [it|that] in {to} [too|as well]|convert it to {to} as well",
        )
        return make_job(
            scene,
            questions,
            commands,
            (call,),
            conversions.currency_answer(scene, call),
            to=conversions.currency_word(scene, code),
        )
    then, call = arithmetic.aftermath(scene, last.result["result"], pick(scene.rng, ("it", "that", "the result")))
    return make_job(scene, then, then, (call,), arithmetic.calculation_answer(scene, call))


def _go_on(scene: Scene, last: Call) -> Job:
    then, call = arithmetic.aftermath(scene, last.result["result"], pick(scene.rng, ("it", "that", "the result")))
    if scene.chance(0.25):
        number = scene.rng.randint(2, 50)
        sign, said = pick(scene.rng, (("*", "times"), ("+", "plus"), ("-", "minus"), ("/", "divided by")))
        call = arithmetic.calculate(f"{last.result['result']} {sign} {number}")
        then = f"{pick(scene.rng, ('and ', '', 'and that '))}{said} {number}"
        return make_job(scene, f"{then}?|{then}", then, (call,), arithmetic.calculation_answer(scene, call))
    return make_job(scene, then, then, (call,), arithmetic.calculation_answer(scene, call))


def _another_day(scene: Scene, last: Call) -> Job:
    said, _, date = values.when(scene.rng, scene.today)
    call = diary.events_of(scene, date)
    return make_job(
        scene,
        "and {day}?|[what|how] about {day}?|and {day}, anything planned?",
        "check {day} [too|as well]",
        (call,),
        diary.events_answer(scene, call),
        day=said,
    )


def _same_day(scene: Scene, last: Call) -> Job:
    title = scene.own(values.event_title(scene.rng))
    said, time = values.clock(scene.rng)
    call = diary.add_event(scene, title, last.arguments["date"], time)
    questions = "on the same day there is also {title} at {time}|and {title} at {time} [on the same day|the same day]|[same day|that day], {time}: {title}"
    commands = "[also|] [add|schedule|book|put in] {title} at {time} on the same day|[add|schedule] {title} at {time} that day [too|as well]"
    return make_job(scene, questions, commands, (call,), diary.event_answer(scene, call), title=title, time=said)


def _note_again(scene: Scene, last: Call) -> Job:
    text = scene.own(values.note(scene.rng))
    call = diary.add_note(scene, text)
    return make_job(
        scene,
        "and that {note}|another note: {note}|and another one: {note}",
        "[also|] note that {note}|add another note: {note}",
        (call,),
        diary.note_answer(scene, call),
        note=text,
    )
