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


class Leaves:
    """The tensors of a tree, in its order."""

    def __init__(self, leaves: list[Leaf]) -> None:
        self._leaves = leaves
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
        if any(tensor.__dict__ for tensor in tensors) and any(map(attributes_not_kept, tensors)):
            raise Unfit
        addresses = [tensor.data_ptr() for tensor in tensors]
        for leaf, tensor, address in zip(self._leaves, tensors, addresses, strict=True):
            piece = leaf.piece
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
