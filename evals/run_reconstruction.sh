#!/usr/bin/env bash
# Score a tokenizer's reconstructions: PSNR, SSIM, LPIPS, rFID, codebook usage and perplexity.
#
#   bash evals/run_reconstruction.sh MODEL --images DIR [--output OUT] [options of tokenizer/reconstruct.py]
#   GPUS=8 bash evals/run_reconstruction.sh MODEL --images imagenet/val --size 256
#
# OUT is runs/reconstruction unless given. `--help` lists all options.
set -euo pipefail
repo="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

python="$repo/.venv/bin/python"
[ -x "$python" ] || python="$(command -v python3 || command -v python)" || {
  echo "error: no Python found; run scripts/setup.sh first" >&2
  exit 2
}

output=(--output "$repo/runs/reconstruction")
for argument in "$@"; do
  case "$argument" in --output | --output=* | -h | --help) output=() ;; esac
done

launch=("$python")
[ "${GPUS:-1}" -gt 1 ] && launch=("$python" -m torch.distributed.run --standalone --nproc-per-node "$GPUS")
exec "${launch[@]}" "$repo/tokenizer/reconstruct.py" "$@" ${output[@]+"${output[@]}"}
