"""Where the main guard of a script is, whatever its text looks like."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from yolov5_prune_plugin.errors import UpstreamError
from yolov5_prune_plugin.yolov5.scripts.guard import first_line, main_guard

FILE = Path("val.py")


def line_of_guard(source: bytes | str) -> int:
    tree, index = main_guard(FILE, source.encode() if isinstance(source, str) else source)
    return tree.body[index].lineno


@pytest.mark.parametrize(
    "test", ["__name__ == '__main__'", '__name__ == "__main__"', "'__main__' == __name__", "(__name__ == '__main__')"]
)
def test_the_guard_is_found_either_way_round(test: str) -> None:
    assert line_of_guard(f"import os\n\nif {test}:\n    main()\n") == 3


def test_a_guard_in_a_docstring_is_text() -> None:
    source = '"""Usage:\nif __name__ == "__main__":\n    main()\n"""\nx = 1\nif __name__ == "__main__":\n    main()\n'
    assert line_of_guard(source) == 6


def test_the_first_of_two_guards_counts() -> None:
    guard = "if __name__ == '__main__':\n    main()\n"
    assert line_of_guard("x = 1\n" + guard + guard) == 2


@pytest.mark.parametrize(
    "source",
    [
        "import os\n",
        "",
        "# if __name__ == '__main__':\n",
        "def f():\n    if __name__ == '__main__':\n        main()\n",
        "if __name__ != '__main__':\n    pass\n",
        "if name == '__main__':\n    pass\n",
        "if __name__ == '__mp_main__':\n    pass\n",
        "if '__main__' == '__main__':\n    pass\n",
        "if __name__ == '__main__' != __name__:\n    pass\n",
        "if __name__:\n    pass\n",
    ],
)
def test_a_script_without_a_guard_is_named(source: str) -> None:
    with pytest.raises(UpstreamError) as caught:
        main_guard(FILE, source.encode())
    assert str(caught.value) == (
        "val.py has no main guard (if __name__ == '__main__':), so there is no place for the activation"
    )


@pytest.mark.parametrize("source", [b"if x\n", b"print 'two'\n", b"x = '\xff'\n", b"x = 1\0\n"])
def test_a_file_that_is_no_python_is_named(source: bytes) -> None:
    with pytest.raises(UpstreamError, match=r"^val\.py cannot be parsed as Python: "):
        main_guard(FILE, source)


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf", b"# -*- coding: latin-1 -*-\n# \xe9\n"])
def test_line_ends_marks_and_codings_do_not_shift_the_line(start: bytes, end: bytes) -> None:
    source = (start + b"x = 1\nif __name__ == '__main__':\n    pass\n").replace(b"\n", end)
    assert line_of_guard(source) == 2 + start.count(b"\n")
    assert source.splitlines()[line_of_guard(source) - 1].startswith(b"if __name__")


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("import os\n", 1),
        ("#!/usr/bin/env python\n# a comment\nimport os\n", 3),
        ('"""Two\nlines."""\nimport os\n', 3),
        ("'''One.'''\n\nfrom __future__ import annotations\nfrom __future__ import division\nimport os\n", 5),
        ('"""Docstring."""\n"""No docstring."""\nimport os\n', 2),
        ("from __future__ import (\n    annotations,\n)\n\nx = 1\n", 5),
        ("import os\nfrom __future__ import annotations\n", 1),
        ("# a comment\n@one\n@two\ndef f(): pass\n", 2),
    ],
)
def test_the_first_statement_comes_after_docstring_and_future(source: str, line: int) -> None:
    assert first_line(ast.parse(source)) == line
