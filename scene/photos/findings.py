"""Findings about folders and photos, and the table that shows them, short even for thousands of findings.

Next: hints.py
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from scene.errors import UserError

VERDICTS = "error", "skipped", "warning", "accepted"
ALIKE = 5           # at most this many lines of a table differ only in the photo


class Finding(NamedTuple):
    """Something noticed about a folder or photo.

    The verdict: an "error" stops everything, a "skipped" photo is left out, a "warning" is for the owner to
    consider, and an "accepted" photo is odd, but used.
    """

    verdict: str
    where: str      # one path or two, printable
    what: str


class DataError(UserError):
    """Unusable folders or photos, with all findings.   unusable: how many photos could be left out."""

    def __init__(self, findings: Sequence[Finding], unusable: int = 0):
        text = table(findings)
        if unusable:
            text += f"\nWith --skip-bad, photos that cannot be used are left out: {unusable} of them."
        super().__init__(text)
        self.findings = findings


def table(findings: Sequence[Finding]) -> str:
    """One line for each finding, errors first.

    Findings that differ only in numbers and paths form a group: the first few are shown, the rest counted.
    """
    groups = {}
    for finding in sorted(findings, key=lambda finding: VERDICTS.index(finding.verdict)):
        groups.setdefault((finding.verdict, re.sub(r"\d+", "", finding.what)), []).append(finding)
    lines = []
    for (verdict, _), group in groups.items():
        lines += [f"{verdict:9} {where}: {what}." for _, where, what in group[:ALIKE]]
        if len(group) > ALIKE:
            lines.append(f"{verdict:9} and {len(group) - ALIKE} more like this.")
    return "\n".join(lines)
