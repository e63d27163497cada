#!/bin/sh
# One prepared look at an accelerator, at most 8 minutes: litter, bf16, compile, batched LoRA, losses beside the CPU's.
#
#     tests/gpu/run.sh [FOLDER]           # where its lines of JSON go; default: gpu-results
#     SMOKE=1 tests/gpu/run.sh            # the same on a CPU at a tiny size: does the script itself work?
#
# PYTHON chooses the interpreter, DEVICE the device ("cuda" where there is one, else "mps", else "cpu").
set -u
cd "$(dirname "$0")/../.."
out=${1:-${OUT:-gpu-results}}
python=${PYTHON:-$(test -x .venv/bin/python && echo .venv/bin/python || echo python3)}
mkdir -p "$out"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
small=${SMOKE:+--smoke}
ended=0
part() { # name, seconds, command: a part that takes too long or fails leaves the others alone
    name=$1 limit=$2
    shift 2
    test -n "$small" && limit=$((limit * 5)) # a CPU that others use takes its time
    began=$(date +%s)
    timeout -k 5 "$limit" "$@" > "$out/$name.jsonl" 2> "$out/$name.err" || { ended=1; echo "$name: failed or too long"; tail -3 "$out/$name.err"; }
    echo "$name: $(wc -l < "$out/$name.jsonl") lines in $(($(date +%s) - began)) s"
}
part machine 60 "$python" tests/gpu/speeds.py machine $small
part losses 90 "$python" tests/gpu/speeds.py losses $small
part precision 90 "$python" tests/gpu/speeds.py precision $small
part compile 100 "$python" tests/gpu/speeds.py compile $small
part lora 60 "$python" tests/gpu/speeds.py lora $small
if [ -n "$small" ]; then set -- --device cpu --siblings 2 --sizes small --steps 1; else set --; fi
part litter 80 "$python" tests/gpu/litter.py "$@"
exit $ended
