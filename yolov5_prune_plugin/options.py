"""Dataclass fields -> flags, and back: one dataclass is configuration, flags, defaults and help."""

from __future__ import annotations

import argparse
import dataclasses
import re
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any, Optional, TypeVar

from yolov5_prune_plugin.errors import PruneError, did_you_mean

Value = TypeVar("Value")


def flag(default: Any, help: str, **argparse_keywords: Any) -> Any:
    """Make a dataclass field that becomes a flag.

    Args:
        default: Value if the flag is not given.
        help: Shown by ``--help``.
        argparse_keywords: ``type``, ``metavar``, ``nargs``, ``choices`` of ``add_argument``; without ``type``, that of
            the default. A field whose default is False becomes a switch.
    """
    return dataclasses.field(default=default, metadata={"help": help, **argparse_keywords})


def checked(check: Callable[[str], Any]) -> Callable[[str], Any]:
    """Turn a function that raises PruneError into a ``type`` whose message argparse prints after the flag's name."""

    def convert(text: str) -> Any:
        try:
            return check(text)
        except PruneError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return convert


def flag_name(field: dataclasses.Field[Any]) -> str:
    """Name a field's flag: ``prune_save`` -> ``--prune-save``."""
    return "--" + field.name.replace("_", "-")


def flags_of(classes: Iterable[type]) -> list[str]:
    """List the flags of dataclasses."""
    return [flag_name(field) for cls in classes for field in dataclasses.fields(cls)]


def add_flags(parser: argparse.ArgumentParser, classes: Iterable[type]) -> None:
    """Give each dataclass a group of flags, titled by the first line of its docstring.

    Args:
        parser: Gets them.
        classes: Dataclasses whose fields were made by ``flag``.

    Raises:
        PruneError: If two classes have a flag in common.
    """
    owner: dict[str, type] = {}
    for cls in classes:
        group = parser.add_argument_group((cls.__doc__ or cls.__name__).strip().splitlines()[0].rstrip("."))
        for field in dataclasses.fields(cls):
            name = flag_name(field)
            if name in owner:
                raise PruneError(f"flag {name} is claimed by {_where(owner[name])} and by {_where(cls)}")
            owner[name] = cls
            keywords = dict(field.metadata)
            default = field.default
            if default is False:
                keywords["action"] = "store_true"
            elif "type" not in keywords and default is not None and not isinstance(default, tuple):
                keywords["type"] = type(default)
            if "%" in str(keywords.get("help", "")):
                keywords["help"] = keywords["help"].replace("%", "%%")
            group.add_argument(name, dest=field.name, default=argparse.SUPPRESS, **keywords)


def given(namespace: argparse.Namespace, cls: type) -> list[str]:
    """List the flags of a dataclass that were given on the command line.

    Args:
        namespace: Of ``split_arguments``.
        cls: The dataclass.
    """
    return [flag_name(field) for field in dataclasses.fields(cls) if hasattr(namespace, field.name)]


def build(namespace: argparse.Namespace, cls: type) -> Any:
    """Make a dataclass from the flags given and its defaults.

    Args:
        namespace: Of ``split_arguments``.
        cls: The dataclass.

    Raises:
        PruneError: If the dataclass itself refuses them.
    """
    return cls(**{f.name: getattr(namespace, f.name) for f in dataclasses.fields(cls) if hasattr(namespace, f.name)})


def words(namespace: argparse.Namespace, classes: Iterable[type]) -> list[str]:
    """Write the flags that were given as a command line has them; ``split_arguments`` reads them back.

    Args:
        namespace: Of ``split_arguments``.
        classes: The dataclasses.
    """
    found: list[str] = []
    for field in (field for cls in classes for field in dataclasses.fields(cls) if hasattr(namespace, field.name)):
        value = getattr(namespace, field.name)
        found.append(flag_name(field))
        if value is not True:
            found += map(str, value) if isinstance(value, (list, tuple)) else [str(value)]
    return found


def with_flags(words: Sequence[str], *flags: str) -> list[str]:
    """Give a command line other flags: those that it has already are replaced, with their values.

    Args:
        words: The command line.
        flags: Words to add: flags, each followed by its values.
    """
    names = {word.split("=")[0] for word in flags if word.startswith("--")}
    kept: list[str] = []
    leaving = False
    for word in words:
        if word.startswith("--"):
            leaving = word.split("=")[0] in names
        if not leaving:
            kept.append(word)
    return [*kept, *flags]


def without_flags(words: Sequence[str], *names: str) -> list[str]:
    """Leave flags out of a command line, with their values.

    Args:
        words: The command line.
        names: Of flags.
    """
    return with_flags(words, *names)[: -len(names) or None]


def split_arguments(
    classes: Iterable[type], arguments: list[str], prog: str, fail: Optional[Callable[[str], Any]] = None
) -> tuple[argparse.Namespace, list[str]]:
    """Take our flags out of a command line and leave the rest in its order.

    Flags are recognised by their whole name only, so that no flag of the script's own, abbreviated or not, is taken.

    Args:
        classes: Dataclasses of our flags.
        arguments: The command line without the program's name.
        prog: The script's name, for messages.
        fail: Called with the message of a wrong flag; must not return. Without it, argparse's own exit.
    """
    parser = _Parser(prog=prog, add_help=False, allow_abbrev=False)
    parser.fail = fail
    add_flags(parser, classes)
    return parser.parse_known_args(arguments)


def meant_choice(message: str) -> str:
    """What was probably meant, at the end of argparse's message about a wrong choice; empty for other messages."""
    found = re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message)
    return did_you_mean(found[1], re.findall(r"[\w.+-]+", found[2])) if found else ""


def help_text(classes: Iterable[type], width_like: argparse.ArgumentParser) -> str:
    """Write the ``--help`` section of our flags, without usage line.

    Args:
        classes: Dataclasses of our flags.
        width_like: A parser whose help is formatted alike.
    """
    parser = argparse.ArgumentParser(
        add_help=False, usage=argparse.SUPPRESS, formatter_class=width_like.formatter_class
    )
    add_flags(parser, classes)
    return parser.format_help()


_UNITS = {"": 1, "B": 1, "KB": 1000, "MB": 10**6, "GB": 10**9, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}


def size_in_bytes(text: str) -> int:
    """Read ``400000``, ``350KB``, ``1.2MB`` or ``8GB``; KiB, MiB and GiB are powers of 1024.

    Raises:
        PruneError: If it is none of these.
    """
    found = re.fullmatch(r"(\d{1,18}(?:\.\d{1,18})?|\.\d{1,18}) ?([a-zA-Z]*)", text.strip())
    size = float(found[1]) * _UNITS.get(found[2].upper(), 0) if found else 0.0
    if not 1 <= size < 1 << 62:
        raise PruneError(f"must be a size such as 350KB, 1.2MB or 400000; got {text!r}")
    return int(size)


def seed(text: str) -> int:
    """Read the seed of something random: a whole number that every generator takes.

    Raises:
        PruneError: If it is none.
    """
    return check_seed(int(text) if re.fullmatch(r"\d{1,20}", text.strip(), re.ASCII) else -1, text)


def check_seed(value: int, text: Optional[str] = None) -> int:
    """Refuse a seed that not every generator takes.

    Args:
        value: The seed.
        text: What it was given as.

    Raises:
        PruneError: If it is below 0 or above 2^32 - 1.
    """
    if not 0 <= value < 1 << 32:
        raise PruneError(f"must be a whole number from 0 to {(1 << 32) - 1}, got {value if text is None else text!r}")
    return value


def fraction_of(what: str) -> Callable[[str], float]:
    """Make a flag type: a number in (0, 1), called so in errors, such as ``sparsity``."""

    def check(text: str) -> float:
        value = _number(text)
        if value is None or not 0 < value < 1:
            raise PruneError(f"{what} must be a number above 0 and below 1, for example 0.8; got {text!r}")
        return value

    return checked(check)


def by_glob(
    entries: Sequence[str], names: Sequence[str], convert: Callable[[str], Value], what: str, field: str
) -> dict[str, Value]:
    """Give each name the value of the last entry that matches it.

    Args:
        entries: ``VALUE`` for all names, or ``GLOB=VALUE``.
        names: All names, at least one.
        convert: Makes a value of its text; raises PruneError if it is none.
        what: What a name stands for, such as "Conv2d weight", for messages.
        field: What the entries are, for messages.

    Returns:
        Values by name; a name that no entry matches is left out.

    Raises:
        PruneError: If a value is none or a glob matches no name; its field is ``field`` and the entry.
    """
    found: dict[str, Value] = {}
    for entry in entries:
        glob, _, text = entry.rpartition("=")
        matched = [name for name in names if fnmatchcase(name, glob or "*")]
        try:
            value = convert(text)
        except PruneError as error:
            raise PruneError(str(error), f"{field} {entry}") from None
        if not matched:
            raise PruneError(f"no {what} matches {glob!r}; they run from {names[0]} to {names[-1]}"
                             f"{did_you_mean(glob, names)}", f"{field} {entry}")  # fmt: skip
        found.update(dict.fromkeys(matched, value))
    return found


def schedule_point(text: str) -> float:
    """Read a share of the training from 0 to 1, or a whole number of optimizer steps above 1."""
    value = _number(text)
    if value is None or value < 0 or (value > 1 and value != int(value)):
        raise PruneError("must be a share of the training from 0 to 1, or a whole number of optimizer steps above 1;"
                         f" got {text!r}")  # fmt: skip
    return value


def at_least_zero(text: str) -> float:
    """Read a number of 0 or more."""
    value = _number(text)
    if value is None or value < 0:
        raise PruneError(f"must be a number of 0 or more, got {text!r}")
    return value


def above_zero(text: str) -> float:
    """Read a number above 0."""
    value = _number(text)
    if value is None or value <= 0:
        raise PruneError(f"must be a number above 0, got {text!r}")
    return value


def whole_from(least: int) -> Callable[[str], int]:
    """Make a flag type: a whole number of at least so much."""

    def check(text: str) -> int:
        if not re.fullmatch(r"\d{1,9}", text.strip(), re.ASCII) or int(text) < least:
            raise PruneError(f"must be a whole number, at least {least}; got {text!r}")
        return int(text)

    return checked(check)


def map_points(text: str) -> float:
    """Read hundredths of a figure, in (0, 100).

    Raises:
        PruneError: If it is none.
    """
    try:
        if 0 < float(text) < 100:
            return float(text)
    except ValueError:
        pass
    raise PruneError(f"points must be a number above 0 and below 100, such as 2 for 0.02 of mAP; got {text!r}")


def check_order(start_flag: str, start: float, stop_flag: str, stop: float) -> None:
    """Refuse a stop that is not after the start; of a share and a number of steps only the run can tell.

    Args:
        start_flag: Its name, for the error.
        start: Share of the training up to 1, or optimizer steps.
        stop_flag: Its name.
        stop: As ``start``.

    Raises:
        PruneError: If it is not.
    """
    if (start <= 1) == (stop <= 1) and start >= stop:
        raise PruneError(f"{stop_flag} {stop:g} must be after {start_flag} {start:g}")


class _Parser(argparse.ArgumentParser):
    fail: Optional[Callable[[str], Any]] = None

    def error(self, message: str) -> Any:
        (self.fail or super().error)(message + meant_choice(message))


def _where(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _number(text: str) -> Optional[float]:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if abs(value) < float("inf") else None
