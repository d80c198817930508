"""Recurrences on the CPU, compiled by numba: all steps of a block of rows in one call, products and gates in registers.

A kernel takes flat arrays. The states are ``(time, rows, hidden)``, what is kept for the gradient is ``(time, rows,
slots * hidden)``, with `hidden` a multiple of the vector's width. What works on vectors is emitted as LLVM code, in
tiles of rows times one vector of units, as neither numba nor LLVM finds the vectors in plain loops.
"""

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

FEATURES = llvm.get_host_cpu_features()
BYTES = 64 if FEATURES.get("avx512f") else 32 if FEATURES.get("avx2") else 16
# rows of a tile: its sums and the weights fill the machine's registers
ROWS = 8 if BYTES == 64 else 4
# units are filled up to a multiple of this
UNITS = 16


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

    def exp(self, x: Any) -> Any:
        """By Taylor's series of r, ``x = n ln(2) + r``; NaN stays NaN."""
        single = self.bits == 32
        bound, digits, terms = (87.0, 23, 7) if single else (708.0, 52, 13)
        for sign, compare in ((1.0, ">"), (-1.0, "<")):
            limit = self.number(sign * bound)
            x = self.builder.select(self.builder.fcmp_ordered(compare, x, limit), limit, x)
        # adding 1.5 * 2**digits rounds to an integer, which then stands in the low bits
        magic = self.number(1.5 * 2.0**digits)
        shifted = self.fma(x, self.number(1 / math.log(2)), magic)
        n = self.sub(shifted, magic)
        high = float(np.float32(0.693359375)) if single else 0.693147180369123816490
        r = self.fma(n, self.number(-high), x)
        r = self.fma(n, self.number(-(math.log(2) - high) if single else -1.90821492927058770002e-10), r)
        y = self.number(1 / math.factorial(terms))
        for k in range(terms - 1, -1, -1):
            y = self.fma(y, r, self.number(1 / math.factorial(k)))
        exponent = self.builder.shl(self.builder.bitcast(shifted, self.integers), self.integer(digits))
        return self.builder.bitcast(self.builder.add(self.builder.bitcast(y, self.integers), exponent), self.type)

    def sigmoid(self, x: Any) -> Any:
        one = self.number(1.0)
        return self.builder.fdiv(one, self.add(one, self.exp(self.builder.fneg(x))))

    def tanh(self, x: Any) -> Any:
        one = self.number(1.0)
        return self.fma(self.number(-2.0), self.builder.fdiv(one, self.add(one, self.exp(self.add(x, x)))), one)


def sizes(hidden: int, dtype: torch.dtype) -> tuple[int, int]:
    """Return the number of units filled up to a multiple of ``UNITS``, and the numbers in a vector."""
    return -(-hidden // UNITS) * UNITS, BYTES // dtype.itemsize


def pointer(context: Any, builder: Any, array_type: Any, array: Any, at: Any) -> Any:
    """Return the address of element `at`."""
    return builder.gep(context.make_array(array_type)(context, builder, array).data, [at])


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


def gru_forward_tile(n_rows: int, context: Any, builder: Any, signature: Any, args: Any) -> Any:
    """One step of `n_rows` rows and one vector of units."""
    kinds = signature.args
    (h, h_at, h_stride, w, w_at, size, kept, kept_at, kept_stride, gates_at, bias, column, out, out_at, out_stride,
     keep) = args  # fmt: skip
    v = Vectors(context, builder, kinds[0].dtype)
    index = h_at.type

    def at(array: Any, kind: Any, place: Any) -> Any:
        return pointer(context, builder, kind, array, place)

    h, w = at(h, kinds[0], h_at), at(w, kinds[3], w_at)
    kept, bias = at(kept, kinds[6], builder.add(kept_at, column)), at(bias, kinds[10], column)
    out = at(out, kinds[12], builder.add(out_at, column))
    times = [builder.mul(size, index(i)) for i in range(4)]
    biases = [v.load(bias, place) for place in times]  # of r, z, n's input, n's state
    rows = [builder.mul(kept_stride, index(row)) for row in range(n_rows)]
    sums = []
    for row in rows:
        gates = builder.add(row, gates_at)
        own = [v.variable() for _ in range(3)]
        for gate in range(2):
            builder.store(v.add(v.load(kept, builder.add(gates, times[gate])), biases[gate]), own[gate])
        builder.store(biases[3], own[2])
        sums.append(own)
    product(v, sums, h, h_stride, w, size)
    for number, (row, own) in enumerate(zip(rows, sums, strict=True)):
        reset, update = (v.sigmoid(builder.load(own[gate])) for gate in range(2))
        from_state = builder.load(own[2])
        from_input = v.add(v.load(kept, builder.add(builder.add(row, gates_at), times[2])), biases[2])
        candidate = v.tanh(v.fma(reset, from_state, from_input))
        before = v.load(h, builder.add(builder.mul(h_stride, index(number)), column))
        after = v.fma(update, v.sub(before, candidate), candidate)
        v.store(after, out, builder.mul(out_stride, index(number)))
        with builder.if_then(keep):
            for value, place in zip((from_state, reset, update, candidate), times, strict=True):
                v.store(value, kept, builder.add(row, place))
    return context.get_dummy_value()


@intrinsic
def gru_forward_rows(
    typingctx, h, h_at, h_stride, w, w_at, size, kept, kept_at, kept_stride, gates_at, bias, column, out, out_at,
    out_stride, keep,
):  # fmt: skip
    """Step of ``ROWS`` rows; see :func:`gru_forward_tile`."""
    i = types.intp
    signature = types.void(h, i, i, w, i, i, kept, i, i, i, bias, i, out, i, i, types.boolean)
    return signature, lambda *args: gru_forward_tile(ROWS, *args)


@intrinsic
def gru_forward_row(
    typingctx, h, h_at, h_stride, w, w_at, size, kept, kept_at, kept_stride, gates_at, bias, column, out, out_at,
    out_stride, keep,
):  # fmt: skip
    """Step of one row; see :func:`gru_forward_tile`."""
    i = types.intp
    signature = types.void(h, i, i, w, i, i, kept, i, i, i, bias, i, out, i, i, types.boolean)
    return signature, lambda *args: gru_forward_tile(1, *args)


@intrinsic
def gru_backward_rows(
    typingctx, kept, kept_at, kept_stride, h, h_at, h_stride, grad, grad_at, grad_stride, carry, carry_at, size, n_rows,
    sums, column,
):  # fmt: skip
    """From the gradient of a step's states to that of its gates (over what was kept) and directly of its last states.

    One vector of units; the gates' gradients are added to `sums`.
    """
    i = types.intp
    signature = types.void(kept, i, i, h, i, i, grad, i, i, carry, i, i, i, sums, i)

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kinds = signature.args
        (kept, kept_at, kept_stride, h, h_at, h_stride, grad, grad_at, grad_stride, carry, carry_at, size, n_rows,
         sums, column) = args  # fmt: skip
        v = Vectors(context, builder, kinds[0].dtype)
        kept = pointer(context, builder, kinds[0], kept, builder.add(kept_at, column))
        h = pointer(context, builder, kinds[3], h, builder.add(h_at, column))
        grad = pointer(context, builder, kinds[6], grad, builder.add(grad_at, column))
        carry = pointer(context, builder, kinds[9], carry, builder.add(carry_at, column))
        sums = pointer(context, builder, kinds[13], sums, column)
        times = [builder.mul(size, size.type(i)) for i in range(4)]
        one = v.number(1.0)
        totals = [v.variable() for _ in range(4)]
        for total, place in zip(totals, times, strict=True):
            builder.store(v.load(sums, place), total)
        with cgutils.for_range(builder, n_rows) as loop:
            row = builder.mul(kept_stride, loop.index)
            from_state, reset, update, candidate = (v.load(kept, builder.add(row, place)) for place in times)
            before = v.load(h, builder.mul(h_stride, loop.index))
            place = builder.mul(size, loop.index)
            d = v.add(v.load(carry, place), v.load(grad, builder.mul(grad_stride, loop.index)))
            v.store(v.mul(d, update), carry, place)
            slope = v.sub(one, v.mul(candidate, candidate))
            d_candidate = v.mul(v.mul(d, v.sub(one, update)), slope)
            d_update = v.mul(v.mul(d, v.sub(before, candidate)), v.mul(update, v.sub(one, update)))
            d_reset = v.mul(v.mul(d_candidate, from_state), v.mul(reset, v.sub(one, reset)))
            results = v.mul(d_candidate, reset), d_reset, d_update, d_candidate
            for result, total, place in zip(results, totals, times, strict=True):
                v.store(result, kept, builder.add(row, place))
                builder.store(v.add(builder.load(total), result), total)
        for total, place in zip(totals, times, strict=True):
            v.store(builder.load(total), sums, place)
        return context.get_dummy_value()

    return signature, emit


def product_tile(n_rows: int, context: Any, builder: Any, signature: Any, args: Any) -> Any:
    """``out[row, vector] += a[row, :length] @ w[:length, vector]`` for `n_rows` rows and one or two vectors."""
    kinds = signature.args
    a, a_at, a_stride, w, w_at, length, out, out_at, out_stride, two = args
    v = Vectors(context, builder, kinds[0].dtype)
    a = pointer(context, builder, kinds[0], a, a_at)
    w = pointer(context, builder, kinds[3], w, w_at)
    out = pointer(context, builder, kinds[6], out, out_at)
    index = a_at.type

    def emit(n_vectors: int) -> None:
        sums = []
        for row in range(n_rows):
            own = [v.variable() for _ in range(n_vectors)]
            for i, total in enumerate(own):
                place = builder.add(builder.mul(out_stride, index(row)), index(i * v.width))
                builder.store(v.load(out, place), total)
            sums.append(own)
        product(v, sums, a, a_stride, w, length)
        for row, own in enumerate(sums):
            for i, total in enumerate(own):
                place = builder.add(builder.mul(out_stride, index(row)), index(i * v.width))
                v.store(builder.load(total), out, place)

    with builder.if_else(two) as (then, otherwise):
        with then:
            emit(2)
        with otherwise:
            emit(1)
    return context.get_dummy_value()


@intrinsic
def product_rows(typingctx, a, a_at, a_stride, w, w_at, length, out, out_at, out_stride, two):
    """Product of ``ROWS`` rows; see :func:`product_tile`."""
    i = types.intp
    signature = types.void(a, i, i, w, i, i, out, i, i, types.boolean)
    return signature, lambda *args: product_tile(ROWS, *args)


@intrinsic
def product_row(typingctx, a, a_at, a_stride, w, w_at, length, out, out_at, out_stride, two):
    """Product of one row; see :func:`product_tile`."""
    i = types.intp
    signature = types.void(a, i, i, w, i, i, out, i, i, types.boolean)
    return signature, lambda *args: product_tile(1, *args)


@compiled
def gru_forward(bias, w, start, initial, out, kept, n_time, n_rows, size, width, first, last, backward, keep):
    """Run all steps of rows `first` to `last`, from the states `initial`."""
    stride = 4 * size if keep else 3 * size
    gates_at = size if keep else 0
    begin = 0
    for row in range(first, last):
        begin = max(begin, start[row])
    for step in range(n_time):
        t = n_time - 1 - step if backward else step
        before = out if step else initial
        for column in range(0, size, width):
            row = first
            while row < last:
                h_at = ((t + 1 if backward else t - 1) * n_rows + row) * size if step else row * size
                at = t * n_rows + row
                if last - row >= ROWS:
                    gru_forward_rows(before, h_at, size, w, column * size * 3, size, kept, at * stride, stride,
                                     gates_at, bias, column, out, at * size, size, keep)  # fmt: skip
                    row += ROWS
                else:
                    gru_forward_row(before, h_at, size, w, column * size * 3, size, kept, at * stride, stride,
                                    gates_at, bias, column, out, at * size, size, keep)  # fmt: skip
                    row += 1
        if not backward and t < begin:
            for row in range(first, last):
                if t < start[row]:
                    out[(t * n_rows + row) * size : (t * n_rows + row + 1) * size] = 0


@compiled
def gru_backward(
    grad, grad_time, grad_row, w, start, initial, out, kept, sums, n_time, n_rows, size, width, first, last, backward
):
    """Run all steps of rows `first` to `last` back; the gates' gradients overwrite what was kept."""
    rows = last - first
    carry = np.zeros(rows * size, out.dtype)
    total = np.zeros(4 * size, out.dtype)
    stride = 4 * size
    vectors = 2 if size % (2 * width) == 0 else 1
    begin = 0
    for row in range(first, last):
        begin = max(begin, start[row])
    for step in range(n_time):
        t = step if backward else n_time - 1 - step
        final = step == n_time - 1
        before = initial if final else out
        h_at = ((0 if final else (t + 1 if backward else t - 1) * n_rows) + first) * size
        at = (t * n_rows + first) * stride
        if not backward and t < begin:
            # rows that have not begun yet
            for row in range(rows):
                if t < start[first + row]:
                    # an update gate of 1 lets no gradient into any gate
                    kept[at + row * stride : at + (row + 1) * stride] = 0
                    kept[at + row * stride + 2 * size : at + row * stride + 3 * size] = 1
        for column in range(0, size, width):
            gru_backward_rows(kept, at, stride, before, h_at, size, grad, t * grad_time + first * grad_row, grad_row,
                              carry, 0, size, rows, total, column)  # fmt: skip
        if final:
            break
        for column in range(0, size, vectors * width):
            row = 0
            while row < rows:
                if rows - row >= ROWS:
                    product_rows(kept, at + row * stride, stride, w, column * 3 * size, 3 * size,
                                 carry, row * size + column, size, vectors == 2)  # fmt: skip
                    row += ROWS
                else:
                    product_row(kept, at + row * stride, stride, w, column * 3 * size, 3 * size,
                                carry, row * size + column, size, vectors == 2)  # fmt: skip
                    row += 1
    sums += total
