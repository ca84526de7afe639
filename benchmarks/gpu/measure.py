"""Measures on a GPU what ``prepare.py`` built: correctness, then time, then energy, beside torch on the same inputs.

``python3 FOLDER/measure.py --out DIR`` needs numpy, torch and a driver; Python packages come with the folder. Every
network's entry is appended to ``DIR/measured.jsonl`` when it is done, so a run that is cut off goes on; ``DIR/table.txt``
is written last.

Correct first: FP16 against float64 on fresh random inputs, outputs poisoned; INT8 by hash against the integer graph.
Time: CUDA events around warm loops, medians of rounds, input sets rotated past the L2 cache. Energy: the driver's total
energy counter over a loop of at least ``--energy`` seconds, idle power before. Peaks: a large copy, a large matrix
product (wgmma), and register-only mma.sync, in the same run.
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
from codesign.kernels.bundle import Bundle, Loaded  # noqa: E402
from codesign.kernels.driver import Driver  # noqa: E402

ROUNDS = 7
ROUND_SECONDS = 0.15


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
            "device_name": _text(n.nvmlDeviceGetName(h)), "driver": _text(n.nvmlSystemGetDriverVersion()),
            "sm_clock_mhz": n.nvmlDeviceGetClockInfo(h, n.NVML_CLOCK_SM),
            "memory_clock_mhz": n.nvmlDeviceGetClockInfo(h, n.NVML_CLOCK_MEM),
            "temperature_c": n.nvmlDeviceGetTemperature(h, n.NVML_TEMPERATURE_GPU),
            "power_w": n.nvmlDeviceGetPowerUsage(h) / 1e3,
        }  # fmt: skip


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def timed(run: Callable[[int], None], synchronise: Callable[[], None]) -> dict[str, float]:
    """Seconds of ``run(i)``: median and extremes of rounds, each long enough that the host's clock is exact."""
    for index in range(3):
        run(index)
    synchronise()
    began = time.perf_counter()
    for index in range(5):
        run(index)
    synchronise()
    count = max(5, math.ceil(ROUND_SECONDS / max(1e-7, (time.perf_counter() - began) / 5)))
    found = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for index in range(count):
            run(index)
        synchronise()
        found.append((time.perf_counter() - began) / count)
    return {"value": statistics.median(found), "low": min(found), "high": max(found)}


def energy(
    run: Callable[[int], None], synchronise: Callable[[], None], nvml: Nvml, seconds: float, each: float
) -> dict[str, Any]:
    """Joules a call over a loop of ``seconds``, synchronised at both ends."""
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

    def __init__(self, out: Path, device: str, loop: float, driver: str) -> None:
        self.out, self.loop = out, loop
        self.manifest = json.loads((HERE / "manifest.json").read_text())
        self.torch_device = torch.device(device)
        self.nvml = Nvml()
        self.driver = Driver(driver)
        self.path = out / "measured.jsonl"
        lines = self.path.read_text().splitlines() if self.path.is_file() else []
        self.done = {(e["entry"], e["software"]) for e in map(json.loads, lines)}

    def synchronise(self) -> None:
        if self.torch_device.type == "cuda":
            torch.cuda.synchronize()

    def record(self, entry: dict[str, Any]) -> None:
        """Append a result."""
        common = {
            "date": date.today().isoformat(),
            "commit": self.manifest["commit"],
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "input_size": f"{self.manifest['width']}x{self.manifest['height']}",
        }
        with self.path.open("a") as file:
            file.write(json.dumps(common | entry) + "\n")
        brief = {
            k: v for k, v in entry.items() if k in ("entry", "software", "error", "seconds", "bit_exact", "failed")
        }
        print(json.dumps(brief), flush=True)


def peaks(session: Session) -> None:
    """The machine's ceilings, as this run finds them."""
    if ("peaks", "machine") in session.done:
        return
    driver, result = session.driver, {"entry": "peaks", "software": "machine", "l2_bytes": session.driver.l2_bytes}
    for precision, per_mma in (("fp16", 2 * 16 * 8 * 16), ("int8", 2 * 16 * 8 * 32)):
        function = driver.load((HERE / f"peak-{precision}.cubin").read_bytes(), "peak")
        blocks, rounds = driver.multiprocessors * 2, 20000 if session.torch_device.type == "cuda" else 1
        at = driver.allocate(blocks * 512 * 4)
        seconds = driver.seconds(lambda _: driver.launch(function, (blocks, 1, 1), 512, 0, [at], [rounds]), launches=3)
        result[f"mma_{precision}_ops_per_second"] = blocks * 16 * rounds * 8 * per_mma / seconds
    if session.torch_device.type == "cuda":
        a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.float16) for _ in range(2))
        result["wgmma_fp16_ops_per_second"] = (
            2 * 8192**3 / timed(lambda _: torch.mm(a, b), session.synchronise)["value"]
        )
        a8, b8 = (torch.randint(-127, 127, (8192, 8192), device="cuda", dtype=torch.int8) for _ in range(2))
        result["wgmma_int8_ops_per_second"] = (
            2 * 8192**3 / timed(lambda _: torch._int_mm(a8, b8.t()), session.synchronise)["value"]
        )
        big, other = (torch.empty(2 << 30, device="cuda", dtype=torch.uint8) for _ in range(2))
        seconds = timed(lambda _: other.copy_(big), session.synchronise)["value"]
        result["copy_bytes_per_second"] = 2 * big.numel() / seconds
        time.sleep(3)
        before = session.nvml.millijoules()
        time.sleep(5)
        after = session.nvml.millijoules()
        result["idle_w"] = (after - before) / 5e3 if before is not None and after is not None else None
    session.record(result | session.nvml.state())


def ours(session: Session, key: str, entry: dict[str, Any]) -> None:
    """This project's launches: a CUDA graph of the whole network per input set, through the driver alone."""
    if not entry["bundled"] or (key, "codesign") in session.done:
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
        frame = np.random.default_rng().random(source.shape[1:]).astype(np.float16)
        got = out.unpack(loaded.run(source.pack(frame))).astype(np.float64)
        want = exact(session, entry["network"], frame)
        result["error"] = float(np.linalg.norm(got - want) / np.linalg.norm(want))
        result["finite"] = bool(np.isfinite(got).all())
        values = [source.pack(frame)]
    sets = max(2, min(16, -(-2 * driver.l2_bytes // (source.bytes + out.bytes))))
    pairs = [(driver.allocate(values[0]), driver.allocate(out.bytes)) for _ in range(sets)]
    graphs = loaded.graphs(pairs)
    run = lambda index: graphs[index % sets]()  # noqa: E731
    result["seconds"] = timed(run, driver.synchronise)
    result["event_seconds"] = driver.seconds(run, launches=50)
    if session.loop:
        result["energy"] = energy(run, driver.synchronise, session.nvml, session.loop, result["seconds"]["value"])
    session.record(result)
    for address in (a for pair in pairs for a in pair):
        driver.free(address)


def module(session: Session, key: str, entry: dict[str, Any]) -> None:
    """The exported library in TVM's virtual machine."""
    if (key, "codesign module") in session.done or session.torch_device.type != "cuda":
        return
    import tvm
    from tvm.runtime import vm

    machine = vm.VirtualMachine(tvm.runtime.load_module(str(HERE / key / "net.so")), tvm.cuda(0))
    rng = np.random.default_rng(session.manifest["seed"])
    shape = (1, entry["channels"], session.manifest["height"], session.manifest["width"])
    half = entry["precision"] == "fp16"
    frame = rng.random(shape).astype(np.float16) if half else rng.integers(-128, 128, shape).astype(np.int8)
    x = tvm.runtime.tensor(frame, tvm.cuda(0))
    main = machine["main"]
    got = main(x).numpy()[0]
    result: dict[str, Any] = {"entry": key, "software": "codesign module", "precision": entry["precision"]}
    if half:
        want = exact(session, entry["network"], frame[0])
        result["error"] = float(np.linalg.norm(got.astype(np.float64) - want) / np.linalg.norm(want))
    elif "sha256" in entry:
        result["bit_exact"] = hashlib.sha256(np.ascontiguousarray(got).tobytes()).hexdigest() == entry["sha256"]
    result["seconds"] = timed(lambda _: main(x), tvm.cuda(0).sync)
    session.record(result)


def exact(session: Session, name: str, frame: np.ndarray) -> np.ndarray:
    """The torch definition in float64."""
    net = networks.load(name).double().eval().to(session.torch_device)
    with torch.no_grad():
        return net(torch.from_numpy(frame[None].astype(np.float64)).to(session.torch_device))[0].cpu().numpy()


def peers(session: Session, key: str, entry: dict[str, Any], which: str) -> None:
    """torch, eager or compiled, in FP16, channels last."""
    software = f"torch {which}"
    if (key, software) in session.done:
        return
    net = networks.load(entry["network"]).half().eval().to(session.torch_device, memory_format=torch.channels_last)
    if which == "compile":
        torch._dynamo.reset()
        net = torch.compile(net, mode="max-autotune")  # CUDA graphs included
    shape = (1, entry["channels"], session.manifest["height"], session.manifest["width"])
    per = 2 * math.prod(shape) * (1 + entry["scale"] ** 2)
    sets = max(2, min(16, -(-2 * session.driver.l2_bytes // per)))
    frames = [
        torch.rand(shape, device=session.torch_device).half().contiguous(memory_format=torch.channels_last)
        for _ in range(sets)
    ]
    result: dict[str, Any] = {"entry": key, "software": software, "precision": "fp16"}
    began = time.perf_counter()
    with torch.inference_mode():
        got = net(frames[0])[0].float().cpu().numpy()
        run = lambda index: net(frames[index % sets])  # noqa: E731
        result["seconds"] = timed(run, session.synchronise)
        result["prepare_seconds"] = time.perf_counter() - began
        if session.loop and which == "compile":
            result["energy"] = energy(run, session.synchronise, session.nvml, session.loop, result["seconds"]["value"])
    want = exact(session, entry["network"], frames[0][0].cpu().numpy())
    result["error"] = float(np.linalg.norm(got - want) / np.linalg.norm(want))
    session.record(result)


def table(session: Session) -> str:
    """Milliseconds, ratios and roofline shares, one network a line."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for line in session.path.read_text().splitlines():
        entry = json.loads(line)
        found[entry["entry"], entry["software"]] = entry
    ceilings = found.get(("peaks", "machine"), {})
    lines = [
        f"{'network':28}{'ours ms':>9}{'module':>9}{'compile':>9}{'eager':>9}{'x compile':>10}{'roofline':>9}  check"
    ]
    for key, entry in session.manifest["entries"].items():
        own, comp = found.get((key, "codesign"), {}), found.get((f"{entry['network']}-fp16", "torch compile"), {})
        eager = found.get((f"{entry['network']}-fp16", "torch eager"), {})
        own_module = found.get((key, "codesign module"), {})
        ms = [r["seconds"]["value"] * 1e3 if "seconds" in r else math.nan for r in (own, own_module, comp, eager)]
        peak = ceilings.get(f"wgmma_{entry['precision']}_ops_per_second", math.nan)
        share = 2 * entry["macs"] / peak / ms[0] * 1e3
        check = own.get("bit_exact", own.get("error", own.get("failed", "")))
        lines.append(
            f"{key:28}" + "".join(f"{value:9.3f}" for value in ms) + f"{ms[2] / ms[0]:10.2f}{share:9.1%}  {check}"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure everything that has no result yet, in an order that leaves the most if time runs out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="networks; all without")
    parser.add_argument("--out", type=Path, default=HERE / "out")
    parser.add_argument("--energy", type=float, default=10.5, help="seconds of an energy loop; 0 for none")
    parser.add_argument("--device", default="cuda", help="of torch; cpu tries this script without a GPU")
    parser.add_argument("--driver", default="libcuda.so.1")
    parser.add_argument("--seconds", type=float, default=450.0, help="start nothing new after")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    session = Session(options.out, options.device, options.energy, options.driver)
    entries = {
        k: e for k, e in session.manifest["entries"].items() if not options.names or e["network"] in options.names
    }
    halves = {k: e for k, e in entries.items() if e["precision"] == "fp16"}
    steps: list[tuple[str, str, Callable[[], None]]] = [("peaks", "machine", lambda: peaks(session))]
    steps += [(k, "codesign", lambda k=k, e=e: ours(session, k, e)) for k, e in entries.items()]
    steps += [(k, "codesign module", lambda k=k, e=e: module(session, k, e)) for k, e in entries.items()]
    for which in ("eager", "compile"):
        steps += [(k, f"torch {which}", lambda k=k, e=e, w=which: peers(session, k, e, w)) for k, e in halves.items()]
    for key, software, step in steps:
        if time.monotonic() - began > options.seconds:
            print("out of time; run again to go on", flush=True)
            break
        try:
            step()
        except (CodesignError, RuntimeError, ImportError, AttributeError) as error:
            session.record({"entry": key, "software": software, "failed": str(error)[:500]})
    text = table(session)
    (options.out / "table.txt").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
