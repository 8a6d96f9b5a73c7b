"""The lessons: Scene's source solves each of them, wrong solutions fail, and each mishap is a sentence."""

import ast
import faulthandler
import json
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest
from hypothesis import strategies as st

from scene.errors import UserError
from tests.jobs import make_photos
from tests.lessons import DONE, NOT_YET, catalogue, judge, skeleton, trials
from tests.lessons import __main__ as command
from tests.lessons.catalogue import LESSONS, NAMES
from tests.lessons.skeleton import ROOT, Source
from tests.lessons.watch import Seen

every_lesson = pytest.mark.parametrize("name", NAMES)


class Patience:
    """A watchdog that waits. The tests of the real one come last."""

    def allow(self, seconds):
        pass


@pytest.fixture(scope="module", autouse=True)
def few_photos(tmp_path_factory):
    """Small folders for the lesson about the loop: decoding the example takes longer than all the rest."""
    folder = tmp_path_factory.mktemp("photos")
    make_photos(folder / "train", count=40)
    make_photos(folder / "test", count=20)
    small = trials.TRIALS["training_loop"]._replace(cases=st.just((folder / "train", folder / "test")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(trials.TRIALS, "training_loop", small)
        patch.setattr("scene.processes.cores", lambda: 1)
        yield


def verdict(folder, name, text, count=20):
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
    """The skeleton, with Scene's own functions in it, and with the helpers that these call."""
    lesson = catalogue.find(name)
    source = Source(lesson.source)
    text = skeleton.make(lesson)
    for full_name in lesson.write:
        node = function(source, full_name)
        empty = skeleton.emptied(source, node, full_name, until_loop=lesson.until_loop)
        start = text.index(f"class {full_name.partition('.')[0]}") if "." in full_name else 0
        text = text[:start] + text[start:].replace(empty, source.whole(node), 1)
    for owner in skeleton.owners(lesson) if not lesson.derived else ():
        added = "".join(f"\n{source.whole(method)}\n" for method in helpers(source, owner, text))
        last = source.whole(function(source, [full for full in lesson.write if full.startswith(owner)][-1]))
        text = text.replace(f"{last}\n", f"{last}\n{added}")
    names = skeleton.mentioned(text) - set(skeleton.owners(lesson))
    return text.replace("\nimport torch\n", f"\n{source.imports(names)}\n", 1)


def function(source, full_name):
    """Scene's definition of "ReLU.forward" or "softmax"."""
    owner, _, method = full_name.partition(".")
    node = source.named[owner]
    return next(child for child in node.body if getattr(child, "name", "") == method) if method else node


def helpers(source, owner, text):
    """The methods of a class that are called in the text, or by each other, and are not there."""
    methods = [node for node in getattr(source.named[owner], "body", ()) if isinstance(node, ast.FunctionDef)]
    found = []
    while more := [method for method in methods if method not in found and f"def {method.name}(" not in text
                   and f"self.{method.name}(" in text + "".join(map(source.whole, found))]:
        found += more
    return found


# Right and wrong solutions


@every_lesson
def test_scene_solves_each_lesson(name, tmp_path):
    done, said = verdict(tmp_path, name, solution(name))
    assert done and said.startswith("Right: "), said


@pytest.mark.parametrize("name", [name for name in NAMES if name != "training_loop"])
def test_scene_can_be_timed_in_each_lesson(name):
    """The loop is not: its race is the whole training, which the test above has run."""
    lesson = catalogue.find(name)
    scene = vars(__import__(Source(lesson.source).module, fromlist=["*"]))
    trials.TRIALS[name].race(types.SimpleNamespace(**scene))()


WRONG = [       # lesson, a piece of Scene's source, what is planted in its place, what the judge must say
    ("relu", "x.clip(0)", "x.clip(-1)", "y is wrong"),
    ("relu", ".mul_(dy)", "", "dx is wrong"),
    ("relu", ".ne(self.y, 0, out=passed)", ".ge(self.y, 0, out=passed)", "dx is wrong"),
    ("linear", "        y += self.b\n", "", "y is wrong"),
    ("linear", "multiply(dy.T, self.x, out=self.dw)", "self.dw = dy.T @ self.x", "dw is what it was before"),
    ("linear", "library(dy).sum(dy, 0, out=self.db)", "self.db.copy_(dy[0])", "db is wrong"),
    ("linear", "x @ w.T", "x @ w", "shapes cannot be multiplied"),
    ("cross_entropy", "(log_p.exp() - q) / len(z)", "log_p.exp() - q", "dz is wrong"),
    ("cross_entropy", "z - xp.amax(z, 1)[:, None]", "z", "p is wrong"),
    ("cross_entropy", "z - z.logsumexp(1, keepdim=True)", "softmax(z).log()", "L is wrong"),
    ("residual", "else dx + ds", "else dx", "dx is wrong"),
    ("residual", "return y + s", "y += s\n        return y", "dx is wrong"),
    ("residual", "self.body.forward(x, training)", "self.body.forward(x, True)", "the ReLU inside keeps y"),
    ("gradient_check", "(2 * h)", "h", "slope of the sum of squares is wrong"),
    ("gradient_check", "        numbers[i] = number\n", "", "slope has overwritten x"),
    ("gradient_check", '.fill_(float("nan"))', "", "a db that backward does not write"),
    ("gradient_check", "computed.items()", "list(computed.items())[:1]", "a dw of twice the size"),
    ("training_loop", "params -= 0.05", "params += 0.05", "network.params after a step is wrong"),
    ("training_loop", "torch.randperm(len(labels), generator=randomness)", "torch.arange(len(labels))",
     "Epoch 2 shows the photos in the order of an earlier one"),
    ("training_loop", "tensor_split(batches)", "tensor_split(batches)[1:]", "40 of 80 photos were not shown"),
    ("training_loop", "labels[batch])", "labels[batch.flip(0)])", "dz, which network.backward is given, is "
                                                                  "wrong"),
    ("training_loop", "network.backward(loss.backward())", "loss.backward()", "before network.backward was "
                                                                              "called"),
    ("training_loop", "pixels[batch], training=True", "pixels[batch]", "without network.forward(…, "
                                                                       "training=True)"),
    ("training_loop", "pixels[batch], training", "pixels[batch] / 255, training", "pixels[…] of uint8"),
    ("training_loop", "range(10)", "range(1)", "The loop trained for 1 epochs"),
    ("training_loop", "network.forward(torch.from_numpy(test.pixels[:]))", "torch.rand(len(test.labels), 2)",
     "the network was not tested"),
    ("im2col", "windows(x, k, self.stride)", "windows(x, k, 1)", "patches has the shape"),
    ("im2col", "padded[:, rows, columns] +=", "padded[:, rows, columns] =", "what gather returns is wrong"),
    ("max_pool", "left -= given", "", "dx is wrong"),
    ("max_pool", "dx[place] += given", "dx[place] = given", "dx is wrong"),
    ("batch_norm", "return dx.addcmul_(self.centred, -scale * self.dw / (m * self.std))", "return dx",
     "dx is wrong"),
    ("batch_norm", "var * (m / (m - 1))", "var", "the running variance is wrong"),
    ("momentum", "if self.nesterov else", "if not self.nesterov else", "direction() is wrong"),
    ("momentum", "alpha=self.momentum, out=self.velocity", "out=self.velocity", "direction() is wrong"),
    ("winograd", " / prod(point - other for other in others)", "", "of F(2, 3) is wrong"),
    ("winograd", "below - root * here", "below + root * here", "polynomial(roots) is wrong"),
    ("winograd", "[*a, [0] * (tile - 1) + [1]]", "a", "A of cook_toom(2) has the shape (3, 2), not (4, 2)"),
    ("muon", "range(steps)", "range(steps - 1)", "orthogonal(g) is wrong"),
    ("muon", "mul_(self.norm_rate)", "mul_(1)", "direction() is wrong"),
    ("muon", "w.mul_((2 * len(w)) ** 0.5 / w.norm())", "pass", "params after the step is wrong"),
]


@pytest.mark.parametrize(("name", "piece", "planted", "said"), WRONG)
def test_a_planted_fault_fails_with_its_words(name, piece, planted, said, tmp_path):
    right = solution(name)
    assert piece in right
    done, text = verdict(tmp_path, name, right.replace(piece, planted))
    assert not done and said in text, text


def test_every_lesson_has_planted_faults():
    assert {name for name, *_ in WRONG} == set(NAMES)


def test_the_smallest_case_is_shown_with_both_numbers(tmp_path):
    right = solution("linear")
    wrong = right.replace("library(dy).sum(dy, 0, out=self.db)", "self.db.copy_(dy[0])")
    _, said = verdict(tmp_path, "linear", wrong)
    assert said == """\
Wrong: db is wrong.
    yours       [0.6614]
    reference   [0.723]
The smallest case that was found, Linear(inputs=1, outputs=1):
    x (2, 1):  [[1.541], [-0.2934]]
    w (1, 1):  [[2.0326]]
    b (1,):  [-1.0894]
    dy (2, 1):  [[0.6614], [0.0617]]"""


# Skeletons and hints


def solution_lines(lesson):
    """The lines of Scene that a learner is to write, but for those too short to give it away."""
    def code(text):
        return [line.partition("#")[0].strip() for line in text.splitlines()]

    wanted = code(solution(lesson.name))
    return [line for line in wanted if len(line) > 14 and line not in code(skeleton.make(lesson))]


@every_lesson
def test_a_skeleton_shows_the_formulas_and_no_line_of_the_solution(name):
    lesson = catalogue.find(name)
    source = Source(lesson.source)
    text = skeleton.make(lesson)
    compile(text, name, "exec")
    assert max(map(len, text.splitlines())) <= 110
    for owner in skeleton.owners(lesson):
        docstring = source.text(source.named[owner].lineno + 1, source.named[owner].body[0].end_lineno)
        assert lesson.until_loop or docstring in text
    for full_name in lesson.write:
        assert text.count(f'raise NotImplementedError("{full_name} is not written yet")') == 1
    solutions = solution_lines(lesson)
    assert len(solutions) >= 2
    given = re.sub(r"\s+", " ", " ".join([text, *lesson.hints, lesson.task]))
    assert not [line for line in solutions if line in given]


@every_lesson
def test_a_lesson_has_three_hints_and_its_reading_exists(name):
    lesson = catalogue.find(name)
    assert len(set(lesson.hints)) == 3 and all(hint.endswith((".", "?")) for hint in lesson.hints)
    files = re.findall(r"[\w/]+\.(?:md|py)", lesson.reading)
    assert files and all((ROOT / file).exists() for file in files)
    page = (ROOT / files[0]).read_text(encoding="utf-8")
    for heading in re.findall(r'"([^"]+)"', lesson.reading):
        assert re.search(rf"^##+ (\d\. )?{re.escape(heading)}", page, re.MULTILINE), heading


# Mishaps

RELU = '''\
import torch

from scene.nn.layer import Layer


class ReLU(Layer):
    def forward(self, x, training=False):
        if training:
            self.y = x.clip(0)
        return x.clip(0)

    def backward(self, dy):
        return dy * (self.y != 0)
'''
RETURN = "return dy * (self.y != 0)"


@pytest.mark.parametrize(("piece", "planted", "said"), [
    (RETURN, "pass", r"ReLU.backward has returned None. Does it end in a return statement\?"),
    (RETURN, "return dy.numpy()", "has returned a value of type ndarray, not a torch tensor"),
    (RETURN, "return dy[0]", r"dx has the shape \(1, 1, 1\), but the reference's has \(1, 1, 1, 1\)"),
    (RETURN, "return dy.float()", "dx is float32, but the arrays that it is computed from are float64"),
    (RETURN, "dy *= self.y != 0; return dy", "ReLU.backward has overwritten dy, which it received"),
    ("return x.clip(0)", "return x.clip_(0)", "ReLU.forward has overwritten x, which it received"),
    ("if training:", "if True:", "In evaluation self keeps y, when no backward will need it"),
    ("return x.clip(0)", "return x.clip(0).double()", "y is float64 although x is float32"),
    (RETURN, "return mask * dy",
     r"^lessons/relu.py, line 13, in backward: NameError: name 'mask' is not defined\n    return mask \* "
      "dy\n"),
    (RETURN, "raise SystemExit(0)", "line 13, in backward: SystemExit"),
    (RETURN, "return self.backward(dy)", "line 13, in backward: RecursionError"),
    (RETURN, "print(dy.shape); return dy", r"Your code printed:\n    torch.Size\(\[1, 1, 1, [12]\]\)"),
    (RETURN, "return dy +", r"relu.py, line 13: Python cannot read this \(invalid syntax\).\n    return dy"),
    (RETURN, "return \0", r"^lessons/relu.py: Python cannot read this \(source code string cannot contain "
                           "null"),
    (RETURN, "return torch.relu(dy)", "line 13: torch.relu would do the lesson for you"),
    ("import torch\n", "import torch.nn.functional as F\n", "line 1: torch.nn.functional would do the "
                                                            "lesson"),
    ("import torch\n", "import torch, nothing\n", "line 1, in <module>: ModuleNotFoundError"),
    (RELU, "from scene.nn.activation import ReLU\n", "relu.py has no ReLU.forward of its own"),
    ("class ReLU(Layer):", "ReLU = 3\nclass Other(Layer):", "relu.py has no ReLU.forward of its own"),
    ("ReLU(Layer)", "ReLU", r"ReLU does not derive from Layer. Restore the line `class ReLU\(Layer\):`"),
    ("(self, dy)", "(self, gradient)", r"takes \(self, gradient\), but Scene calls it as \(self, dy\)"),
    (RETURN, 'raise NotImplementedError("ReLU.backward is not written yet")',
     r"^ReLU.forward is right in \d+ cases. Next, write ReLU.backward in lessons/relu.py.$"),
    (RELU, skeleton.make(LESSONS[0]), "^lessons/relu.py: ReLU.forward is not written yet. Replace its line"),
])
def test_each_mishap_is_a_sentence_with_the_learners_line(piece, planted, said, tmp_path):
    done, text = verdict(tmp_path, "relu", RELU.replace(piece, planted), count=10)
    assert not done and re.search(said, text), text


@pytest.mark.parametrize("change", [
    lambda text: "\ufeff" + text,
    lambda text: text.replace("\n", "\r\n"),
    lambda text: text.replace("    def backward", "    @torch.inference_mode()\n    def backward"),
], ids=["a byte order mark", "lines of Windows", "a decorator"])
def test_other_ways_to_write_the_same_are_right(change, tmp_path):
    done, said = verdict(tmp_path, "relu", change(RELU), count=5)
    assert done, said


def test_slow_code_is_tried_on_fewer_cases(tmp_path, monkeypatch):
    monkeypatch.setattr(judge, "BUDGET", 0)
    done, said = verdict(tmp_path, "relu", RELU)
    assert done and said.endswith(" agree with the reference (more would have taken longer than 0 s).")
    done, said = verdict(tmp_path, "relu", RELU.replace(RETURN, "return 2 * dy"))
    assert not done and said.startswith("Wrong: dx is wrong")


def test_code_that_fails_at_random_fails(tmp_path):
    done, text = verdict(tmp_path, "relu", RELU.replace(RETURN, "return dy * torch.rand(())"))
    assert not done and "dx is wrong" in text


# The command


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_list_names_all_lessons_and_the_progress(folder, capsys):
    assert command.run(None, None) == 0
    text = capsys.readouterr().out
    assert text.startswith("0 of 12 lessons done") and "Next: python -m tests.lessons relu" in text
    assert re.findall(r"^  (?:evening \d)? +(\w+) ", text, re.MULTILINE) == NAMES

    command.run("relu", None)
    command.run("linear", None)
    command.PROGRESS.write_text(json.dumps({"linear": "of another file"}))
    capsys.readouterr()
    command.run(None, None)
    text = capsys.readouterr().out
    assert text.startswith("1 of 12 lessons done")
    assert re.search("relu .* begun\n", text) and re.search("linear .* done, and changed since\n", text)


@pytest.mark.parametrize("damaged", [b"", b"[1]", b"\xff", b"{"])
def test_damaged_progress_counts_as_none(folder, damaged):
    command.FOLDER.mkdir()
    command.PROGRESS.write_bytes(damaged)
    assert command.read_progress() == {}


def test_the_first_call_writes_the_skeleton_and_no_later_one_changes_the_file(folder, capsys, monkeypatch):
    command.run("Cross-Entropy", None)
    path = folder / "lessons/cross_entropy.py"
    assert path.read_text(encoding="utf-8") == skeleton.make(catalogue.find("cross_entropy"))
    assert "Wrote lessons/cross_entropy.py. Open it, write softmax" in capsys.readouterr().out
    path.write_text("mine")
    monkeypatch.setattr(command, "submit", lambda lesson, path: 1)
    assert command.run("cross_entropy", None) == 1
    with pytest.raises(FileExistsError):
        command.write(catalogue.find("cross_entropy"), path)
    assert path.read_text() == "mine"


def test_hints_come_one_at_a_time_and_write_nothing(folder, capsys):
    hints = catalogue.find("linear").hints
    for level in 1, 2, 3:
        command.run("linear", level)
        assert capsys.readouterr().out == f"Hint {level} of 3 for linear: {hints[level - 1]}\n"
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(("name", "said"), [
    ("rely", "There is no lesson rely. Did you mean relu? The lessons are relu, linear"),
    ("\n", r"There is no lesson \n. The lessons are relu"),
    ("", "There is no lesson . The lessons are relu"),
])
def test_an_unknown_lesson_is_named_with_those_there_are(name, said, folder):
    with pytest.raises(UserError, match=re.escape(said)):
        command.run(name, None)


def test_a_file_called_lessons_is_in_the_way(folder):
    (folder / "lessons").touch()
    with pytest.raises(UserError, match="lessons is not a folder here. Run the command in another folder."):
        command.run("relu", None)


def test_without_hypothesis_a_sentence_says_what_to_install(folder, monkeypatch):
    command.run("relu", None)
    monkeypatch.setattr(command.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"The lessons need Hypothesis. .* pip install -e '\.\[test\]'"):
        command.run("relu", None)


def test_git_ignores_what_a_learner_writes_and_not_the_lessons():
    paths = "lessons/relu.py", "lessons/progress.json", "tests/lessons/judge.py"
    found = subprocess.run(["git", "check-ignore", *paths], cwd=ROOT, capture_output=True, text=True)
    assert found.stdout.split() == list(paths[:2])


def test_a_right_file_is_judged_timed_and_recorded(folder):
    """The real command, from a folder outside of the checkout."""
    path = folder / "lessons/relu.py"
    path.parent.mkdir()
    path.write_text(RELU)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-m", "tests.lessons", "relu"], cwd=folder, env=environment,
                          capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    right, speed, following = done.stdout.splitlines()
    assert right == f"Right: ReLU.forward and ReLU.backward in {path.relative_to(folder)} agree with the " \
                    "reference in 100 cases."
    words = r"Speed, not marked: \S+ times as long as Scene's \(.+ beside .+, forward and .+\)\."
    assert re.fullmatch(words, speed)
    assert following == ("Compare it with scene/nn/activation.py. 1 of 12 lessons done; next: "
                         "python -m tests.lessons linear")
    assert list(json.loads((folder / "lessons/progress.json").read_text())) == ["relu"]
    assert path.read_text() == RELU and list(folder.iterdir()) == [path.parent]


# Code that does not come back


def judged(folder, text):
    """(exit code, stdout, stderr) of the judge on a relu.py with this text, in a forked process."""
    path = folder / "relu.py"
    path.write_text(text)
    child = os.fork()
    if not child:
        os.dup2(os.open(folder / "out", os.O_WRONLY | os.O_CREAT), 1)
        sys.stdout = sys.__stdout__ = os.fdopen(1, "w")
        faulthandler.enable(open(folder / "err", "w"))          # noqa: SIM115
        code = judge.main("relu", str(path))
        sys.stdout.flush()
        os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code, *((folder / name).read_text().replace(f"{folder}/", "") for name in ("out", "err"))


def test_a_loop_without_end_is_stopped_and_its_line_named(tmp_path, monkeypatch):
    monkeypatch.setitem(trials.TRIALS, "relu", trials.TRIALS["relu"]._replace(seconds=0.3))
    endless = RELU.replace(RETURN, "while True: time.sleep(0.01)")
    code, said, _ = judged(tmp_path, "import time; " + endless)
    assert code == NOT_YET
    assert said.startswith("relu.py, line 13, in backward: this line was still running after 0.3 s, given "
                           "x (1, 1, 1, 1), dy (1, 1, 1, 1). Is there a loop that does not end?\n    while")


def test_a_right_file_that_is_too_slow_to_time_is_done(tmp_path, monkeypatch):
    monkeypatch.setattr(judge, "RACE_LIMIT", 0.3)
    slow = RELU.replace(RETURN, f"time.sleep(60 * (len(dy) > 4)); {RETURN}")
    code, said, _ = judged(tmp_path, "import time; " + slow)
    right, speed = said.splitlines()
    assert code == DONE and right.startswith("Right: ") and speed.startswith("Speed: not measured")


@pytest.mark.parametrize(("line", "said"), [
    ("import ctypes; ctypes.string_at(0)", "relu.py, line 13, in backward: Python crashed here (SIGSEGV)."),
    ("import os; os._exit(0)", "relu.py: the code ended Python with exit code 0, before the judge"),
])
def test_code_that_ends_python_is_named(line, said, tmp_path):
    code, out, err = judged(tmp_path, RELU.replace(RETURN, line))
    assert out == "" and command.crash(Path("relu.py"), code, err).startswith(said)


def test_memory_without_end_is_an_error_at_its_line(tmp_path):
    code, said, _ = judged(tmp_path, RELU.replace(RETURN, f"x = torch.empty({judge.MEMORY} // 2)"))
    assert code == NOT_YET and said.startswith("relu.py, line 13, in backward: MemoryError: this line takes")


# The course


def test_the_course_names_every_lesson_in_its_evening():
    page = (Path(skeleton.ROOT) / "tests/lessons/README.md").read_text(encoding="utf-8")
    evenings = re.split(r"^## Evening \d", page, flags=re.MULTILINE)[1:]
    assert len(evenings) == 6
    for i, text in enumerate(evenings, 1):
        named = re.findall(r"`python -m tests\.lessons (\w+)`", text.partition("\n## ")[0])
        assert named == [lesson.name for lesson in LESSONS if lesson.evening == i]
