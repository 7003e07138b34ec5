"""The table of a sweep."""

from spira.scheduling.sweeps import Comparison, Figures


def test_the_table_has_mean_and_range_clean_and_noisy() -> None:
    """A line for each experiment and condition; what no run has is a dash."""
    figures = {
        f"{condition}_{name}": []
        for condition in ("clean", "noise")
        for name in ("auroc", "balanced_accuracy", "sensitivity", "specificity")
    } | {"clean_auroc": [0.9, 0.8, 1.0], "noise_auroc": [0.75]}
    comparison = Comparison([Figures("one", {"complete": 2, "refused": 1}, figures)])

    head, rows = comparison.shown()

    assert head[:4] == ("experiment", "runs", "", "auroc")
    assert rows[0] == (
        "one",
        "2 complete, 1 refused",
        "clean",
        "0.900 (0.800 to 1.000)",
        "-",
        "-",
        "-",
    )
    assert rows[1][:4] == ("", "", "noise", "0.750")
    (told,) = comparison.emit()["experiments"]
    assert told["figures"]["clean_auroc"] == {
        "mean": 0.9,
        "low": 0.8,
        "high": 1.0,
        "values": [0.9, 0.8, 1.0],
    }
    assert "clean_sensitivity" not in told["figures"]
