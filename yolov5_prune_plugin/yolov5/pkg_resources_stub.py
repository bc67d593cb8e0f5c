"""What YOLOv5 uses of pkg_resources, which setuptools 81 and later no longer have."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib import metadata

from packaging.requirements import Requirement
from packaging.version import parse as parse_version

__all__ = ["DistributionNotFound", "VersionConflict", "parse_requirements", "parse_version", "require"]


class ResolutionError(Exception):
    """A requirement is not met."""


class DistributionNotFound(ResolutionError):
    """The package is not installed."""


class VersionConflict(ResolutionError):
    """The package is installed in a version that the requirement excludes."""


def parse_requirements(lines: str | Iterable[str]) -> Iterator[Requirement]:
    """Read requirements, one a line; comments, blank lines and pip's options are skipped."""
    for line in lines.splitlines() if isinstance(lines, str) else lines:
        text = line.partition(" #")[0].strip()
        if text and not text.startswith(("#", "-")):
            yield Requirement(text)


def require(requirements: str | Iterable[str]) -> list[metadata.Distribution]:
    """Check that packages are installed; unlike the original, not what they require in turn.

    Args:
        requirements: Such as ``"numpy>=1.18"``; several as lines or a list.

    Returns:
        What was found.

    Raises:
        DistributionNotFound: If one is not installed.
        VersionConflict: If one is installed in a version that its requirement excludes.
    """
    found = []
    for requirement in parse_requirements(requirements):
        if requirement.marker and not requirement.marker.evaluate():
            continue
        try:
            distribution = metadata.distribution(requirement.name)
        except metadata.PackageNotFoundError as error:
            raise DistributionNotFound(f"{requirement} is not installed") from error
        if not requirement.specifier.contains(distribution.version, prereleases=True):
            raise VersionConflict(f"{requirement} is required, {distribution.version} is installed")
        found.append(distribution)
    return found
