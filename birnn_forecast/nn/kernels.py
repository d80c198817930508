"""Recurrences on the CPU, compiled by numba: all steps of a block of rows in one call, products and gates in registers.

A kernel takes flat arrays. The states are ``(1 + time, rows, hidden)``, in either direction with the initial one in
front of the first step that is read, and an LSTM's cells likewise; what is kept for the gradient is ``(time, rows,
slots * hidden)``, with `hidden` a multiple of the vector's width. What works on vectors is emitted as LLVM code, in
tiles of rows times one vector of units, as neither numba nor LLVM finds the vectors in plain loops.

The kernels are the same for all of :data:`birnn_forecast.nn.recurrence.CELLS`. Their first argument has one number a
gate, the size of a gate: how many there are tells the compiler which cell it is, and only that one is compiled.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
import numba
import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from birnn_forecast.nn.recurrence import CELLS

FEATURES = llvm.get_host_cpu_features()
BYTES = 64 if FEATURES.get("avx512f") else 32 if FEATURES.get("avx2") else 16
# rows of a tile, by the number of gates: its sums and the weights fill the machine's registers
ROWS = (0, 16, 0, 8, 4) if BYTES == 64 else (0, 8, 0, 4, 2)
# the same of a product with two vectors
PRODUCT_ROWS = 8 if BYTES == 64 else 4
# units are filled up to a multiple of this
UNITS = 16
# by the bits of a number: sigmoids are 0 or 1 beyond, and a product of two exponentials is still a number
BOUNDS = {32: 43.0, 64: 354.0}
# factors of 1, r, r ** 2, ... in the exponential of r, from -ln(2) / 2 to ln(2) / 2
EXP = {
    bits: np.polynomial.Chebyshev.interpolate(np.exp, terms, [-0.35, 0.35]).convert(kind=np.polynomial.Polynomial).coef
    for bits, terms in ((32, 5), (64, 11))
}


def compiled(function: Callable) -> Callable:
    """Compile `function`, for good where there is a place to keep it."""
    try:
        return numba.njit(nogil=True, cache=True, error_model="numpy")(function)
    except RuntimeError:  # no directory can be written
        return numba.njit(nogil=True, error_model="numpy")(function)


class Vectors:
    """Arithmetic on vectors of units, as LLVM code."""

    def __init__(self, context: Any, builder: Any, dtype: types.Float):
        self.context, self.builder = context, builder
        self.bits = dtype.bitwidth
        self.element = context.get_value_type(dtype)
        self.width = 8 * BYTES // self.bits
        self.type = ir.VectorType(self.element, self.width)
        self.integers = ir.VectorType(ir.IntType(self.bits), self.width)

    def number(self, value: float) -> ir.Constant:
        return ir.Constant(self.type, [ir.Constant(self.element, value)] * self.width)

    def integer(self, value: int) -> ir.Constant:
        return ir.Constant(self.integers, [ir.Constant(ir.IntType(self.bits), value)] * self.width)

    def load(self, pointer: Any, at: Any) -> Any:
        place = self.builder.bitcast(self.builder.gep(pointer, [at]), self.type.as_pointer())
        return self.builder.load(place, align=self.bits // 8)

    def store(self, value: Any, pointer: Any, at: Any) -> None:
        place = self.builder.bitcast(self.builder.gep(pointer, [at]), self.type.as_pointer())
        self.builder.store(value, place, align=self.bits // 8)

    def variable(self) -> Any:
        return cgutils.alloca_once(self.builder, self.type)

    def splat(self, pointer: Any, at: Any) -> Any:
        value = self.builder.load(self.builder.gep(pointer, [at]))
        first = self.builder.insert_element(ir.Constant(self.type, ir.Undefined), value, ir.IntType(32)(0))
        lanes = ir.Constant(ir.VectorType(ir.IntType(32), self.width), [ir.IntType(32)(0)] * self.width)
        return self.builder.shuffle_vector(first, ir.Constant(self.type, ir.Undefined), lanes)

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        # llvmlite's own `fma` takes no vectors
        kind = ir.FunctionType(self.type, [self.type] * 3)
        name = f"llvm.fma.v{self.width}f{self.bits}"
        return self.builder.call(cgutils.get_or_insert_function(self.builder.module, kind, name), [a, b, c])

    def add(self, a: Any, b: Any) -> Any:
        return self.builder.fadd(a, b)

    def sub(self, a: Any, b: Any) -> Any:
        return self.builder.fsub(a, b)

    def mul(self, a: Any, b: Any) -> Any:
        return self.builder.fmul(a, b)

    def exp_of_minus(self, x: Any) -> Any:
        """Return ``exp(-x)`` of x kept within ``BOUNDS``: a polynomial of r, ``-x = n ln(2) + r``; NaN stays NaN."""
        digits = {32: 23, 64: 52}[self.bits]
        for sign, compare in ((1.0, ">"), (-1.0, "<")):
            limit = self.number(sign * BOUNDS[self.bits])
            x = self.builder.select(self.builder.fcmp_ordered(compare, x, limit), limit, x)
        minus = self.builder.fneg(x)
        # adding 1.5 * 2**digits rounds to an integer, which then stands in the low bits
        magic = self.number(1.5 * 2.0**digits)
        shifted = self.fma(minus, self.number(1 / math.log(2)), magic)
        r = self.fma(self.sub(shifted, magic), self.number(-math.log(2)), minus)
        first, *others = (self.number(factor) for factor in reversed(EXP[self.bits]))
        y = first
        for factor in others:
            y = self.fma(y, r, factor)
        exponent = self.builder.shl(self.builder.bitcast(shifted, self.integers), self.integer(digits))
        y = self.builder.bitcast(self.builder.add(self.builder.bitcast(y, self.integers), exponent), self.type)
        return self.builder.select(self.builder.fcmp_unordered("uno", x, x), x, y)

    def sigmoid(self, x: Any) -> Any:
        one = self.number(1.0)
        return self.builder.fdiv(one, self.add(one, self.exp_of_minus(x)))

    def sigmoids(self, x: Any, y: Any) -> tuple[Any, Any]:
        """Return the sigmoids of both, by one division: it takes longer than the products."""
        one = self.number(1.0)
        a, b = self.add(one, self.exp_of_minus(x)), self.add(one, self.exp_of_minus(y))
        inverse = self.builder.fdiv(one, self.mul(a, b))
        return self.mul(inverse, b), self.mul(inverse, a)

    def tanh(self, x: Any) -> Any:
        return self.tanh_of_sigmoid(self.sigmoid(self.add(x, x)))

    def tanh_of_sigmoid(self, y: Any) -> Any:
        """Return the hyperbolic tangent of x, of the sigmoid of 2 x."""
        return self.fma(self.number(2.0), y, self.number(-1.0))


def sizes(hidden: int, dtype: torch.dtype) -> tuple[int, int]:
    """Return the number of units filled up to a multiple of ``UNITS``, and the numbers in a vector."""
    return -(-hidden // UNITS) * UNITS, BYTES // dtype.itemsize


def rnn_forward(v: Vectors, gates: list, before: list) -> tuple[list, list]:
    """Return the next state and its slope."""
    after = v.tanh(gates[0])
    return [after], [v.sub(v.number(1.0), v.mul(after, after))]


def rnn_backward(v: Vectors, kept: list, before: list, after: list, d: list) -> tuple[list, list]:
    """Return the gradients of the gate and, directly, of the last state."""
    return [v.mul(d[0], kept[0])], [v.number(0.0)]


def gru_forward(v: Vectors, gates: list, before: list) -> tuple[list, list]:
    """Return the next state, and the candidate's part of the last one, reset gate, 1 - update gate and candidate."""
    (reset, update), (from_input, from_state) = v.sigmoids(gates[0], gates[1]), gates[2:]
    candidate = v.tanh(v.fma(reset, from_state, from_input))
    after = v.fma(update, v.sub(before[0], candidate), candidate)
    return [after], [from_state, reset, v.sub(v.number(1.0), update), candidate]


def gru_backward(v: Vectors, kept: list, before: list, after: list, d: list) -> tuple[list, list]:
    """Return the gradients of what was kept (the gates before their functions) and, directly, of the last state."""
    one = v.number(1.0)
    from_state, reset, renewal, candidate = kept
    renewed = v.mul(d[0], renewal)
    d_candidate = v.mul(renewed, v.sub(one, v.mul(candidate, candidate)))
    d_update = v.mul(v.mul(renewed, v.sub(before[0], candidate)), v.sub(one, renewal))
    d_reset = v.mul(v.mul(d_candidate, from_state), v.mul(reset, v.sub(one, reset)))
    return [v.mul(d_candidate, reset), d_reset, d_update, d_candidate], [v.sub(d[0], renewed)]


def lstm_forward(v: Vectors, gates: list, before: list) -> tuple[list, list]:
    """Return the next state and cell, and the four gates."""
    enter, forget = v.sigmoids(gates[0], gates[1])
    half, leave = v.sigmoids(v.add(gates[2], gates[2]), gates[3])
    candidate = v.tanh_of_sigmoid(half)
    cell = v.fma(forget, before[1], v.mul(enter, candidate))
    return [v.mul(leave, v.tanh(cell)), cell], [enter, forget, candidate, leave]


def lstm_backward(v: Vectors, kept: list, before: list, after: list, d: list) -> tuple[list, list]:
    """Return the gradients of the gates before their functions and, directly, of the last state and cell."""
    one = v.number(1.0)
    enter, forget, candidate, leave = kept
    shown = v.tanh(after[1])
    d_leave = v.mul(v.mul(d[0], shown), v.mul(leave, v.sub(one, leave)))
    d_cell = v.fma(v.mul(d[0], leave), v.sub(one, v.mul(shown, shown)), d[1])
    d_enter = v.mul(v.mul(d_cell, candidate), v.mul(enter, v.sub(one, enter)))
    d_forget = v.mul(v.mul(d_cell, before[1]), v.mul(forget, v.sub(one, forget)))
    d_candidate = v.mul(v.mul(d_cell, enter), v.sub(one, v.mul(candidate, candidate)))
    return [d_enter, d_forget, d_candidate, d_leave], [v.number(0.0), v.mul(d_cell, forget)]


# by the number of gates; where all that was kept is 0, the gates' gradients are 0
FORWARD = {1: rnn_forward, 3: gru_forward, 4: lstm_forward}
BACKWARD = {1: rnn_backward, 3: gru_backward, 4: lstm_backward}


def emitted(emit: Callable[..., None], *kinds: Any) -> tuple[Any, Callable]:
    """Return what numba wants of an intrinsic whose code is that of `emit`.

    An array is followed by a place in it: they reach `emit` as one pointer. Before all, it gets a :class:`Vectors`.
    """
    signature = types.void(*(types.intp if isinstance(kind, types.Integer) else kind for kind in kinds))
    arrays = [kind for kind in kinds if isinstance(kind, types.Array)]

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        values, pairs = [], iter(zip(signature.args, args, strict=True))
        for kind, value in pairs:
            if isinstance(kind, types.Array):
                array = context.make_array(kind)(context, builder, value)
                values.append(builder.gep(array.data, [next(pairs)[1]]))
            else:
                values.append(value)
        emit(Vectors(context, builder, arrays[0].dtype), *values)
        return context.get_dummy_value()

    return signature, code


def product(v: Vectors, sums: list, h: Any, h_stride: Any, w: Any, length: Any) -> None:
    """Add ``h[row, :length] @ w[:length, vector]`` to ``sums[row][vector]``."""
    b = v.builder
    index = length.type
    n_vectors = len(sums[0])
    rows = [b.gep(h, [b.mul(h_stride, index(row))]) for row in range(len(sums))]
    with cgutils.for_range(b, length) as loop:
        start = b.mul(loop.index, index(n_vectors * v.width))
        weights = [v.load(w, b.add(start, index(i * v.width))) for i in range(n_vectors)]
        for row, own in zip(rows, sums, strict=True):
            value = v.splat(row, loop.index)
            for weight, total in zip(weights, own, strict=True):
                b.store(v.fma(value, weight, b.load(total)), total)


def forward_tile(
    n_gates: int, n_rows: int, v: Vectors, _: Any, x: Any, before: Any, after: Any, cell_before: Any, cell_after: Any,
    kept: Any, w: Any, bias: Any, column: Any, features: Any, size: Any, keep: Any,
) -> None:  # fmt: skip
    """One step of `n_rows` rows and one vector of units."""
    b, cell, index = v.builder, CELLS[n_gates], size.type
    places = [b.add(column, b.mul(size, index(i))) for i in range(cell.slots)]
    biases = [v.load(bias, place) for place in places]
    sums = [[v.variable() for _ in places] for _ in range(n_rows)]
    for own in sums:
        for value, total in zip(biases, own, strict=True):
            b.store(value, total)
    product(v, [own[:n_gates] for own in sums], x, features, w, features)
    w = b.gep(w, [b.mul(features, index(n_gates * v.width))])
    product(v, [own[: n_gates - cell.apart] + own[n_gates:] for own in sums], before, size, w, size)
    for number, own in enumerate(sums):
        place = b.add(b.mul(size, index(number)), column)
        last = [v.load(part, place) for part in (before, cell_before)[: cell.parts]]
        following, values = FORWARD[n_gates](v, [b.load(total) for total in own], last)
        for value, part in zip(following, (after, cell_after), strict=False):
            v.store(value, part, place)
        with b.if_then(keep):
            row = b.mul(size, index(number * cell.slots))
            for value, slot in zip(values, places, strict=True):
                v.store(value, kept, b.add(row, slot))


@intrinsic
def forward_rows(
    typingctx, gates, x, x_at, before, before_at, after, after_at, cell_before, cell_before_at, cell_after,
    cell_after_at, kept, kept_at, w, w_at, bias, bias_at, column, features, size, keep,
):  # fmt: skip
    """Step of as many rows as a tile has; see :func:`forward_tile`."""
    return emitted(
        functools.partial(forward_tile, gates.count, ROWS[gates.count]), gates, x, x_at, before, before_at, after,
        after_at, cell_before, cell_before_at, cell_after, cell_after_at, kept, kept_at, w, w_at, bias, bias_at,
        column, features, size, keep,
    )  # fmt: skip


@intrinsic
def forward_row(
    typingctx, gates, x, x_at, before, before_at, after, after_at, cell_before, cell_before_at, cell_after,
    cell_after_at, kept, kept_at, w, w_at, bias, bias_at, column, features, size, keep,
):  # fmt: skip
    """Step of one row; see :func:`forward_tile`."""
    return emitted(
        functools.partial(forward_tile, gates.count, 1), gates, x, x_at, before, before_at, after, after_at,
        cell_before, cell_before_at, cell_after, cell_after_at, kept, kept_at, w, w_at, bias, bias_at, column,
        features, size, keep,
    )  # fmt: skip


def backward_tile(
    n_gates: int, v: Vectors, _: Any, kept: Any, before: Any, after: Any, cell_before: Any, cell_after: Any,
    grad: Any, carry: Any, cell_carry: Any, sums: Any, size: Any, stride: Any, grad_stride: Any, n_rows: Any,
) -> None:  # fmt: skip
    """One step back of `n_rows` rows and one vector of units."""
    b, cell = v.builder, CELLS[n_gates]
    places = [b.mul(size, size.type(i)) for i in range(cell.slots)]
    totals = [v.variable() for _ in places]
    for total, place in zip(totals, places, strict=True):
        b.store(v.load(sums, place), total)
    carries = (carry, cell_carry)[: cell.parts]
    with cgutils.for_range(b, n_rows) as loop:
        row, state = b.mul(stride, loop.index), b.mul(size, loop.index)
        d = [v.load(part, state) for part in carries]
        d[0] = v.add(d[0], v.load(grad, b.mul(grad_stride, loop.index)))
        values = [v.load(kept, b.add(row, place)) for place in places]
        last = [v.load(part, state) for part in (before, cell_before)[: cell.parts]]
        following = [v.load(part, state) for part in (after, cell_after)[: cell.parts]]
        results, d = BACKWARD[n_gates](v, values, last, following, d)
        for value, part in zip(d, carries, strict=True):
            v.store(value, part, state)
        for result, total, place in zip(results, totals, places, strict=True):
            v.store(result, kept, b.add(row, place))
            b.store(v.add(b.load(total), result), total)
    for total, place in zip(totals, places, strict=True):
        v.store(b.load(total), sums, place)


@intrinsic
def backward_rows(
    typingctx, gates, kept, kept_at, before, before_at, after, after_at, cell_before, cell_before_at, cell_after,
    cell_after_at, grad, grad_at, carry, carry_at, cell_carry, cell_carry_at, sums, sums_at, size, stride,
    grad_stride, n_rows,
):  # fmt: skip
    """From the gradient of a step's states to that of its gates (over what was kept) and directly of its last states.

    One vector of units; the gates' gradients are added to `sums`. See :func:`backward_tile`.
    """
    return emitted(
        functools.partial(backward_tile, gates.count), gates, kept, kept_at, before, before_at, after, after_at,
        cell_before, cell_before_at, cell_after, cell_after_at, grad, grad_at, carry, carry_at, cell_carry,
        cell_carry_at, sums, sums_at, size, stride, grad_stride, n_rows,
    )  # fmt: skip


def product_tile(
    n_rows: int, v: Vectors, a: Any, w: Any, out: Any, a_stride: Any, length: Any, out_stride: Any, two: Any
) -> None:
    """``out[row, vector] += a[row, :length] @ w[:length, vector]`` for `n_rows` rows and one or two vectors."""
    b, index = v.builder, length.type

    def emit(n_vectors: int) -> None:
        sums = [[v.variable() for _ in range(n_vectors)] for _ in range(n_rows)]
        places = [
            [b.add(b.mul(out_stride, index(row)), index(i * v.width)) for i in range(n_vectors)]
            for row in range(n_rows)
        ]
        pairs = [pair for own in zip(sums, places, strict=True) for pair in zip(*own, strict=True)]
        for total, place in pairs:
            b.store(v.load(out, place), total)
        product(v, sums, a, a_stride, w, length)
        for total, place in pairs:
            v.store(b.load(total), out, place)

    with b.if_else(two) as (then, otherwise):
        with then:
            emit(2)
        with otherwise:
            emit(1)


@intrinsic
def product_rows(typingctx, a, a_at, w, w_at, out, out_at, a_stride, length, out_stride, two):
    """Product of ``PRODUCT_ROWS`` rows; see :func:`product_tile`."""
    emit = functools.partial(product_tile, PRODUCT_ROWS)
    return emitted(emit, a, a_at, w, w_at, out, out_at, a_stride, length, out_stride, two)


@intrinsic
def product_row(typingctx, a, a_at, w, w_at, out, out_at, a_stride, length, out_stride, two):
    """Product of one row; see :func:`product_tile`."""
    emit = functools.partial(product_tile, 1)
    return emitted(emit, a, a_at, w, w_at, out, out_at, a_stride, length, out_stride, two)


@compiled
def lay_out(w_ih, w_hh, b_ih, b_hh, w, bias):
    """Write torch's weights and biases as :func:`layer_forward` takes them, with 0 for the units that are filled up.

    `w` is ``(vectors of units, inputs and states, gates, units of a vector)``, `bias` is ``(slots, units)``.
    """
    vectors, _, n_gates, width = w.shape
    features, hidden = w_ih.shape[1], w_hh.shape[1]
    w[:] = 0
    bias[:] = 0
    for vector in range(vectors):
        for gate in range(n_gates):
            first = gate * hidden + vector * width
            units = min(width, hidden - vector * width)
            for i in range(features):
                for unit in range(units):
                    w[vector, i, gate, unit] = w_ih[first + unit, i]
            for i in range(hidden):
                for unit in range(units):
                    w[vector, features + i, gate, unit] = w_hh[first + unit, i]
    apart = len(bias) - n_gates
    for gate in range(n_gates):
        for unit in range(hidden):
            bias[gate, unit] += b_ih[gate * hidden + unit]
            # the parts of a gate that are apart have a bias each
            bias[gate + apart if gate >= n_gates - apart else gate, unit] += b_hh[gate * hidden + unit]


@compiled
def layer_forward(
    gates, x, w, bias, start, states, cells, kept, stride, features, n_time, n_rows, width, first, last, backward, keep
):
    """Run all steps of rows `first` to `last`; without `keep`, of the cells there are only the latest ones."""
    size, n_gates = gates[0], len(gates)
    rows = ROWS[n_gates]
    begin = 0
    for row in range(first, last):
        begin = max(begin, start[row])
    for step in range(n_time):
        t = n_time - 1 - step if backward else step
        before, after = (t + 1, t) if backward else (t, t + 1)
        cell_before, cell_after = (before, after) if keep else (0, 0)
        for column in range(0, size, width):
            w_at = column * n_gates * (features + size)
            row = first
            while row < last:
                x_at, kept_at = (t * n_rows + row) * features, (t * n_rows + row) * stride
                before_at, after_at = (before * n_rows + row) * size, (after * n_rows + row) * size
                c_before_at, c_after_at = (cell_before * n_rows + row) * size, (cell_after * n_rows + row) * size
                if last - row >= rows:
                    forward_rows(gates, x, x_at, states, before_at, states, after_at, cells, c_before_at, cells,
                                 c_after_at, kept, kept_at, w, w_at, bias, 0, column, features, size, keep)  # fmt: skip
                    row += rows
                else:
                    forward_row(gates, x, x_at, states, before_at, states, after_at, cells, c_before_at, cells,
                                c_after_at, kept, kept_at, w, w_at, bias, 0, column, features, size, keep)  # fmt: skip
                    row += 1
        if not backward and t < begin:
            for row in range(first, last):
                if t < start[row]:
                    states[(after * n_rows + row) * size : (after * n_rows + row + 1) * size] = 0
                    cells[(cell_after * n_rows + row) * size : (cell_after * n_rows + row + 1) * size] = 0


@compiled
def layer_backward(
    gates, w, start, states, cells, kept, stride, grad, grad_time, grad_row, sums, n_time, n_rows, width, first, last,
    backward,
):  # fmt: skip
    """Run all steps of rows `first` to `last` back; the gates' gradients overwrite what was kept."""
    size, n_gates, rows = gates[0], len(gates), last - first
    carry, cell_carry = np.zeros(rows * size, states.dtype), np.zeros(rows * size, states.dtype)
    total = np.zeros(stride, states.dtype)
    vectors = 2 if size % (2 * width) == 0 else 1
    begin = 0
    for row in range(first, last):
        begin = max(begin, start[row])
    for step in range(n_time):
        t = step if backward else n_time - 1 - step
        before, after = (t + 1, t) if backward else (t, t + 1)
        before_at, after_at = (before * n_rows + first) * size, (after * n_rows + first) * size
        at = (t * n_rows + first) * stride
        if not backward and t < begin:
            # no gradient goes into a gate of a row that has not begun yet
            for row in range(rows):
                if t < start[first + row]:
                    kept[at + row * stride : at + (row + 1) * stride] = 0
        for column in range(0, size, width):
            backward_rows(
                gates, kept, at + column, states, before_at + column, states, after_at + column, cells,
                before_at + column, cells, after_at + column, grad, t * grad_time + first * grad_row + column,
                carry, column, cell_carry, column, total, column, size, stride, grad_row, rows,
            )  # fmt: skip
        if step == n_time - 1:
            break
        for column in range(0, size, vectors * width):
            row = 0
            while row < rows:
                if rows - row >= PRODUCT_ROWS:
                    product_rows(kept, at + row * stride, w, column * n_gates * size, carry, row * size + column,
                                 stride, n_gates * size, size, vectors == 2)  # fmt: skip
                    row += PRODUCT_ROWS
                else:
                    product_row(kept, at + row * stride, w, column * n_gates * size, carry, row * size + column,
                                stride, n_gates * size, size, vectors == 2)  # fmt: skip
                    row += 1
    sums += total
