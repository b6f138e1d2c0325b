"""The code that a result rests on, in a form in which layout, comments and docstrings don't show.

What a function rests on is found by name inside its own module: the functions, classes and constants that it
names, what those name in turn, and the imports that give those names. Other modules are not followed: whoever
relies on one names its function as a control too. Names that are made up at run time are not seen either.
"""

from __future__ import annotations

import ast
import functools
from dataclasses import dataclass

NO_MEANING = {
    "ctx",
    "kind",
    "type_comment",
}  # fields of a syntax tree that change nothing of what the code does


@dataclass(frozen=True)
class Part:
    """One statement of a module: its code, the names and attributes that it uses, and its texts."""

    code: str
    uses: frozenset[str]
    attributes: frozenset[str]
    texts: frozenset[str]


@dataclass(frozen=True)
class Module:
    """A module's statements by the names that they define.

    `always` are those that define none: they run whatever is called. `phases`, of a scenario: each phase's
    name, and its function.
    """

    parts: dict[str, tuple[Part, ...]]
    always: tuple[Part, ...]
    phases: dict[str, str]

    def reached(self, names: list[str]) -> list[Part]:
        """The parts that NAMES stand for and all that these use, near or far, in a fixed order."""
        seen: set[str] = set()
        waiting = [*names, *(name for part in self.always for name in part.uses)]
        while waiting:
            name = waiting.pop()
            if name in self.parts and name not in seen:
                seen.add(name)
                waiting += [used for part in self.parts[name] for used in part.uses]
        return [*self.always, *(part for name in sorted(seen) for part in self.parts[name])]

    def code(self, names: list[str]) -> str:
        """The code of NAMES with all that it reaches in this module."""
        return "\n".join(part.code for part in self.reached(names))


def canonical(value: object) -> str:
    """The syntax tree VALUE as text: the same for the same code, however it is laid out.

    Empty fields are left out, which is where versions of Python differ in what they list.
    """
    if isinstance(value, ast.AST):
        fields = []
        for name, field in ast.iter_fields(value):
            if name not in NO_MEANING and field is not None and field != []:
                fields.append(f"{name}={canonical(field)}")
        return f"{type(value).__name__}({', '.join(fields)})"
    if isinstance(value, list):
        return f"[{', '.join(map(canonical, value))}]"
    return repr(value)


def drop_docstrings(tree: ast.Module) -> None:
    """Take the docstrings out of TREE."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:]


def part_of(node: ast.AST) -> Part:
    """NODE as a part of its module."""
    uses, attributes, texts = set(), set(), set()
    for one in ast.walk(node):
        if isinstance(one, ast.Name):
            uses.add(one.id)
        elif isinstance(one, ast.Attribute):
            attributes.add(one.attr)
        elif isinstance(one, ast.Constant) and isinstance(one.value, str):
            texts.add(one.value)
    return Part(canonical(node), frozenset(uses), frozenset(attributes), frozenset(texts))


def names_of(node: ast.stmt) -> list[str]:
    """The names that the statement NODE of a module defines."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return [node.name]
    if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        found = [one for target in targets for one in ast.walk(target)]
        return [one.id for one in found if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)]
    return []


def phase_of(node: ast.stmt) -> str | None:
    """The name of the phase that the function NODE is marked as; None when it is none."""
    for mark in getattr(node, "decorator_list", ()):
        if isinstance(mark, ast.Call) and ast.unparse(mark.func).endswith("phase") and mark.args:
            return str(ast.literal_eval(mark.args[0]))
    return None


@functools.cache
def read_module(text: str) -> Module:
    """The module with this TEXT. Raises SyntaxError, and ValueError for a phase without a plain name."""
    tree = ast.parse(text)
    drop_docstrings(tree)
    parts: dict[str, list[Part]] = {}
    always, phases = [], {}
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                bound = alias.asname or alias.name.split(".")[0]
                source = getattr(node, "module", None)
                code = f"import {'.' * getattr(node, 'level', 0)}{source or ''} {alias.name}"
                parts.setdefault(bound, []).append(Part(code, frozenset(), frozenset(), frozenset()))
            continue
        names = names_of(node)
        if not names:
            always.append(part_of(node))
        for name in names:
            parts.setdefault(name, []).append(part_of(node))
        phase = phase_of(node)
        if phase is not None:
            phases[phase] = names[0]
    return Module({name: tuple(found) for name, found in parts.items()}, tuple(always), phases)
