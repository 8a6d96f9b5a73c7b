"""From Scene's source to a skeleton: docstrings and __init__ stay, and the bodies to write are taken out.

So a formula has one home, and a solution none but Scene.
"""

import ast
import builtins
from pathlib import Path

ROOT = Path(__file__).parents[2]
INTRODUCTION = '''"""Lesson: {title}.

Write the {body} of {write}. Then run

    python -m tests.lessons {name}                  judges this file
    python -m tests.lessons {name} --hint 1         a hint, if you are stuck; there are three

Never write into an array that you received, and give new ones its dtype, as torch.zeros_like(x) does.
Anything in torch may be used except torch.nn, autograd and ready-made layers such as torch.relu, which would
do the lesson for you. In the examples below, tensor is torch.tensor, and Network that of scene/nn/layer.py.
{task}

Read first: {reading}.
When you are done, compare: {source}.
"""
'''


class Source:
    """A file of Scene, and its functions and classes by name."""

    def __init__(self, path):
        self.module = path.removesuffix(".py").replace("/", ".")
        text = (ROOT / path).read_text(encoding="utf-8")
        self.lines = text.splitlines()
        self.tree = ast.parse(text)
        self.named = {node.name: node for node in self.tree.body if hasattr(node, "name")}

    def text(self, start, end):
        """These lines, the last one included; lines count from 1."""
        return "\n".join(self.lines[start - 1:end])

    def whole(self, node):
        return self.text(node.lineno, node.end_lineno)

    def imports(self, names):
        """The import statements that provide these names: from torch, from other modules, from this one."""
        found = {"import torch"}
        for node in self.tree.body:
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                used = [ast.unparse(alias) for alias in node.names if (alias.asname or alias.name) in names]
                start = f"from {node.module} import" if isinstance(node, ast.ImportFrom) else "import"
                found |= {f"{start} {', '.join(used)}"} if used else set()
        own = sorted(names & (self.named.keys() | self.constants()))
        found |= {f"from {self.module} import {', '.join(own)}"} if own else set()
        return "\n".join(sorted(found, key=lambda line: ("scene" in line or "tests" in line, line)))

    def constants(self):
        return {target.id for node in self.tree.body if isinstance(node, ast.Assign)
                for target in node.targets if isinstance(target, ast.Name)}


def make(lesson):
    """The skeleton: the text of the file that the learner fills."""
    source = Source(lesson.source)
    parts = [reduced(lesson, source, source.named[owner]) for owner in owners(lesson)]
    body = "\n\n\n".join(parts)
    words = {"write": enumeration(lesson.write), "body": "body" if len(lesson.write) == 1 else "bodies"}
    introduction = INTRODUCTION.format(**lesson._asdict() | words)
    return f"{introduction}\n{imports(lesson, source, body)}\n\n\n{body}\n"


def owners(lesson):
    """The functions and classes to write: ["softmax", "CrossEntropy"]."""
    return list(dict.fromkeys(name.partition(".")[0] for name in lesson.write))


def imports(lesson, source, body):
    """The import statements for a body: what it mentions, and what the lesson promises."""
    if lesson.derived:
        package, _, module = source.module.rpartition(".")
        return f"import torch\n\nfrom {package} import {module}"
    lines = source.imports((mentioned(body) | set(lesson.needs)) - set(owners(lesson)))
    return lines.replace("import torch\nfrom scene", "import torch\n\nfrom scene", 1)


def mentioned(body):
    """The names that code uses, builtins aside."""
    names = {node.id for node in ast.walk(ast.parse(body)) if isinstance(node, ast.Name)}
    return names - vars(builtins).keys()


def reduced(lesson, source, node):
    """A function or class without the bodies to write, and without the methods that only they need."""
    if isinstance(node, ast.FunctionDef):
        return emptied(source, node, node.name, until_loop=lesson.until_loop)
    first = source.text(node.lineno, node.body[0].end_lineno)       # the class statement and the docstring
    if lesson.derived:
        module = source.module.rpartition(".")[2]
        first = first.replace(f"class {node.name}(Layer):", f"class {node.name}({module}.{node.name}):")
    parts = [first]
    for method in node.body:
        full_name = f"{node.name}.{getattr(method, 'name', '')}"
        if full_name in lesson.write:
            parts.append(emptied(source, method, full_name))
        elif getattr(method, "name", "") in lesson.keeps:
            parts.append(source.whole(method))
    return "\n\n".join(parts)


def emptied(source, function, full_name, until_loop=False):
    """A function whose body, but for its docstring, is an error that says that it is not written yet."""
    kept = function.lineno                      # signatures are one line
    if ast.get_docstring(function):
        kept = function.body[0].end_lineno
    if until_loop:
        kept = next(statement.lineno for statement in function.body if isinstance(statement, ast.For)) - 1
    indent = " " * function.body[0].col_offset
    error = f'{indent}raise NotImplementedError("{full_name} is not written yet")'
    return f"{source.text(function.lineno, kept).rstrip()}\n{error}"


def enumeration(names):
    """"a", "a and b", "a, b and c"."""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last

