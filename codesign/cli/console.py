"""Options, output streams, progress and sizes that the commands share."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import sys
import time
import typing
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.segment import Segment
from rich.text import Text

from codesign.hw.errors import InputError

if TYPE_CHECKING:  # what these modules import takes seconds to load
    from codesign.compile import driver
    from codesign.sim import model
    from codesign.workflows import sources, watch


def plain(text: str) -> str:
    """``text`` with everything that would steer a terminal escaped: control characters, text directions, lone
    surrogates.

    Names of operators and files come from foreign files: an escape sequence must not set the window's title, and a
    reversed direction must not disguise a name. Line ends and tabs stay.
    """
    return text if text.isascii() and text.isprintable() else "".join(map(_visible, text))


def _visible(character: str) -> str:
    if character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp"):
        return character
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


class PlainConsole(Console):
    """A console that prints strings as plain text: no markup, no emoji codes, no control characters.

    Numbers are not coloured either. Styles come from ``style=`` and from :class:`rich.text.Text`.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, markup=False, emoji=False, highlight=False)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(plain(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else plain(text), style, control)


# Figures go to standard output, everything else to standard error.
out = PlainConsole()
err = PlainConsole(stderr=True)


def warn(text: str) -> None:
    """Print a warning to standard error."""
    err.print(Text.assemble(("Warning:", "yellow"), " ", text), soft_wrap=True)


def import_text(check: dict[str, Any], *, short: bool = False) -> Text:
    """How far an import agrees with its model, as a result's JSON has it; red where that is not known."""
    if short or not check["checked"]:
        return Text(check["text"], "" if check["checked"] else "bold red")
    return Text(f"{check['text']} beside {check['engine']} on a frame of {check['frame']}")


def tell_import(check: dict[str, Any]) -> None:
    """Print :func:`import_text` as a line of a result."""
    out.print(Text("import: ", "bold red" if not check["checked"] else "").append_text(import_text(check)))


def warn_import(check: dict[str, Any]) -> None:
    """Say on standard error that an import was not checked, if it was not: for results that go elsewhere as JSON."""
    if not check["checked"]:
        err.print(Text("import: ", "bold red").append_text(import_text(check)), soft_wrap=True)


def fail(error: Exception) -> None:
    """Print an error to standard error, without breaking its paths over lines."""
    err.print(Text.assemble(("error:", "bold red"), " ", str(error)), soft_wrap=True)


Source = Annotated[
    str,
    typer.Argument(help="A network's name, or a .onnx, .pt2, .pth, .ckpt or .safetensors file.", metavar="NET|FILE"),
]
NoImportCheck = Annotated[
    bool, typer.Option("--no-import-check", help="Do not hold the imported network against the model's own engine.")
]
Accel = Annotated[str, typer.Option(help="Preset (tiny, edge, base, large) or a specification in TOML.")]
SizeOption = Annotated[str | None, typer.Option(help="Input size, width first: 1280x720.", metavar="WxH")]
Weights = Annotated[Path | None, typer.Option(help="Weights for a named network (.npz, .pt).")]
RangeOption = Annotated[
    str | None,
    typer.Option(
        "--range",
        help="Values of the network's images: 0..1, 0..255 or -1..1; guessed without.",
        metavar="LOW..HIGH",
    ),
]
ImageOption = Annotated[Path | None, typer.Option(help="Ground truth: down-sampled, restored, compared.")]
InputOption = Annotated[
    list[Path] | None, typer.Option("--input", help="An image, or a folder of images, fed as it is.")
]
Method = Annotated[str, typer.Option(help="Calibration: percentile, minmax or mse.")]
Images = Annotated[Path | None, typer.Option(help="Folder of photographs to calibrate and fine-tune with.")]
Finetune = Annotated[int, typer.Option(help="Steps of quantisation-aware fine-tuning.", min=0, metavar="STEPS")]
ErrorBudget = Annotated[
    float | None,
    typer.Option(
        help="Largest mean error per pixel, in the output's units; tensors get 16 bits to stay within it.", metavar="X"
    ),
]
Json = Annotated[str | None, typer.Option("--json", help="Write the figures as JSON to a file; - is standard output.")]
Bandwidth = Annotated[float | None, typer.Option(help="DRAM bytes per cycle; the bus width by default.")]
Latency = Annotated[int, typer.Option(help="DRAM latency in cycles.")]
BackendOption = Annotated[str, typer.Option(help="rtl (cycle by cycle) or reference (golden model).")]

METHODS: tuple[Literal["percentile", "minmax", "mse"], ...] = ("percentile", "minmax", "mse")


@dataclass(frozen=True)
class NetworkOptions:
    """The network that the user names, with its weights."""

    source: Source
    weights: Weights = None
    values: RangeOption = None
    no_import_check: NoImportCheck = False

    def found(self) -> sources.Source:
        """Raises :class:`InputError` for an unknown name and for a range that no network has."""
        return found_and_described(self.source, self.weights, self.values, check=not self.no_import_check)


@dataclass(frozen=True)
class QuantisationOptions:
    """Options of quantisation."""

    method: Method = "percentile"
    images: Images = None
    finetune: Finetune = 0

    def quantisation(self, error_budget: float | None = None) -> driver.Quantisation:
        """Raises :class:`InputError` for an unknown method."""
        from codesign.compile.driver import Quantisation

        method = next((one for one in METHODS if one == self.method), None)
        if method is None:
            raise InputError(
                f"unknown calibration {self.method!r}", where="--method", hint="Choose percentile, minmax or mse."
            )
        return Quantisation(method, error_budget, finetune_steps=self.finetune)


@dataclass(frozen=True)
class DramOptions:
    """The memory behind the machine's bus."""

    dram_bandwidth: Bandwidth = None
    dram_latency: Latency = 100

    def dram(self) -> model.Dram:
        """Raises :class:`InputError` for a memory that does not exist."""
        from codesign.sim.model import Dram

        return Dram(self.dram_bandwidth, self.dram_latency)


def found_and_described(
    source: str, weights: Path | None = None, values: str | None = None, *, check: bool = True
) -> sources.Source:
    """The network that the user names; one that was recognised by its weights is described in a line.

    Raises :class:`InputError` for an unknown name and for a range that no network has.
    """
    from codesign.compile.importing.value_range import parse_range
    from codesign.workflows.sources import find

    found = find(source, weights, None if values is None else parse_range(values), check=check)
    if found.card is not None:
        err.print(f"{found.name}: {found.card}", soft_wrap=True)
    return found


def with_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command take groups of options: a parameter that is a dataclass becomes an option for each of its fields.

    Typer reads the options from the signature; the command itself gets each group as one value.
    """
    hints = typing.get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: hint for name, hint in hints.items() if dataclasses.is_dataclass(hint)}
    parameters = []
    for parameter in inspect.signature(command).parameters.values():
        if parameter.name in groups:
            parameters += _options_of(groups[parameter.name])
        else:
            parameters.append(parameter.replace(annotation=hints[parameter.name], kind=inspect.Parameter.KEYWORD_ONLY))

    def flat(**given: Any) -> None:
        whole = {
            name: group(**{field.name: given.pop(field.name) for field in dataclasses.fields(group)})
            for name, group in groups.items()
        }
        command(**whole, **given)

    flat.__name__, flat.__doc__ = command.__name__, command.__doc__
    flat.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    flat.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return flat


def _options_of(group: Any) -> list[inspect.Parameter]:
    hints = typing.get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in dataclasses.fields(group)
    ]


def parse_size(text: str | None) -> tuple[int, int] | None:
    """``1280x720`` as (1280, 720). Raises :class:`InputError` for anything else."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,9})x(\d{1,9})", text.strip().lower())
    if match is None:
        raise InputError(f"{text!r} is not a size", where="--size", hint="Write WIDTHxHEIGHT, for example 1280x720.")
    from codesign.pictures.images import check_size

    size = int(match[1]), int(match[2])
    check_size(*size, where="--size")
    return size


def backend_named(text: str) -> watch.Backend:
    """``text`` as a backend. Raises :class:`InputError` for an unknown one."""
    if text in ("rtl", "reference"):
        return cast("watch.Backend", text)
    raise InputError(f"unknown backend {text!r}", where="--backend", hint="Choose rtl or reference.")


def command_line() -> str:
    """The command line, as recorded in results."""
    return " ".join(["python -m codesign", *sys.argv[1:]])


def write_json(data: dict[str, Any], target: str) -> None:
    """Write JSON to a file, whole or not at all, or to standard output for ``-``."""
    from codesign.hw.files import write_text

    text = json.dumps(data, indent=2)
    if target == "-":
        print(text)
    else:
        write_text(target, text + "\n")
        err.print(f"Wrote {target}")


@contextmanager
def progress(title: str) -> Iterator[tuple[Callable[[str], None], Callable[[int, int], None]]]:
    """A spinner on standard error; yields ``say``, told each stage, and ``tick``, told cycles done and expected (0:
    unknown)."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task(title, total=None)
        stage = title

        def say(text: str) -> None:
            nonlocal stage
            stage = text
            bar.update(task, description=f"{title}: {text}")

        ticks: list[tuple[float, int]] = []

        def tick(cycles: int, expected: int) -> None:
            ticks.append((time.perf_counter(), cycles))
            (first, before), (now, _) = ticks[0], ticks[-1]
            rate = (cycles - before) / (now - first) if now > first else 0.0
            left = f", {(expected - cycles) / rate:.0f} s left" if rate and expected > cycles else ""
            text = f"{title}: {cycles / 1e6:.2f} M cycles, {rate / 1e3:.0f} thousand/s{left}"
            if expected:
                bar.update(task, completed=cycles, total=expected)
            bar.update(task, description=text)

        yield say, tick
