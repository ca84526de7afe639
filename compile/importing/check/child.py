"""Work done in a process of its own, with limits of time and memory: a model's own engine runs there.

A crash of the engine, an endless loop or all memory taken ends that process and not the compiler. What it prints
goes nowhere. The process is a copy of this one (``fork``), so a user's module needs no way into a file and back.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import resource
import signal
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import torch

T = TypeVar("T")


@dataclass(frozen=True)
class Limits:
    """Seconds, and bytes beyond what the process has when it begins."""

    seconds: float = 60.0
    memory: int = 4 * 2**30


Kind = Literal["time", "memory", "died", "raised", "refused", "fails", "lacks"]


class ChildError(Exception):
    """The work had no result. ``kind``: the limit that it met, ``died`` without a word, or ``raised`` what ``text``
    says; ``refused`` (whatever the frame), ``fails`` (on this frame) and ``lacks`` (an operator) are an engine's own
    words on a model."""

    def __init__(self, kind: Kind, text: str) -> None:
        super().__init__(text)
        self.kind, self.text = kind, text


@dataclass(frozen=True)
class _Reply(Generic[T]):
    value: T | None = None
    failure: tuple[Any, str] | None = None


def in_child(work: Callable[[], T], limits: Limits = Limits()) -> T:
    """The result of ``work``, which must be picklable. Raises :class:`ChildError`."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(theirs, work, limits), daemon=True)
    process.start()
    theirs.close()
    try:
        if not ours.poll(limits.seconds):
            raise ChildError("time", f"took more than {limits.seconds:g} s")
        reply: _Reply[T] = ours.recv()
    except (EOFError, OSError) as error:
        process.join(5)
        code = process.exitcode or 0
        if code == -signal.SIGKILL:
            raise ChildError("memory", "was killed, as when memory is short") from error
        name = signal.Signals(-code).name if code < 0 else f"exit {code}"
        raise ChildError("died", f"died ({name})") from error
    finally:
        process.kill()
        process.join()
        ours.close()
    if reply.failure is not None:
        raise ChildError(*reply.failure)
    return reply.value  # type: ignore[return-value]


def _work(pipe: Connection, work: Callable[[], T], limits: Limits) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    faulthandler.disable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is told, and ends this process
    # The threads of the parent's pools are not here: whoever waited for them would wait for ever.
    torch.set_num_threads(1)
    _limit_memory(limits.memory)
    try:
        reply: _Reply[T] = _Reply(work())
    except ChildError as error:
        reply = _Reply(failure=(error.kind, error.text))
    except MemoryError:
        reply = _Reply(failure=("memory", _memory(limits)))
    except Exception as error:  # an engine raises many kinds, user code any
        text = " ".join(str(error).split())[:300] or type(error).__name__
        short = is_short_of_memory(text)
        reply = _Reply(failure=("memory", _memory(limits)) if short else ("raised", text))
    pipe.send(reply)
    pipe.close()


def is_short_of_memory(text: str) -> bool:
    """Whether an error's text, of torch, numpy or ONNX Runtime, is about memory."""
    words = ("can't allocate", "failed to allocate", "bad_alloc", "out of memory", "unable to allocate")
    return any(word in text.lower() for word in words)


def _memory(limits: Limits) -> str:
    return f"needed more than {limits.memory / 2**30:.3g} GiB"


def _limit_memory(more: int) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + more
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
