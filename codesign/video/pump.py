"""A pipeline of three threads: a few items are read ahead of the work, and a few wait to be written."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

_T = TypeVar("_T")
_R = TypeVar("_R")

DEPTH = 4
"""Items that wait before and after the work. They bound the memory, whatever the stream's length."""

_POLL_SECONDS = 0.1


class _End:
    pass


def pump(source: Iterable[_T], work: Callable[[_T], _R], sink: Callable[[_R], None], *, depth: int = DEPTH) -> int:
    """Hand every item of ``source`` through ``work`` to ``sink``, in order; returns the number of items.

    Source and sink run in threads of their own, work in the caller's. At most ``2 depth + 3`` items exist at a time.
    An exception of any of them is raised here once the others have stopped; the items before it are in the sink.
    """
    before: queue.Queue[Any] = queue.Queue(depth)
    after: queue.Queue[Any] = queue.Queue(depth)
    stop = threading.Event()
    failures: list[BaseException] = []

    def put(where: queue.Queue[Any], item: Any) -> bool:
        while not stop.is_set():
            try:
                where.put(item, timeout=_POLL_SECONDS)
                return True
            except queue.Full:
                continue
        return False

    def read() -> None:
        try:
            for item in source:
                if not put(before, item):
                    return
        except BaseException as error:
            failures.append(error)
        put(before, _End)

    written = 0

    def write() -> None:
        nonlocal written
        try:
            while (item := after.get()) is not _End:
                sink(item)
                written += 1
        except BaseException as error:
            failures.append(error)
            stop.set()

    threads = [threading.Thread(target=read, name="read"), threading.Thread(target=write, name="write")]
    for thread in threads:
        thread.start()
    try:
        while not stop.is_set():
            try:
                item = before.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                continue
            if item is _End or not put(after, work(item)):
                break
    finally:
        # The writer empties its queue, unless it failed; the reader gives up.
        if threads[1].is_alive():
            _leave(after, threads[1])
        stop.set()
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]
    return written


def _leave(after: queue.Queue[Any], writer: threading.Thread) -> None:
    while writer.is_alive():
        try:
            after.put(_End, timeout=_POLL_SECONDS)
            return
        except queue.Full:
            continue
