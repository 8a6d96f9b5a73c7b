"""What is noticed about folders and photos, and how it is shown: one table, good to read with three lines or three thousand.

Next: cores.py
"""

import re
from typing import NamedTuple

from scene.command import UserError

VERDICTS = "error", "skipped", "warning", "accepted"
ALIKE = 5           # lines of a table that say the same of different photos


class Finding(NamedTuple):
    """What was noticed about a folder or photo.

    The verdict says what follows: an "error" stops everything, a "skipped" photo is left out, a "warning" is for the owner to
    think about, and what is "accepted" is odd, but used.
    """

    verdict: str
    where: str      # one path or two, printable
    what: str


class DataError(UserError):
    """Folders or photos that cannot be used. `findings`: all there are; `unusable`: how many photos could be left out."""

    def __init__(self, findings, unusable=0):
        advice = f"\nWith --skip-bad, photos that cannot be used are left out: {unusable} of them." if unusable else ""
        super().__init__(table(findings) + advice)
        self.findings = findings


def table(findings):
    """The findings, a line each, errors first. Of many that say the same, numbers apart: the first few, and how many more there are."""
    groups = {}
    for finding in sorted(findings, key=lambda finding: VERDICTS.index(finding.verdict)):
        groups.setdefault((finding.verdict, re.sub(r"\d+", "", finding.what)), []).append(finding)
    lines = []
    for (verdict, _), group in groups.items():
        lines += [f"{verdict:9} {where}: {what}." for _, where, what in group[:ALIKE]]
        if len(group) > ALIKE:
            lines.append(f"{verdict:9} and {len(group) - ALIKE} more like this.")
    return "\n".join(lines)
