"""Table 5: how wide and how large the codebook should be.

    bash scripts/ablations/codebook.sh
    bash scripts/ablations/codebook.sh --recipe tokenizer/recipes/siglip2_so400m_256_imagenet.yaml --steps 25000 \\
        --dims 256 384 768 1152 1536 1920 --sizes 4096 8192 16384 32768 --seeds 1 --jobs 1 --launcher deepspeed \\
        --images imagenet/val --score "--size 256"

The first is in miniature, on the demo's encoder of width 128; the second is the paper's. A line is a codebook of K
codes of E dimensions: all --dims at the recipe's K, then all --sizes at the recipe's E. OUT receives a folder for each
run, table.md and codebook.png.
"""

from __future__ import annotations

from common.command import positive
from common.config import load_config
from common.errors import run_cli
from scripts.ablations.figures import draw_curves
from scripts.ablations.runs import Run, build_parser, carry_out, scores
from scripts.ablations.table import write_table


def run_of(size: int, dim: int, seed: int, steps: int) -> Run:
    """The training of one codebook."""
    fields = (f"model.codebook_size={size}", f"model.codebook_dim={dim}", f"seed={seed}", f"steps={steps}")
    return Run(name=f"{size}x{dim}_seed{seed}", overrides=fields)


def main() -> None:
    parser = build_parser(__doc__, "runs/ablations/codebook")
    parser.add_argument("--dims", type=positive, nargs="+", default=[32, 64, 128, 192], metavar="E")
    parser.add_argument("--sizes", type=positive, nargs="+", default=[256, 1024, 4096], metavar="K")
    options = parser.parse_intermixed_args()

    from tokenizer.config import TokenizerConfig

    model = load_config(TokenizerConfig, options.recipe, options.overrides).model
    width, size, dim = model.encoder.architecture["hidden_size"], model.codebook_size, model.codebook_dim
    by_dim = [(size, other) for other in sorted(options.dims)]
    by_size = [(other, dim) for other in sorted(options.sizes)]
    books = list(dict.fromkeys([*by_dim, *by_size]))
    runs = {book: [run_of(*book, seed, options.steps) for seed in range(options.seeds)] for book in books}
    carry_out([[run] for seeds in zip(*runs.values(), strict=True) for run in seeds], options)

    measured = {book: [scores(run, options.out) for run in seeds] for book, seeds in runs.items()}
    write_table(
        options.out / "table.md",
        "codes x dimensions",
        {f"{codes} x {dimensions}": measured[codes, dimensions] for codes, dimensions in books},
        [
            f"{options.steps} steps each, {options.seeds} seeds (± half of their range), encoder of width {width}."
        ],
    )
    axes = {
        f"dimensions of {size} codes": {str(book[1]): measured[book] for book in by_dim},
        f"codes of {dim} dimensions": {str(book[0]): measured[book] for book in by_size},
    }
    draw_curves(options.out / "codebook.png", axes, dashed=str(width))
    print(f"{options.out / 'codebook.png'}: the dashed line is the encoder's width")


if __name__ == "__main__":
    run_cli(main)
