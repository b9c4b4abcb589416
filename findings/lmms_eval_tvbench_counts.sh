#!/usr/bin/env bash
# lmms-eval scores TVBench's questions about numbers against a wrong option: it takes the answer "2" for the third one.
#
# Date: 2026-11-28.
# Versions: lmms-eval 0.7.3, PyYAML 6.0.3.
#
# What happens:
#   TVBench gives the answer as the text of an option. Its questions on how often something is done (action_count)
#   have the options 2, 3, 5 and 4; a public copy is metadata/action_count.json in samyamoy1/Video_RAG_TVBench on GitHub.
#   The script gives a question with these options to the functions of lmms-eval's task, for each of the four answers.
#   They first take an answer of digits alone for the place of the option, from 0 and then from 1, and compare it with
#   the texts of the options only where no option has that place.
#   The answer "2" is option A, but the target is C, and "3" is B, but the target is D. A model that says the right
#   letter scores 0, and one that says the wrong letter scores 1.
#   "5" is read as a text, since there are not so many options. "4" is in the fourth place here, so both are right.
#
# Why it matters: A task's score can fall for right answers, and no error or warning says so. The score of the
#   whole benchmark has these questions in it.
#
# What you can do: Score the logged answers again, with the option whose text equals the answer.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat > check.py <<'PY'
import importlib.util
from importlib.metadata import distribution

found = distribution("lmms-eval")
print("lmms-eval", found.version)
assert found.version == "0.7.3"
# The module alone: the package around it would import what this script does not need.
spec = importlib.util.spec_from_file_location("tvbench", found.locate_file("lmms_eval/tasks/tvbench/utils.py"))
task = importlib.util.module_from_spec(spec)
spec.loader.exec_module(task)

OPTIONS = ["2", "3", "5", "4"]
targets = {}
for right, answer in zip("ABCD", OPTIONS, strict=True):
    question = {"question": "How often does the door open?", "candidates": OPTIONS, "answer": answer}
    assert f"{right}. {answer}" in task.tvbench_doc_to_text(question).splitlines()
    targets[answer] = task.tvbench_doc_to_target(question)
    scores = {letter: task.tvbench_process_results(question, [letter])["tvbench_acc"] for letter in "ABCD"}
    print(f"answer {answer}: option {right}, target {targets[answer]}, scores of the letters {scores}")
    assert scores == {letter: float(letter == targets[answer]) for letter in "ABCD"}
assert targets == {"2": "C", "3": "D", "5": "C", "4": "D"}

words = {"question": "Where does it go?", "candidates": ["left", "right"], "answer": "right"}
assert task.tvbench_doc_to_target(words) == "B"
PY
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check --no-deps lmms-eval==0.7.3 PyYAML==6.0.3
venv/bin/python check.py
echo confirmed
