"""``restore``: video in, video out; pictures in, pictures out."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from codesign.cli.console import (
    Accel,
    Json,
    NoImportCheck,
    RangeOption,
    Weights,
    err,
    found_and_described,
    out,
    progress,
    tell_import,
    warn,
    warn_import,
    write_json,
)

if TYPE_CHECKING:  # what this imports takes seconds to load
    from codesign.compile.importing.check.result import ImportCheck

app = typer.Typer()


@app.command(epilog="Example: [bold]python -m codesign restore photo.png -o restored.png --network 4x-model.pth[/]")
def restore(
    source: Annotated[Path, typer.Argument(help="The video, picture or folder of pictures to restore.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="What to write: .mp4, .mov or .mkv; a picture; a folder.")
    ],
    network: Annotated[
        str, typer.Option(help="A network that up-scales, denoises or interpolates; a .pth or .safetensors file.")
    ] = "sesr_m5_x2",
    target: Annotated[str, typer.Option(help="cpu, cuda, or scanline-model: the golden model.")] = "cpu",
    accel: Accel = "base",
    weights: Weights = None,
    values: RangeOption = None,
    tile: Annotated[
        int | None,
        typer.Option(help="Largest side of tiles that frames are cut to.", metavar="PIXELS"),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted output.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")] = False,
    no_import_check: NoImportCheck = False,
    json_to: Json = None,
) -> None:
    """Restore a video frame by frame, a picture, or a folder of pictures.

    Audio is copied, times are kept, --resume continues an interrupted run. Pictures keep names, 16 bits, transparency.
    """
    from codesign.video.pictures import are_pictures, restore_pictures
    from codesign.video.restore import restore as restore_video
    from codesign.video.targets import Device, check_target
    from codesign.video.tiles import check_tile

    check_tile(tile)
    found = found_and_described(network, weights, values, check=not no_import_check)
    work = restore_pictures if are_pictures(source) else restore_video
    if not found.trained:
        warn(f"{network} has random weights, so its pictures are of no use: give --weights.")
    began = time.perf_counter()
    first: list[int] = []
    checks: list[ImportCheck] = []
    with progress("Restoring") as (say, _):

        def tick(done: int, expected: int | None) -> None:
            first[:] = first or [done - 1]
            rate = (done - first[0]) / (time.perf_counter() - began)
            left = f", {(expected - done) / rate:.0f} s left" if expected and expected > done else ""
            say(f"frame {done}{f' of {expected}' if expected else ''}, {rate:.2f} frames/s{left}")

        try:
            made = work(
                source,
                output,
                found,
                Device(check_target(target), accel, tile),
                existing="overwrite" if overwrite else "resume" if resume else "refuse",
                say=say,
                tick=tick,
                imported=checks.append,
            )
        except KeyboardInterrupt:
            if first:
                err.print(f"{output} holds what is finished; continue it with --resume.")
            raise
    data = {
        "output": str(output),
        "network": network,
        "target": target,
        "frames": made.frames,
        "resumed_frames": made.resumed_frames,
        "output_size": f"{made.size[0]}x{made.size[1]}",
        "seconds": made.seconds,
        "model": None if found.card is None else found.card.to_json(),
        "frames_per_second": made.frames_per_second,
        "import": checks[0].to_json() if checks else None,  # on the CPU the model runs itself
    }
    if json_to is not None:
        write_json(data, json_to)
        for check in checks:
            warn_import(check.to_json())
        return
    if are_pictures(source):
        counted = f"{made.frames} pictures" if source.is_dir() else data["output_size"]
        out.print(f"Wrote {output}: {counted} in {made.seconds:.1f} s.")
    else:
        out.print(
            f"Wrote {output}: {made.frames} frames of {data['output_size']}, {made.frames_per_second:.2f} a second.",
        )
    for check in checks:
        tell_import(check.to_json())
