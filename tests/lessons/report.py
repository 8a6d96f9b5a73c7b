"""The judge's words: exceptions, wrong numbers, and what the learner's code was given, as text."""

import re
import traceback

import numpy as np

from scene import memory

MEMORY = 4 << 30            # bytes that a learner's code may take
MOST_NUMBERS = 30           # of an array that is printed whole
MOST_LINES = 10             # of what the learner's code printed
WIDTH = 90                  # of a line of numbers


class NotYet(Exception):
    """Why a lesson is not done: the text to print."""


def last_place(stack, path):
    """The innermost line of this file in a stack of calls, or None."""
    return next((place for place in reversed(stack) if place.filename == path), None)


def describe(path, error):
    """An exception as a sentence, with the learner's own line."""
    name = type(error).__name__
    first = (str(error).strip().splitlines() or [""])[0][:200]
    if memory.is_exhausted(error):
        name, first = "MemoryError", f"this line takes more memory than the {MEMORY >> 30} GB of a lesson"
    what = f"{name}: {first}" if first else name
    place = last_place(traceback.extract_tb(error.__traceback__), path)
    if place is None:
        return f"Scene could not go on with what {path} gave it ({what})."
    return f"{path}, line {place.lineno}, in {place.name}: {what}\n    {place.line}"


def describe_mismatch(error, seen):
    """A wrong array as a sentence, with the learner's numbers and the reference's."""
    what, ours, theirs = error.what, error.ours.detach(), error.theirs.detach()
    if ours.shape != theirs.shape:
        return f"{what} has the shape {tuple(ours.shape)}, but the reference's has {tuple(theirs.shape)}."
    if ours.dtype != theirs.dtype:
        return (f"{what} is {words(ours.dtype)}, but the arrays that it is computed from are "
                f"{words(theirs.dtype)}. Give new arrays their dtype, as x.new_zeros(…) and "
                "torch.zeros_like(x) do.")
    if ours.isnan().all() and what[1:] in seen.arrays and what != "dx":
        return (f"{what} is what it was before backward (here NaN). Write it with self.{what}[...] = …, "
                f"since self.{what} = … makes another array, and += adds to the step before.")
    wrong = ~ours.isclose(theirs, rtol=1e-4, atol=1e-4, equal_nan=True)
    wrong = wrong if wrong.any() else ours != theirs
    return f"{what} is wrong{where(wrong)}.{both(ours, theirs, wrong)}"


def where(wrong):
    """How many numbers are wrong, if there are several."""
    count = int(wrong.sum())
    if wrong.numel() == 1:
        return ""
    return f" in {count} of {wrong.numel()} numbers" if count > 1 else " in one number"


def both(ours, theirs, wrong):
    """The numbers beside the reference's; of large arrays only the first wrong ones."""
    if ours.numel() <= MOST_NUMBERS:
        return f"\n    yours       {array_text(ours, 16)}\n    reference   {array_text(theirs, 16)}"
    first = tuple(wrong.nonzero()[0].tolist())
    numbers = f"yours {ours[first].item():.4g}, reference {theirs[first].item():.4g}"
    return f"\n    first at {list(first)}: {numbers}"


def words(dtype):
    return str(dtype).removeprefix("torch.")


def describe_arrays(arrays):
    """What the learner's code was given, a line or more for each array."""
    lines = []
    for name, array in arrays.items():
        shape = f" {tuple(array.shape)}" if array.ndim else ""
        text = array_text(array, 8) if array.numel() <= MOST_NUMBERS else ""
        gap = "" if not text else ":\n        " if "\n" in text else ":  "
        lines.append(f"    {name}{shape}{gap}{text}")
    return lines


def array_text(array, indent):
    """An array's numbers, four digits each, on one line, or on several that begin under each other."""
    array = array.double().round(decimals=4) + 0.0          # + 0.0: no -0
    line = nested(array.tolist())
    if len(line) <= WIDTH:
        return line
    rows = np.array2string(array.numpy(), separator=", ", max_line_width=WIDTH, suppress_small=True)
    return re.sub(r"\n+", "\n" + " " * indent, rows)


def nested(numbers):
    """Numbers in nested lists, on one line."""
    return f"[{', '.join(map(nested, numbers))}]" if isinstance(numbers, list) else f"{numbers:.5g}"


def describe_output(text):
    """What the learner's code printed in this case."""
    lines = text.splitlines()
    if not lines:
        return []
    more = [f"    … and {len(lines) - MOST_LINES} more lines"] if len(lines) > MOST_LINES else []
    return ["Your code printed:", *(f"    {line}" for line in lines[:MOST_LINES]), *more]
