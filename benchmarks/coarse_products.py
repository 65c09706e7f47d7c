"""What coarser matrix products do to returns, on a CPU, which has none.

    python benchmarks/coarse_products.py tensorfloat32 errors
    python benchmarks/coarse_products.py tensorfloat32 eval RUN
    python benchmarks/coarse_products.py tensorfloat32 train TASK --run-dir FOLDER

An accelerator rounds the factors of a product and sums in float32. So does this, to
nearest, with every product that is compiled: of plans, updates and their gradients.
It is no faster for that. `errors` compares one plan's values and one update's gradients
with float64, as gpu_parts.py does on a GPU; all else is planprior's own command. The
config.json of a run does not tell that its factors were rounded: the folder should.
"""

import argparse
import sys
from typing import Any

import jax
from jax.extend.mlir.dialects import stablehlo
from jax.interpreters import mlir

from planprior import cli

EXPONENT = 8
MANTISSA = {"tensorfloat32": 10, "bfloat16": 7}
"""Bits that a factor keeps of 23; the leading one is not stored."""


def round_factors(bits: int) -> None:
    """Round the factors of all float32 products that are compiled for CPUs from now on.

    Args:
        bits: Of the mantissa.
    """
    rule = mlir._platform_specific_lowerings["cpu"][jax.lax.dot_general_p].rule

    def rounded(ctx: Any, *factors: Any, **how: Any) -> Any:
        short = [
            stablehlo.reduce_precision(factor, EXPONENT, bits)
            if aval.dtype == "float32"
            else factor
            for factor, aval in zip(factors, ctx.avals_in, strict=True)
        ]
        return rule(ctx, *short, **how)

    mlir.register_lowering(jax.lax.dot_general_p, rounded, platform="cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("precision", choices=MANTISSA)
    parser.add_argument("command", choices=["errors", *cli.commands()])
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="of the command")
    options = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    round_factors(MANTISSA[options.precision])
    if options.command == "errors":
        from gpu_parts import errors

        print(f"Sums in float32 of factors in {options.precision}:")
        errors("5", ["float32"])
        return
    sys.argv = ["planprior", options.command, *options.arguments]
    cli.main()


if __name__ == "__main__":
    main()
