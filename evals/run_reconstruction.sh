#!/usr/bin/env bash
# Score a tokenizer's reconstructions: PSNR, SSIM, LPIPS, rFID, codebook usage and perplexity.
#
#   bash evals/run_reconstruction.sh MODEL --images DIR [--limit N] [--output DIR] [...]
#   GPUS=8 bash evals/run_reconstruction.sh MODEL --images imagenet/val --size 256
#
# DIR is runs/reconstruction unless given. `--help` lists all options.
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
launch reconstruction evals.reconstruction.run "$@"
