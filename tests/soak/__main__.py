"""Run a soak: `python -m tests.soak --minutes 30 --seed 7`. Exit code 1 if anything was wrong, hung or grew."""

import argparse
import asyncio
import faulthandler
import random
import sys
import threading
import time

from langchain_layerroute import LayerRouteChatModel
from tests.soak.askers import Known, Soak
from tests.soak.cases import Case, cases, spoken

THREADS, TASKS = 8, 8
_SILENCE = 180.0
"""Seconds without a word from an asker after which it is said to hang."""


def resident_mib() -> float:
    """Memory of this process, as Linux counts it."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 2**20


def quiet_run(models: list[LayerRouteChatModel], asked: list[Case]) -> Known:
    """Every answer as one thread gets it, one after the other."""
    return {
        which: {index: spoken(case.bind(model).invoke(list(case.messages))) for index, case in enumerate(asked)}
        for which, model in enumerate(models)
    }


def start(soak: Soak, seed: int) -> list[threading.Thread]:
    """Start all askers: threads, and tasks on a loop of their own."""

    async def tasks() -> None:
        await asyncio.gather(*(soak.task(f"task {n}", seed + 100 + n) for n in range(TASKS)))

    askers = [threading.Thread(target=soak.thread, args=(f"thread {n}", seed + n)) for n in range(THREADS)]
    askers.append(threading.Thread(target=asyncio.run, args=(tasks(),)))
    for asker in askers:
        asker.daemon = True
        asker.start()
    return askers


def main() -> int:
    """Run it and print what happened."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    models = [LayerRouteChatModel(max_batch_size=rows) for rows in (1, 4)]
    asked = cases()
    known = quiet_run(models, asked)
    end = time.monotonic() + 60.0 * args.minutes
    soak = Soak(models, asked, known, lambda _: time.monotonic() < end)
    askers, dice, memory, closed = start(soak, args.seed), random.Random(args.seed), [], 0
    next_line = time.monotonic()
    while any(asker.is_alive() for asker in askers):
        if time.monotonic() < end:
            time.sleep(10.0 * dice.random())
            dice.choice(models)._engine_for("embedded").close()  # type: ignore[attr-defined]
            closed += 1
        else:
            time.sleep(0.2)
        now = time.monotonic()
        silent = [name for name, seen in soak.tally.last_seen.items() if now - seen > _SILENCE]
        if (silent and now < end) or now > end + _SILENCE:
            faulthandler.dump_traceback()
            print(f"HANGS: {', '.join(silent)}")
            return 1
        if now > next_line:
            next_line = now + 60.0
            memory.append(resident_mib())
            print(f"{memory[-1]:.0f} MiB, closed {closed} times, {dict(soak.tally.counts)}", flush=True)
    third = len(memory) // 3
    grown = max(memory[-third:]) / max(memory[third : 2 * third]) - 1.0 if third else 0.0
    print(f"memory, last third against the one before: {grown:+.1%}")
    if soak.tally.failure:
        print(f"FAILED: {soak.tally.failure}")
    return int(bool(soak.tally.failure) or grown > 0.05)


if __name__ == "__main__":
    sys.exit(main())
