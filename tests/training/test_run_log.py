"""The log of a run: what was measured, and nothing twice after a run was resumed."""

import json

from layerroute_training.run_log import METRICS, RunLog


def updates(folder):
    return [json.loads(line)["update"] for line in (folder / METRICS).read_bytes().splitlines()]


def test_updates_that_are_done_again_are_dropped(tmp_path):
    log = RunLog(tmp_path, resumed_at=0)
    for update in range(1, 6):
        log.write(update, {"loss": float("nan")})
    assert json.loads((tmp_path / METRICS).read_bytes().splitlines()[0]) == {"update": 1, "loss": None}
    RunLog(tmp_path, resumed_at=3)
    assert updates(tmp_path) == [1, 2, 3]


def test_a_damaged_line_costs_itself_alone(tmp_path):
    whole = [b'{"update": 1}\n', b'{"update": 2}\n']
    damaged = [b'{"upd', b"\n", b"\xff\n", b"[]\n", b"{}\n", b'{"update": "x"}\n', b'{"update": 2']
    (tmp_path / METRICS).write_bytes(whole[0] + b"".join(damaged[:-1]) + whole[1] + damaged[-1])
    RunLog(tmp_path, resumed_at=9)
    assert updates(tmp_path) == [1, 2]
