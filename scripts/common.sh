# Sourced by the other scripts.
# Modules that an evaluation imports. An environment made for an older checkout may lack some of them. The folder eval/ is
# installed as vidcom2_eval.
EVAL_MODULES="vidcom2 llava vidcom2_eval lmms_eval qwen_vl_utils av rich matplotlib scipy"
[ "$(uname -sm)" != "Linux x86_64" ] || EVAL_MODULES+=" decord"  # there are no wheels for other machines
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# safe PYTHON: print the flag that keeps this Python, and the processes it starts, from importing what lies in the current
# directory, such as another project's llava/. Python 3.10 has only -I, which also ignores PYTHONPATH and ~/.local.
safe() {
    "$1" -P -c '' 2>/dev/null && echo -P || echo -I
}

# importable PYTHON MODULE...: succeed if this Python finds all the modules from outside the checkout.
importable() {
    local python=$1
    shift
    (cd / && "$python" "$(safe "$python")" -c 'import importlib.util, sys; sys.exit(any(importlib.util.find_spec(m) is None for m in sys.argv[1:]))' "$@") 2>/dev/null
}

# environment EXTRAS MODULE...: set $PYTHON to the active Python if it can import the modules, else to the Python of this
# checkout's .venv. The first use makes .venv with uv.
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
    # Compile now: with PYTHONDONTWRITEBYTECODE set, every process would compile what it imports, for 10 s or more.
    "$uv" pip install --quiet --compile-bytecode --python "$PYTHON" --constraints "$ROOT/requirements.txt" --editable "$ROOT[$extras]"
    importable "$PYTHON" "$@" || { echo "error: $ROOT/.venv still lacks one of: $*" >&2; exit 1; }
}

# python_eval COMMAND FLAG...: replace this process by this checkout's evaluation, whatever else $PYTHON has installed.
python_eval() {
    local code
    if [ "$(safe "$PYTHON")" = -P ]; then
        export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}"
        exec "$PYTHON" -P -m eval "$@"
    fi
    # -I ignores PYTHONPATH: only what is installed can run, so it must be this checkout.
    code=$(cd / && "$PYTHON" -I -c 'import importlib.util, os; print(os.path.realpath(os.path.dirname(importlib.util.find_spec("vidcom2_eval").origin)))')
    if [ "$code" != "$(realpath "$ROOT/eval")" ]; then
        echo "error: $PYTHON has the code of $code installed, and this checkout is $ROOT: install it there (pip install -e '$ROOT[eval]'), or take Python 3.11 or newer" >&2
        exit 1
    fi
    exec "$PYTHON" -I -m vidcom2_eval "$@"
}

# evaluate BENCHMARK FLAG...: evaluate a model on the benchmark. With --help, print usage and install nothing.
evaluate() {
    local benchmark=$1
    shift
    case " $* " in *" --help "* | *" -h "*) usage "$benchmark"; exit ;; esac
    environment eval $EVAL_MODULES
    python_eval run --tasks "$benchmark" "$@"
}

# reproduce TABLE FLAG...: start or resume the runs of a table of the paper, and write the table.
reproduce() {
    environment eval $EVAL_MODULES
    python_eval table "$@"
}

usage() {
    cat <<EOF
Evaluate a VideoLLM on $1 through lmms-eval.

Variable    Flag          Meaning [default]. A flag wins over its variable.
MODEL       --model       checkpoint directory or hub name
                          [lmms-lab/llava-onevision-qwen2-7b-ov]
COMPRESSOR  --compressor  none, or a method and its settings [vidcom2]
R_RATIO     --retention   share of visual tokens to keep [0.25]
NUM_GPUS    --num-gpus    worker processes, one per GPU
                          [all visible GPUs; 1 on CPU]
OUTPUT      --output      directory for the results
                          [outputs/$1/<model>/<compressor>]
LIMIT       --limit       questions per task [all]
ATTN        --attn        eager, sdpa or flash_attention_2 [the best installed]
DATA        --data        local copy of the benchmark, unpacked, laid out as on
                          the hub [downloaded from the hub]
DECODER     --decoder     exact: the frames that a player shows. decord,
                          torchcodec, pyav: the frames that these give, to
                          compare with harnesses that use them. [exact]
PARSER      --parser      current, or legacy: read answers as lmms-eval 0.5.0
                          did, the paper's harness [current]
ENGINE      --engine      torch: a copy of the model on each GPU. deepspeed:
                          one model over all GPUs, by ZeRO-3. [torch]
            --sampling    frames, such as uniform:16
                          [as lmms-eval's wrapper for the model]
            --tasks       some of the benchmark's lmms-eval tasks, such as
                          mvbench_action_count,mvbench_state_change [all]
            --demo        evaluate a small model that comes along, dense and
                          compressed, on videos made on the spot: no download,
                          no GPU, two minutes. --model is llava-onevision
                          or another demo model.

"python -m eval run --help" explains these and the other flags.

Writes results.json, samples.jsonl and table.md. Exit status: 0 if all questions
were answered, 3 if some questions failed, mostly for an unreadable video (they
are listed and count as wrong). Any other status: the run failed.
EOF
}
