"""Opens weights files as they are published (``.pth``, ``.ckpt``, ``.safetensors``): plain tensors, no code.

A child process opens a file first, within limits of memory and time: it reads the tensors with torch's restricted
unpickler, builds the network that they are recognised as, and leaves the tensors in a file that has no room for more.
What the child can do this process can do too, so only then is the network built here. A pickle may hold anything, and
names and shapes of weights decide how large a network is built: neither is looked at here before it was tried there.
"""

from __future__ import annotations

import re
import resource
import tempfile
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codesign.compile.importing.check.child import ChildError, Limits, in_child
from codesign.compile.importing.limits import COPIES, MAX_RATIO, MAX_WEIGHT_BYTES, free_memory
from codesign.compile.importing.published.restorer import ModelCard, Restorer, recognised, spandrel
from codesign.hw.errors import CodesignError, InputError

SUFFIXES = (".pth", ".ckpt", ".safetensors")

SECONDS = 60
"""Processor time that opening a file may take; the largest architecture takes 10."""

_WRAPPERS = ("model_state_dict", "state_dict", "params_ema", "params-ema", "params", "model", "net")
"""Names under which training programs keep the weights, in spandrel's order."""


@dataclass(frozen=True)
class WeightsFile:
    """A network from a weights file, and the card that describes it."""

    card: ModelCard
    module: Restorer


def read_weights_file(path: Path, seconds: int = SECONDS) -> WeightsFile:
    """The network in ``path``. No code of the file runs.

    Raises :class:`InputError` for a file that is missing, damaged, too large, holds more than tensors, or whose weights
    belong to no architecture that spandrel knows.
    """
    _check(path)
    spandrel()  # takes seconds; the child, a copy of this process, then has it
    with tempfile.TemporaryDirectory(prefix="codesign-") as folder:
        plain = Path(folder) / "weights.safetensors"
        refused = _tried(path, plain, min(COPIES * MAX_WEIGHT_BYTES, free_memory()), seconds)
        if refused is not None:
            raise InputError(refused[0], where=str(path), hint=refused[1])
        from safetensors.torch import load_file

        module, card = recognised(load_file(plain), str(path))
    return WeightsFile(card, module)


def _check(path: Path) -> None:
    """Refuse what needs no child to be told."""
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise InputError("not a file", where=str(path), hint="Give the weights file itself.")
        with path.open("rb"):
            pass
    except FileNotFoundError as error:
        raise InputError("no such file", where=str(path), hint="Check the path of the weights file.") from error
    except OSError as error:
        raise InputError(
            f"cannot be read ({error.strerror})", where=str(path), hint="Check its permissions."
        ) from error
    if size == 0:
        raise InputError("the file is empty", where=str(path), hint="Download it again.")
    if size > MAX_WEIGHT_BYTES:
        raise InputError(
            f"has {size / 1e9:.1f} GB, more than {MAX_WEIGHT_BYTES / 1e9:.1f}",
            where=str(path),
            hint="Save the weights alone, without the state of the training.",
        )


def _tried(path: Path, plain: Path, budget: int, seconds: int) -> tuple[str, str] | None:
    """Open a file in a child, which leaves its tensors in ``plain``; what is wrong with it, and a hint."""
    hint = "The file is damaged, or made to do harm: download it again, from elsewhere."
    try:
        # Beside other work its seconds of the processor take longer.
        return in_child(lambda: _opened(path, plain, budget, seconds), Limits(60 + 4 * seconds, budget))
    except ChildError as error:
        if error.kind == "time" or "SIGXCPU" in error.text:
            return f"takes more than {seconds} s to open", hint
        if error.kind == "memory":
            return f"takes more than {budget / 1e9:.1f} GB to open", hint
        return f"could not be opened ({error.text})", hint


def _opened(path: Path, plain: Path, budget: int, seconds: int) -> tuple[str, str] | None:
    """Open a file in this process, a child."""
    _limit_time(seconds)
    from safetensors.torch import save_file

    try:
        state = _read(path)
        recognised(state, str(path))
        save_file(state, plain)
    except CodesignError as error:
        return error.what, error.hint
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "memory" not in str(error):
            raise
        return f"takes more than {budget / 1e9:.1f} GB to open", _AGAIN
    return None


def _limit_time(seconds: int) -> None:
    """Bound the processor time that this process may take from now on."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    spent = int(used.ru_utime + used.ru_stime) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (spent + seconds, spent + seconds + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


_AGAIN = "Download the file again, or save the weights alone: torch.save(net.state_dict(), 'net.pth')."


def _refused(what: str, hint: str = _AGAIN) -> InputError:
    return InputError(what, hint=hint)


def _read(path: Path) -> dict[str, Any]:
    """The weights in ``path`` by name: dense, finite, each with memory of its own.

    Raises :class:`InputError`.
    """
    import torch

    if path.suffix.lower() == ".safetensors":
        from safetensors.torch import load_file

        try:
            found: Any = load_file(path)
        except Exception as error:
            raise _refused(f"is not a readable safetensors file ({_said(error)})") from error
    else:
        _check_archive(path)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = torch.load(path, map_location="cpu", weights_only=True)
        except MemoryError:
            raise
        except Exception as error:
            raise _unreadable(error) from error
    return _checked(_unwrapped(found))


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


def _unreadable(error: Exception) -> InputError:
    text = str(error)
    if "memory" in text and not isinstance(error, (EOFError, LookupError)):
        raise MemoryError from error
    if named := re.search(r"GLOBAL ([\w.]+)|unrecognized function <\w+ '?([\w.]+)", text):
        return _refused(
            f"holds more than weights: it names '{(named[1] or named[2])[:80]}', and code of a file is not run"
        )
    return _refused(f"is not a readable weights file ({type(error).__name__})")


def _check_archive(path: Path) -> None:
    """Refuse archives that hold programs, or unpack to far more than they are."""
    if not zipfile.is_zipfile(path):
        return  # torch's format before 1.6, a bare pickle followed by the tensors
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except Exception as error:
        raise _refused(f"is not a readable archive ({_said(error)})") from error
    names = {member.filename.partition("/")[2] for member in members}
    if "constants.pkl" in names:
        raise _refused("is a TorchScript program, not weights", "Save its weights: torch.save(net.state_dict(), ...).")
    if "models/model.json" in names:
        raise _refused("is an exported program, not weights", "End its name in .pt2.")
    size = sum(member.file_size for member in members)
    if size > MAX_WEIGHT_BYTES:
        raise _refused(f"unpacks to {size / 1e9:.1f} GB, more than {MAX_WEIGHT_BYTES / 1e9:.1f}")
    if any(member.file_size > max(2**20, MAX_RATIO * member.compress_size) for member in members):
        raise _refused(f"unpacks to more than {MAX_RATIO} times its size")


def _unwrapped(found: Any) -> dict[str, Any]:
    """The state dictionary, out of what a training program wraps around it."""
    if isinstance(found, dict):
        for name in _WRAPPERS:
            if isinstance(found.get(name), dict):
                found = found[name]
                break
    if isinstance(found, dict) and len(found) == 1 and isinstance(next(iter(found.values())), dict):
        found = next(iter(found.values()))
    if not isinstance(found, dict) or not found:
        raise _refused("does not hold a state dictionary")
    return found


def _checked(state: Mapping[Any, Any]) -> dict[str, Any]:
    import torch

    result: dict[str, torch.Tensor] = {}
    size = 0
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise _refused(f"holds '{str(name)[:80]}', a {type(value).__name__}, where weights should be")
        if value.layout is not torch.strided or value.is_quantized or value.is_complex() or value.is_meta:
            raise _refused(f"'{name[:80]}' is not a plain tensor")
        size += value.numel() * value.element_size()
        if size > MAX_WEIGHT_BYTES:
            raise _refused(f"holds more than {MAX_WEIGHT_BYTES / 1e9:.1f} GB of weights")
        plain = value.detach().clone(memory_format=torch.contiguous_format)
        if plain.is_floating_point() and not torch.isfinite(plain).all():
            raise _refused(f"'{name[:80]}' holds values that are not finite", "Train again, or give other weights.")
        result[name] = plain
    return result
