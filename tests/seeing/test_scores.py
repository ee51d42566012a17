from mvdiff.report.tables import best_text
from mvdiff.seeing.scores import scores_table


def result(**metrics) -> dict:
    return {"metrics": {name: {"model": "net", **entry} for name, entry in metrics.items()}}


def test_methods_stand_above_each_other_and_the_truth_below():
    ours = result(fid={"value": 21.4}, overlap_psnr_pooled={"value": 25.4, "interval": [25.0, 26.0], "reference": 37.7})
    theirs = result(fid={"value": 25.6}, overlap_psnr_pooled={"value": 10.6, "reference": 37.7})
    table = scores_table([("ours", ours), ("theirs", theirs)])
    assert [column.name for column in table.columns[1:]] == ["FID", "overlap PSNR, pooled"]
    assert table.rows == [
        ["ours", 21.4, (25.4, 25.0, 26.0)],
        ["theirs", 25.6, 10.6],
        ["ground truth", None, 37.7],
    ]
    assert table.references == ["ground truth"]
    assert best_text(table, 1) == "21.40"  # FID: the lower one
    assert table.note == "FID: net. overlap PSNR, pooled: net."


def test_what_is_missing_is_said_with_its_reason():
    ours = result(fid={"missing": "no weights."}, sharpness_gradient_energy={"value": 0.001})
    table = scores_table([("ours", ours), ("theirs", result(fid={"missing": "no weights."}))])
    assert [column if isinstance(column, str) else column.name for column in table.columns] == [
        "method",
        "sharpness gradient energy",
    ]
    assert table.rows == [["ours", 0.001], ["theirs", None]]
    assert "FID: missing: no weights." in table.note
    assert "sharpness gradient energy (theirs): missing: it was not asked for." in table.note


def test_without_metrics_there_is_no_table():
    assert scores_table([("ours", {"metrics": {}})]) is None
