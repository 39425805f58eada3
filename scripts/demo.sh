#!/usr/bin/env bash
# The whole job in miniature, on a laptop's processor: a world of small scenes, a "pretrained" encoder, the two
# stages of the tokenizer, a language model that learns to read its features, another that learns to write its codes and
# then from what its own pictures are worth, and the evaluations of all of them. No downloads beyond the packages; results in runs/demo.
#
#   bash scripts/demo.sh               from the start
#   bash scripts/demo.sh --resume      go on where a former call was stopped
#   bash scripts/demo.sh --quick       every part, on few scenes and in few steps: does it run here?
#   bash scripts/demo.sh --ablations   also an encoder that learned without distillation, and what can be read from it
set -euo pipefail
cd "$(dirname "$0")/.."

out=runs/demo resume= quick= ablations=
for option in "$@"; do
    case "$option" in
        -h | --help) sed -n '2,/^set/s/^# \{0,1\}//p' scripts/demo.sh; exit 0 ;;
        --resume) resume=yes ;;
        --quick) quick=yes ;;
        --ablations) ablations=yes ;;
        *) echo "error: $option: unknown; there are --resume, --quick and --ablations" >&2; exit 2 ;;
    esac
done
# Only the full demo asks its questions through lmms-eval, which is a large package.
if [ -n "$quick" ]; then bash scripts/setup.sh; else bash scripts/setup.sh evals; fi
export PATH="$PWD/.venv/bin:$PATH" HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 TOKENIZERS_PARALLELISM=false
[ -n "$resume" ] || rm -rf "$out"
mkdir -p "$out"
seconds=$out/seconds.txt
touch "$seconds"

source scripts/precision.sh

# Options of the parts, split at spaces.
world= encoder= stage1= stage2= words= talk= generator= judge= post_training= pictures=16
if [ -n "$quick" ]; then
    world="--scenes 1500 --held-out 100"
    encoder="--window-steps 150 --steps 40"
    stage1=steps=120
    stage2="steps=80 loss.discriminator_start=60 loss.discriminator_update_start=50"
    words="--steps 100"
    talk=epochs=1
    generator=steps=120
    judge="--steps 100"
    post_training="steps=3 rollouts.group=4 batch.micro_size=12 held_out.per_prompt=1"
    pictures=2
fi

# The time of a former call counts.
former=$(awk '$1 == "whole" {print $2}' "$seconds")
SECONDS=0
note_whole() {
    { grep -v '^whole ' "$seconds" || true; echo "whole $((${former:-0} + SECONDS))"; } >"$seconds.new"
    mv "$seconds.new" "$seconds"
}
stop() {
    for job in $(jobs -p); do
        pkill -P "$job" || true
        kill "$job" 2>/dev/null || true
    done
    note_whole
}
trap stop EXIT

step() { # NAME COMMAND...: run it unless a former call has, and note how long it took
    local name=$1 start=$SECONDS
    shift
    if grep -qs "^$name " "$seconds"; then return; fi
    printf '\n=== %s\n' "$name"
    "$@"
    echo "$name $((SECONDS - start))" >>"$seconds"
}
beside() { # LOG COMMAND...: quietly, while another part shows what it does; to be called with `&`
    log=$out/$1  # not local: the trap reads it
    shift
    exec 3>&2
    trap '[ $? -eq 0 ] || cat "$log" >&3' EXIT
    "$@" >"$log" 2>&1
}
in_two() { # JOB RECIPE key=value...: in two processes
    torchrun --standalone --nproc-per-node 2 "$1/train.py" --config "$1/recipes/$2.yaml" \
        "engine.precision=$precision" "${@:3}"
}
train() { # JOB RECIPE key=value...
    python "$1/train.py" --config "$1/recipes/$2.yaml" "engine.precision=$precision" "${@:3}"
}

# Stage 1 goes on for as many steps with stage 2's rates: what longer training gives when the encoder does not learn.
longer_stage1() {
    train tokenizer demo_stage2 $stage2 output="$out/tokenizer_stage1_continued" model.freeze_encoder=true \
        optimizer.encoder_lr=null loss.distillation=0.0 loss.discriminator=0.0
}
understand() { # NAME TOWER: both stages of understanding on the features of an encoder
    train understanding demo_pretrain output="$out/$1_pretrain" model.tower.source="$2"
    train understanding demo_sft $talk output="$out/$1_sft" model.tower.source="$2" \
        init_from="$out/$1_pretrain/model"
}
# On the original encoder, which stands for the best that can be kept.
understand_frozen() {
    step language_model python -m scripts.demo.language_model --world "$out/world" --out "$out/language_model" \
        $words
    step understanding_frozen understand understanding_frozen "$out/encoder"
}
without_distillation() {
    train tokenizer demo_stage2 $stage2 output="$out/tokenizer_no_distillation" loss.distillation=0.0
    understand understanding_no_distillation "$out/tokenizer_no_distillation/model"
}
geneval() { # NAME OPTION...: by the exact detector of the miniature world
    bash evals/run_geneval.sh --detector world --output "$out/$1" "${@:2}"
}
# What the second stage left: codes to learn from, and how good the pictures are.
look_at_tokenizer() {
    step text_tokenizer python -m scripts.demo.text_tokenizer --world "$out/world" --out "$out/text_tokenizer"
    step codes          python generation/extract_codes.py --config generation/recipes/demo.yaml
    step longer_stage1  longer_stage1
    step report         python -m scripts.demo.tokenizer_report --demo "$out"
    step reconstruction bash evals/run_reconstruction.sh "$out/tokenizer_stage2/model" --images "$out/world/val" \
        --skip-fid --skip-lpips --workers 0 --output "$out/reconstruction"
    step true_scenes    python -m scripts.demo.true_scenes --demo "$out"
    step geneval_reconstructed geneval geneval_reconstructed --pictures "$out/reconstructed_scenes" -n 1
    # Looks at pictures that are drawn later, and has seen none but true scenes.
    step judge          python -m scripts.demo.held_out_judge --world "$out/world" --out "$out/judge" $judge
}
draw() { # NAME JOB OPTION...: pictures for the prompts that were held out, and how many show what they should
    step "$1" geneval "$1" "$out/$2/model" --prompts "$out/world/prompts.jsonl" -n "$pictures" \
        --batch-size 64 "${@:3}"
}
answer() {
    # By a name of its own, since a former call may have compared the others already.
    step "answers${ablations:+_with_ablations}" python -m scripts.demo.understanding_report --demo "$out"
    [ -n "$quick" ] || step lmms_eval bash evals/run_lmms_eval.sh "$out/understanding_sft/model" \
        --questions "$out/world/val_questions.json" --batch-size 64 --output "$out/lmms_eval"
}

step world   python -m scripts.demo.make_world --out "$out/world" $world
step encoder python -m scripts.demo.pretrain_encoder --world "$out/world" --out "$out/encoder" $encoder

# From here on, two processes of one thread each: so small models gain little from a second one.
export OMP_NUM_THREADS=1
beside understand_frozen.log understand_frozen &
step stage1 train tokenizer demo_stage1 $stage1
step stage2 train tokenizer demo_stage2 $stage2
wait $!

beside look_at_tokenizer.log look_at_tokenizer &
step understanding understand understanding "$out/tokenizer_stage2/model"
[ -z "$ablations" ] || step no_distillation without_distillation
wait $!

step generator in_two generation demo $generator

beside answer.log answer &
draw geneval        generator
draw geneval_no_cfg generator --cfg-scale 1
wait $!
step post_training in_two post_training demo_grpo $post_training
beside pictures.log step pictures python -m scripts.demo.generation_report --demo "$out" &
draw geneval_post_trained        post_training
draw geneval_post_trained_no_cfg post_training --cfg-scale 1
wait $!
step post_training_report python -m scripts.demo.post_training_report --demo "$out"

note_whole
python -m scripts.demo.summary "$out/summary.json" --seconds "$seconds"
