"""The schedules that `bench/schedules.py` tries are those that a layer is launched by, and only meanwhile."""

from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("triton.experimental.gluon")

from bench.schedules import AWAITED, with_schedule
from lama.fold_batchnorm import fold_generator
from lama.generator import Generator
from lama.kernels import hopper_trunk
from lama.triton_trunk import TritonTrunk


def test_a_schedule_holds_while_it_is_tried() -> None:
    trunk = TritonTrunk(fold_generator(Generator(32, 1).eval()).layers, device=torch.device("cpu"))
    x, rows = torch.empty(1, 128, 128, 256 + 96, dtype=torch.float16), SimpleNamespace(takes=lambda _x: True)
    before = trunk._share(x).schedule.local_after
    for awaited in AWAITED:
        with with_schedule(trunk, rows, 5, awaited):
            assert trunk._share(x).schedule.local_after == awaited and trunk._rows is rows
            assert hopper_trunk.local_slots(is_many=False, enters_strips=False, beside=True) == 5
    assert trunk._rows is None and trunk._share(x).schedule.local_after == before
    assert hopper_trunk.local_slots(is_many=False, enters_strips=False, beside=True) == 3
