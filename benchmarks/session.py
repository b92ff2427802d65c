"""The parent's end of a worker process: commands out, answers in, and patience that ends."""

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
PATIENCE = 300.0  # seconds that a command may take

QUIET = {"TORCH_CPP_LOG_LEVEL": "ERROR", "PYTHONWARNINGS": "ignore"}


class WorkerFailed(Exception):
    """A command came to nothing; the message is fit for a note."""


class Session:
    """A worker process for one engine; it ends with the `with` block."""

    def __init__(self, engine: str, log: Path, options: Mapping[str, Any] | None = None) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log = log.open("a")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", engine, json.dumps(options or {})],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            cwd=REPOSITORY,
            env={**os.environ, **QUIET},
        )

    def __enter__(self) -> "Session":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._process.kill()  # it has nothing to lose, and some libraries take their time to leave
        self._process.communicate()
        self._log.close()

    def ask(self, command: str, *, patience: float = PATIENCE, **arguments: Any) -> dict[str, Any]:
        """The answer to a command.

        Raises:
            WorkerFailed: if the worker says so, dies, or takes longer than `patience`.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        line = json.dumps({"do": command, **arguments}) + "\n"
        try:
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()
        except BrokenPipeError:
            raise WorkerFailed(self._obituary(command)) from None
        ready, _, _ = select.select([self._process.stdout], [], [], patience)
        if not ready:
            self._process.kill()
            raise WorkerFailed(f"{command}: no answer within {patience:.0f} s")
        answer = self._process.stdout.readline()
        if not answer:
            raise WorkerFailed(self._obituary(command))
        content: dict[str, Any] = json.loads(answer)
        if "error" in content:
            raise WorkerFailed(f"{command}: {content['error']}")
        return content

    def _obituary(self, command: str) -> str:
        status = self._process.wait()
        how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        return f"{command}: the process ended with {how}"
