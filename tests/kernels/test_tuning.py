"""Tuning from end to end on a driver that emulates: built, measured, interrupted, resumed, recorded, used."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from codesign.hw.errors import CodesignError, InputError
from codesign.kernels import implicit_gemm
from codesign.kernels.implicit_gemm import GemmConv, GemmSchedule
from codesign.kernels.layers import Conv
from codesign.kernels.runtime.driver import Driver
from codesign.kernels.runtime.emulate import Entry, build_emulated, build_emulated_together
from codesign.kernels.runtime.nvrtc import Binary, Kernel
from codesign.kernels.stack import Input, Output, Schedule, Stack, render, signature
from codesign.kernels.tuning.search import (
    KERNEL,
    Build,
    GemmTask,
    Task,
    collect,
    measure,
    opened,
    prepare,
    prepare_gemms,
)
from codesign.kernels.tuning.tuned import Database, Record, database, schedule_of
from tests.kernels.fake_driver import build_driver, table, table_of


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Driver:
    return Driver(str(build_driver(tmp_path_factory.mktemp("driver"))))


def make_task() -> Task:
    rng = np.random.default_rng(1)
    weights = rng.normal(size=(3, 3, 8, 12)).astype(np.float16) * 0.1
    layer = Conv("one", "x", "y", weights, rng.normal(size=12).astype(np.float32), "relu")
    return Task(Stack("fp16", (Input("x", 8, "chunked"),), (layer,), (Output("y", "chunked"),)), 16, 24)


def prepared(task: Task, folder: Path) -> Path:
    """Candidates with machine code for the emulating driver."""
    prepare([task], "sm_90a", folder, limit=3, say=lambda _: None)
    known = json.loads((folder / "tasks.json").read_text())
    for candidate in known["tasks"][0]["candidates"]:
        splits = tuple(tuple(split) for split in candidate["schedule"]["splits"])
        schedule = Schedule(**{**candidate["schedule"], "splits": splits})
        library = build_emulated(render(task.stack, schedule, KERNEL), KERNEL, 3, 2, folder=folder)
        (folder / f"{candidate['name']}.cubin").write_bytes(table({KERNEL: (library, 3, 2)}))
    return folder


def test_build_measure_record_use(driver: Driver, tmp_path: Path) -> None:
    task = make_task()
    folder = prepared(task, tmp_path / "builds")
    measure(folder, driver, say=lambda _: None)
    lines = (folder / "results.jsonl").read_text().splitlines()
    assert len(lines) == 3
    assert all(json.loads(line)["agrees"] and json.loads(line)["seconds"] > 0 for line in lines)
    arch, (record,), operators = collect(folder)
    assert operators == []
    assert (arch, record.key, record.tried, record.device) == ("sm_90a", task.key, 3, "Emulated")
    Database(arch, {}).with_records([record]).save(tmp_path / "database")
    found = database(arch, tmp_path / "database").lookup(signature(task.stack), 16, 24)
    assert found == (record.schedule, record.seconds)
    assert database(arch, tmp_path / "database").lookup(signature(task.stack), 16, 25) is None


def test_interrupted_measurement_goes_on(driver: Driver, tmp_path: Path) -> None:
    folder = prepared(make_task(), tmp_path / "builds")
    measure(folder, driver, say=lambda _: None)
    whole = (folder / "results.jsonl").read_text().splitlines()
    (folder / "results.jsonl").write_text(whole[0] + "\n")
    measure(folder, driver, say=lambda _: None)
    names = [json.loads(line)["name"] for line in (folder / "results.jsonl").read_text().splitlines()]
    assert sorted(names) == sorted(json.loads(line)["name"] for line in whole)


def test_a_wrong_candidate_never_wins(driver: Driver, tmp_path: Path) -> None:
    folder = prepared(make_task(), tmp_path / "builds")
    name = json.loads((folder / "tasks.json").read_text())["tasks"][0]["candidates"][0]["name"]
    blob = np.fromfile(folder / f"{name}.bin", np.uint8)
    blob[:64] ^= 0x80  # the sign of some weights
    blob.tofile(folder / f"{name}.bin")
    measure(folder, driver, say=lambda _: None)
    entries = {}
    for line in (folder / "results.jsonl").read_text().splitlines():
        entry = json.loads(line)
        entries[entry["name"]] = entry["agrees"]
    assert entries.pop(name) is False
    assert all(entries.values())
    _, (record,), _ = collect(folder)
    assert record.tried == 2


def test_a_wide_convolution(driver: Driver, tmp_path: Path) -> None:
    """Built, measured and recorded as stacks are; every schedule that was built gives the same result."""
    rng = np.random.default_rng(2)
    weights = rng.normal(size=(3, 3, 16, 24)).astype(np.float16) * 0.1
    wide = GemmConv("fp16", Conv("one", "x", "y", weights, np.zeros(24, np.float32)), ((16, 0),), 2, 1, (1, 1))
    task = GemmTask(wide, (9, 20, 5, 10))
    prepare_gemms([task], "sm_90a", tmp_path, limit=2, say=lambda _: None)
    known = json.loads((tmp_path / "tasks.json").read_text())
    for candidate in known["tasks"][0]["candidates"]:
        schedule = schedule_of(candidate["schedule"])
        assert isinstance(schedule, GemmSchedule)
        library = build_emulated(implicit_gemm.render(wide, schedule, KERNEL), KERNEL, 3, 4, folder=tmp_path)
        (tmp_path / f"{candidate['name']}.cubin").write_bytes(table({KERNEL: (library, 3, 4)}))
    measure(tmp_path, driver, say=lambda _: None)
    arch, (record,), _ = collect(tmp_path)
    assert (record.key, record.tried) == (task.key, 2)
    Database(arch, {}).with_records([record]).save(tmp_path / "database")
    assert database(arch, tmp_path / "database").lookup(*task.key) == (record.schedule, record.seconds)


TWO_KERNELS = """#include "lanes.cuh"
extern "C" __global__ void first(const char* from, char* to) {
  const int i = threadIdx.x;
  reinterpret_cast<float*>(to)[i] = half_to_float(reinterpret_cast<const unsigned short*>(from)[i]) FIRST;
}
extern "C" __global__ void second(const char* from, char* to) {
  const int i = threadIdx.x;
  reinterpret_cast<unsigned short*>(to)[i] = float_to_half(reinterpret_cast<const float*>(from)[i] SECOND);
}"""


def test_kernels_that_hand_on_what_lies_between_them(driver: Driver, tmp_path: Path) -> None:
    """A candidate of several launches with memory of its own; one of three that computes something else never wins."""
    calls = [
        {
            "kernel": kernel,
            "arguments": arguments,
            "grid": (1, 1, 1),
            "threads": (32, 1, 1),
            "shared_bytes": 0,
            "integers": [],
        }
        for kernel, arguments in (("first", ["input_0", "between"]), ("second", ["between", "output_0"]))
    ]
    item = {
        "kind": "operator",
        "signature": "op; 1",
        "height": 0,
        "width": 0,
        "dtype": "float16",
        "inputs": [64],
        "outputs": [64],
        "meaningful": [[1, 1, 1]],
    }
    made = []
    for trace, first, second in ((None, "* 2.f", "+ 1.f"), (["a"], "+ 0.5f", "* 2.f"), (["b"], "* 2.f", "+ 2.f")):
        text = TWO_KERNELS.replace("FIRST", first).replace("SECOND", second)
        entries = [Entry(text, name, 2, 0) for name in ("first", "second")]
        library = build_emulated_together([entries[0], replace(entries[1], source="")], folder=tmp_path)
        code = table_of([(one.name, library, 2, 0, index) for index, one in enumerate(entries)])
        kernels = (Kernel("first", 8, 0), Kernel("second", 9, 0))
        made.append(Build({"trace": trace}, Binary("sm_90a", code, kernels), calls, scratch={"between": 128}))
    folder = tmp_path / "builds"
    opened(folder, "sm_90a").add(item, made)
    measure(folder, driver, say=lambda _: None)
    lines = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    assert [line["agrees"] for line in lines] == [True, True, False]
    _, stacks, (record,) = collect(folder)
    assert stacks == []
    assert record.trace in (None, ["a"])
    assert (record.signature, record.tried, record.default_seconds) == ("op; 1", 2, lines[0]["seconds"])


def test_candidates_for_another_gpu_are_refused(driver: Driver, tmp_path: Path) -> None:
    prepare([make_task()], "sm_80", tmp_path, limit=1, say=lambda _: None)
    with pytest.raises(CodesignError, match="the candidates are for sm_80"):
        measure(tmp_path, driver)
    with pytest.raises(InputError, match="holds candidates for sm_80"):
        prepare([make_task()], "sm_90a", tmp_path)


def test_nothing_measured(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no measurements"):
        collect(tmp_path)


def test_a_broken_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "sm_80.json").write_text("{}")
    with pytest.raises(InputError, match="not a tuning database"):
        database("sm_80", tmp_path)


def test_the_faster_record_stays() -> None:
    schedule = Schedule(16, 8, ((1, 1),))
    slow = Record("s", 1, 2, schedule, 2e-3, 1, "A", "2026-01-01")
    fast = Record("s", 1, 2, schedule, 1e-3, 1, "B", "2026-01-02")
    again = Record("s", 1, 2, schedule, 3e-3, 1, "B", "2026-01-03")
    known = Database("sm_80", {}).with_records([slow]).with_records([fast])
    assert known.records[slow.key] == fast
    assert known.with_records([slow]).records[slow.key] == fast
    assert known.with_records([again]).records[slow.key] == again


def test_no_driver() -> None:
    with pytest.raises(CodesignError, match="no CUDA driver on this machine"):
        Driver("libnowhere.so")


def test_a_graph_runs_what_was_captured(driver: Driver, tmp_path: Path) -> None:
    text = """#include "lanes.cuh"
extern "C" __global__ void count(char* to, int step) { if (threadIdx.x == 0) *to += step; }"""
    library = build_emulated(text, "count", 1, 1, folder=tmp_path)
    function = driver.load(table({"count": (library, 1, 1)}), "count")
    address = driver.allocate(np.zeros(1, np.int8))
    start = driver.capture(lambda: driver.launch(function, (1, 1, 1), 32, 0, [address], [3]))
    assert driver.download(address, (1,), np.int8)[0] == 0
    start()
    start()
    assert driver.download(address, (1,), np.int8)[0] == 6
