"""The parts of the fuzz tests: each makes inputs from random numbers, and checks one."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from tests.fuzz import folders, grammar, ledger, options, parser, schemas, template


@dataclass(frozen=True, slots=True)
class Part:
    """What is fuzzed.

    Attributes:
        make: an input, from random numbers alone.
        check: what became of it, in a word; raises if that is wrong.
        share: of all inputs: cheap parts take more.
        chunk: inputs that a process takes at a time, a few seconds' worth.
        examples: inputs in CI.
    """

    name: str
    make: Callable[[Random], Any]
    check: Callable[[Any], str]
    share: int
    chunk: int
    examples: int


PARTS = {
    part.name: part
    for part in (
        Part("template", template.make, template.check, 200, 4000, 300),
        Part("parser", parser.make, parser.check, 400, 4000, 400),
        Part("options", options.make, options.check, 250, 20000, 800),
        Part("schemas", schemas.make, schemas.check, 60, 400, 80),
        Part("grammar", grammar.make, grammar.check, 40, 600, 120),
        Part("ledger", ledger.make, ledger.check, 100, 5000, 200),
        Part("folders", folders.make, folders.check, 20, 300, 60),
    )
}
