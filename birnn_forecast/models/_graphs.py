"""Graphs that users give: a matrix, a table with labels, or a list of edges, brought in the order of the components."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from numbers import Number
from typing import Any

import numpy as np
import pandas as pd
import torch

from birnn_forecast.nn.graph import check_adjacency, edge_list_adjacency


def check_given_graph(graph: Any) -> None:
    """Check what can be known of a graph before the components are.

    Raises
    ------
    ValueError
        If `graph` is no square matrix of finite weights, none negative, if rows and columns of a table have not the
        same labels, or if an edge is none.
    """
    if _is_edges(graph):
        for edge in graph:
            if len(edge) not in (2, 3):
                raise ValueError(f"`graph` must have edges (component, component[, weight]), got {edge!r}.")
            if len(edge) == 3 and not _is_weight(edge[2]):
                raise ValueError(f"`graph` must have finite weights, none negative, got the edge {edge!r}.")
        return
    if isinstance(graph, pd.DataFrame):
        _labels(graph)
    matrix = _matrix(graph)
    check_adjacency(matrix, len(matrix) if matrix.ndim else 0)


def given_graph(graph: Any, components: Iterable[Any]) -> torch.Tensor:
    """Return the adjacency of a user's matrix, table or list of edges, in the order of the components.

    Raises
    ------
    ValueError
        As in :func:`check_given_graph`, and if the graph is not one of these components.
    """
    names = [str(name) for name in components]
    if isinstance(graph, pd.DataFrame):
        graph = _in_order(graph, names)
    if not _is_edges(graph):
        return check_adjacency(_matrix(graph), len(names))
    # where all ends are names, though they look like numbers, they are no positions
    by_name = all(str(end) in names for edge in graph for end in edge[:2])
    rows = [[*(_position(end, names, by_name) for end in edge[:2]), *(edge[2:] or [1.0])] for edge in graph]
    adjacency = edge_list_adjacency(rows, len(names))
    return torch.maximum(adjacency, adjacency.T)


def _position(end: Any, names: list[str], by_name: bool) -> Any:
    """Return the number of a component given by its name, which need not be a string, or by that number."""
    if _is_number(end) and not by_name:
        return end
    if str(end) not in names:
        raise ValueError(f"`graph` must name components of the series ({', '.join(names)}), got {end!r}.")
    return names.index(str(end))


def _in_order(table: pd.DataFrame, names: list[str]) -> np.ndarray:
    """Return the table's values, rows and columns each found by their labels, in the order of the names."""
    rows, columns = _labels(table)
    positions = [*range(len(names))]
    if rows == columns == positions and all(map(_is_number, rows)):  # pandas' own labels, where none were given
        return table.to_numpy()
    if Counter(map(str, rows)) == Counter(names):
        order: Sequence[Any] = names
        rows, columns = [str(label) for label in rows], [str(label) for label in columns]
    elif all(map(_is_number, rows)) and sorted(rows) == positions:
        order = positions
    else:
        raise ValueError(
            f"`graph` must have the components of the series ({', '.join(names)}) as labels of its rows and columns, "
            f"got {', '.join(map(str, rows))}: rename them, or give `graph.to_numpy()`, which is read by position."
        )
    return table.to_numpy()[np.ix_(*([labels.index(name) for name in order] for labels in (rows, columns)))]


def _labels(table: pd.DataFrame) -> tuple[list[Any], list[Any]]:
    """Return the labels of rows and columns, the same in either, each once."""
    rows, columns = table.index.tolist(), table.columns.tolist()
    texts = [[str(label) for label in labels] for labels in (rows, columns)]
    for what, labels in zip(("rows", "columns"), texts, strict=True):
        if twice := [label for label, count in Counter(labels).items() if count > 1]:
            raise ValueError(f"`graph` must have each label once, got {', '.join(twice)} more often in its {what}.")
    if {*texts[0]} != {*texts[1]}:
        raise ValueError(
            "`graph` must have the same labels in rows and columns, got "
            f"{', '.join(texts[0])} in its rows and {', '.join(texts[1])} in its columns."
        )
    return rows, columns


def _matrix(graph: Any) -> np.ndarray | torch.Tensor:
    if isinstance(graph, torch.Tensor):
        return graph
    try:
        return np.asarray(graph, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            "`graph` must be a matrix of numbers, rows of one length, or a list of edges as tuples "
            f"(component, component[, weight]): {error}."
        ) from error


def _is_edges(graph: Any) -> bool:
    if isinstance(graph, np.ndarray | torch.Tensor | pd.DataFrame):
        return False
    return all(isinstance(edge, tuple) for edge in graph)


def _is_weight(weight: Any) -> bool:
    try:
        return 0 <= float(weight) < math.inf
    except (TypeError, ValueError):
        return False


def _is_number(label: Any) -> bool:
    return isinstance(label, Number) and not isinstance(label, bool)
