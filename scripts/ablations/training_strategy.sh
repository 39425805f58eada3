#!/usr/bin/env bash
# Table 6 of the paper, in miniature unless told otherwise: about 15 minutes on two cores after the demo.
#
#   bash scripts/ablations/training_strategy.sh [--steps N] [--seeds N] [...]
#
# Its table and its plot go to runs/ablations/training_strategy. `--help` lists all options, and the command at the paper's scale.
source "$(dirname "${BASH_SOURCE[0]}")/miniature.sh"
exec python -m scripts.ablations.training_strategy "$@" ${miniature[@]+"${miniature[@]}"}
