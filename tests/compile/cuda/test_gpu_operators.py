"""TVM's operators tuned without a GPU: a space, candidates as machine code, the winner recorded and replayed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import tvm

from codesign.compile.cuda.compile import cuda_source, halved
from codesign.compile.cuda.tvm_operators import OperatorTask, candidates, operator_tasks, prepare, scheduled, target_of
from codesign.compile.importing.model import load_model
from codesign.compile.ir.runnable import runnable
from codesign.hw.errors import InputError
from codesign.kernels.runtime.nvrtc import compile_cuda_text
from codesign.kernels.tuning.search import collect
from codesign.kernels.tuning.traces import TraceRecord, Traces, traces


class Softmax(torch.nn.Module):
    """Three reductions and a map, none of which a kernel of this project computes."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(x, 1)


@pytest.fixture(scope="module")
def module() -> tvm.IRModule:
    return runnable(halved(load_model(Softmax().eval(), width=20, height=12, channels=24).module))


@pytest.fixture(scope="module")
def task(module: tvm.IRModule) -> OperatorTask:
    (found,) = operator_tasks(module, "sm_90a")
    return found


def test_a_task_is_known_by_its_structure(module: tvm.IRModule, task: OperatorTask) -> None:
    (again,) = operator_tasks(module, "sm_90a")
    assert again.signature == task.signature
    assert [dtype for _, dtype, _ in task.tensors] == ["float16"] * 2
    other = runnable(halved(load_model(Softmax().eval(), width=24, height=12, channels=24).module))
    (wider,) = operator_tasks(other, "sm_90a")
    assert wider.signature != task.signature


def test_build_measure_record_replay(module: tvm.IRModule, task: OperatorTask, tmp_path: Path) -> None:
    """From the space to a compiled network, with made-up times of a GPU."""
    said: list[str] = []
    prepare([task], "sm_90a", tmp_path, limit=3, say=said.append)
    prepare([task], "sm_90a", tmp_path, limit=3, say=said.append)
    assert len(said) == 1  # what is there stays
    (item,) = json.loads((tmp_path / "tasks.json").read_text())["tasks"]
    found = item["candidates"]
    assert len(found) == 3
    assert found[0]["trace"] is None  # TVM's default is one of them
    assert all((tmp_path / f"{one['name']}.cubin").read_bytes()[:4] == b"\x7fELF" for one in found)
    sizes = {"input_0": 2 * 24 * 12 * 20, "output_0": 2 * 24 * 12 * 20}
    for one in found:
        names = {name for call in one["launches"] for name in call["arguments"]}
        assert names == {*sizes, *one["scratch"]}
        assert all(1 <= np.prod(call["threads"]) <= 1024 for call in one["launches"])
    lines = [
        {"name": one["name"], "seconds": seconds, "agrees": agrees, "device": "A", "date": "2026-01-01"}
        for one, seconds, agrees in zip(found, (3e-6, 2e-6, 1e-6), (True, True, False), strict=True)
    ]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    arch, stacks, (record,) = collect(tmp_path)
    assert (arch, stacks, record.seconds, record.default_seconds, record.tried) == ("sm_90a", [], 2e-6, 3e-6, 2)
    Traces(arch, {}).with_records([record]).save(tmp_path / "database")
    known = traces("sm_90a", tmp_path / "database")
    assert known.lookup(task.signature) == record

    def text(by: Traces | None) -> str:
        with target_of("sm_90a"):
            return cuda_source(tvm.compile(scheduled(module, "sm_90a", by), target=target_of("sm_90a")))

    default, tuned = text(None), text(known)
    assert default != tuned
    compile_cuda_text(tuned, "sm_90a")
    unknown = replace(known, records={"other": record})
    assert text(unknown) == default


def test_candidates_differ(task: OperatorTask) -> None:
    found = candidates(task, 2)
    assert len({one.source for one in found}) == 2
    assert all(call.kernel in one.source for one in found for call in one.calls)


def test_a_broken_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "sm_80-operators.json").write_text("{}")
    with pytest.raises(InputError, match="not a tuning database"):
        traces("sm_80", tmp_path)


def test_the_faster_record_stays() -> None:
    slow = TraceRecord("s", None, 2e-3, 2e-3, 1, "A", "2026-01-01")
    fast = replace(slow, seconds=1e-3, device="B")
    known = Traces("sm_80", {}).with_records([slow]).with_records([fast])
    assert known.with_records([slow]).lookup("s") == fast
