"""Measures a folder of ``prepare.py`` on a GPU: correctness, then time, then energy, beside torch on the same inputs.

``python3 FOLDER/measure.py --out DIR`` needs numpy, torch and a driver; Python packages are in the folder. Every
entry is appended to ``DIR/measured.jsonl`` when it is done, so that an interrupted run can be continued;
``DIR/table.txt`` is written last.

Correctness: FP16 against float64 on fresh random inputs, outputs poisoned; INT8 by hash against the integer graph.
Time: CUDA events around warm loops (the host's clock for torch and the module), medians of rounds, input sets rotated
past the L2 cache. Energy: the driver's total energy counter over a loop of at least ``--energy`` seconds, after a
measurement of idle power. Peaks: a large copy, a large matrix product (wgmma), and register-only mma.sync, in the same
run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "python"))
os.environ["TVM_USE_RUNTIME_LIB"] = "1"

import numpy as np  # noqa: E402
import torch  # noqa: E402

from codesign import networks  # noqa: E402
from codesign.hw.errors import CodesignError  # noqa: E402
from codesign.kernels.runtime.bundle import Bundle, Loaded  # noqa: E402
from codesign.kernels.runtime.driver import Driver  # noqa: E402

ROUND_SECONDS = 0.15
"""Seconds of a round of timed calls: long enough for the host's clock to be exact."""


RESERVE_SECONDS = {"machine": 40.0, "torch reduce-overhead": 75.0, "torch compile": 200.0}
"""Seconds that a step may take; 30 s for others. Compiling is torch's and is not measured yet."""


class Nvml:
    """The board's counters; None for each where there is no NVML."""

    def __init__(self) -> None:
        try:
            import pynvml

            pynvml.nvmlInit()
            self._nvml, self._handle = pynvml, pynvml.nvmlDeviceGetHandleByIndex(0)
        except Exception:
            self._nvml = None

    def millijoules(self) -> int | None:
        """Total energy since the driver was loaded."""
        return self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle) if self._nvml else None

    def state(self) -> dict[str, Any]:
        """Clocks, temperature, power, driver."""
        if not self._nvml:
            return {}
        n, h = self._nvml, self._handle
        return {
            "device_name": _text(n.nvmlDeviceGetName(h)),
            "driver": _text(n.nvmlSystemGetDriverVersion()),
            "sm_clock_mhz": n.nvmlDeviceGetClockInfo(h, n.NVML_CLOCK_SM),
            "memory_clock_mhz": n.nvmlDeviceGetClockInfo(h, n.NVML_CLOCK_MEM),
            "temperature_c": n.nvmlDeviceGetTemperature(h, n.NVML_TEMPERATURE_GPU),
            "power_w": n.nvmlDeviceGetPowerUsage(h) / 1e3,
            "throttle_reasons": n.nvmlDeviceGetCurrentClocksThrottleReasons(h),
        }


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def timed(run: Callable[[int], None], synchronise: Callable[[], None], rounds: int = 7) -> dict[str, float]:
    """Seconds of ``run(i)``: median and extremes of rounds, and calls per round."""
    least = 1 if rounds == 1 else 5
    for index in range(least):
        run(index)
    synchronise()
    began = time.perf_counter()
    for index in range(least):
        run(index)
    synchronise()
    each = max(1e-7, (time.perf_counter() - began) / least)
    count = max(least, math.ceil(ROUND_SECONDS / each)) if rounds > 1 else 1
    found = []
    for _ in range(rounds):
        began = time.perf_counter()
        for index in range(count):
            run(index)
        synchronise()
        found.append((time.perf_counter() - began) / count)
    return {"value": statistics.median(found), "low": min(found), "high": max(found), "calls": count}


def energy(
    run: Callable[[int], None], synchronise: Callable[[], None], nvml: Nvml, seconds: float, each: float
) -> dict[str, Any]:
    """Joules per call over a loop of ``seconds``, synchronised at both ends."""
    count = max(1, math.ceil(seconds / each))
    synchronise()
    before, began = nvml.millijoules(), time.perf_counter()
    for index in range(count):
        run(index)
        if index % 64 == 63:
            synchronise()  # keeps the queue short
    synchronise()
    elapsed, after = time.perf_counter() - began, nvml.millijoules()
    if before is None or after is None:
        return {}
    return {"joules": (after - before) / 1e3 / count, "loop_seconds": elapsed, "calls": count} | nvml.state()


class Session:
    """One run: the machine, the folder, the results so far."""

    def __init__(self, out: Path, device: str, loop: float, driver: str, rounds: int) -> None:
        self.out, self.loop, self.rounds = out, loop, rounds
        self.manifest = json.loads((HERE / "manifest.json").read_text())
        self.torch_device = torch.device(device)
        self.nvml = Nvml()
        self.driver = Driver(driver)
        self.path = out / "measured.jsonl"
        self.frames = np.random.default_rng()
        self.known: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        lines = self.path.read_text().splitlines() if self.path.is_file() else []
        self.done = {(e["entry"], e["software"]) for e in map(json.loads, lines)}

    def synchronise(self) -> None:
        if self.torch_device.type == "cuda":
            torch.cuda.synchronize()

    def size(self, key: str) -> tuple[int, int]:
        """Height and width of an entry's frames."""
        entry = self.manifest["entries"].get(key, {})
        return entry.get("height", self.manifest["height"]), entry.get("width", self.manifest["width"])

    def truth(self, key: str) -> tuple[np.ndarray, np.ndarray]:
        """A fresh random frame, and torch's result for it in float64."""
        entry = self.manifest["entries"][key]
        if entry["network"] not in self.known:
            frame = self.frames.random((entry["channels"], *self.size(key))).astype(np.float16)
            self.known[entry["network"]] = frame, exact(self, entry["network"], frame)
        return self.known[entry["network"]]

    def record(self, entry: dict[str, Any]) -> None:
        """Append a result, with the board's clocks at its end."""
        common = {
            "date": date.today().isoformat(),
            "commit": self.manifest["commit"],
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "input_size": "x".join(map(str, self.size(entry["entry"])[::-1])),
            "board": self.nvml.state(),
        }
        with self.path.open("a") as file:
            file.write(json.dumps(common | entry) + "\n")
        shown = ("entry", "software", "error", "seconds", "bit_exact", "failed")
        brief = {key: value for key, value in entry.items() if key in shown}
        print(json.dumps(brief), flush=True)


def peaks(session: Session) -> None:
    """The machine's peaks, measured in this run."""
    result: dict[str, Any] = {"entry": "peaks", "software": "machine", "l2_bytes": session.driver.l2_bytes}
    for precision, operations in (("fp16", 2 * 16 * 8 * 16), ("int8", 2 * 16 * 8 * 32)):
        result[f"mma_{precision}_ops_per_second"] = product_rate(session, precision, operations)
    if session.torch_device.type == "cuda":
        a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.float16) for _ in range(2))
        seconds = timed(lambda _: torch.mm(a, b), session.synchronise)["value"]
        result["wgmma_fp16_ops_per_second"] = 2 * 8192**3 / seconds
        a8, b8 = (torch.randint(-127, 127, (8192, 8192), device="cuda", dtype=torch.int8) for _ in range(2))
        seconds = timed(lambda _: torch._int_mm(a8, b8.t()), session.synchronise)["value"]
        result["wgmma_int8_ops_per_second"] = 2 * 8192**3 / seconds
        big, other = (torch.empty(2 << 30, device="cuda", dtype=torch.uint8) for _ in range(2))
        seconds = timed(lambda _: other.copy_(big), session.synchronise)["value"]
        result["copy_bytes_per_second"] = 2 * big.numel() / seconds
        time.sleep(3)
        before = session.nvml.millijoules()
        time.sleep(5)
        after = session.nvml.millijoules()
        result["idle_w"] = (after - before) / 5e3 if before is not None and after is not None else None
    session.record(result | session.nvml.state())


def product_rate(session: Session, precision: str, operations: int) -> float:
    """Operations per second of mma.sync alone; ``operations``: those of one instruction."""
    driver = session.driver
    function = driver.load((HERE / f"peak-{precision}.cubin").read_bytes(), "peak")
    blocks, rounds = driver.multiprocessors * 2, 20000 if session.torch_device.type == "cuda" else 1
    at = driver.allocate(blocks * 512 * 4)
    seconds = driver.seconds(
        lambda _: driver.launch(function, (blocks, 1, 1), 512, 0, [at], [rounds]), launches=3, rounds=session.rounds
    )
    return blocks * 16 * rounds * 8 * operations / seconds


def ours(session: Session, key: str, entry: dict[str, Any]) -> None:
    """This project's launches: a CUDA graph of the whole network per input set, through the driver alone."""
    if not entry["bundled"]:
        return
    bundle = Bundle.load(HERE / key)
    loaded, driver = Loaded(bundle, session.driver), session.driver
    source, out = bundle.stored[bundle.input], bundle.stored[bundle.output]
    result: dict[str, Any] = {
        "entry": key,
        "software": "codesign",
        "precision": entry["precision"],
        "launches": entry["launches"],
        "modelled_seconds": entry["modelled_seconds"],
    }
    if entry["precision"] == "int8":
        codes = np.random.default_rng(session.manifest["seed"]).integers(-128, 128, source.shape[1:]).astype(np.int8)
        if "sha256" in entry:
            got = out.unpack(loaded.run(source.pack(codes)))
            result["bit_exact"] = hashlib.sha256(np.ascontiguousarray(got).tobytes()).hexdigest() == entry["sha256"]
        values = [source.pack(codes)]
    else:
        frame, want = session.truth(key)
        got = out.unpack(loaded.run(source.pack(frame))).astype(np.float64)
        result["error"] = float(np.linalg.norm(got - want) / np.linalg.norm(want))
        result["finite"] = bool(np.isfinite(got).all())
        values = [source.pack(frame)]
    sets = max(2, min(16, -(-2 * driver.l2_bytes // (source.bytes + out.bytes))))
    pairs = [(driver.allocate(values[0]), driver.allocate(out.bytes)) for _ in range(sets)]
    graphs = loaded.graphs(pairs)
    run = lambda index: graphs[index % sets]()  # noqa: E731
    host = timed(run, driver.synchronise, session.rounds)
    result["host_seconds"] = host
    events = driver.seconds(run, warm=0, launches=int(host["calls"]), rounds=session.rounds)
    result["seconds"] = host | {"value": events}
    if session.loop and entry.get("energy", True):
        result["energy"] = energy(run, driver.synchronise, session.nvml, session.loop, result["seconds"]["value"])
    session.record(result)
    for address in (a for pair in pairs for a in pair):
        driver.free(address)


def module(session: Session, key: str, entry: dict[str, Any]) -> None:
    """The exported library in TVM's virtual machine."""
    if session.torch_device.type != "cuda" or not (HERE / key / "net.so").is_file():
        return
    import tvm
    from tvm.runtime import vm

    machine = vm.VirtualMachine(tvm.runtime.load_module(str(HERE / key / "net.so")), tvm.cuda(0))
    rng = np.random.default_rng(session.manifest["seed"])
    shape = (1, entry["channels"], *session.size(key))
    half = entry["precision"] == "fp16"
    frame = session.truth(key)[0][None] if half else rng.integers(-128, 128, shape).astype(np.int8)
    x = tvm.runtime.tensor(frame, tvm.cuda(0))
    main = machine["main"]
    got = main(x).numpy()[0]
    result: dict[str, Any] = {"entry": key, "software": "codesign module", "precision": entry["precision"]}
    if half:
        want = session.truth(key)[1]
        result["error"] = float(np.linalg.norm(got.astype(np.float64) - want) / np.linalg.norm(want))
    elif "sha256" in entry:
        result["bit_exact"] = hashlib.sha256(np.ascontiguousarray(got).tobytes()).hexdigest() == entry["sha256"]
    result["seconds"] = timed(lambda _: main(x), tvm.cuda(0).sync, session.rounds)
    session.record(result)


def exact(session: Session, name: str, frame: np.ndarray) -> np.ndarray:
    """The torch definition in float64."""
    net = networks.load(name).double().eval().to(session.torch_device)
    with torch.no_grad():
        return net(torch.from_numpy(frame[None].astype(np.float64)).to(session.torch_device))[0].cpu().numpy()


def peers(session: Session, key: str, entry: dict[str, Any], which: str) -> None:
    """torch in FP16, channels last: ``eager``, or compiled with CUDA graphs; ``compile`` is ``max-autotune``."""
    software = f"torch {which}"
    net = networks.load(entry["network"]).half().eval().to(session.torch_device, memory_format=torch.channels_last)
    if which != "eager":
        torch._dynamo.reset()
        net = torch.compile(net, mode="max-autotune" if which == "compile" else which)  # CUDA graphs included
    shape = (1, entry["channels"], *session.size(key))
    per = 2 * math.prod(shape) * (1 + entry["scale"] ** 2)
    sets = max(2, min(16, -(-2 * session.driver.l2_bytes // per)))
    frames = [
        torch.rand(shape, device=session.torch_device).half().contiguous(memory_format=torch.channels_last)
        for _ in range(sets)
    ]
    result: dict[str, Any] = {"entry": key, "software": software, "precision": "fp16"}
    began = time.perf_counter()
    frame, want = session.truth(key)
    frames[0].copy_(torch.from_numpy(frame[None]))
    with torch.inference_mode():
        got = net(frames[0])[0].float().cpu().numpy()
        run = lambda index: net(frames[index % sets])  # noqa: E731
        result["seconds"] = timed(run, session.synchronise, session.rounds)
        result["prepare_seconds"] = time.perf_counter() - began
        if session.loop and which == "compile" and entry.get("energy", True):
            result["energy"] = energy(run, session.synchronise, session.nvml, session.loop, result["seconds"]["value"])
    result["error"] = float(np.linalg.norm(got - want) / np.linalg.norm(want))
    session.record(result)


def table(session: Session) -> str:
    """Milliseconds, ratios and roofline shares, one network a line."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for line in session.path.read_text().splitlines():
        entry = json.loads(line)
        found[entry["entry"], entry["software"]] = entry
    ceilings = found.get(("peaks", "machine"), {})
    headings = ("ours ms", "module", "compile", "eager", "x compile", "roofline")
    lines = [f"{'network':28}" + "".join(f"{heading:>10}" for heading in headings) + "  check"]
    for key, entry in session.manifest["entries"].items():
        half = f"{entry['network']}-fp16"
        softwares = (
            (key, "codesign"),
            (key, "codesign module"),
            (half, "torch compile"),
            (half, "torch eager"),
            (half, "torch reduce-overhead"),
        )
        results = [found.get(which, {}) for which in softwares]
        *ms, other = [result["seconds"]["value"] * 1e3 if "seconds" in result else math.nan for result in results]
        ms[2] = float(np.fmin(ms[2], other))  # the faster of the compiled ones
        peak = ceilings.get(f"wgmma_{entry['precision']}_ops_per_second", math.nan)
        share = 2 * entry["macs"] / peak / ms[0] * 1e3
        check = results[0].get("bit_exact", results[0].get("error", results[0].get("failed", "")))
        figures = "".join(f"{value:10.3f}" for value in ms)
        lines.append(f"{key:28}{figures}{ms[2] / ms[0]:10.2f}{share:10.1%}  {check}")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure everything without a result, the most important first in case time runs out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="networks; all by default")
    parser.add_argument("--out", type=Path, default=HERE / "out")
    parser.add_argument("--energy", type=float, default=10.5, help="seconds of an energy loop; 0 for none")
    parser.add_argument("--device", default="cuda", help="torch's device; cpu tries this script without a GPU")
    parser.add_argument("--torch", default="eager,reduce-overhead,compile", help="implementations to compare with")
    parser.add_argument("--driver", default="libcuda.so.1")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of timed calls; 1 for a trial")
    parser.add_argument("--seconds", type=float, default=540.0, help="start only steps that end within this time")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    session = Session(options.out, options.device, options.energy, options.driver, options.rounds)
    entries = {
        k: e for k, e in session.manifest["entries"].items() if not options.names or e["network"] in options.names
    }
    halves = {k: e for k, e in entries.items() if e["precision"] == "fp16"}
    steps: list[tuple[str, str, Callable[[], None]]] = [("peaks", "machine", lambda: peaks(session))]
    steps += [(k, "codesign", lambda k=k, e=e: ours(session, k, e)) for k, e in entries.items()]
    steps += [(k, "codesign module", lambda k=k, e=e: module(session, k, e)) for k, e in entries.items()]
    for which in options.torch.split(",") if options.torch else ():
        steps += [(k, f"torch {which}", lambda k=k, e=e, w=which: peers(session, k, e, w)) for k, e in halves.items()]
    for key, software, step in steps:
        if (key, software) in session.done:
            continue
        if time.monotonic() - began + RESERVE_SECONDS.get(software, 30.0) > options.seconds:
            print(f"no time for {key}, {software}; run again to go on", flush=True)
            continue
        try:
            step()
        except (CodesignError, RuntimeError, ImportError, AttributeError) as error:
            session.record({"entry": key, "software": software, "failed": str(error)[:500]})
    text = table(session)
    (options.out / "table.txt").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
