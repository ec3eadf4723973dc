"""Tokens of DuckDB's SQL, as sqlglot's parser is to read them: what it does not know is left out,
if that changes nothing of which columns a statement reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from sqlglot.tokenizer_core import Token, TokenType

_OPEN = (TokenType.L_PAREN, TokenType.L_BRACKET, TokenType.L_BRACE)
_CLOSE = (TokenType.R_PAREN, TokenType.R_BRACKET, TokenType.R_BRACE)
_PARAMETERS = (TokenType.PLACEHOLDER, TokenType.QDCOLON)
_PIVOTS = (TokenType.PIVOT, TokenType.UNPIVOT)
_ENDS = (TokenType.ORDER_BY, TokenType.LIMIT, TokenType.OFFSET)
_DEFAULT = (TokenType.COLON_EQ, TokenType.FARROW)
_HEAD = 12  # CREATE OR REPLACE TEMP MACRO IF NOT EXISTS schema.name (


def adapted(tokens: Sequence[Token]) -> list[Token]:
    """The tokens that sqlglot is to parse; their positions stay."""
    for adapt in (_without_defaults, _without_position, _in_parentheses, _without_order):
        tokens = adapt(tokens)
    return list(_renamed(tokens))


def _renamed(tokens: Sequence[Token]) -> Iterator[Token]:
    """Each ``?`` is ``$1``, ``$2``, …: a tree is not in the order of the text. ``reduce``, which
    sqlglot takes for another database's, has its other name; SHOW is DESCRIBE."""
    number = 0
    for index, token in enumerate(tokens):
        place = (token.line, token.col, token.start, token.end)
        following = tokens[index + 1] if index + 1 < len(tokens) else None
        if token.token_type == TokenType.VAR and token.text.lower() == "reduce":
            yield Token(TokenType.VAR, "list_reduce", *place, token.comments)
        elif token.token_type == TokenType.SHOW and following and following.text.lower() == "flor":
            yield Token(TokenType.DESCRIBE, "DESCRIBE", *place, token.comments)
        elif token.token_type in _PARAMETERS and token.text in ("?", "?::"):
            yield Token(TokenType.PARAMETER, "$", *place, [])
            if not (following and following.text.isdigit() and following.start == token.end + 1):
                number += 1
                yield Token(TokenType.NUMBER, str(number), *place, [])
            if token.text == "?::":
                yield Token(TokenType.DCOLON, "::", *place, [])
        else:
            yield token


def _without_position(tokens: Sequence[Token]) -> Sequence[Token]:
    """Without BY POSITION in INSERT, which it does in any case."""
    if not tokens or tokens[0].token_type != TokenType.INSERT:
        return tokens
    for place, pair in enumerate(pairwise(tokens)):
        if [token.text.lower() for token in pair] == ["by", "position"]:
            return [*tokens[:place], *tokens[place + 2 :]]
    return tokens


def _in_parentheses(tokens: Sequence[Token]) -> Sequence[Token]:
    """``CREATE … AS (PIVOT …)`` for ``CREATE … AS PIVOT …``."""
    if not tokens or tokens[0].token_type != TokenType.CREATE:
        return tokens
    for place, (before, pivot) in enumerate(pairwise(tokens), start=1):
        if before.token_type == TokenType.ALIAS and pivot.token_type in _PIVOTS:
            end = len(tokens) - (tokens[-1].token_type == TokenType.SEMICOLON)
            at = [(t.line, t.col, t.start, t.end) for t in (pivot, tokens[end - 1])]
            opening = Token(TokenType.L_PAREN, "(", *at[0], [])
            closing = Token(TokenType.R_PAREN, ")", *at[1], [])
            return [*tokens[:place], opening, *tokens[place:end], closing, *tokens[end:]]
    return tokens


def _without_order(tokens: Sequence[Token]) -> list[Token]:
    """Without ORDER BY and LIMIT of ``PIVOT … ON …``: they are about what it makes."""
    found: list[Token] = []
    depth, pivots, left_out = 0, set[int](), False
    for place, token in enumerate(tokens):
        if token.token_type in _OPEN:
            depth += 1
        elif token.token_type in _CLOSE:
            left_out = left_out and depth not in pivots
            pivots.discard(depth)
            depth -= 1
        elif token.token_type in _PIVOTS:
            after = tokens[place + 1].token_type if place + 1 < len(tokens) else None
            before = tokens[place - 1].token_type if place else TokenType.L_PAREN
            if before == TokenType.L_PAREN or after != TokenType.L_PAREN:
                pivots.add(depth)  # the other form, FROM t PIVOT (…), sqlglot knows
        elif token.token_type in _ENDS and depth in pivots:
            left_out = True
        elif token.token_type == TokenType.SEMICOLON:
            left_out, pivots = False, set()
        if not left_out:
            found.append(token)
    return found


def _without_defaults(tokens: Sequence[Token]) -> Sequence[Token]:
    """Without the values that parameters of a macro have: ``CREATE MACRO m(a, b := 1)``."""
    words = [token.text.lower() for token in tokens[:_HEAD]]
    if words[:1] != ["create"] or not {"macro", "function"} & set(words) or "(" not in words:
        return tokens
    first = words.index("(")
    found = list(tokens[:first])
    depth, left_out = 0, False
    for place, token in enumerate(tokens[first:], start=first):
        depth += (token.token_type in _OPEN) - (token.token_type in _CLOSE)
        if depth == 0:
            return [*found, *tokens[place:]]
        if depth == 1 and token.token_type == TokenType.COMMA:
            left_out = False
        elif depth == 1 and token.token_type in _DEFAULT:
            left_out = True
        if not left_out:
            found.append(token)
    return tokens
