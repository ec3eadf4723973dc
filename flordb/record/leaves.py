"""Tensors of a model as the last snapshot met them, all of them verified at once.

What a snapshot says of a tensor, but for its numbers and their place in memory, is compared: type,
dtype, shape, strides, device, whether it requires a gradient, whether it has a graph. Asked one by
one in Python that takes a microsecond a tensor; torch has a check of its own, which its compiler
guards compiled code with, that takes a tenth. Where it is not there, or says no, they are asked one
by one.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter, methodcaller
from typing import Any

from flordb.record.anchors import attributes_not_kept
from flordb.record.tensors import Piece, has_gaps


class Unfit(Exception):
    """What was found cannot be, or no longer is, what is known."""


@dataclass(slots=True)
class Leaf:
    """A tensor in which nothing may differ but the numbers, and where in memory they are."""

    piece: Piece
    kind: Any
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: Any
    device: Any
    requires_grad: bool
    is_leaf: bool

    @classmethod
    def of(cls, piece: Piece, tensor: Any) -> Leaf:
        if piece.kind != "torch" or has_gaps(piece) or tensor.is_neg() or tensor.is_conj():
            raise Unfit
        return cls(
            *(piece, type(tensor), tuple(tensor.shape), tensor.stride(), tensor.dtype),
            *(tensor.device, tensor.requires_grad, tensor.is_leaf),
        )

    def fits(self, tensor: Any) -> bool:
        return (
            type(tensor) is self.kind
            and tensor.dtype is self.dtype
            and tensor.shape == self.shape
            and tensor.stride() == self.strides
            and tensor.device == self.device
            and tensor.requires_grad is self.requires_grad
            and tensor.is_leaf is self.is_leaf
            and not tensor.is_neg()
            and not tensor.is_conj()
        )


_attributes = attrgetter("__dict__")
_address = methodcaller("data_ptr")


class Leaves:
    """The tensors of a tree, in its order."""

    def __init__(self, leaves: list[Leaf]) -> None:
        self._leaves = leaves
        self._pieces = [leaf.piece for leaf in leaves]
        # What requires no gradient has no graph.
        self._requiring = [n for n, leaf in enumerate(leaves) if leaf.requires_grad]
        self._are_leaves = [leaves[n].is_leaf for n in self._requiring]
        self._guards: Any = None

    def take(self, tensors: Sequence[Any]) -> None:
        """Take these tensors for the leaves. Raises Unfit."""
        if not self._guarded(tensors):
            for leaf, tensor in zip(self._leaves, tensors, strict=True):
                if not leaf.fits(tensor):
                    raise Unfit
            self._guard(tensors)
        # Nearly none has any, and to see that takes a tenth of a microsecond.
        if any(map(_attributes, tensors)) and any(map(attributes_not_kept, tensors)):
            raise Unfit
        addresses = list(map(_address, tensors))
        for piece, tensor, address in zip(self._pieces, tensors, addresses, strict=True):
            piece.value = tensor
            piece.address = address

    def _guarded(self, tensors: Sequence[Any]) -> bool:
        """Whether torch's own check finds the same tensors as before."""
        # Where gradients are off, the check takes no tensor to require one.
        if self._guards is None or not sys.modules["torch"].is_grad_enabled():
            return False
        return (
            self._guards.check(*tensors)
            and [tensors[n].is_leaf for n in self._requiring] == self._are_leaves
        )

    def _guard(self, tensors: Sequence[Any]) -> None:
        torch = sys.modules["torch"]
        if not tensors or not torch.is_grad_enabled():
            return
        try:
            kind = torch._C._dynamo.guards.TensorGuards
            self._guards = kind(*tensors, dynamic_dims_sizes=None, dynamic_dims_strides=None)
        except (AttributeError, TypeError, RuntimeError):
            self._guards = None  # another torch: its compiler's parts are no public interface


@dataclass(slots=True)
class Loose:
    """A tensor outside of all models, as it was met last, and its state."""

    leaf: Leaf
    state: Any

    def fits(self, value: Any) -> bool:
        """Whether nothing but its numbers differs, and their place in memory."""
        return (
            self.leaf.fits(value)
            and not value.__dict__
            and not (self.leaf.is_leaf and value.grad is not None)
        )

    def release(self) -> None:
        self.leaf.piece.value = None
