#!/usr/bin/env bash
# Recipe, train, chat, export, and the exported model again. About fifteen minutes on two cores with the demo recipe.
#   examples/full_tour.sh [FOLDER] [more `train` options, such as --set sft.epochs=1.0]
set -euo pipefail
folder=${1:-tour}
shift || true

lite-huatuo recipes copy demo "$folder.yaml"
lite-huatuo recipes check "$folder.yaml"
lite-huatuo train --recipe "$folder.yaml" --run "$folder/run" "$@"
lite-huatuo chat "$folder/run" --once "Which vitamin is missing in scurvy?"
lite-huatuo export "$folder/run" --to "$folder/model"
lite-huatuo chat "$folder/model" --once "Which vitamin is missing in scurvy?" --max-tokens 160
