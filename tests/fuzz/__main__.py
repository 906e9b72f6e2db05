"""Run the fuzz tests for as long as one likes: `python -m tests.fuzz --inputs 1000000 --seed 7`.

Every input is made from the seed, its part and its number alone. One that fails is printed, saved in the folder --out,
and made again by --part PART --only NUMBER. Exit code 1 if any failed, hung or ended its process.
"""

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

from tests.fuzz.chunks import Chunk, Failure, Outcome, run, run_watched
from tests.fuzz.parts import PARTS, Part


def main(words: list[str] | None = None) -> int:
    """Run it and print the counts."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=50_000, help="inputs of all parts together")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--part", choices=list(PARTS), action="append", help="this part only")
    parser.add_argument("--only", type=int, help="the input of this number only, in this process")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, default=Path("fuzz-failures"))
    args = parser.parse_args(words)
    parts = [PARTS[name] for name in args.part or PARTS]
    if args.only is not None:
        return _report(
            map(_run_here, (Chunk(part.name, args.only, args.only + 1, args.seed) for part in parts)), args.out
        )
    chunks = list(_chunks(parts, args.inputs, args.seed))
    # Processes of their own, not forks: the threads of this one would not be there.
    with ProcessPoolExecutor(args.processes, mp_context=get_context("spawn")) as pool:
        waiting = {pool.submit(run_watched, chunk): chunk for chunk in chunks}
        return _report(((waiting[done], *_result(done)) for done in as_completed(waiting)), args.out)


def _chunks(parts: list[Part], inputs: int, seed: int) -> Iterator[Chunk]:
    """All parts' chunks in turn, so that each is under way from the beginning."""
    whole = sum(part.share for part in parts)
    counts = {part: round(inputs * part.share / whole) for part in parts}
    rounds = max(1, *(-(-counts[part] // part.chunk) for part in parts))
    for turn in range(rounds):
        for part in parts:
            start, stop = (counts[part] * end // rounds for end in (turn, turn + 1))
            if start < stop:
                yield Chunk(part.name, start, stop, seed)


def _run_here(chunk: Chunk) -> tuple[Chunk, Counter[str], list[Failure]]:
    return chunk, *run(chunk)


def _result(done: Future[Outcome]) -> Outcome:
    try:
        return done.result()
    except BrokenProcessPool:
        return Counter({"FAILED": 1}), []


def _report(results: Iterable[tuple[Chunk, Counter[str], list[Failure]]], out: Path) -> int:
    """Tell of failures as they come, and of the counts at the end."""
    counts: dict[str, Counter[str]] = {}
    began, told = time.monotonic(), 0.0
    for chunk, outcomes, failures in results:
        counts.setdefault(chunk.part, Counter()).update(outcomes)
        for failure in failures:
            _tell(failure, chunk.seed, out)
        if outcomes["FAILED"] and not failures:
            print(f"FAILED: a process ended in {chunk} or beside it", flush=True)
        if time.monotonic() > told + 30:
            told = time.monotonic()
            print(f"{told - began:6.0f} s  {sum(map(Counter.total, counts.values())):9,} inputs", flush=True)
    for part, outcomes in counts.items():
        print(f"{part:9}{outcomes.total():9,}: {', '.join(f'{n:,} {what}' for what, n in outcomes.most_common())}")
    whole = sum(counts.values(), Counter())
    print(f"{whole.total():,} inputs in {time.monotonic() - began:.0f} s, {whole['FAILED']} failed")
    return int(whole["FAILED"] > 0)


def _tell(failure: Failure, seed: int, out: Path) -> None:
    out.mkdir(exist_ok=True)
    path = out / f"{failure.part}-{seed}-{failure.number}.txt"
    path.write_text(f"{failure.shown}\n\n{failure.reason}", encoding="utf-8", errors="backslashreplace")
    print(
        f"FAILED: {failure.part} {failure.number}, saved as {path}: {failure.shown[:500]}\n{failure.reason}", flush=True
    )


if __name__ == "__main__":
    sys.exit(main())
