"""Pairs of rows and columns of least total cost, by NumPy alone."""

from collections.abc import Iterable, Mapping

import numpy as np


def assign_rows(cost: np.ndarray, limit: float) -> list[tuple[int, int]]:
    """Return the (row, column) pairs of least total cost, each of which costs less than ``limit``.

    Successive shortest paths with potentials: Kuhn 1955, Munkres 1957, in the form of Jonker and
    Volgenant 1987. A row or column is left alone where pairing it costs ``limit`` or more.

    Args:
        cost: (N, M) finite or inf.
    """
    if not cost.size:
        return []
    flat = np.minimum(np.asarray(cost, np.float64), limit)
    turned = flat.shape[0] > flat.shape[1]
    flat = flat.T if turned else flat
    columns = _solve(flat)
    pairs = [(row, column) for row, column in enumerate(columns) if flat[row, column] < limit]
    return sorted((column, row) for row, column in pairs) if turned else pairs


def assign_edges(edges: Mapping[tuple[int, int], float], limit: float) -> list[tuple[int, int]]:
    """Return what ``assign_rows`` returns, of a matrix of which few entries are finite.

    Rows and columns that share no entry with others are assigned by themselves, so thousands of
    either cost little.

    Args:
        edges: {(row, column): cost}; all other entries are inf.
    """
    near = {pair: cost for pair, cost in edges.items() if cost < limit}
    out: list[tuple[int, int]] = []
    for pairs in _split_apart(near):
        rows = sorted({row for row, _ in pairs})
        columns = sorted({column for _, column in pairs})
        cost = np.full((len(rows), len(columns)), np.inf)
        for row, column in pairs:
            cost[rows.index(row), columns.index(column)] = near[row, column]
        out += [(rows[i], columns[j]) for i, j in assign_rows(cost, limit)]
    return sorted(out)


def _split_apart(pairs: Iterable[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """The pairs in groups that share neither a row nor a column."""
    parent: dict[tuple[str, int], tuple[str, int]] = {}

    def find(node: tuple[str, int]) -> tuple[str, int]:
        parent.setdefault(node, node)
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for row, column in pairs:
        parent[find(("row", row))] = find(("column", column))
    groups: dict[tuple[str, int], list[tuple[int, int]]] = {}
    for row, column in pairs:
        groups.setdefault(find(("row", row)), []).append((row, column))
    return list(groups.values())


def _solve(cost):
    """The column of each row of an (N, M) matrix, N <= M."""
    rows, columns = cost.shape
    row_price, column_price = np.zeros(rows), np.zeros(columns)
    row_of = np.full(columns, -1)
    for start in range(rows):
        shortest = np.full(columns, np.inf)
        before = np.full(columns, -1)  # the column that a shortest path comes from
        done = np.zeros(columns, bool)
        row, column = start, -1
        reached = 0.0
        while row >= 0:
            length = reached + cost[row] - row_price[row] - column_price
            nearer = ~done & (length < shortest)
            shortest[nearer], before[nearer] = length[nearer], column
            column = int(np.argmin(np.where(done, np.inf, shortest)))
            reached = shortest[column]
            done[column] = True
            row = row_of[column]
        _pay(cost, row_price, column_price, row_of, shortest, done, reached, start)
        while column >= 0:
            earlier = before[column]
            row_of[column] = start if earlier < 0 else row_of[earlier]
            column = earlier
    answer = np.empty(rows, int)
    answer[row_of[row_of >= 0]] = np.flatnonzero(row_of >= 0)
    return answer.tolist()


def _pay(cost, row_price, column_price, row_of, shortest, done, reached, start):
    """Change the prices so that every pair on the path found is tight."""
    row_price[start] += reached
    for column in np.flatnonzero(done):
        gain = reached - shortest[column]
        column_price[column] -= gain
        if row_of[column] >= 0:
            row_price[row_of[column]] += gain
