"""Tables at any width: no number is cut, names stay apart, and what has no room is said."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from yolov5_prune_plugin.core.pruning.sparsity import Layer, Sparsity
from yolov5_prune_plugin.reporting.console import WIDTH, plain_console
from yolov5_prune_plugin.reporting.layers import layers_table
from yolov5_prune_plugin.reporting.tables import Table, folded


def printed(table: Table, width: int) -> list[str]:
    """Its lines, without spaces at their ends."""
    console = Console(file=io.StringIO(), width=width, markup=False)
    console.print(table)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def example() -> Table:
    """Three rows of the longest names that a model has."""
    table = Table("a title")
    table.column("layer", "name")
    table.column("shape", spare=1)
    table.column("weights")
    table.column("bits/weight", spare=2)
    for number in (1, 2, 10):
        table.row(f"model.{number}.m.0.attention.cv2.conv.weight", "128x128x3x3", f"{147456 * number:,}", "1.234")
    return table


def test_a_name_is_folded_in_the_middle() -> None:
    assert folded("model.23.conv.weight", 11) == "model…eight"
    assert folded("model.1", 11) == "model.1"
    assert [folded("abcdef", width) for width in (1, 2, 3)] == ["…", "a…", "a…f"]


@pytest.mark.parametrize("width", [120, 80, 60, 40])
def test_a_table_fits(width: int) -> None:
    lines = printed(example(), width)
    assert max(map(len, lines)) <= width
    for number in (1, 2, 10):
        assert any(f"{147456 * number:,}" in line and line.lstrip().startswith(f"model.{number}.") for line in lines)
    assert not any("…" in line and not line.lstrip().startswith("model.") for line in lines), "a number was cut"
    assert (lines[-1] == "no room for: shape, bits/weight") == (width == 40)


@given(st.lists(st.text(st.characters(codec="ascii", exclude_categories=("Cc",)), min_size=1, max_size=60), min_size=1),
       st.integers(38, 200))  # fmt: skip
def test_a_number_is_never_cut(names: list[str], width: int) -> None:
    table = Table()
    table.column("name", "name")
    table.column("number")
    for index, name in enumerate(names):
        table.row(name, f"<{index:010}>")
    lines = printed(table, width)
    assert [line for line in lines if len(line) > width] == []
    assert "".join(lines).count("<") - "".join(names).count("<") <= len(names)
    for index in range(len(names)):
        assert any(line.endswith(f"<{index:010}>") for line in lines)


def model(layers: int) -> Sparsity:
    """Layers of 100 weights, the i-th with i zeros, one left alone."""
    made = [Layer(f"{i}.weight", (10, 10, 1, 1), 100, i, 0, "frozen" if i == 0 else "", i // 2) for i in range(layers)]
    return Sparsity(tuple(made), 100 * layers, sum(range(layers)), {})


def test_the_ten_layers_with_most_zeros_are_shown_in_the_models_order() -> None:
    """20 layers: 10 to 19 in rows, 1 to 9 in one, the one left alone in another; all of them if that is asked for."""
    lines = [" ".join(line.split()) for line in printed(layers_table(model(20), "t"), 120)]
    rows = [line for line in lines if ".weight" in line]
    assert [row.split()[0] for row in rows] == [f"{i}.weight" for i in range(10, 20)]
    assert "9 more 900 45 20 0.050" in lines, "1 + ... + 9 = 45 zeros, of them 0 + 1 + 1 + 2 + 2 + 3 + 3 + 4 + 4 before"
    assert "1 more 100 0 0 0.000 frozen" in lines
    assert "zeros / conv weights 2,000 190 90 0.095" in lines
    whole = printed(layers_table(model(20), "t", whole=True), 120)
    assert sum(".weight" in line for line in whole) == 20
    assert not [line for line in whole if " more" in line]


def test_zeros_that_were_there_before_have_a_column_in_a_sparse_model_only() -> None:
    assert any("there before" in line for line in printed(layers_table(model(20), "t"), 120))
    assert not any("there before" in line for line in printed(layers_table(model(1), "t"), 120))


def test_a_console_is_as_wide_as_the_terminal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COLUMNS", "77")
    assert plain_console().width == 77
    monkeypatch.delenv("COLUMNS")
    assert plain_console().width == WIDTH, "into a file"
