"""Files of amounts by layer, for --prune-amounts: a YAML mapping, or CSV with the columns name and amount."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from yolov5_prune_plugin.core.pruning.amounts import check_amounts
from yolov5_prune_plugin.errors import PruneError, near_file

FORM = "a mapping such as 'model.0.conv.weight: 0.3', or CSV with the columns name and amount"


def read_amounts(file: Path) -> dict[str, float]:
    """Read a file of amounts.

    Args:
        file: ``.csv`` is read as CSV (more columns than the two are fine), anything else as YAML.

    Returns:
        Share to drop by parameter name, each in [0, 1).

    Raises:
        PruneError: If it can't be read, is empty or of another form, names a layer twice, or an amount is no number in
            [0, 1). The message starts with the file.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
        pairs = list(_csv(text) if file.suffix.lower() == ".csv" else _yaml(text))
        if not pairs:
            raise PruneError(f"is empty; give {FORM}")
        amounts: dict[str, float] = {}
        for line, name, value in pairs:
            if name in amounts:
                raise PruneError(f"line {line} has {name} a second time; take one of the two out")
            amounts[name] = _number(line, name, value)
        check_amounts(amounts)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, csv.Error) as error:
        raise PruneError(f"{file}: cannot be read: {' '.join(str(error).split())}{near_file(file)}") from error
    except PruneError as error:
        raise PruneError(f"{file}: {error}") from None
    return amounts


def write_amounts(file: Path, amounts: Mapping[str, float]) -> None:
    """Write amounts as YAML that ``read_amounts`` reads back to the same numbers.

    Args:
        file: Where to.
        amounts: Share to drop by parameter name, each in [0, 1).

    Raises:
        PruneError: If an amount is outside [0, 1).
        OSError: If it can't be written.
    """
    check_amounts(amounts)
    numbers = {name: float(amount) for name, amount in amounts.items()}
    text = yaml.safe_dump(numbers, sort_keys=False, default_flow_style=False)
    file.write_text(f"# share to zero by layer, for --prune-amounts\n{text}", encoding="utf-8")


def _yaml(text: str) -> Iterable[tuple[int, str, Any]]:
    """Line, name and amount of each entry; from the nodes, as a mapping would hide what is there twice."""
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return
        if not isinstance(node, yaml.MappingNode):
            raise PruneError(f"holds a {node.id}, not a mapping; give {FORM}")
        for key, value in node.value:
            yield key.start_mark.line + 1, str(getattr(key, "value", "")), loader.construct_object(value, deep=True)
    finally:
        loader.dispose()


def _csv(text: str) -> Iterable[tuple[int, str, Any]]:
    reader = csv.DictReader(text.splitlines(), strict=True)
    columns = [column.strip() for column in reader.fieldnames or ()]
    if text.strip() and not {"name", "amount"} <= set(columns):
        raise PruneError(f"has the columns {', '.join(columns)}; it needs name and amount")
    reader.fieldnames = columns
    for row in reader:
        yield reader.line_num, str(row["name"]).strip(), row["amount"]


def _number(line: int, name: str, value: Any) -> float:
    try:
        if isinstance(value, bool):
            raise TypeError
        return float(value)  # YAML takes 1e-3 for a text
    except (TypeError, ValueError):
        raise PruneError(f"line {line}: the amount of {name} must be a number in [0, 1), got {value!r}") from None
