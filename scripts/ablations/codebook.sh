#!/usr/bin/env bash
# Table 5 of the paper, in miniature unless told otherwise: about 15 minutes on two cores after the demo.
#
#   bash scripts/ablations/codebook.sh [--steps N] [--seeds N] [...]
#
# Its table and its plot go to runs/ablations/codebook. `--help` lists all options, and the command at the paper's scale.
source "$(dirname "${BASH_SOURCE[0]}")/miniature.sh"
exec python -m scripts.ablations.codebook "$@" ${miniature[@]+"${miniature[@]}"}
