"""Progress: a bar on a terminal, a plain line an epoch elsewhere."""

import contextlib
import io

import pytest

from nullmark_jax.progress import Progress

RECORD = {
    "epoch": 3,
    "loss": 0.123456,
    "clean_loss": 0.1,
    "normal_accuracy": 0.9876,
    "null_accuracy": 0.5,
    "true_accuracy": 1.0,
}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_elsewhere_an_epoch_is_a_plain_line(capsys):
    with Progress(total=10) as progress:
        progress.advance(5)
        progress.note(RECORD)
        progress.advance(5)
        progress.note(RECORD | {"epoch": 4, "loss": 2.0})
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        "epoch 3: loss 0.1235, NC 98.76%, null 50.00%, true 100.00%\n"
        "epoch 4: loss 2.0000, NC 98.76%, null 50.00%, true 100.00%\n"
    )


def test_an_epoch_without_a_validation_split_shows_its_loss(capsys):
    with Progress(total=10) as progress:
        progress.note({"epoch": 1, "loss": 0.5})
    assert capsys.readouterr().err == "epoch 1: loss 0.5000\n"


def test_on_a_terminal_there_is_a_bar_with_the_last_epochs_numbers(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")  # tqdm cuts the line to the terminal's width.
    monkeypatch.setenv("LINES", "50")
    terminal = Terminal()
    with contextlib.redirect_stderr(terminal), Progress(total=10, done=4) as progress:
        progress.advance(2)
        progress.note(RECORD)
    last = terminal.getvalue().rsplit("\r", 1)[-1]
    assert "6/10" in last
    assert "60%" in last
    assert "step" in last
    assert "loss 0.1235, NC 98.76%, null 50.00%, true 100.00%" in last
    assert "epoch 3" not in terminal.getvalue()


def test_the_bar_is_closed_when_training_fails():
    terminal = Terminal()
    with (
        pytest.raises(RuntimeError, match="diverged"),
        contextlib.redirect_stderr(terminal),
        Progress(total=10) as progress,
    ):
        progress.advance(1)
        raise RuntimeError("diverged")
    assert terminal.getvalue().endswith("\n")
