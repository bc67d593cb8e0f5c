"""Files of amounts: what is read, what is refused and how it is said, and that what is written reads back the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.reporting.amounts_file import read_amounts, write_amounts


def test_yaml(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("# by hand\nmodel.0.conv.weight: 0.3\nmodel.1.conv.weight: 1e-3\n'2.weight': 0\n")
    assert read_amounts(file) == {"model.0.conv.weight": 0.3, "model.1.conv.weight": 0.001, "2.weight": 0}


def test_csv_with_more_columns(tmp_path: Path) -> None:
    """As a spreadsheet writes it: byte order mark, CRLF, spaces."""
    file = tmp_path / "a.CSV"
    file.write_bytes(b"\xef\xbb\xbfname, shape, amount\r\na.weight,16x3,0.25\r\nb.weight,8x3, 0\r\n")
    assert read_amounts(file) == {"a.weight": 0.25, "b.weight": 0}


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.yaml", "", "is empty; give a mapping such as"),
        ("a.yaml", "# nothing\n", "is empty"),
        ("a.yaml", "{}", "is empty"),
        ("a.yaml", "[a, b]", "holds a sequence, not a mapping"),
        ("a.yaml", "just text", "holds a scalar, not a mapping"),
        ("a.yaml", "a: [", "cannot be read: "),
        ("a.yaml", "a: 0.1\n---\nb: 0.2", "cannot be read: "),
        ("a.yaml", "a: 0.1\nb: 0.2\na: 0.3", "line 3 has a a second time"),
        ("a.yaml", "a:", "line 1: the amount of a must be a number in [0, 1), got None"),
        ("a.yaml", "a: true", "line 1: the amount of a must be a number in [0, 1), got True"),
        ("a.yaml", "a: much", "line 1: the amount of a must be a number in [0, 1), got 'much'"),
        ("a.yaml", "a: {b: 0.1}", "line 1: the amount of a must be a number in [0, 1), got {'b': 0.1}"),
        ("a.yaml", "a: 1", "the amount of a must be in [0, 1), got 1"),
        ("a.yaml", "a: -0.1", "the amount of a must be in [0, 1), got -0.1"),
        ("a.yaml", "a: .nan", "the amount of a must be in [0, 1), got nan"),
        ("a.csv", "", "is empty"),
        ("a.csv", "name,amount\n", "is empty"),
        ("a.csv", "layer,share\na,0.1\n", "has the columns layer, share; it needs name and amount"),
        ("a.csv", "name,amount\na,0.1\na,0.2\n", "line 3 has a a second time"),
        ("a.csv", "name,amount\na\n", "line 2: the amount of a must be a number in [0, 1), got None"),
        ("a.csv", "name,amount\na,nan\n", "the amount of a must be in [0, 1), got nan"),
    ],
)
def test_wrong_files_are_named_with_what_is_wrong(tmp_path: Path, name: str, text: str, says: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(PruneError) as caught:
        read_amounts(tmp_path / name)
    assert str(caught.value).startswith(f"{tmp_path / name}: {says}")
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes("é: 0.1".encode("latin-1"))
    for file in (tmp_path / "latin.yaml", tmp_path / "missing.csv", tmp_path):
        with pytest.raises(PruneError, match=f"^{file}: cannot be read: "):
            read_amounts(file)


def test_wrong_amounts_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(PruneError, match="the amount of a must be in"):
        write_amounts(tmp_path / "a.yaml", {"a": 1.0})
    assert list(tmp_path.iterdir()) == []


@given(st.dictionaries(st.text(st.characters(codec="ascii", exclude_categories=["C"]), min_size=1),
                       st.floats(0, 1, exclude_max=True), min_size=1))  # fmt: skip
def test_what_is_written_reads_back_the_same(
    tmp_path_factory: pytest.TempPathFactory, amounts: dict[str, float]
) -> None:
    file = tmp_path_factory.mktemp("amounts") / "a.yaml"
    write_amounts(file, amounts)
    assert read_amounts(file) == amounts
