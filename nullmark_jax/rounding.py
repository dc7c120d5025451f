"""Products of operands with fewer bits, as tensor cores and TPUs take them, on any machine.

TF32 has 10 bits of mantissa and bfloat16 has 7, where float32 has 23; the exponent has 8 bits in all three.
The hardware rounds both operands of a product and sums in float32. This does the same by rounding the
operands, which costs time where the hardware saves it: it says what a precision does, not how fast.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jax import lax

# Bits of mantissa by the name of a precision.
MANTISSA = {"tf32": 10, "bfloat16": 7}

Product = Callable[..., jax.Array]


def product(of: Product, precision: str | None) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Returns (x, w) -> of(x, w, precision=...), the operands rounded where the precision's name wants it.

    So are those of the two products that are its gradient, in reverse mode: what comes from behind, and w for
    x's or x for w's.

    Args:
      of: a product, linear in both x and w, with an argument `precision` as in `jax.lax.Precision`.
      precision: one of `MANTISSA`, or as in `jax.lax.Precision`.
    """
    if precision not in MANTISSA:
        return partial(of, precision=precision)
    bits = MANTISSA[precision]
    exact = partial(of, precision="highest")

    def rounded(operand: jax.Array) -> jax.Array:
        return lax.reduce_precision(operand, exponent_bits=8, mantissa_bits=bits)

    @jax.custom_vjp
    def call(x: jax.Array, w: jax.Array) -> jax.Array:
        return exact(rounded(x), rounded(w))

    def forward(x: jax.Array, w: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        operands = rounded(x), rounded(w)
        return exact(*operands), operands

    def backward(
        operands: tuple[jax.Array, jax.Array], gradient: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        _, pull_back = jax.vjp(exact, *operands)
        of_x, of_w = pull_back(rounded(gradient))
        return of_x, of_w

    call.defvjp(forward, backward)
    return call


def dot_general(
    x: jax.Array,
    w: jax.Array,
    dimensions: lax.DotDimensionNumbers,
    precision: Any = None,
    **options: Any,
) -> jax.Array:
    """Returns `jax.lax.dot_general` as `product` has it: what `flax.linen.Dense` takes for its own.

    Args:
      x: as in `jax.lax.dot_general`, as are the next ones.
      w: see there.
      dimensions: see there.
      precision: as in `product`.
      options: see there.
    """

    def of(x: jax.Array, w: jax.Array, *, precision: Any) -> jax.Array:
        return lax.dot_general(x, w, dimensions, precision=precision, **options)

    return product(of, precision)(x, w)
