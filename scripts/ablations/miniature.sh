# Sourced by the ablations: sets up, and makes the demo's world and encoder where they are not there yet. `miniature` holds
# the fields that a laptop wants; nothing where a recipe is given.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export PATH="$PWD/.venv/bin:$PATH" HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false

miniature=()
case " $* " in
    *" -h "* | *" --help "*) ;;
    *" --recipe"*) bash scripts/setup.sh ;;
    *)
        bash scripts/setup.sh
        source scripts/precision.sh
        miniature+=("engine.precision=$precision")
        [ -d runs/demo/world ] || python -m scripts.demo.make_world --out runs/demo/world
        [ -d runs/demo/encoder ] ||
            python -m scripts.demo.pretrain_encoder --world runs/demo/world --out runs/demo/encoder
        ;;
esac
