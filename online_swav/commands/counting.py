"""A bar for what takes long."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def counting(words: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on stderr while something is counted; nothing where stderr is no terminal.

    Yields:
        What is told how many more are done.
    """
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(words, total=total)
        yield lambda more: progress.advance(task, more)
