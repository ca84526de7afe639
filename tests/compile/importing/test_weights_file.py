"""Weights files as they are published: recognised, described, and refused where they hold anything else."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from published_models import as_bsrgan, as_real_esrgan, compact, dat, dncnn, esrgan, seeded, span, swinir
from safetensors.torch import save_file
from torch import nn

from codesign.compile.importing.published import weights_file
from codesign.compile.importing.published.restorer import SizeRule, spandrel
from codesign.compile.importing.published.weights_file import read_weights_file
from codesign.hw.errors import InputError

LAYOUTS: dict[str, tuple[Callable[[dict[str, torch.Tensor]], Any], str]] = {
    "esrgan-old": (dict, ".pth"),
    "esrgan-new": (as_real_esrgan, ".pth"),
    "esrgan-bsrgan": (as_bsrgan, ".pth"),
    "esrgan-wrapped": (lambda state: {"params_ema": as_real_esrgan(state)}, ".pth"),
    "esrgan-checkpoint": (lambda state: {"state_dict": state, "epoch": 3}, ".ckpt"),
    "esrgan-parallel": (lambda state: {f"module.{name}": one for name, one in state.items()}, ".pth"),
    "esrgan-tensors": (as_real_esrgan, ".safetensors"),
}


def written(state: Any, path: Path, *, old: bool = False) -> Path:
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=not old)
    return path


@pytest.mark.parametrize("layout", LAYOUTS)
def test_esrgan_is_recognised_in_every_layout(layout: str, tmp_path: Path) -> None:
    net = seeded(esrgan)
    rename, suffix = LAYOUTS[layout]
    # ESRGAN's first files are older than torch's archives.
    opened = read_weights_file(
        written(rename(net.state_dict()), tmp_path / f"model{suffix}", old=layout == "esrgan-old")
    )
    card = opened.card
    assert (card.architecture, card.scale, card.channels, card.purpose) == ("ESRGAN", 4, (3, 3), "super-resolution")
    assert card.tags == ("8nf", "1nb")
    image = torch.rand(1, 3, 9, 11)
    with torch.no_grad():
        assert torch.equal(opened.module(image), net(image))


CARDS: dict[str, tuple[Callable[[], nn.Module], str, int, SizeRule, str]] = {
    "unshuffled": (lambda: seeded(esrgan, in_nc=12, shuffle_factor=2), "ESRGAN", 2, SizeRule(4, 4), "super-resolution"),
    "restoring": (lambda: seeded(esrgan, scale=1), "ESRGAN", 1, SizeRule(1, 2), "restoration"),
    "compact": (lambda: seeded(compact), "RealESRGAN Compact", 2, SizeRule(), "super-resolution"),
    "span": (lambda: seeded(span), "SPAN", 2, SizeRule(), "super-resolution"),
    "swinir": (lambda: seeded(swinir), "SwinIR", 2, SizeRule(1, 16), "super-resolution"),
    "dat": (lambda: seeded(dat), "DAT", 2, SizeRule(1, 16), "super-resolution"),
    "dncnn": (lambda: seeded(dncnn), "DnCNN", 1, SizeRule(), "restoration"),
}


@pytest.mark.parametrize("name", CARDS)
def test_the_card_says_what_a_user_must_know(name: str, tmp_path: Path) -> None:
    build, architecture, scale, sides, purpose = CARDS[name]
    net = build()
    opened = read_weights_file(written(net.state_dict(), tmp_path / "model.pth"))
    card = opened.card
    assert (card.architecture, card.scale, card.sides, card.purpose) == (architecture, scale, sides, purpose)
    assert "\n" not in str(card)
    assert all(word in str(card) for word in (architecture, f"scale {scale}", "RGB to RGB", purpose))
    image = torch.rand(1, 3, 16, 24)
    with torch.no_grad():
        torch.testing.assert_close(opened.module(image), net(image), rtol=1e-4, atol=1e-5)


def test_half_precision_becomes_single(tmp_path: Path) -> None:
    state = {name: one.half() for name, one in seeded(compact).state_dict().items()}
    opened = read_weights_file(written(state, tmp_path / "model.safetensors"))
    assert {one.dtype for one in opened.module.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    "rule", [SizeRule(), SizeRule(8), SizeRule(4, 40), SizeRule(32, 0, True), SizeRule(128, 0, True)]
)
@pytest.mark.parametrize("size", [(33, 21), (3, 70), (64, 64), (1, 1)])
def test_padding_is_spandrels_own(rule: SizeRule, size: tuple[int, int]) -> None:
    spandrel()
    import spandrel as library

    helpers = sys.modules["spandrel.__helpers.size_req"]
    image = np.random.default_rng(0).random((1, 3, size[1], size[0]), np.float32)
    theirs = library.SizeRequirements(rule.minimum, rule.multiple, rule.square)
    _, padded = helpers.pad_tensor(torch.from_numpy(image), theirs)
    np.testing.assert_array_equal(rule.pad(image), padded.numpy())
    assert rule.padded(size) == (padded.shape[3], padded.shape[2])


class Runs:
    """A pickle that runs a command when it is read."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


def _with_code(path: Path) -> None:
    torch.save(seeded(compact).state_dict() | {"body.0.weight": Runs(f"touch {path.parent}/ran")}, path)


def _with_code_first(path: Path) -> None:
    path.write_bytes(pickle.dumps(Runs(f"touch {path.parent}/ran"), 2))


def _whole_module(path: Path) -> None:
    torch.save(nn.Sequential(nn.Conv2d(3, 3, 3)), path)


def _script(path: Path) -> None:
    torch.jit.save(torch.jit.script(nn.Conv2d(3, 3, 3)), str(path))


def _truncated(path: Path) -> None:
    torch.save(seeded(compact).state_dict(), path)
    path.write_bytes(path.read_bytes()[:-3000])


def _bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 2**27)


def _announced(path: Path) -> None:
    """Zeros of 1.2 GB in 1 MB."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(9):
            archive.writestr(f"archive/data/{number}", b"\0" * 2**27)


def _hashing(path: Path) -> None:
    """A key that takes 2^60 steps to hash."""
    key: Any = ()
    for _ in range(60):
        key = (key, key)
    path.write_bytes(b"\x80\x02}" + pickle.dumps(key, 2)[2:-1] + b"K\x01s.")


def _stretched(path: Path) -> None:
    torch.save({"body.0.weight": torch.zeros(1).expand(2**40)}, path)


def _endless(path: Path) -> None:
    torch.save(
        seeded(compact).state_dict() | {"body.99999999.weight": torch.zeros(12), "body.99999999.bias": torch.zeros(12)},
        path,
    )


def _wide(path: Path) -> None:
    weights = {"body.0.weight": torch.zeros(200000, 3, 1, 1), "body.1.weight": torch.zeros(1)}
    torch.save(
        weights | {"body.2.weight": torch.zeros(1), "body.2.bias": torch.zeros(12), "body.4.bias": torch.zeros(12)},
        path,
    )


def _not_finite(path: Path) -> None:
    state = seeded(compact).state_dict()
    state["body.0.weight"][0] = float("nan")
    torch.save(state, path)


def _sparse(path: Path) -> None:
    torch.save({"body.0.weight": torch.eye(3).to_sparse()}, path)


HOSTILE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "code in a weight": (_with_code, "code of a file is not run"),
    "code at the start": (_with_code_first, "code of a file is not run"),
    "a module": (_whole_module, "code of a file is not run"),
    "TorchScript": (_script, "TorchScript"),
    "truncated": (_truncated, "not a readable"),
    "empty": (lambda path: path.write_bytes(b""), "empty"),
    "text": (lambda path: path.write_text("weights " * 500), "not a readable"),
    "a bomb": (_bomb, "more than 64 times"),
    "a large bomb": (_announced, "more than"),
    "a key that hashes for ever": (_hashing, "more than 2 s|not be opened"),
    "stretched": (_stretched, "GB of weights"),
    "too many layers": (_endless, "more than 2 s|GB to open|contradict|not be opened"),
    "too wide": (_wide, "GB to open|contradict"),
    "not finite": (_not_finite, "not finite"),
    "sparse": (_sparse, "not a plain tensor"),
    "a number": (lambda path: torch.save(3, path), "state dictionary"),
    "a list": (lambda path: torch.save([torch.zeros(3)], path), "state dictionary"),
    "no network": (lambda path: torch.save({"a": torch.zeros(3)}, path), "no architecture"),
    "half a network": (
        lambda path: torch.save({k: v for k, v in seeded(compact).state_dict().items() if "2" not in k}, path),
        "contradict",
    ),
}


def test_files_are_read_in_a_child(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    _with_code(path)
    with pytest.raises(InputError, match="code of a file is not run"):
        read_weights_file(path)
    assert not (tmp_path / "ran").exists()


CHILD = ("a key that hashes for ever", "too many layers", "too wide", "no network", "half a network")
"""Files that would take this process's time or memory, or that only the library can tell."""


def _opened(path: Path, *, whole: bool) -> None:
    """Open a file, or do in this process what the child does first, which takes no imports."""
    if whole:
        read_weights_file(path, seconds=2)
    weights_file._check(path)
    weights_file._read(path)


@pytest.mark.parametrize("kind", HOSTILE)
def test_anything_else_is_refused_in_a_sentence(kind: str, tmp_path: Path) -> None:
    make, said = HOSTILE[kind]
    path = tmp_path / "model.pth"
    make(path)
    began = time.monotonic()
    with pytest.raises(InputError) as refused:
        _opened(path, whole=kind in CHILD)
    assert time.monotonic() - began < 120
    assert re.search(said, refused.value.what), refused.value.what
    assert "\n" not in refused.value.what
    assert refused.value.hint
    assert not (tmp_path / "ran").exists()


def test_a_damaged_safetensors_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(seeded(compact).state_dict(), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="not a readable safetensors file"):
        read_weights_file(path)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    (tmp_path / "folder.pth").mkdir()
    for name, said in (("none.pth", "no such file"), ("folder.pth", "not a file")):
        with pytest.raises(InputError, match=said):
            read_weights_file(tmp_path / name)


def test_a_module_of_the_users_folder_is_not_imported(tmp_path: Path) -> None:
    """The child does not look for modules where the user stands."""
    written(seeded(compact).state_dict(), tmp_path / "model.pth")
    (tmp_path / "json.py").write_text("open('ran', 'w')")
    code = (
        "from codesign.compile.importing.published import weights_file as w; w.read_weights_file(w.Path('model.pth'))"
    )
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(root)})
    assert done.returncode == 0
    assert not (tmp_path / "ran").exists()


def test_the_library_is_imported_when_it_is_needed() -> None:
    code = "import sys, codesign.workflows.sources; sys.exit('torchvision' in sys.modules or 'spandrel' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
