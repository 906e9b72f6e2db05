# ruff: noqa: E501 (phrase templates are one line each)
"""Jobs for notes and the calendar.

Note texts, queries and titles are the user's words verbatim: without the introducing words ("that", "to", a colon), a
search query and a title also without a leading article.
"""

from typing import Any

from layerroute_training.embedded.conversations import pools, values
from layerroute_training.embedded.conversations.jobs import Call, Job, Scene, finish_sentence, make_job
from layerroute_training.embedded.conversations.text import capitalise, listing, pick

_ADD_NOTE = (
    "[for the notes|note|memo|reminder|note to self|to remember|new note|for my notes|for the record]: {note}|[I must not forget|don't let me forget|remember|keep in mind] that {note}|"
    "[I need|I want|I'd like] a note [saying|that says|that reads|:] [that|] {note}|there should be a note that {note}|[I want|I'd like] it [noted|written down] that {note}"
)
_NOTE_COMMANDS = (
    "[note|remember|write down|jot down|make a note|take a note|add a note|save a note|keep a note|put in the notes|record|leave a note|make a memo|put down] that {note}|"
    "[add a note|make a note|take a note|save a note|write a note|note|write down|write|leave a note|create a note|jot down|save|store a note|new note|add to the notes|add to my notes|save this note|put this in the notes|note down|take this down|note this]: {note}|"
    '[add|save|write|leave|make|create|store] [a|the] note [saying|that says|reading|with the text|which says] [that|:|] {note}|[save|add|store|keep|write] "{note}" [as a note|in the notes|to the notes|in my notes]|'
    '[add|save|put] the note "{note}"|[add|save|write|leave|make|store|keep|put down] a note [saying|that says|reading|:|with the words] "{note}"|[write down|note]: {note}|note that {note}|note down that {note}'
)
_TO_DO_COMMANDS = "[make a note|add a note|write a note|leave a note|remind me|remind us|take a note|leave a reminder|write down|note|remember|save a note|don't forget] to {note}"
_SEARCH = (
    "[what do|do] [my|the|our] notes say about {art} {q}?|[do I have|do we have|is there|are there] [any|a|] [note|notes] [about|on|regarding|mentioning|concerning] {art} {q}?|[what|which] notes [do I have|are there|do we have] [about|on|regarding] {art} {q}?|"
    "what did I [write|note] [down|] about {art} {q}?|[any|] notes [about|on] {art} {q}[?|]|did I [write|note] [anything|something] [down|] about {art} {q}?|where [did I write|is the note] about {art} {q}?|"
    "[I need|I want|I'm looking for] [my|the] notes [about|on] {art} {q}|what is noted about {art} {q}?|is there anything about {art} {q} in the notes?|have I got a note about {art} {q}?|what was that note about {art} {q}?|"
    "[I'd like to know|tell me] what the notes say about {art} {q}|is something noted about {art} {q}?"
)
_SEARCH_COMMANDS = (
    "[search|look through|go through|check|scan] [my|the|our] notes [for|about] {art} {q}|[find|show|show me|look up|get|pull up|look for|find me|read me|list|bring up] [my|the|all|any|] [note|notes] [about|on|regarding|that mention|mentioning|with] {art} {q}|"
    '[search|look] for {art} {q} in [my|the] notes|search the notes for {q}|look up {art} {q} in the notes|find notes about {q}|check what the notes say about {art} {q}|look for notes about {art} {q}|search notes for "{q}"'
)
_ADD_EVENT = (
    "[there is|there's|we have|I have|I've got|we've got] {art} {title} {when} at {time}[; please add it|, put it in the calendar|. add it to the calendar|, add it to my calendar|; can you put it in?]|"
    "{title} {when} at {time}|{title}, {when}, {time}|{title} {when}, {time}|[I need|I want|I'd like|we need] {art} {title} [in the calendar|in my calendar|scheduled|booked|] {when} at {time}|"
    "[can you|could you] [fit|squeeze] in {art} {title} {when} at {time}?|new event: {title}, {when} at {time}|calendar: {title} {when} at {time}|{art} {title} [takes place|happens|is planned|is] {when} at {time}[, please add it|; add it to the calendar|, put it in]|"
    "{when} at {time} [we have|I have|there is] {art} {title}, [please add it|add that to the calendar|put that in the calendar]|is it possible to have {art} {title} {when} at {time} in the calendar?"
)
_EVENT_COMMANDS = (
    "[add|schedule|book|put|create|enter|set up|plan|arrange|make|register|set|save|write] {art} {title} {when} at {time}|[add|put|enter|write] {art} {title} [in|into|to|on] [the|my|our] [calendar|diary|agenda|schedule] {when} at {time}|"
    '[schedule|add|book|create|put|set up|plan] {art} {title} {for} at {time}|[schedule|add|book|create|set up|plan] {art} {title} at {time} {when}|[add|create|put in|make] an [event|appointment|entry] [called|named|titled|:] "{title}" {when} at {time}|'
    "[add|create|make|enter] [an event|a calendar event|an appointment|a calendar entry] {when} at {time}: {title}|[put|block|reserve] {time} {when} for {art} {title}|[add|put] {title} to [the|my] calendar {for} at {time}|"
    '[add|schedule|put|book|enter] "{title}" [{when}|{for}] at {time}|[put|add] {art} {title} [in|into|on] the calendar {for}, {time}|schedule {title} {for} at {time}|add {art} {title} {for} at {time} to [the|my] calendar|[pencil in|note] {art} {title} {when} at {time} in the calendar'
)
_LIST_EVENTS = (
    "what [is|'s|do I have|do we have|have I got] [on|planned|scheduled|in the calendar|on the calendar|in my calendar|on the schedule|coming up] {when}?|what does {day_s} look like?|[do I have|do we have|is there|are there] [any|] [events|event|appointments|meetings|anything|something] [planned|scheduled|in the calendar|on|] {when}?|"
    "what [events|appointments|meetings] [are there|do I have|do we have|are planned] {when}?|am I [free|busy|booked] {when}?|how [busy|full] [am I|is the calendar|is my day|are we] {when}?|[events|appointments|schedule|calendar|agenda] [for|of] {day}[?|]|"
    "anything [on|planned|in the calendar|scheduled|happening] {when}?|[I'd like to know|tell me|I need to know|can you tell me|do you know] [what is planned|what's on|what I have|which appointments I have|what is in the calendar] {when}|what's happening {when}?|"
    "what's my [schedule|agenda|day] like {when}?|is the calendar [free|empty|full] {when}?|when are my [appointments|meetings] {when}?|which [events|meetings] take place {when}?|is {day} [free|still free|already full]?|what am I doing {when}?"
)
_LIST_EVENTS_COMMANDS = (
    "[list|show|show me|check|look up|get|give me|read me|see|tell me|open|pull up|display|bring up] [the|my|all|our|] [events|calendar|appointments|schedule|meetings|agenda|calendar events] [for|of] {day}|"
    "[check|look at|look in|see] [the|my|our] calendar {when}|[list|show|check|tell me|look up|see|find out] [what is on|what's on|what is planned|what's scheduled|what is in the calendar|what I have] {when}|check [whether|if] [I am|we are] free {when}|"
    "list [the|all|my|] [events|appointments|meetings] {when}|list events for {day}|show the calendar for {day}"
)


def add_note(scene: Scene, text: str) -> Call:
    """Save a note."""
    return Call("add_note", {"text": text}, {"note_id": scene.next_note(), "text": text})


def search(scene: Scene, query: str) -> Call:
    """Search the notes; the found ones hold the query's words."""
    count = pick(scene.rng, (0, 1, 1, 1, 2, 2, 3))
    notes = []
    for _ in range(count):
        text = values.note(scene.rng)
        if query.lower() not in text.lower():
            text = pick(scene.rng, (f"{query}: {text}", f"{text} ({query})", f"{capitalise(query)} - {text}"))
        notes.append({"note_id": scene.rng.randint(1, 80), "text": text})
    return Call("search_notes", {"query": query}, {"notes": notes})


def add_event(scene: Scene, title: str, date: str, time: str) -> Call:
    """Put an event into the calendar."""
    result = {"event_id": scene.next_event(), "title": title, "date": date, "time": time}
    return Call("add_event", {"title": title, "date": date, "time": time}, result)


def events_of(scene: Scene, date: str) -> Call:
    """List a day's events."""
    count = pick(scene.rng, (0, 1, 1, 2, 2, 3))
    times = sorted(f"{scene.rng.randint(7, 20):02}:{pick(scene.rng, ('00', '15', '30', '45'))}" for _ in range(count))
    events: list[dict[str, Any]] = [
        {"event_id": scene.rng.randint(1, 90), "title": values.event_title(scene.rng), "time": time} for time in times
    ]
    return Call("list_events", {"date": date}, {"date": date, "events": events})


def note_job(scene: Scene) -> Job:
    """Write something down."""
    if scene.chance(0.2):
        text = scene.own(chore(scene))
        call = add_note(scene, text)
        return make_job(scene, _TO_DO_COMMANDS, _TO_DO_COMMANDS, (call,), note_answer(scene, call), note=text)
    text = scene.own(values.note(scene.rng))
    colon = scene.chance(0.3)
    if colon and scene.chance(0.5):
        text = scene.own(capitalise(text))
    call = add_note(scene, text)
    if colon:
        intro = scene.say(
            "[add a note|make a note|take a note|save a note|write a note|note|write down|new note|memo|add this to the notes|please note|note this down|save this as a note]: "
        )
        sentence = finish_sentence(scene, f"{intro} {text}", question=False).removesuffix("!")
        return Job(sentence, f"{intro} {text}", (call,), note_answer(scene, call))
    job = make_job(scene, _ADD_NOTE, _NOTE_COMMANDS, (call,), note_answer(scene, call), note=text)
    return (
        job
        if job.sentence.count(text)
        else Job(finish_sentence(scene, job.command, False), job.command, (call,), job.answer)
    )


def chore(scene: Scene) -> str:
    """Something to do, for "make a note to ..."."""
    return scene.reply(
        "{chore}|{chore} {time}|{verb} {who}|{verb} {who} [about|because of] the {place}|{verb} {who} {time}",
        chore=pick(scene.rng, pools.CHORES),
        verb=pick(scene.rng, pools.VERBS),
        who=pick(scene.rng, (values.person, values.first_name))(scene.rng),
        place=pick(scene.rng, pools.NOTE_THINGS),
        time=pick(
            scene.rng,
            ("tomorrow", "on Monday", "tonight", "before noon", "this afternoon", "by Friday", "at 3 pm", "next week"),
        ),
    )


def note_answer(scene: Scene, call: Call) -> str:
    """That it is noted."""
    return scene.reply(
        "Noted: {text}|Saved as note {note_id}.|Noted (note {note_id}): {text}|I saved that as note {note_id}.",
        **call.result,
    )


def search_job(scene: Scene) -> Job:
    """Look for notes."""
    query = scene.own(values.topic(scene.rng))
    call = search(scene, query)
    article = pick(scene.rng, ("", "", "the", "the", "my", "our")) if query[:1].islower() else ""
    return make_job(scene, _SEARCH, _SEARCH_COMMANDS, (call,), notes_answer(scene, call), q=query, art=article)


def notes_answer(scene: Scene, call: Call) -> str:
    """The notes found."""
    notes = call.result["notes"]
    if not notes:
        return scene.reply(
            "There are no notes about {q}.|I found no notes about {q}.|Nothing is noted about {q}.",
            q=call.arguments["query"],
        )
    if len(notes) == 1:
        return scene.reply("Note {note_id} says: {text}|One note: {text}|I found note {note_id}: {text}", **notes[0])
    parts = "; ".join(f"{note['note_id']}: {note['text']}" for note in notes)
    return scene.reply("I found {n} notes: {parts}|{n} notes: {parts}", n=len(notes), parts=parts)


def event_job(scene: Scene) -> Job:
    """Put something into the calendar."""
    title = scene.own(values.event_title(scene.rng))
    _, placed, date = values.when(scene.rng, scene.today)
    said_time, time = values.clock(scene.rng)
    call = add_event(scene, title, date, time)
    article = pick(scene.rng, ("", "a", "the", "my", "our")) if title[:1].islower() else ""
    article = "an" if article == "a" and title[0] in "aeiou" else article
    slots = {"title": title, "when": placed, "time": said_time, "art": article}
    slots["for"] = f"for {placed.removeprefix('on ')}"
    if scene.chance(0.15):
        questions = _ADD_EVENT.replace(
            " at {time}", pick(scene.rng, (", {time}", " @ {time}", " ({time})", " from {time}"))
        )
    else:
        questions = _ADD_EVENT
    return make_job(scene, questions, _EVENT_COMMANDS, (call,), event_answer(scene, call), **slots)


def event_answer(scene: Scene, call: Call) -> str:
    """That it is in the calendar."""
    return scene.reply(
        "Added: {title} on {date} at {time}.|{title} is in the calendar for {date} at {time}.|Done: {title}, {date}, {time}.|I added {title} on {date} at {time}.",
        **call.result,
    )


def list_events_job(scene: Scene) -> Job:
    """Ask what is on."""
    said, placed, date = values.when(scene.rng, scene.today)
    call = events_of(scene, date)
    if scene.chance(0.1):
        said, placed, call = "today", "today", events_of(scene, scene.today.isoformat())
    slots = {"day": said, "when": placed, "day_s": said}
    return make_job(scene, _LIST_EVENTS, _LIST_EVENTS_COMMANDS, (call,), events_answer(scene, call), **slots)


def events_answer(scene: Scene, call: Call) -> str:
    """A day's events."""
    date, events = call.result["date"], call.result["events"]
    if not events:
        return scene.reply(
            "Nothing is planned for {d}.|There are no events on {d}.|The calendar is empty on {d}.", d=date
        )
    parts = listing([f"{event['title']} at {event['time']}" for event in events])
    return scene.reply("On {d}: {p}.|{d}: {p}.|You have {p} on {d}.", d=date, p=parts)
