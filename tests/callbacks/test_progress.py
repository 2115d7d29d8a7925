"""A run's screen: one line of progress that fits, the parts of the model, and nothing that a terminal cannot show."""

from __future__ import annotations

import io
import logging
import re
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.callbacks import ModelSummary, ProgressBar, RichProgressBar
from small import small_data, small_module, small_trainer

from lightning_clip import Progress
from lightning_clip.callbacks import model_size, progress
from lightning_clip.callbacks.model_size import ModelSize
from lightning_clip.callbacks.progress import _figures
from lightning_clip.commands.quiet import _is_news
from lightning_clip.commands.screen import screen_callbacks, show_results
from lightning_clip.core.pace import Pace
from lightning_clip.data import parallel
from lightning_clip.reporting.terminal import PlainConsole


def lines_of(text: str) -> list[str]:
    """What a terminal was given, without its commands."""
    return [line for line in re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)) if line.strip()]


@pytest.fixture(params=[80, 120])
def terminal(request: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[int, io.StringIO]:
    """A terminal of some width, and what is written to it."""
    screen = io.StringIO()
    made = partial(PlainConsole, file=screen, force_terminal=True, width=request.param, legacy_windows=False)
    monkeypatch.setattr(progress, "PlainConsole", made)
    monkeypatch.setattr(progress, "_EVERY", 0.0)
    return request.param, screen


def test_a_line_for_the_whole_run(terminal: tuple[int, io.StringIO], tmp_path: Path) -> None:
    width, screen = terminal
    trainer = small_trainer(tmp_path, max_steps=4, callbacks=[Progress()], enable_progress_bar=True)
    trainer.fit(small_module(), small_data())
    lines = lines_of(screen.getvalue())
    assert any(line.startswith("training ") and "4/4" in line and "loss" in line for line in lines)
    assert any(line.startswith("validation ") for line in lines)
    assert max(map(len, lines)) <= width
    assert not any(word in line for line in lines for word in ("v_num", "Epoch", "-2", "train/"))


def test_what_is_printed_meanwhile_stands_above_it(terminal: tuple[int, io.StringIO]) -> None:
    bar = Progress()
    bar._begin("training", 10)
    bar.print("step 5: image → text", 0.5)
    bar._end()
    assert "step 5: image → text 0.5" in lines_of(terminal[1].getvalue())


def test_what_is_logged_meanwhile_stands_above_it(terminal: tuple[int, io.StringIO], monkeypatch: pytest.MonkeyPatch) -> None:
    errors = io.StringIO()
    monkeypatch.setattr(sys, "stderr", errors)
    handler = logging.StreamHandler()
    logger = logging.getLogger("lightning.pytorch")
    logger.addHandler(handler)
    bar = Progress()
    try:
        bar._begin("training", 10)
        logger.warning("a line of Lightning's")
        assert "a line of Lightning's" in lines_of(terminal[1].getvalue()) and not errors.getvalue()
        bar._end()
        assert handler.stream is errors
    finally:
        logger.removeHandler(handler)


def test_test_and_predict_leave_no_line(terminal: tuple[int, io.StringIO], tmp_path: Path) -> None:
    bar = Progress()
    trainer = small_trainer(tmp_path, callbacks=[bar], enable_progress_bar=True)
    module = small_module()
    trainer.test(module, small_data(), verbose=False)
    trainer.predict(module, small_data(), return_predictions=False)
    lines = lines_of(terminal[1].getvalue())
    assert any(line.startswith("test ") for line in lines) and any(line.startswith("prediction ") for line in lines)
    assert bar._bar is None and not bar._tasks


def test_lines_where_there_is_no_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bar = Progress(every=0.0)
    small_trainer(tmp_path, max_steps=3, callbacks=[bar], enable_progress_bar=True).fit(small_module(), small_data())
    out = capsys.readouterr().out
    assert re.search(r"^step: 3 of 3, loss \d", out, re.M) and "\x1b" not in out and "━" not in out
    small_trainer(tmp_path, max_steps=3, callbacks=[Progress()], enable_progress_bar=True).fit(small_module(), small_data())
    assert "step:" not in capsys.readouterr().out  # of a run that is over within a minute


def test_an_error_gives_the_terminal_back(terminal: tuple[int, io.StringIO]) -> None:
    bar = Progress()
    bar._begin("training", 10)
    bar.on_exception(None, None, KeyboardInterrupt())  # type: ignore[arg-type]
    assert bar._bar is None and "\x1b[?25h" in terminal[1].getvalue()  # the cursor is back


def test_figures_that_fit() -> None:
    metrics = {"train/loss": 3.14159, "train/pairs": 2.0, "train/loss_epoch": 9.0, "v": "text", "samples/s": 1234.4}
    assert _figures(metrics) == "loss 3.142, pairs 2, 1,234 samples/s"
    assert _figures(metrics, room=30) == "loss 3.142, pairs 2" and _figures(metrics, room=3) == ""


def test_pace_counts_from_where_a_run_was_resumed() -> None:
    seconds = iter([0.0, 1.0, 61.0])
    pace = Pace("step", 200, every=60, clock=lambda: next(seconds))
    assert pace.line(100) == "" and pace.line(150, "loss 1.9") == "step: 150 of 200, loss 1.9, 61 s left"
    assert Pace("step", None, every=0).line(1500) == "step: 1,500"


def test_work_on_ranges_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(parallel, "Pace", partial(Pace, every=0.0))
    assert list(parallel.over_ranges(lambda number, start, stop: stop, 30, 10, 1, "reading captions"))[-1] == (2, 30)
    assert "reading captions: 20 of 30" in capsys.readouterr().err


def test_parts_of_the_model(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    module = small_module(adapt={"image": {"lock": True}})
    small_trainer(tmp_path, max_steps=1, callbacks=[ModelSize()], enable_model_summary=True).fit(module, small_data())
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert next(line for line in lines if line.startswith("image encoder")).endswith("none")
    assert next(line for line in lines if line.startswith("text encoder")).endswith("all")
    assert next(line for line in lines if line.startswith("in all")).endswith("%")
    assert model_size.short(module.model.text_encoder.token_table().weight.numel()) == "1.6 M"


def test_a_recipes_own_bar_and_summary_are_kept() -> None:
    assert [type(one).__name__ for one in screen_callbacks({})] == ["Progress", "ModelSize"]
    assert not screen_callbacks({"enable_progress_bar": False, "enable_model_summary": False})
    own: list[Any] = [RichProgressBar(), ModelSummary()]
    assert isinstance(own[0], ProgressBar) and not screen_callbacks({"callbacks": own})
    assert [type(one).__name__ for one in screen_callbacks({"callbacks": own[0]})] == ["ModelSize"]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_results_are_whole_at_any_width(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Ended:
        is_global_zero, callbacks = True, ()
        callback_metrics = {"val/zero_shot/held_out_among_all/mean_per_class": 0.03125, "val/loss": 3.1, "train/loss": 1.0}

    monkeypatch.setenv("COLUMNS", str(width))
    show_results(Ended(), "val")
    out = capsys.readouterr().out
    assert "val/zero_shot/held_out_among_all/mean_per_class" in out and "0.0312" in out
    assert "…" not in out and "train/loss" not in out
    Ended.callback_metrics = {}
    show_results(Ended(), "val")
    assert "nothing was measured" in capsys.readouterr().out


def test_lines_of_lightnings_that_are_no_news() -> None:
    def told(text: str) -> bool:
        return _is_news(logging.LogRecord("lightning", logging.INFO, "", 0, text, None, None))

    assert not told("TPU available: False, using: 0 TPU cores") and not told("GPU available: False, used: False")
    assert told("GPU available: True (cuda), used: False") and told("`Trainer.fit` stopped: `max_steps=12` reached.")
