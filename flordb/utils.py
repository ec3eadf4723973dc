"""Helpers for the dataframes that `flor.dataframe` returns; ``flor.utils`` of the dissertation."""

from flordb.query.dataframe import latest

__all__ = ["latest"]
