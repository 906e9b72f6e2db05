"""A small soak: as many calls as fit into seconds, with the engine closed again and again."""

import threading

from langchain_layerroute import LayerRouteChatModel
from tests.soak.__main__ import quiet_run, start
from tests.soak.askers import Soak
from tests.soak.cases import cases


def test_answers_are_those_of_a_quiet_run_while_the_engine_is_closed_at_random():
    models = [LayerRouteChatModel(max_batch_size=rows) for rows in (1, 4)]
    turns, lock = {}, threading.Lock()

    def going_on(name):
        with lock:
            turns[name] = turns.get(name, 0) + 1
            return turns[name] <= 4

    some = cases()[::4]
    known = quiet_run(models, some)
    soak = Soak(models, some, known, going_on)
    for seed, asker in enumerate(askers := start(soak, seed=3)):
        models[seed % 2]._engine_for("embedded").close()
        asker.join(0.5)
    for asker in askers:
        asker.join()
    assert soak.tally.failure is None
    assert sum(soak.tally.counts.values()) == 16 * 4
    assert quiet_run(models, some) == known
