"""Two processes that run functions of many tests, since each start of a process imports everything anew."""

import os
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
from torch import distributed, multiprocessing

_LONGEST_SECONDS = 300
_GRACE_SECONDS = 5


class TwoProcesses:
    """Started when they are first needed, and again after a test that failed in them."""

    def __init__(self) -> None:
        self._started: list[tuple[Any, Connection]] = []

    def run(self, function: Callable[..., None], *arguments: object) -> None:
        """Run `function(rank, *arguments)` in both, at the same time.

        Args:
            function: of a module's top level. Process groups and variables of the environment that it leaves behind
                are taken away again.
            arguments: that can be pickled.

        Raises:
            AssertionError: it failed in one of them; with its traceback.
        """
        self._start()
        for rank, (_, connection) in enumerate(self._started):
            connection.send((function, rank, arguments))
        waiting = {connection: rank for rank, (_, connection) in enumerate(self._started)}
        failures: list[str] = []
        while waiting:
            # Whoever waits for one that has failed may wait for ever, or fail too.
            ready = wait(list(waiting), timeout=_GRACE_SECONDS if failures else _LONGEST_SECONDS)
            if not ready:
                failures.append(f"rank {sorted(waiting.values())} did not end")
                break
            for connection in ready:
                assert isinstance(connection, Connection)
                rank = waiting.pop(connection)
                try:
                    failure = connection.recv()
                except EOFError:
                    failure = "its process ended"
                if failure is not None:
                    failures.append(f"rank {rank}: {failure}")
        if failures:
            self.stop()
            raise AssertionError("\n".join(failures))

    def stop(self) -> None:
        """End both."""
        for process, connection in self._started:
            connection.close()
            process.terminate()
            process.join()
        self._started = []

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        while len(self._started) < 2:
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            self._started.append((process, ours))


def _serve(connection: Connection) -> None:
    torch.set_num_threads(1)
    environment = dict(os.environ)
    while True:
        try:
            function, rank, arguments = connection.recv()
        except EOFError:
            return
        try:
            function(rank, *arguments)
            failure = None
        except BaseException:
            failure = traceback.format_exc()
        finally:
            if distributed.is_initialized():
                distributed.destroy_process_group()
            os.environ.clear()
            os.environ.update(environment)
        connection.send(failure)
