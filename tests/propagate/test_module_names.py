"""Names of the module: statements of all its functions say what they were called before."""

from __future__ import annotations

import textwrap

import pytest

from flordb.replay.propagate import Patch, Refusal, propagate_source

LOGS_BY_MODULE = textwrap.dedent("""
    import logging

    def restore(path):
        logging.info("restoring")
        state = load(path)
        logging.info("restored %s", path)
        return state

    def train(model, loader):
        for batch in loader:
            model.fit(batch)
""")

LOGS_BY_LOGGER = textwrap.dedent("""
    import logging

    logger = logging.getLogger(__name__)

    def restore(path):
        logger.info("restoring")
        state = load(path)
        logger.info("restored %s", path)
        return state

    def train(model, loader):
        for batch in loader:
            logger.STATEMENT
            model.fit(batch)
""")


def line_of(text: str, part: str) -> int:
    return next(n for n, row in enumerate(text.splitlines(), 1) if part in row)


def test_a_logger_is_the_module_that_it_was_made_of_before() -> None:
    new = LOGS_BY_LOGGER.replace("STATEMENT", 'info("fitting %s", batch)')
    answer = propagate_source(LOGS_BY_MODULE, new, line_of(new, "fitting"))
    assert isinstance(answer, Patch), answer
    assert answer.files["source.py"] == LOGS_BY_MODULE.replace(
        "        model.fit", '        logging.info("fitting %s", batch)\n        model.fit'
    )


@pytest.mark.parametrize("statement", ["info(len(logger.handlers))", "debug(batch)"])
def test_a_logger_is_not_the_module_where_that_has_another_use(statement: str) -> None:
    new = LOGS_BY_LOGGER.replace("STATEMENT", statement)
    answer = propagate_source(LOGS_BY_MODULE, new, line_of(new, statement))
    assert isinstance(answer, Refusal), answer
    assert "`logger` is not defined" in answer.reason
