#!/usr/bin/env bash
# Ask videos in the browser: start the page, which needs no other server. Arguments go to "vidcom2 web"; --help explains.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
case " $* " in
    *" --help "* | *" -h "*)
        cat <<EOT
Usage: scripts/web.sh [FLAG]...
Start a page where people ask videos, dense and compressed, and see what was
kept: http://127.0.0.1:7860.

--model        checkpoint directory or hub name; may be repeated
               [the small models that come along: no download, no GPU]
--port         the port [7860]
--host         the address to listen on [127.0.0.1: this machine alone]
--max-mb       the largest upload, in megabytes [200]
--max-minutes  the longest video, in minutes [30]
--queue        questions that may wait [20]

"python -m eval web --help" explains these and the other flags.
EOT
        exit
        ;;
esac
environment web $EVAL_MODULES gradio
python_eval web "$@"
