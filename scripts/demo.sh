#!/usr/bin/env bash
# The whole job in miniature, on a laptop's processor: a world of small scenes, a "pretrained" encoder, the two
# stages of the tokenizer, and what they reached. No downloads beyond the packages; results in runs/demo.
#
#   bash scripts/demo.sh            from the start
#   bash scripts/demo.sh --resume   go on where a former call was stopped
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh
export PATH="$PWD/.venv/bin:$PATH" HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false

out=runs/demo
[ "${1:-}" = --resume ] || rm -rf "$out"
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
train() { python tokenizer/train.py --config "tokenizer/recipes/$1.yaml" "engine.precision=$precision" "${@:2}"; }

# Stage 2 on one core; on the other, stage 1 goes on for as many steps with stage 2's rates: what longer training
# gives when the encoder does not learn.
stage2_and_longer_stage1() {
    OMP_NUM_THREADS=1 train demo_stage2 output="$out/tokenizer_stage1_continued" model.freeze_encoder=true \
        optimizer.encoder_lr=null loss.distillation=0.0 loss.discriminator=0.0 \
        >"$out/tokenizer_stage1_continued.log" 2>&1 &
    OMP_NUM_THREADS=1 train demo_stage2
    wait $! || { cat "$out/tokenizer_stage1_continued.log" >&2; return 1; }
}

step world   python scripts/demo/make_world.py --out "$out/world"
step encoder python scripts/demo/pretrain_encoder.py --world "$out/world" --out "$out/encoder"
step stage1  train demo_stage1
step stage2  stage2_and_longer_stage1
step report  python scripts/demo/tokenizer_report.py --demo "$out"

python scripts/demo/summary.py "$out/summary.json" --seconds "$out/seconds.txt"
