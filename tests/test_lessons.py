"""The lessons: Scene's own source solves each of them, wrong solutions fail, and every mishap is one sentence."""

import ast
import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.lessons import __main__ as command
from tests.lessons import catalogue, judge, skeleton, trials
from tests.lessons.catalogue import LESSONS, NAMES
from tests.lessons.skeleton import ROOT, Source
from tests.lessons.watch import Seen

every_lesson = pytest.mark.parametrize("name", NAMES)


class Patience:
    """A watchdog that waits: these tests have time-outs of their own."""

    def allow(self, seconds):
        pass


def verdict(folder, name, text, count=30):
    """(done, what the judge says) of a file with this text, tried on fewer cases than a learner's."""
    path = folder / f"{name}.py"
    path.write_text(text, encoding="utf-8")
    trial = trials.TRIALS[name]
    trial = trial._replace(count=min(count, trial.count))
    try:
        said = judge.judge(catalogue.find(name), str(path), trial, Seen(), Patience())
    except judge.NotYet as reason:
        return False, str(reason).replace(f"{folder}/", "lessons/")
    return True, said.replace(f"{folder}/", "lessons/")


def solution(name):
    """A lesson's file with Scene's own functions in it, helpers included."""
    lesson = catalogue.find(name)
    source = Source(lesson.source)
    parts = []
    for owner in skeleton.owners(lesson):
        node = source.named[owner]
        if lesson.derived:
            header = skeleton.reduced(lesson, source, node).splitlines()[0]
            methods = [source.whole(child) for child in node.body if f"{owner}.{getattr(child, 'name', '')}" in lesson.write]
            parts.append("\n\n".join([header, *methods]))
        else:
            parts.append(source.whole(node))
    body = "\n\n\n".join(parts)
    mentioned = skeleton.mentioned(body) - set(skeleton.owners(lesson))
    extra = f"from {'.'.join(source.module.split('.')[:-1])} import {source.module.split('.')[-1]}" if lesson.derived else ""
    return "\n".join([source.imports(mentioned), extra, body])


@every_lesson
def test_scene_solves_each_lesson(name, tmp_path):
    done, said = verdict(tmp_path, name, solution(name))
    assert done, said
