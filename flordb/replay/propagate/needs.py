"""The new code that a statement needs: definitions, imports and helpers that only Y has.

Local values are computed again right before the statement, if that reads nothing that has changed
since and does nothing else. Imports, constants, functions and classes of the module go before the
top-level statement that holds the slot. Whole new modules are brought as files. Whatever else a
name may come from (a parameter, a loop, several assignments) is refused. A method that only Y's
class has goes to the end of X's.
"""

from __future__ import annotations

import ast
import builtins
import textwrap
from collections.abc import Mapping
from difflib import get_close_matches

from flordb.replay.propagate.edit import Edit, indented, line_of_slot
from flordb.replay.propagate.effects import effect_in_helper, effect_of, effect_on_self
from flordb.replay.propagate.flow import Bound, how_bound, module_names
from flordb.replay.propagate.model import Refused
from flordb.replay.propagate.modules import find_module
from flordb.replay.propagate.names import (
    binds,
    changes,
    hands_on,
    outside,
    parameters,
    root_of,
)
from flordb.replay.propagate.tokens import is_variable
from flordb.replay.propagate.units import FUNCTIONS, Block, Source, Unit

_CODE = (*FUNCTIONS, ast.ClassDef)
_IMMUTABLE = (
    *(ast.Constant, ast.Tuple, ast.UnaryOp, ast.BinOp),
    *(ast.expr_context, ast.operator, ast.unaryop),
)


class Needs:
    """Collects what one statement needs in one slot of the older version.

    Parameters: the files of both versions; ``unit``, the statement; the slot (``block``,
    ``index``); ``table``, the renames found so far.
    """

    def __init__(
        self,
        old: Mapping[str, Source],
        new: Mapping[str, Source],
        unit: Unit,
        block: Block,
        index: int,
        table: Mapping[str, str],
    ) -> None:
        self._old, self._new, self._unit = old, new, unit
        self._block, self._index, self._table = block, index, table
        self._source = block.owner.source
        self._known: set[str] = set()
        self._methods_known: set[str] = set()
        self._open: set[str] = set()
        self.methods: list[Edit] = []
        self.local: list[str] = []
        self.top: list[str] = []
        self.files: dict[str, str] = {}

    def bring(self, name: str) -> None:
        """Bring the definition of a name. Raises Refused where it cannot be brought."""
        if name in self._open:
            raise self.missing(name, "the newer version computes it from its own earlier value")
        if name in self._known:
            return
        self._known.add(name)
        self._open.add(name)
        self._bring(name)
        self._open.remove(name)

    def _bring(self, name: str) -> None:
        self._is_free(name)
        scope = self._unit.scope
        while True:
            found = _definitions(name, scope)
            if isinstance(scope.node, FUNCTIONS) and name in parameters(scope.node):
                raise self.missing(name, f"a parameter of `{scope.node.name}` in the newer version")
            if found:
                break
            if scope.block is None:
                raise self.missing(name)
            scope = scope.block.scope
        if len(found) > 1:
            raise self.missing(name, "assigned in several places of the newer version")
        if (
            (scope.block is None and self._unit.scope is not scope)
            or _is_code(found[0])
            or _is_constant(found[0])
        ):
            self._bring_top(name, found[0])
        else:
            self._bring_local(name, found[0])

    def bring_methods(self, node: ast.AST) -> None:
        """Bring the methods of its own class that a piece of code uses and only Y's class has."""
        mine, theirs = _class_of(self._unit), _class_of(self._block.owner)
        if mine is None or theirs is None:
            return
        have = {n for unit in theirs.blocks[0].units for n in binds(unit.node)}
        for part in ast.walk(node):
            if not isinstance(part, ast.Attribute) or root_of(part) != "self":
                continue
            name = part.attr
            found = [u for u in mine.blocks[0].units if getattr(u.node, "name", None) == name]
            if found and name not in have and name not in self._methods_known:
                self._methods_known.add(name)
                self._bring_method(name, found[-1], theirs)

    def _bring_method(self, name: str, definition: Unit, theirs: Unit) -> None:
        node = definition.node
        effect = effect_in_helper(node) or effect_on_self(node)
        if effect is not None:
            raise self.missing(f"self.{name}", f"its definition has an effect: {effect}")
        body = theirs.blocks[0]
        if not body.has_slot(len(body.units)):
            raise self.missing(f"self.{name}")
        self._need_top(outside(node))
        lines = definition.source.lines[definition.first - 1 : definition.last]
        text = indented(textwrap.dedent("".join(lines)), body.indent)
        line = line_of_slot(body, len(body.units))
        self.methods.append(Edit(self._source.path, line, "\n" + text, "support"))
        self.bring_methods(node)

    def _need_top(self, names: set[str]) -> None:
        for needed in sorted(names):
            if needed not in module_names(self._source.root) and not hasattr(builtins, needed):
                self.bring(needed)

    def missing(self, name: str, why: str = "") -> Refused:
        """The refusal that names a missing name and the nearest one that there is."""
        return missing(name, self._block, self._index, why)

    def edits(self, line: int, indent: str) -> list[Edit]:
        """The edits for the older file; ``line`` is that of the slot."""
        top = self._top_line()
        path = self._source.path
        out = [Edit(path, top, text.rstrip("\n") + "\n", "support") for text in self.top]
        local = [Edit(path, line, indented(text, indent), "support") for text in self.local]
        return [*out, *local, *self.methods]

    def _top_line(self) -> int:
        """The line of the top-level statement that holds the slot."""
        holder = self._block.owner
        if holder.block is None:
            units = self._block.units
            if self._index < len(units):
                return units[self._index].first
            return units[-1].last + 1
        for unit in (holder, *holder.above()):
            if unit.block is not None and unit.block.owner.block is None:
                return unit.first
        raise Refused("the slot is outside the file")

    def _is_free(self, name: str) -> None:
        """A name that X mentions anywhere may not be given a value: X would see it."""
        for unit in self._source.units:
            if name in unit.words and how_bound(name, self._block, self._index) is Bound.NEVER:
                bound = name in binds(unit.node) and unit.scope is not self._block.scope
                if not bound:
                    raise Refused(
                        f"`{name}` is not defined where the statement goes, and line "
                        f"{unit.lineno} of {self._source.path} means something by that name"
                    )

    def _bring_local(self, name: str, definition: Unit) -> None:
        """Compute a value again right before the statement."""
        node = definition.node
        if not isinstance(node, (ast.Assign, ast.AnnAssign)) or node.value is None:
            raise self.missing(name, f"bound by a `{definition.kind.lower()}` in the newer version")
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        if len(targets) != 1 or not isinstance(targets[0], ast.Name):
            raise self.missing(name, "assigned together with other names")
        effect = effect_of(node.value)
        if effect is not None:
            raise self.missing(name, f"only the newer version computes it, and {effect} may act")
        self._has_not_changed(name, definition, outside(node.value))
        for needed in sorted(outside(node.value)):
            self._need_here(needed)
        value = ast.unparse(node.value)
        if set(self._table) & outside(node.value):
            raise self.missing(name, "its definition reads names that were renamed")
        self.local.append(f"{name} = {value}\n")

    def _has_not_changed(self, name: str, definition: Unit, read: set[str]) -> None:
        """Check that the definition always comes before the statement, and nothing in between."""
        here: Unit | None = self._unit
        while here is not None and here.block is not definition.block:
            if here.block is not None and self._changed(here.block.units[: here.index], read):
                raise self.missing(name, "what it is computed from changes before the statement")
            here = here.parent
        if here is None or here.block is None or definition.index >= here.index:
            raise self.missing(name, "not always computed before the statement")
        between = here.block.units[definition.index + 1 : here.index]
        if here is not self._unit and here.kind in ("For", "While"):
            between = [*between, here]
        if self._changed(between, read | {name}):
            raise self.missing(name, "what it is computed from changes before the statement")

    def _changed(self, units: list[Unit], read: set[str]) -> bool:
        return any(changes(unit.node) & read for unit in units)

    def _need_here(self, name: str) -> None:
        if how_bound(name, self._block, self._index, by_reads=True) is Bound.ALWAYS:
            return
        self.bring(name)

    def _bring_top(self, name: str, definition: Unit) -> None:
        """Bring an import, a constant, a function or a class of the module."""
        node = definition.node
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            self._bring_import(name, node, definition.source)
            return
        if isinstance(node, _CODE):
            effect = effect_in_helper(node)
            reads = outside(node) - {node.name}
        elif isinstance(node, ast.Assign) and binds(node) == {name}:
            if self._may_change(name, definition, node.value):
                raise self.missing(name, "the newer version may change it after it is defined")
            effect, reads = effect_of(node.value), outside(node.value)
        else:
            raise self.missing(name, "it is no plain definition in the newer version")
        if effect is not None:
            raise self.missing(name, f"its definition has an effect: {effect}")
        self._need_top(reads)
        lines = definition.source.lines[definition.first - 1 : definition.last]
        self.top.append("".join(lines))

    def _may_change(self, name: str, definition: Unit, value: ast.expr) -> bool:
        """Whether the newer version may give a name another value than its definition does."""
        above = (definition, self._unit, *self._unit.above())
        others = [unit for unit in definition.source.units if unit not in above]
        if self._changed(others, {name}):
            return True
        if all(isinstance(part, _IMMUTABLE) for part in ast.walk(value)):
            return False
        return any(hands_on(unit.node, name) for unit in others)

    def _bring_import(self, name: str, node: ast.Import | ast.ImportFrom, source: Source) -> None:
        alias = next(a for a in node.names if (a.asname or a.name).split(".")[0] == name)
        path = find_module(node, alias, source.path, self._new)
        if path is not None and path not in self._old:
            self._bring_file(path)
        elif path is not None and isinstance(node, ast.ImportFrom):
            there = self._old[path]
            if alias.name not in module_names(there.root) and not there.has_star_import:
                inner = find_module(node, alias, source.path, self._old)
                if inner is None or inner == path:
                    raise self.missing(name, f"{path} of the older version has no `{alias.name}`")
        new: ast.stmt
        if isinstance(node, ast.Import):
            new = ast.Import([alias])
        else:
            new = ast.ImportFrom(node.module, [alias], node.level)
        self.top.insert(0, ast.unparse(new))

    def _bring_file(self, path: str) -> None:
        """Bring a module that only the newer version has, and those that it imports."""
        if path in self.files:
            return
        source = self._new[path]
        self.files[path] = source.text
        for unit in source.root.blocks[0].units if source.root.blocks else []:
            effect = _effect_at_import(unit)
            if effect is not None:
                raise Refused(
                    f"{path} exists only in the newer version and acts when imported: {effect}"
                )
        for unit in source.units:
            if isinstance(unit.node, (ast.Import, ast.ImportFrom)):
                for alias in unit.node.names:
                    inner = find_module(unit.node, alias, path, self._new)
                    if inner is not None and inner not in self._old:
                        self._bring_file(inner)


def _class_of(unit: Unit) -> Unit | None:
    """The class round a statement, or the statement itself where it is one."""
    return next((u for u in (unit, *unit.above()) if isinstance(u.node, ast.ClassDef)), None)


def missing(name: str, block: Block, index: int, why: str = "") -> Refused:
    """The refusal for a name that the older version does not have at a slot."""
    source = block.owner.source
    known = sorted({w for unit in source.units for w in unit.words if is_variable(w)} - {name})
    close = _same_parts(name, known) + get_close_matches(name, known, 5, 0.5)
    near = [word for word in close if how_bound(word, block, index) is not Bound.NEVER]
    text = f"`{name}` is not defined in {source.path}"
    text += f" ({why})" if why else ""
    return Refused(text + (f"; nearest: `{near[0]}`" if near else ""))


def _same_parts(name: str, known: list[str]) -> list[str]:
    """Names of the same parts in another order, such as `loader_val` for `val_loader`."""
    parts = set(name.split("_"))
    return [n for n in known if len(parts) > 1 and set(n.split("_")) == parts]


def _definitions(name: str, scope: Unit) -> list[Unit]:
    """The statements of a scope that bind a name, the compound ones by their headers."""
    found = []
    for unit in scope.inside():
        if unit.scope is scope and name in binds(unit.node):
            inner = any(name in binds(child.node) for child in unit.inside())
            if not inner or _is_code(unit):
                found.append(unit)
    return found


def _is_code(unit: Unit) -> bool:
    return isinstance(unit.node, (*_CODE, ast.Import, ast.ImportFrom))


def _is_constant(unit: Unit) -> bool:
    """Whether a top-level assignment computes its value from nothing but literals."""
    node = unit.node
    top = unit.block is not None and unit.block.owner.block is None
    return top and isinstance(node, ast.Assign) and not outside(node.value)


def _effect_at_import(unit: Unit) -> str | None:
    node = unit.node
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return None
    if isinstance(node, _CODE):
        return effect_in_helper(node)
    if isinstance(node, (ast.Assign, ast.AnnAssign)):
        return effect_of(node.value) if node.value is not None else None
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return None
    return f"line {unit.lineno}"
