"""What the header of a .y5z file may say of a model: its schema, in docs/format.md too; and class names made safe."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

from yolov5_prune_plugin.core.coding import schema
from yolov5_prune_plugin.core.coding.codebook import CODEBOOKS
from yolov5_prune_plugin.core.coding.container import Container
from yolov5_prune_plugin.errors import PruneError

TASKS = ("detect", "segment", "classify")
WEIGHTS_ONLY = "weights"  # content.kind of a file without an architecture
KEPT = ("date", "prune", "slim", "git")  # entries of a checkpoint that are kept beside the model: plain values
CLASSES, WIDE = 100_000, 1 << 16  # classes, and channels of a layer, at most
NAME = 255  # bytes of a class name, which is that of a folder
SEPARATORS = "/\\:"  # of folders, on one system or another
_BYTES, _ANY = schema.whole(0, 1 << 53), schema.anything


def _name(value: Any, field: str) -> None:
    if not isinstance(value, str):
        raise schema.wrong(field, value, "a text")


CONTENT = {
    "writer": schema.text(200),
    "kind": schema.one_of(WEIGHTS_ONLY),
    "task": schema.one_of(*TASKS),
    "yaml": schema.mapped(_ANY),  # model_yaml.check_yaml looks into it
    "nc": schema.whole(1, CLASSES),
    "names": schema.listed(schema.tuple_of(schema.whole(0, CLASSES - 1), _name), 0, CLASSES),
    "names_are": schema.one_of("list", "dict"),
    "stride": schema.listed(schema.real(1, 1024), 1, 10),
    "fused": schema.truth,
    "widths": schema.mapped(schema.listed(schema.whole(1, WIDE), 1, 2)),
    "facts": schema.record({"date": schema.text(100), **dict.fromkeys(("prune", "slim"), schema.mapped(_ANY)),
                            "git": _ANY}),
    "source": schema.record({"fp16_bytes": _BYTES, "zip_bytes": _BYTES}),
    "sharing": schema.record({
        "lossless": schema.truth, "bits": schema.mapped(schema.whole(1, 8)), "init": schema.text(40),
        "seed": schema.whole(0, (1 << 64) - 1), "error": schema.real(0, 1e300),
        "floor": schema.mapped(schema.real(-1e9, 1e9)), "codebook": schema.mapped(schema.one_of(*CODEBOOKS))}),
}  # fmt: skip
NEEDED = ("task", "yaml", "nc", "names", "names_are", "stride", "fused")
_CONTENT, _MODEL = schema.record(CONTENT), schema.record(CONTENT, NEEDED)


def check_content(opened: Container) -> None:
    """Check what a header says, as far as it says something.

    Raises:
        PruneError: If a value breaks the schema; it names the file and the field.
    """
    try:
        _CONTENT(opened.content, "content")
    except PruneError as error:
        raise PruneError(f"{opened.file}: {error}") from None


def check_model(content: dict[str, Any]) -> None:
    """Check that a header describes a model.

    Raises:
        PruneError: If a value breaks the schema, or something is missing; it names the field.
    """
    _MODEL(content, "content")
    indices = [index for index, _ in content["names"]]
    if len(set(indices)) != len(indices):
        raise PruneError("has a header whose content.names has two names for one index")
    if content["yaml"].get("nc") != content["nc"]:
        raise schema.wrong("content.yaml.nc", content["yaml"].get("nc"), f"content.nc, {content['nc']}")


def safe_names(pairs: Sequence[tuple[int, str]], classes: int) -> tuple[dict[int, str], dict[str, str]]:
    """Make class names that are names of folders, as scripts use them, one for each class.

    Args:
        pairs: Index and name.
        classes: How many there are; one without a name is called by its index.

    Returns:
        Names by index, and those that were changed, by what they were.
    """
    given = dict(pairs)
    found = {index: safe_name(given.get(index, f"class{index}")) for index in range(classes)}
    found.update({index: safe_name(name) for index, name in given.items()})
    return dict(sorted(found.items())), {given[index]: name for index, name in found.items()
                                         if given.get(index, name) != name}  # fmt: skip


def safe_name(name: str) -> str:
    """Replace by ``_`` what would lead out of a folder or can't be in a name, and shorten to ``NAME`` bytes."""
    kept = "".join("_" if char in SEPARATORS or unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") else char
                   for char in name)  # fmt: skip
    kept = kept.encode()[:NAME].decode("utf-8", "ignore")
    return kept if kept.strip(" .") else "_" * max(1, len(kept))
