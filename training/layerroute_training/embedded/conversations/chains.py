# ruff: noqa: E501 (phrase templates are one line each)
"""Jobs of several calls: the same tool for several values, and calls that need the result of an earlier one."""

from collections.abc import Callable
from typing import Any

from layerroute_training.embedded.conversations import arithmetic, conversions, desk, diary, pairs, pools, values
from layerroute_training.embedded.conversations.jobs import Call, Job, Scene, make_job
from layerroute_training.embedded.conversations.text import listing, pick


def _stop_at_error(calls: list[Call]) -> tuple[Call, ...]:
    for index, call in enumerate(calls):
        if "error" in call.result:
            return tuple(calls[: index + 1])
    return tuple(calls)


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


def several_orders_job(scene: Scene) -> Job:
    """Look up or change two or three orders."""
    ids = [values.order_id(scene.rng) for _ in range(pick(scene.rng, (2, 2, 3)))]
    if scene.chance(0.5):
        calls = tuple(desk.find(scene, order_id) for order_id in ids)
        answer = " ".join(desk.order_answer(scene, call) for call in calls)
        questions = "[what is|what's] the status of [orders|] {ids}?|where are [orders|my orders] {ids}?|have [orders|] {ids} shipped [yet|]?|[I need|I want] the details of orders {ids}|[status of|orders] {ids}?"
        commands = "[look up|check|find|show me|show|pull up] [orders|] {ids}|check the status of orders {ids}"
        return make_job(scene, questions, commands, calls, answer, ids=listing(ids))
    status = pick(scene.rng, desk.STATUSES)
    calls = tuple(desk.update(scene, order_id, status) for order_id in ids)
    answer = " ".join(desk.update_answer(scene, call) for call in calls)
    if status == "cancelled" and scene.chance(0.7):
        return make_job(
            scene,
            "[I want to|I'd like to|we need to|can I] cancel [orders|] {ids}|orders {ids} [are|should be] cancelled|please cancel [orders|] {ids}",
            "cancel [orders|both orders|] {ids}" if len(ids) == 2 else "cancel [orders|] {ids}",
            calls,
            answer,
            ids=listing(ids),
        )
    return make_job(
        scene,
        "orders {ids} [are|should be|can be] [marked as|set to] {status}|[orders|] {ids} are {status} [now|]",
        "[mark|set|update|change] [orders|] {ids} [as|to] {status}|set the status of orders {ids} to {status}",
        calls,
        answer,
        ids=listing(ids),
        status=status,
    )


def find_then_update_job(scene: Scene) -> Job:
    """Look an order up, then change it; sometimes only under a condition."""
    order_id = values.order_id(scene.rng)
    status = pick(scene.rng, ("cancelled", "cancelled", "cancelled", "delivered", "shipped", "processing"))
    verb = {
        "cancelled": "cancel it",
        "delivered": "mark it as delivered",
        "shipped": "mark it as shipped",
        "processing": "set it back to processing",
    }[status]
    others = [other for other in desk.STATUSES if other != status]
    if scene.chance(0.45):
        wanted = pick(scene.rng, [other for other in others if other != "cancelled"])
        real = wanted if scene.chance(0.55) else pick(scene.rng, [other for other in desk.STATUSES if other != wanted])
        found = desk.find(scene, order_id, error=0.05, status=real)
        calls = [found]
        if "error" in found.result:
            answer = desk.order_answer(scene, found)
        elif real == wanted:
            calls.append(desk.update(scene, order_id, status, old=real, error=0))
            answer = desk.update_answer(scene, calls[-1])
        else:
            answer = scene.reply(
                "Order {id} is {real}, so I left it as it is.|It is {real}, so nothing was changed.",
                id=order_id,
                real=real,
            )
        questions = "[if|in case|when] order {id} is [still|already|] {wanted}, [please|] {verb}|is order {id} [still|already|] {wanted}? If so, {verb}"
        commands = "[check|look up|see] [order|] {id} and {verb} if it is [still|already|] {wanted}|{verb2} order {id} if it is [still|already|] {wanted}|look up order {id}, and if it is {wanted}, {verb}"
        if status != "cancelled":
            commands = commands.replace("{verb2} order {id} if it is [still|already|] {wanted}|", "")
        return make_job(
            scene, questions, commands, tuple(calls), answer, id=order_id, wanted=wanted, verb=verb, verb2="cancel"
        )
    found = desk.find(scene, order_id, error=0.06, status=pick(scene.rng, others))
    calls = [found]
    answer = desk.order_answer(scene, found)
    if "error" not in found.result:
        calls.append(desk.update(scene, order_id, status, old=found.result["status"], error=0))
        answer = desk.update_answer(scene, calls[-1])
        if scene.chance(0.3):
            answer = f"{desk.order_answer(scene, found)} {answer}"
    return make_job(
        scene,
        "where is order {id}? [Please|] {Verb} [afterwards|then|]|what is the status of order {id}? Then {verb}|who placed order {id}? Then {verb}",
        "[look up|check|find|pull up|open|show me|look at|get] [order|] {id} [and|, then|and then|and afterwards] {verb}|find order {id} and {verb}",
        tuple(calls),
        answer,
        id=order_id,
        verb=verb,
        Verb=verb.capitalize(),
    )


def list_then_act_job(scene: Scene) -> Job:
    """List a customer's orders, then look up or change the one with a certain item."""
    name = values.person(scene.rng)
    listed = desk.orders_of(scene, name)
    calls = [listed]
    if "error" in listed.result:
        item = values.item(scene.rng)
        answer = desk.orders_answer(scene, listed)
    else:
        order = pick(scene.rng, listed.result["orders"])
        item = order["item"]
        answer = ""
    action = pick(scene.rng, ("cancelled", "cancelled", "delivered", "shipped", "find"))
    if not answer and action == order["status"]:
        action = "find"
    if action == "find":
        if not answer:
            found = Call(
                "find_order",
                {"order_id": order["order_id"]},
                {**desk.an_order(scene, order["order_id"], name, order["status"]), "item": item},
            )
            calls.append(found)
            answer = desk.order_answer(scene, found)
        questions = "how much did {name} pay for the {item}?|what is the total of {name}'s {item} order?|how many {item}s did {name} order?"
        commands = "find {name}'s {item} order and [show me the details|tell me the total|tell me the quantity]|look up {name}'s orders and show me the details of the {item}"
        return make_job(scene, questions, commands, tuple(calls), answer, name=name, item=item)
    if not answer:
        calls.append(
            desk.update(
                scene, order["order_id"], action, old=None if order["status"] == action else order["status"], error=0
            )
        )
        answer = desk.update_answer(scene, calls[-1])
    verb, end = {"cancelled": ("cancel", ""), "delivered": ("mark", "as delivered"), "shipped": ("mark", "as shipped")}[
        action
    ]
    return make_job(
        scene,
        "{name} no longer wants the {item}, [please cancel it|cancel that order]|[this is|I am] {name}, please cancel my {item} order|{name} wants to cancel the {item}"
        if action == "cancelled"
        else "{name}'s {item} [has been|was|is] {action}, please update the order|the {item} of {name} was {action}, [record that|update it]",
        "{verb} {name}'s {item} order {end}|{verb} the {item} [that {name} ordered|{name} ordered|of {name}] {end}|[look up|list|find|check] {name}'s orders and {verb} the [one with the|] {item} {end}|[look up|list] the orders of {name}, then {verb} the {item} {end}",
        tuple(calls),
        answer,
        name=name,
        item=item,
        verb=verb,
        end=end,
        action=action,
    )


def change_all_job(scene: Scene) -> Job:
    """List a customer's orders, then change every one of them."""
    name = values.person(scene.rng)
    listed = desk.orders_of(scene, name)
    status = pick(scene.rng, ("cancelled", "cancelled", "shipped", "delivered"))
    calls, answer = [listed], desk.orders_answer(scene, listed)
    if "error" not in listed.result:
        orders = [order for order in listed.result["orders"] if order["status"] != status][:3] or listed.result[
            "orders"
        ][:1]
        orders = [
            {**order, "status": "processing" if order["status"] == status else order["status"]} for order in orders
        ]
        calls = [Call("list_orders", listed.arguments, {**listed.result, "orders": orders})]
        calls += [desk.update(scene, order["order_id"], status, old=order["status"], error=0) for order in orders]
        answer = " ".join(desk.update_answer(scene, call) for call in calls[1:])
    return make_job(
        scene,
        "{name} wants to cancel [everything|all orders]|all orders of {name} [can|should] be cancelled"
        if status == "cancelled"
        else "all orders of {name} [are|were] {status}[, please update them|; update them]",
        "cancel [all|all the] orders of {name}|cancel all of {name}'s orders|cancel everything {name} ordered"
        if status == "cancelled"
        else "[mark|set] [all|all the] orders of {name} [as|to] {status}|[mark|set] all of {name}'s orders [as|to] {status}",
        tuple(calls),
        answer,
        name=name,
        status=status,
    )


def customer_of_order_job(scene: Scene) -> Job:
    """Who placed an order, and what else that customer ordered."""
    order_id = values.order_id(scene.rng)
    found = desk.find(scene, order_id, error=0.06)
    calls = [found]
    answer = desk.order_answer(scene, found)
    if "error" not in found.result:
        listed = desk.orders_of(scene, found.result["customer"], error=0)
        order = {key: found.result[key] for key in ("order_id", "item", "status")}
        others = listed.result["orders"][1:]
        calls.append(Call("list_orders", listed.arguments, {**listed.result, "orders": [order, *others]}))
        answer = desk.orders_answer(scene, calls[-1])
    return make_job(
        scene,
        "who [placed|made|is behind] order {id}, and what else did they order?|who [placed|made|ordered] order {id}? [List|Show|Show me] [all|the|all other] orders of [that customer|this customer|them]|whose order is {id}? And what else did [they|that customer] order?|which other orders does the customer of {id} have?|what else did the customer of order {id} [order|buy]?|what else has the person who placed order {id} ordered?",
        "[look up|find|check] order {id} and [list|show|show me] [all|the other|] orders of that customer|look up order {id}, then list [the|all] orders of [its|that] customer|find out who placed order {id} and [list|show] all their orders|list all orders of the customer of order {id}",
        tuple(calls),
        answer,
        id=order_id,
    )


_AFTERMATH = (
    ("[divide|split] {it} by {n}|divide {it} by {n}|split {it} [among|between] {n} [people|friends|of us]", "{r} / {n}", "small"),
    ("multiply {it} by {n}|multiply {it} by {n}", "{r} * {n}", "small"),
    ("add {n} to {it}|add {n}", "{r} + {n}", "count"),
    ("subtract {n} from {it}|take {n} off {it}|subtract {n}", "{r} - {n}", "count"),
    ("add {n}[%| percent] to {it}|add {n}[%| percent]|add a {n}[%| percent] [tip|fee|markup]", "{r} + {r} * {n} / 100", "percent"),
    ("[calculate|work out|take|tell me] {n}[%| percent] of {it}", "{r} * {n} / 100", "percent"),
    ("take {n}[%| percent] off {it}|reduce {it} by {n}[%| percent]", "{r} - {r} * {n} / 100", "percent"),
    ("double {it}", "{r} * 2", "small"),
    ("halve {it}|[calculate|take] half of {it}", "{r} / 2", "small"),
    ("square {it}", "{r} ** 2", "small"),
)  # fmt: skip


def _number(scene: Scene, kind: str) -> str:
    if kind == "percent":
        return str(pick(scene.rng, (5, 8, 10, 12, 15, 19, 20, 25, 30, 50)))
    return str(scene.rng.randint(2, 12) if kind == "small" else scene.rng.randint(2, 300))


def aftermath(scene: Scene, result: Any, it: str) -> tuple[str, Call]:
    """A further calculation with a result: how it is said, and its call."""
    said, expression, kind = pick(scene.rng, _AFTERMATH)
    number = _number(scene, kind)
    call = arithmetic.calculate(expression.format(r=result, n=number))
    return scene.say(said, it=it, n=number), call


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
    then, second = aftermath(scene, first.result["result"], pick(scene.rng, ("it", "the result", "that", "the result")))
    answer = arithmetic.calculation_answer(scene, second)
    return make_job(
        scene,
        "how much is {what} in {to}? Then {then}|what is {what} in {to}? [Then|And then|After that] {then}|[I have|we have] {what}; convert that to {to} and {then}|how many {to} is {what}? And then {then}",
        "[convert|change|turn] {what} [to|into] {to} [and|, then|and then] {then}|convert {what} to {to} and {then}",
        _stop_at_error([first, second]),
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


def order_total_job(scene: Scene) -> Job:
    """Calculate with, or convert, the total of an order."""
    order_id = values.order_id(scene.rng)
    found = desk.find(scene, order_id, error=0.05)
    failed = "error" in found.result
    total = found.result.get("total", 10)
    if scene.chance(0.45):
        target = pick(scene.rng, conversions.COMMON_CODES[1:])
        calls = [found] if failed else [found, conversions.exchange(scene, total, "EUR", target)]
        answer = desk.order_answer(scene, found) if failed else conversions.currency_answer(scene, calls[-1])
        return make_job(
            scene,
            "[what is|how much is] the total of order {id} [from {eur}|which is in {eur}|, given in {eur},] in {to}?|order {id} is in {eur}; [what is its total|how much is it] in {to}?",
            "[look up|find|check] order {id} and convert [its|the] total from {eur} to {to}|convert the total of order {id} from {eur} to {to}|[look up|find|check] order {id} and convert [its|the] total [to|into] {to}|convert the total of order {id} [to|into] {to}|[look up|find] [order|] {id}, then convert its total from {eur} [to|into] {to}",
            tuple(calls),
            answer,
            id=order_id,
            to=conversions.currency_word(scene, target),
            eur=pick(scene.rng, ("euros", "EUR", "euro")),
        )
    if scene.chance(0.25):
        other = values.order_id(scene.rng)
        calls = [found, desk.find(scene, other, error=0.04)]
        answer = "I could not find both orders."
        if not failed and "error" not in calls[1].result:
            calls.append(arithmetic.calculate(f"{total} + {calls[1].result['total']}"))
            answer = scene.reply("Together they cost {r}.|The total is {r}.", r=calls[2].result["result"])
        return make_job(
            scene,
            "[what do|how much do] orders {id} and {other} [cost|come to] [together|in total|combined]?|what is the total of orders {id} and {other} together?",
            "[look up|find] orders {id} and {other} and add [up|] their totals|add the totals of orders {id} and {other}|add up orders {id} and {other}",
            _stop_at_error(calls),
            answer,
            id=order_id,
            other=other,
        )
    then, second = aftermath(scene, total, "its total")
    calls = [found] if failed else [found, second]
    answer = desk.order_answer(scene, found) if failed else arithmetic.calculation_answer(scene, second)
    return make_job(
        scene,
        "what is the total of order {id}? Then {then}|how much is order {id}? [Then|And] {then}|what does order {id} cost? After that, {then}",
        "[look up|find|check|pull up] order {id} [and|, then|and then] {then}|find order {id} and {then}",
        tuple(calls),
        answer,
        id=order_id,
        then=then,
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
    (several_orders_job, 9),
    (find_then_update_job, 14),
    (list_then_act_job, 11),
    (customer_of_order_job, 6),
    (change_all_job, 3),
    (convert_then_calculate_job, 14),
    (calculate_then_convert_job, 9),
    (order_total_job, 10),
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
