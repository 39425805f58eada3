#!/usr/bin/env bash
# The whole job in miniature, on a laptop's processor: a world of small scenes, a "pretrained" encoder, the two
# stages of the tokenizer, a language model that learns to read its features, and what they reached. No downloads
# beyond the packages; results in runs/demo.
#
#   bash scripts/demo.sh               from the start
#   bash scripts/demo.sh --resume      go on where a former call was stopped
#   bash scripts/demo.sh --ablations   also an encoder that learned without distillation, and what can be read from it
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh
export PATH="$PWD/.venv/bin:$PATH" HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false

out=runs/demo resume= ablations=
for option in "$@"; do
    case "$option" in
        --resume) resume=yes ;;
        --ablations) ablations=yes ;;
        *) echo "error: $option: unknown; there are --resume and --ablations" >&2; exit 2 ;;
    esac
done
[ -n "$resume" ] || rm -rf "$out"
mkdir -p "$out"

# bfloat16 is twice as fast where the processor has it, and slower than float32 where it has not.
precision=fp32
if command -v nvidia-smi >/dev/null || grep -qsE 'avx512_bf16|amx_bf16|\bbf16\b' /proc/cpuinfo; then
    precision=bf16_autocast
fi

step() { # NAME COMMAND...: run it, and note how long it took
    local name=$1 start=$SECONDS
    shift
    if grep -qs "^$name " "$out/seconds.txt"; then return; fi
    printf '\n=== %s\n' "$name"
    "$@"
    echo "$name $((SECONDS - start))" >>"$out/seconds.txt"
}
train() { # JOB RECIPE key=value...
    python "$1/train.py" --config "$1/recipes/$2.yaml" "engine.precision=$precision" "${@:3}"
}
beside() { # LOG COMMAND...: run it on one core, quietly
    local log=$1
    shift
    OMP_NUM_THREADS=1 "$@" >"$log" 2>&1 || { cat "$log" >&2; return 1; }
}

# Stage 2 on one core; on the other, stage 1 goes on for as many steps with stage 2's rates: what longer training
# gives when the encoder does not learn.
stage2_and_longer_stage1() {
    beside "$out/tokenizer_stage1_continued.log" train tokenizer demo_stage2 \
        output="$out/tokenizer_stage1_continued" model.freeze_encoder=true \
        optimizer.encoder_lr=null loss.distillation=0.0 loss.discriminator=0.0 &
    OMP_NUM_THREADS=1 train tokenizer demo_stage2
    wait $!
}

# NAME TOWER: both stages of understanding on the features of an encoder.
understand() {
    train understanding demo_pretrain output="$out/$1_pretrain" model.tower.source="$2"
    train understanding demo_sft output="$out/$1_sft" model.tower.source="$2" init_from="$out/$1_pretrain/model"
}
# On stage 2's encoder, and beside it on the original one, which stands for the best that can be kept.
understand_both() {
    beside "$out/understanding_frozen.log" understand understanding_frozen "$out/encoder" &
    OMP_NUM_THREADS=1 understand understanding "$out/tokenizer_stage2/model"
    wait $!
}
without_distillation() {
    train tokenizer demo_stage2 output="$out/tokenizer_no_distillation" loss.distillation=0.0
    understand understanding_no_distillation "$out/tokenizer_no_distillation/model"
    # A former call may have compared the others already.
    sed '/^answers /d' "$out/seconds.txt" >"$out/seconds.txt.new" && mv "$out/seconds.txt.new" "$out/seconds.txt"
}

step world   python scripts/demo/make_world.py --out "$out/world"
step encoder python scripts/demo/pretrain_encoder.py --world "$out/world" --out "$out/encoder"
step stage1  train tokenizer demo_stage1
step stage2  stage2_and_longer_stage1
step report  python scripts/demo/tokenizer_report.py --demo "$out"
step language_model python scripts/demo/language_model.py --world "$out/world" --out "$out/language_model"
step understanding understand_both
[ -z "$ablations" ] || step no_distillation without_distillation
step answers python scripts/demo/understanding_report.py --demo "$out"

python scripts/demo/summary.py "$out/summary.json" --seconds "$out/seconds.txt"
