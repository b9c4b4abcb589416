from __future__ import annotations

from eval.demo.show import markdown, side_by_side


def result(overall: float, after: float, scores: dict[str, float]) -> dict:
    return {
        "scores": {"overall": overall, "categories": {name: {"accuracy": value} for name, value in scores.items()}},
        "visual_tokens": {"before_per_sample": 257.0, "after_per_sample": after},
        "seconds": {"decode": {"mean": 0.0052}, "prefill": {"mean": 0.0171}},
    }


def test_settings_stand_side_by_side():
    rows = side_by_side(
        {
            "none": result(80.0, 257.0, {"action_count": 70.0, "state_change": 90.0}),
            "vidcom2@0.25": result(76.0, 72.5, {"action_count": 72.0, "state_change": 80.0}),
        }
    )
    assert rows == [
        ("", "none", "vidcom2@0.25"),
        ("action_count", "70.0", "72.0"),
        ("state_change", "90.0", "80.0"),
        ("overall", "80.0", "76.0"),
        ("% of dense", "100.0", "95.0"),
        ("visual tokens before", "257.0", "257.0"),
        ("visual tokens after", "257.0", "72.5"),
        ("decode, ms", "5.2", "5.2"),
        ("prefill, ms", "17.1", "17.1"),
    ]
    assert "| % of dense | 100.0 | 95.0 |" in markdown("mvbench", rows)
