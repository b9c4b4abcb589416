# Sourced by the other scripts.
# What evaluation imports; an environment made for an older checkout may lack the last ones.
EVAL_MODULES="vidcom2 llava eval lmms_eval qwen_vl_utils av rich matplotlib"
[ "$(uname -sm)" != "Linux x86_64" ] || EVAL_MODULES+=" decord"  # which has no wheels for other machines
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# safe PYTHON: the flag by which it, and the processes it starts, import nothing from the current directory, which may
# hold another project's llava/. Python 3.10 has only -I for that, which leaves PYTHONPATH and ~/.local out, too.
safe() {
    "$1" -P -c '' 2>/dev/null && echo -P || echo -I
}

# importable PYTHON MODULE...: can this Python import all of them, from outside the checkout?
importable() {
    local python=$1
    shift
    (cd / && "$python" "$(safe "$python")" -c 'import importlib.util, sys; sys.exit(any(importlib.util.find_spec(m) is None for m in sys.argv[1:]))' "$@") 2>/dev/null
}

# environment EXTRAS MODULE...: set $PYTHON to the active Python where it can import the modules, else to this
# checkout's .venv, made with uv on first use.
environment() {
    local extras=$1
    shift
    for PYTHON in "${PYTHON:-python3}" "$ROOT/.venv/bin/python"; do
        if importable "$PYTHON" "$@"; then return; fi
    done
    echo "setting up $ROOT/.venv (once, 7 GB)" >&2
    local uv=uv
    if ! command -v uv >/dev/null; then
        python3 -m venv "$ROOT/.venv/uv"
        "$ROOT/.venv/uv/bin/pip" install --quiet uv
        uv="$ROOT/.venv/uv/bin/uv"
    fi
    [ -x "$PYTHON" ] || "$uv" venv --quiet --allow-existing "$ROOT/.venv"
    # Compiled once: where PYTHONDONTWRITEBYTECODE is set, each process would compile all that it imports, 10 s or more.
    "$uv" pip install --quiet --compile-bytecode --python "$PYTHON" --constraints "$ROOT/requirements.txt" --editable "$ROOT[$extras]"
    importable "$PYTHON" "$@" || { echo "error: $ROOT/.venv still lacks one of: $*" >&2; exit 1; }
}

# python_eval COMMAND FLAG...: become python -m eval, of this checkout, whichever one is installed in $PYTHON.
python_eval() {
    local flag code
    flag=$(safe "$PYTHON")
    export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}"
    if [ "$flag" = -I ]; then
        code=$(cd / && "$PYTHON" -I -c 'import importlib.util, os; print(os.path.realpath(os.path.dirname(importlib.util.find_spec("eval").origin)))')
        if [ "$code" != "$(realpath "$ROOT/eval")" ]; then
            echo "error: $PYTHON has the code of $code installed, and this checkout is $ROOT: install it there (pip install -e '$ROOT[eval]'), or take Python 3.11 or newer" >&2
            exit 1
        fi
    fi
    exec "$PYTHON" "$flag" -m eval "$@"
}

# evaluate BENCHMARK FLAG...: run the evaluation, or explain it.
evaluate() {
    local benchmark=$1
    shift
    case " $* " in *" --help "* | *" -h "*) usage "$benchmark"; exit ;; esac
    environment eval $EVAL_MODULES
    python_eval run --tasks "$benchmark" "$@"
}

# reproduce TABLE FLAG...: run or resume what a table of the paper needs, and write it.
reproduce() {
    environment eval $EVAL_MODULES
    python_eval table "$@"
}

usage() {
    cat <<EOF
$1 through lmms-eval. Environment variables or flags; flags win:
  MODEL        --model       checkpoint directory or hub name   [lmms-lab/llava-onevision-qwen2-7b-ov]
  COMPRESSOR   --compressor  none, or a method and its settings [vidcom2]
  R_RATIO      --retention   share of visual tokens to keep     [0.25]
  NUM_GPUS     --num-gpus    processes                          [all visible GPUs; 1 on CPU]
  OUTPUT       --output      directory for the results          [outputs/$1/<model>/<compressor>]
  LIMIT        --limit       questions per task                 [all]
  ATTN         --attn        eager, sdpa, flash_attention_2     [the best installed]
  DATA         --data        local copy of $1, laid out as on the hub and unpacked
  DECODER      --decoder     decord, torchcodec or pyav: frames as these give them, for comparison with harnesses that
                             read with them  [exact: the frames that a player shows]
  PARSER       --parser      legacy: answers are read as lmms-eval 0.5.0 did, the paper's harness  [current]
  ENGINE       --engine      deepspeed: one model over all GPUs, by ZeRO-3  [torch: a copy on each]
               --sampling    frames, such as uniform:16         [as lmms-eval's wrapper for the model]
               --tasks       some of its lmms-eval tasks only, such as mvbench_action_count,mvbench_state_change
               --demo        the small model that comes along, on videos made on the spot, dense and compressed: no
                             download, no GPU, a few minutes
               --dtype, --device, --workers, --batch-size, ...: see python -m eval run --help
Writes results.json, samples.jsonl and table.md. Exit status: 0 done; 3 done, but some questions failed, mostly for an
unreadable video (they are listed, and count as wrong answers); anything else failed.
EOF
}
