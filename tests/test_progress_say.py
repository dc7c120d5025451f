"""A line about long work: on its own in a log, beside the bar on a terminal."""

import contextlib
import io

from nullmark_jax.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_elsewhere_every_line_is_its_own(capsys):
    with Progress(total=2, unit="measurement") as progress:
        progress.advance(1)
        progress.say("before/victim: 1.5 s")
        progress.advance(1)
        progress.say("100%")
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "before/victim: 1.5 s\n100%\n"


def test_on_a_terminal_the_last_line_stands_beside_the_bar(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")  # tqdm cuts the line to the terminal's width.
    monkeypatch.setenv("LINES", "50")
    terminal = Terminal()
    with (
        contextlib.redirect_stderr(terminal),
        Progress(total=4, done=1, unit="measurement") as progress,
    ):
        progress.say("first")
        progress.advance(1)
        progress.say("second")
    last = terminal.getvalue().rstrip("\n").rsplit("\r", 1)[-1]
    assert "2/4" in last and "measurement" in last
    assert "second" in last and "first" not in last
    assert terminal.getvalue().count("\n") == 1
