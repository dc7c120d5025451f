"""Progress of long work: a bar with rate and ETA on a terminal, plain lines elsewhere."""

import sys
from types import TracebackType
from typing import Any


class Progress:
    """Counts steps; a context manager.

    Args:
      total: steps of the whole work.
      done: steps done before this start.
      unit: what a step is called.
    """

    def __init__(self, total: int, done: int = 0, unit: str = "step") -> None:
        self._bar: Any = None
        if sys.stderr.isatty():
            import tqdm  # Here: it takes a tenth of a second of every start, to find its version.

            self._bar = tqdm.tqdm(total=total, initial=done, unit=unit, dynamic_ncols=True)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def advance(self, steps: int) -> None:
        """Counts `steps` more."""
        if self._bar is not None:
            self._bar.update(steps)

    def note(self, record: dict[str, Any]) -> None:
        """Shows an epoch's record: losses as they are, accuracies in percent."""
        shown = {"loss": f"{record['loss']:.4f}"}
        for name, short in (("normal", "NC"), ("null", "null"), ("true", "true")):
            if record.get(f"{name}_accuracy") is not None:
                shown[short] = f"{100 * record[f'{name}_accuracy']:.2f}%"
        line = ", ".join(f"{name} {value}" for name, value in shown.items())
        self.say(line if self._bar is not None else f"epoch {record['epoch']}: {line}")

    def say(self, line: str) -> None:
        """Shows a line: beside the bar on a terminal, elsewhere on its own."""
        if self._bar is not None:
            self._bar.set_postfix_str(line)
        else:
            print(line, file=sys.stderr, flush=True)
