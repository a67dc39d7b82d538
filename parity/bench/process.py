"""A framework's process, seen from `measure.py`: one question, one answer, and it outlives the worker's death."""

from __future__ import annotations

from parity.bench import worker
from parity.bench.messages import Bad, Hello, Inspect, Inspected, Time, Timed, Unable
from parity.errors import BadInput
from parity.process import LOADING, spawn


class Host:
    """One worker process. While it is not asked it sleeps on its pipe, and so takes nothing from the one that is timed.

    Raises:
      BadInput: the worker cannot start; `hello` has its framework's contenders otherwise.
    """

    def __init__(self, framework: str, device: str | None) -> None:
        self.framework, self._device = framework, device
        self.hello = self._start()

    def ask(self, question: Inspect | Time, seconds: float) -> Inspected | Timed | Unable:
        """The answer; or, if there is none in time or the worker dies of it, that, and a new worker is there."""
        try:
            self._connection.send(question)
            if not self._connection.poll(seconds):
                return self._lost(f"no answer in {seconds:.0f} s")
            answer: Inspected | Timed | Unable = self._connection.recv()
        except (EOFError, ConnectionResetError, BrokenPipeError):
            self._process.join()
            return self._lost(f"the worker died (exit code {self._process.exitcode})")
        return answer

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self._connection.close()
        self._process.kill()
        self._process.join()

    def _lost(self, words: str) -> Unable:
        self.close()
        self._start()
        return Unable(words, "lost")

    def _start(self) -> Hello:
        self._process, self._connection = spawn(worker.main, self.framework, self._device)
        message: Hello | Bad
        try:
            answered = self._connection.poll(LOADING)
            message = self._connection.recv() if answered else Bad(f"it was not ready after {LOADING:g} s of loading")
        except (EOFError, ConnectionResetError):
            self._process.join()
            message = Bad(f"it died while loading (exit code {self._process.exitcode})")
        if isinstance(message, Bad):
            self.close()
            raise BadInput(f"the {self.framework} side of the bench cannot start: {message.message}")
        return message
