"""Whether running new code a first time, or old code a second time, could change a training."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator

from flordb.analysis.program import root_name
from flordb.replay.propagate.names import READS_ONLY, binds, parameters, root_of

_READS = """
abs all any bool bytes complex dict divmod enumerate float format frozenset getattr hasattr hash id
int isinstance len list map max min ord pow range repr reversed round set sorted str sum tuple type
zip print chr slice filter
"""
_ACTING = """
backward step zero_grad train eval requires_grad_ load_state_dict cuda set_grad_enabled manual_seed
seed shuffle remove unlink rmtree makedirs mkdir system save write fill_ copy_ zero_ add_ mul_
"""
_MUTATING = "pop popitem popleft append extend insert update clear setdefault add discard remove"
_MAKING = """
array bool bytearray clone copy deepcopy defaultdict deque dict empty empty_like eye float full
full_like int item len list ones ones_like set str sum tensor zeros zeros_like
"""
_CONTEXTS = """
autocast catch_warnings deterministic enable_grad errstate fork_rng inference_mode no_grad
set_grad_enabled suppress
"""
_DRAWING = """
rand randn randint randperm random choice choices sample normal uniform multinomial bernoulli
dropout permutation rand_like randn_like
"""
_PURE_BUILTINS = frozenset(_READS.split())
_PURE_MODULES = frozenset({"math", "np", "numpy", "torch", "F", "os", "json", "re", "time"})
_ACTS = frozenset(_ACTING.split())
_DRAWS = frozenset(_DRAWING.split())
_MUTATES = frozenset(_MUTATING.split())
_MAKES = frozenset(_MAKING.split())
_SETS_CONTEXT = frozenset(_CONTEXTS.split())
_SHOWING = frozenset(["print", "refresh", "set_description", "set_postfix", "set_postfix_str"])
_HARMLESS_HERE = frozenset({"cuda", "save", "write", "mkdir", "makedirs", "eval"})
"""On a value that is logged, these move it to a device or write it to a file; the replay puts
modules back into the mode in which they were."""


def effect_of(node: ast.AST) -> str | None:
    """What in an expression may change something or draw a random number; None where nothing does.

    Only calls that are known to read are taken for harmless.
    """
    for part in ast.walk(node):
        if isinstance(part, (ast.Await, ast.Yield, ast.YieldFrom, ast.NamedExpr)):
            return ast.unparse(part)
        if isinstance(part, ast.Call) and not _is_harmless(part):
            return ast.unparse(part.func) + "()"
    return None


def effect_beside(node: ast.AST, flor: Callable[[ast.Call], str | None]) -> str | None:
    """What in a statement of a new loop, which does not go along, may act on a training.

    Parameters: ``flor``, which function of flor's a call calls. Output and progress bars do not.
    """
    for part in ast.walk(node):
        if isinstance(part, ast.Call) and flor(part) is None and not _is_harmless(part):
            if last_name(part) in _SHOWING:
                continue
            return ast.unparse(part.func) + "()"
    return None


def effect_in_log(node: ast.AST) -> str | None:
    """What in a log statement acts on the training: a step, a change of mode or in place.

    Functions of unknown effect may be called: the user wrote the statement to be run in hindsight.
    Random draws may be too: the replay puts the generators' state back.
    """
    for part in ast.walk(node):
        if isinstance(part, ast.Call) and last_name(part) in _ACTS - _HARMLESS_HERE:
            return ast.unparse(part.func) + "()"
    return None


def effect_of_piece(piece: ast.Module, bound: set[str], log: ast.AST) -> str | None:
    """What in new code that goes with a log statement acts on anything that is not its own.

    Parameters: ``bound``, the names that the piece gives a value; ``log``, the log statement in
    it, which has been judged. What the piece makes anew it may change in place. Functions of
    unknown effect may be called and modes set, as in a log statement.
    """
    own = bound - _taken_over(piece)
    judged = set(ast.walk(log))
    for part in ast.walk(piece):
        if part in judged:
            continue
        if isinstance(part, _NEVER):
            return ast.unparse(part)
        updated = part.target if isinstance(part, ast.AugAssign) else None
        if isinstance(updated, ast.Name) and updated.id not in own:
            return f"`{ast.unparse(part)}`, in place"
        stored = isinstance(part, (ast.Attribute, ast.Subscript)) and not _is_load(part)
        if stored and (not isinstance(part.value, ast.Name) or part.value.id not in own):  # type: ignore[attr-defined]
            return f"a store into `{ast.unparse(part)}`"
        if isinstance(part, ast.Call) and _acts_on_others(part, own):
            return ast.unparse(part.func) + "()"
        call = part.value if isinstance(part, ast.Expr) and not is_mode_call(part) else None
        if isinstance(call, ast.Call) and not _changes_own(call, own):
            return ast.unparse(call.func) + "()"
        if isinstance(part, (*_FUNCTIONS, ast.ClassDef)):
            effect = effect_in_helper(part)
            if effect is not None:
                return effect
            judged |= set(ast.walk(part))  # its `return` leaves the helper, not the piece
    return None


_NEVER = (
    *(ast.Await, ast.Yield, ast.YieldFrom, ast.Global, ast.Nonlocal),
    *(ast.Delete, ast.Return, ast.Raise, ast.NamedExpr),
)


def _changes_own(call: ast.Call, own: set[str]) -> bool:
    """Whether a call whose result nobody takes can be there for what the piece made: its method,
    or NumPy's or PyTorch's function of it."""
    first = root_name(call.func)
    return first in own or (
        first in _PURE_MODULES and any(root_of(a) in own for a in call.args[:1])
    )


def _acts_on_others(call: ast.Call, own: set[str]) -> bool:
    name, of_own = last_name(call), False
    if isinstance(call.func, ast.Attribute):
        of_own = root_name(call.func) in own
        if is_in_place(name):
            return not (isinstance(call.func.value, ast.Name) and of_own)
        if name in _MUTATES:
            return not of_own
    if name == "next":
        return not (call.args and (root_of(call.args[0]) in own or _begins(call.args[0])))
    return name in (_ACTS - _HARMLESS_HERE - {"train"}) | _DRAWS


def is_in_place(method: str) -> bool:
    """Whether a method changes its tensor in place, by PyTorch's way of naming these."""
    return method.endswith("_") and not method.endswith("__")


def _begins(value: ast.expr) -> bool:
    """Whether an expression is the beginning of an iteration of its own."""
    return isinstance(value, ast.Call) and last_name(value) == "iter"


def _is_load(node: ast.Attribute | ast.Subscript) -> bool:
    return isinstance(node.ctx, ast.Load)


def _taken_over(piece: ast.Module) -> set[str]:
    """The names that may be given an object that was there before."""
    found: set[str] = set()
    for part in ast.walk(piece):
        if isinstance(part, ast.Assign):
            for target in part.targets:
                found |= set() if _makes(part.value) else binds(target)
        elif isinstance(part, ast.AnnAssign):
            found |= set() if part.value is None or _makes(part.value) else binds(part.target)
        elif isinstance(part, (ast.For, ast.AsyncFor)):
            found |= binds(part.target)
        elif isinstance(part, ast.withitem) and part.optional_vars is not None:
            found |= binds(part.optional_vars)
    return found


def _makes(value: ast.expr) -> bool:
    """Whether an expression surely makes a new object."""
    if isinstance(value, ast.Tuple):
        return all(_makes(part) for part in value.elts)
    if isinstance(value, ast.Call):
        plain = all(isinstance(a, ast.Constant) for a in value.args) and not value.keywords
        name = last_name(value)
        return name in _MAKES or (name[:1].isupper() and plain)
    return isinstance(value, _NEW)


_NEW = (
    *(ast.Constant, ast.JoinedStr, ast.List, ast.Set, ast.Dict, ast.ListComp, ast.SetComp),
    *(ast.DictComp, ast.BinOp, ast.UnaryOp, ast.Compare),
)


def is_mode_call(node: ast.AST) -> bool:
    """Whether a statement is of the form `net.eval()`, `net.train()` or `net.train(before)`."""
    if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)):
        return False
    call = node.value
    if not isinstance(call.func, ast.Attribute) or root_of(call.func) is None or call.keywords:
        return False
    return (call.func.attr, len(call.args)) in {("eval", 0), ("train", 0), ("train", 1)}


def receivers_of_eval(node: ast.AST) -> set[str]:
    """The texts of what a piece of code puts into evaluation mode: these are modules."""
    return {
        ast.unparse(part.func.value)
        for part in ast.walk(node)
        if isinstance(part, ast.Call)
        and isinstance(part.func, ast.Attribute)
        and part.func.attr == "eval"
        and not part.args
    }


def sets_context(node: ast.With) -> bool:
    """Whether a `with` sets nothing but how what is inside it computes, or reads a file."""
    for item in node.items:
        call = item.context_expr
        name = last_name(call) if isinstance(call, ast.Call) else ""
        reading = name == "open" and not _mode_of_open(call).strip("rbt")
        if not (name in _SETS_CONTEXT or reading):
            return False
    return True


def _mode_of_open(call: ast.expr) -> str:
    assert isinstance(call, ast.Call)
    given = [*call.args[1:2], *(k.value for k in call.keywords if k.arg == "mode")]
    if not given:
        return "r"
    return str(given[0].value) if isinstance(given[0], ast.Constant) else "?"


def effect_in_helper(function: ast.AST) -> str | None:
    """What in a helper acts on the training: steps, draws, globals, stores into arguments."""
    given = parameters(function) if isinstance(function, _FUNCTIONS) else set()
    modules = receivers_of_eval(function)
    for part in ast.walk(function):
        if isinstance(part, (ast.Global, ast.Nonlocal)):
            return f"`global` or `nonlocal` {', '.join(part.names)}"
        if isinstance(part, ast.Call) and last_name(part) in _ACTS | _DRAWS:
            sets_mode = is_mode_call(ast.Expr(part)) and isinstance(part.func, ast.Attribute)
            if sets_mode and ast.unparse(part.func.value) in modules:  # type: ignore[attr-defined]
                continue
            return ast.unparse(part.func) + "()"
        stored = list(_stored_into(part))
        if any(root in given for root in stored):
            return f"a store into `{stored[0]}`"
    return None


def effect_on_self(method: ast.AST) -> str | None:
    """What in a method changes the object that it is a method of, or what that holds."""
    for part in ast.walk(method):
        stored = isinstance(part, (ast.Attribute, ast.Subscript)) and not _is_load(part)
        if stored and root_of(part) == "self":
            return f"a store into `{ast.unparse(part)}`"
        if isinstance(part, ast.Call) and root_name(part.func) == "self":
            name = last_name(part)
            if name in _MUTATES or is_in_place(name):
                return ast.unparse(part.func) + "()"
    return None


_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def _stored_into(node: ast.AST) -> Iterator[str | None]:
    if isinstance(node, (ast.Attribute, ast.Subscript)) and not isinstance(node.ctx, ast.Load):
        root = root_of(node)
        if root != "self":
            yield root


def _is_harmless(call: ast.Call) -> bool:
    name = last_name(call)
    if isinstance(call.func, ast.Name):
        return name in _PURE_BUILTINS
    if name in _DRAWS or name in _ACTS:
        return False
    return name in READS_ONLY or (
        root_of(call.func) in _PURE_MODULES and "random" not in (ast.unparse(call.func))
    )


def last_name(call: ast.Call) -> str:
    """The name of the function or method that is called, without what stands before it."""
    func = call.func
    return func.attr if isinstance(func, ast.Attribute) else getattr(func, "id", "")
