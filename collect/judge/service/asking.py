"""Many requests to one judge: some at once, replies as they come, none begun after a limit was reached."""

from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import TypeVar

from .client import Judge, Reply, Request

About = TypeVar("About")


def replies(judge: Judge, wanted: Iterable[tuple[About, Request]], concurrency: int) -> Iterator[tuple[About, Reply]]:
    """What each request is about, with what came of it."""
    waiting = iter(wanted)
    with ThreadPoolExecutor(concurrency) as pool:
        running: dict[Future[Reply], About] = {}
        try:
            while True:
                free = 0 if judge.limits.reached else concurrency - len(running)
                running |= {pool.submit(judge.request, request): about for about, request in islice(waiting, free)}
                if not running:
                    return
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for one in done:
                    yield running.pop(one), one.result()
        finally:
            for one in running:
                one.cancel()


def in_groups(rows: Iterator[About], size: int) -> Iterator[list[About]]:
    """Lists of `size`, the last one shorter."""
    while some := list(islice(rows, size)):
        yield some
