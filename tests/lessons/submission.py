"""Reads a learner's file, and refuses one that cannot be a solution, with the line to look at."""

import ast
import inspect
import io
import types
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from tests.lessons.report import NotYet, describe
from tests.lessons.skeleton import Source

FORBIDDEN_MODULES = {"nn", "autograd", "func", "optim", "jit", "compile", "vmap"}       # of torch
FORBIDDEN_METHODS = {"relu", "relu_", "softmax", "log_softmax", "unfold", "requires_grad", "requires_grad_"}


def load(lesson, path):
    """The learner's file as a module. Raises NotYet if it cannot be one of this lesson."""
    contents = Path(path).read_bytes()
    try:
        code = compile(contents, path, "exec")
        tree = ast.parse(contents)
    except SyntaxError as error:
        raise NotYet(describe_syntax(path, error)) from None
    except ValueError as error:
        raise NotYet(f"{path} cannot be read as Python: {error}.") from None
    refuse_forbidden(path, tree)
    module = types.ModuleType(f"lessons.{lesson.name}")
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            exec(code, vars(module))
    except (Exception, SystemExit) as error:
        raise NotYet(describe(path, error)) from None
    source = Source(lesson.source)
    for name in lesson.write:
        check_signature(path, name, find(path, module, name), source)
        check_base(path, name.partition(".")[0], module, source)
    return module


def describe_syntax(path, error):
    """A SyntaxError as a sentence, with the line."""
    text = (error.text or "").strip()
    shown = f"\n    {text}" if text else ""
    line = f", line {error.lineno}" if error.lineno else ""
    return f"{path}{line}: Python cannot read this ({error.msg}).{shown}"


def refuse_forbidden(path, tree):
    """Raises NotYet if the file uses what would do the lesson."""
    for node in ast.walk(tree):
        for name in mentioned(node):
            first, _, rest = name.partition(".")
            module = first == "torch" and rest.partition(".")[0] in FORBIDDEN_MODULES
            method = isinstance(node, ast.Attribute) and node.attr in FORBIDDEN_METHODS
            if module or method:
                raise NotYet(f"{path}, line {node.lineno}: {name} would do the lesson for you. Write it with "
                             "tensor operations.")


def mentioned(node):
    """The full names that an import or an attribute mentions: "torch.nn.functional"."""
    if isinstance(node, ast.ImportFrom):
        return [f"{node.module}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [ast.unparse(node)] if isinstance(node, ast.Attribute) else []


def find(path, module, name):
    """The function that the learner has written: "ReLU.forward" or "softmax"."""
    place, key = holder(module, name)
    found = inspect.unwrap(getattr(place, "__dict__", {}).get(key))
    code = getattr(found, "__code__", None)
    if code is None or code.co_filename != path:
        raise NotYet(f"{path} has no {name} of its own. To see the skeleton again, rename your file and run "
                     "the command once more.")
    return found


def holder(module, name):
    """Where a function stands: (the learner's class, "forward"), or (the module, "softmax")."""
    owner, _, method = name.partition(".")
    return (vars(module).get(owner), method) if method else (module, owner)


def check_signature(path, name, function, source):
    """Raises NotYet if Scene could not call the learner's function as it calls its own."""
    owner, _, method = name.partition(".")
    node = source.named[owner]
    if method:
        node = next(child for child in node.body if getattr(child, "name", "") == method)
    wanted = [argument.arg for argument in node.args.args]
    if wanted != list(inspect.signature(function).parameters):
        raise NotYet(f"{path}: {name} takes {inspect.signature(function)}, but Scene calls it as "
                     f"({ast.unparse(node.args)}). Restore the line with its def.")


def check_base(path, owner, module, source):
    """Raises NotYet if the learner's class does not derive from what Scene's derives from."""
    bases = [base.id for base in getattr(source.named[owner], "bases", ())]
    if bases and bases[0] not in [kind.__name__ for kind in vars(module)[owner].__mro__]:
        raise NotYet(f"{path}: {owner} does not derive from {bases[0]}. Restore the line "
                     f"`class {owner}({bases[0]}):`.")


def unwritten(lesson, module):
    """The functions whose body still is the skeleton's error."""
    def waits(name):
        place, key = holder(module, name)
        return f"{name} is not written yet" in inspect.unwrap(vars(place)[key]).__code__.co_consts

    return [name for name in lesson.write if waits(name)]
