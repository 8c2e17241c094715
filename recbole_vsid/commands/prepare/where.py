"""``--where``: which rows of a table count, as a condition on its columns.

The condition is read with Python's own parser and then walked node by node; nothing of it is ever run.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

from recbole_vsid.commands.prepare.numbers import to_numbers
from recbole_vsid.commands.prepare.texts import is_missing

OPERATORS = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt,
    ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge,
}  # fmt: skip
MIRRORED = {ast.Eq: ast.Eq, ast.NotEq: ast.NotEq, ast.Lt: ast.Gt, ast.LtE: ast.GtE, ast.Gt: ast.Lt, ast.GtE: ast.LtE}
GRAMMAR = (
    "conditions are like event == 'purchase', rating >= 4 and not `Event Type` in ['view', 'cart'], with "
    "== != < <= > >= in, and or not, texts between quotes, numbers"
)
LONGEST = 10_000


class Condition:
    """A condition on the rows of a table, checked before the table is read.

    Numbers are compared as numbers, texts as texts; an empty value is equal to ``''`` alone, and neither less nor more
    than anything.

    Args:
        text: the condition, for instance ``"event == 'purchase' and price < 20"``; a column whose name is no word
            stands between backticks.
        columns: those of the table.
        table: its name, for messages.

    Attributes:
        columns: the columns that the condition names, in order.

    Raises:
        ValueError: the condition cannot be read, does more than compare, or names a column that is not there.
    """

    def __init__(self, text: str, columns: Sequence[str], table: str):
        self._text, self._table, self._quoted = text, table, {}
        if not isinstance(text, str) or not text.strip() or len(text) > LONGEST:
            raise ValueError(f"where={str(text)[:80]!r} is not usable: {GRAMMAR}")
        self._known, self.columns = list(columns), []
        try:
            self._tree = ast.parse(re.sub("`([^`]*)`", self._placeholder, text).strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:  # ValueError: NUL bytes
            raise self._error(getattr(error, "msg", None) or str(error) or "it is nested too deeply") from error
        try:
            self._check(self._tree)
        except RecursionError as error:
            raise self._error("it is nested too deeply") from error

    def holds(self, rows: pd.DataFrame) -> np.ndarray:
        """For which rows the condition holds, bool ``[n]``.

        Raises:
            ValueError: a value that is no number is compared with one.
        """
        return self._judge(self._tree, rows)

    def _placeholder(self, match):
        name = f"quoted_column_{len(self._quoted)}_"
        self._quoted[name] = match.group(1)
        return name

    def _error(self, problem):
        return ValueError(f"where={self._text[:200]!r} is not usable: {problem}; {GRAMMAR}")

    # ------------------------------------------------------------------ before

    def _check(self, node):
        if isinstance(node, ast.BoolOp):
            for value in node.values:
                self._check(value)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            self._check(node.operand)
        elif isinstance(node, ast.Compare):
            for left, operation, right in _pairs(node):
                self._check_comparison(left, operation, right)
        else:
            raise self._error(f"{ast.unparse(node)!r} is no comparison")

    def _check_comparison(self, left, operation, right):
        if isinstance(operation, (ast.In, ast.NotIn)):
            if not isinstance(left, ast.Name) or not isinstance(right, (ast.List, ast.Tuple, ast.Set)):
                raise self._error("`in` stands between a column and a list")
            constants = [self._constant(element) for element in right.elts]
            if len({isinstance(constant, str) for constant in constants}) != 1:
                raise self._error("a list must hold texts or numbers, not both, and not nothing")
        elif type(operation) not in OPERATORS:
            raise self._error("comparisons are == != < <= > >= and in")
        elif isinstance(left, ast.Name) == isinstance(right, ast.Name):
            raise self._error("each comparison is one of a column with a value; texts stand between quotes")
        else:
            self._constant(right if isinstance(left, ast.Name) else left)
        name = self._column(left if isinstance(left, ast.Name) else right)
        if name not in self._known:
            raise ValueError(f"where={self._text!r}: {name!r} is no column; those of {self._table} are {self._known}")
        if name not in self.columns:
            self.columns.append(name)

    def _column(self, node):
        return self._quoted.get(node.id, node.id)

    def _constant(self, node):
        sign = -1 if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) else 1
        value = node.operand if sign < 0 else node
        if not isinstance(value, ast.Constant) or type(value.value) not in (str, int, float, bool):
            raise self._error(f"{ast.unparse(node)!r} is neither a column, a text nor a number")
        if sign < 0 and isinstance(value.value, (str, bool)):
            raise self._error(f"{ast.unparse(node)!r} is no number")
        return sign * value.value if sign < 0 else value.value

    # ------------------------------------------------------------------- after

    def _judge(self, node, rows):
        if isinstance(node, ast.BoolOp):
            judged = [self._judge(value, rows) for value in node.values]
            return (np.logical_and if isinstance(node.op, ast.And) else np.logical_or).reduce(judged)
        if isinstance(node, ast.UnaryOp):
            return ~self._judge(node.operand, rows)
        return np.logical_and.reduce([self._compared(*pair, rows) for pair in _pairs(node)])

    def _compared(self, left, operation, right, rows):
        kind = type(operation)
        if not isinstance(left, ast.Name):
            left, right, kind = right, left, MIRRORED[kind]
        name = self._column(left)
        if kind in (ast.In, ast.NotIn):
            constants = [self._constant(element) for element in right.elts]
            found = np.logical_or.reduce([self._column_against(rows, name, ast.Eq, each) for each in constants])
            return found if kind is ast.In else ~found
        return self._column_against(rows, name, kind, self._constant(right))

    def _column_against(self, rows, name, kind, constant):
        values, where = rows[name], f"where={self._text!r}: {self._table}, column {name!r}"
        compare = OPERATORS[kind]
        missing = is_missing(values)
        if isinstance(constant, bool):
            values, constant = values.map(str, na_action="ignore").astype(object).str.lower(), str(constant).lower()
        elif isinstance(constant, str) and pd.api.types.is_datetime64_any_dtype(values):
            constant = _moment(constant, values, where)
        elif not isinstance(constant, str) or pd.api.types.is_numeric_dtype(values):
            if isinstance(constant, str):
                raise ValueError(f"{where} holds numbers; compare it with {constant} without quotes")
            if pd.api.types.is_bool_dtype(values) or pd.api.types.is_datetime64_any_dtype(values):
                raise ValueError(f"{where} holds {values.dtype} values, not numbers like {constant}")
            values = self._numbers(values, missing, where)
        else:
            values = values.map(str, na_action="ignore").astype(object)
        if constant == "" and kind in (ast.Eq, ast.NotEq):
            return missing == (kind is ast.Eq)
        result = np.full(len(values), kind is ast.NotEq)
        if not missing.all():
            result[~missing] = compare(values[~missing], constant).to_numpy(dtype=bool)
        return result

    def _numbers(self, values, missing, where):
        numbers = to_numbers(values)
        bad = np.flatnonzero((numbers.isna() & ~missing).to_numpy(dtype=bool))
        if len(bad):
            raise ValueError(
                f"{where}: {len(bad):,} of {len(values):,} values are no numbers, that of row "
                f"{values.index[bad[0]] + 1} first ({str(values.iloc[bad[0]])[:80]!r}); compare texts with texts "
                "between quotes"
            )
        return numbers


def _pairs(node):
    operands = [node.left, *node.comparators]
    return list(zip(operands, node.ops, operands[1:]))


def _moment(text, values, where):
    try:
        moment = pd.Timestamp(text)
    except ValueError as error:
        raise ValueError(f"{where} holds dates, and {text!r} is none") from error
    zone = values.dt.tz
    if zone is not None:
        return moment.tz_localize(zone) if moment.tzinfo is None else moment.tz_convert(zone)
    return moment if moment.tzinfo is None else moment.tz_convert("UTC").tz_localize(None)
