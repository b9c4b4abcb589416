# Sourced by the other scripts: finds or makes the Python that runs them, as $PYTHON.
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# importable PYTHON MODULE...: can this Python import all of them, from outside the checkout?
importable() {
    local python=$1
    shift
    (cd / && "$python" -c 'import importlib.util, sys; sys.exit(any(map(lambda m: importlib.util.find_spec(m) is None, sys.argv[1:])))' "$@") 2>/dev/null
}

# environment EXTRAS MODULE...: set $PYTHON to the active Python where it can import the modules, else to this
# checkout's .venv, made with uv on first use.
environment() {
    local extras=$1
    shift
    for PYTHON in "${PYTHON:-python3}" "$ROOT/.venv/bin/python"; do
        if importable "$PYTHON" "$@"; then return; fi
    done
    echo "setting up $ROOT/.venv (once, some GB)" >&2
    local uv=uv
    if ! command -v uv >/dev/null; then
        python3 -m venv "$ROOT/.venv/uv"
        "$ROOT/.venv/uv/bin/pip" install --quiet uv
        uv="$ROOT/.venv/uv/bin/uv"
    fi
    [ -x "$ROOT/.venv/bin/python" ] || "$uv" venv --quiet --allow-existing "$ROOT/.venv"
    "$uv" pip install --quiet --python "$ROOT/.venv/bin/python" --requirements "$ROOT/requirements.txt" --editable "$ROOT[$extras]"
    importable "$PYTHON" "$@" || { echo "error: $ROOT/.venv still lacks one of: $*" >&2; exit 1; }
}
