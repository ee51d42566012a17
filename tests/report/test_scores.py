from mvdiff.eval.metrics import metric_columns
from mvdiff.report import Column
from mvdiff.report.scores import scores_table
from mvdiff.report.tables import best_text
from tests.report.drawing import drawn


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
    assert table.note == "Protocol not recorded (file of an earlier version). FID: net. overlap PSNR, pooled: net."


def test_every_score_of_an_evaluation_has_a_heading_of_its_own():
    names = list(metric_columns())
    table = scores_table([("ours", result(**{name: {"value": 1.0} for name in names}))])
    columns = dict(zip(names, table.columns[1:], strict=True))
    assert [name for name, column in columns.items() if column.digits == 4] == [
        "kid",
        "realnet_kid",
    ]  # else of a number nobody knows
    for name, column in columns.items():
        assert (column.unit == "dB") == ("psnr" in name or name == "overlap_chance"), name
        assert (column.better is None) == name.startswith(("sharpness", "overlap_chance", "border", "wrap")), name
        distance = "fid" in name or "realnet" in name or name in ("kid", "ds")
        assert (column.better == "lower") == distance, name


def test_scores_of_outpainting_have_unit_direction_and_two_decimals():
    table = scores_table([("ours", result(known_psnr={"value": 11.8811}, given_overlap_psnr={"value": 9.0}))])
    figure = drawn(table)
    assert [(column.name, column.unit, column.better) for column in table.columns[1:]] == [
        ("given pixels, not put back, PSNR", "dB", "higher"),
        ("neighbours against the given views, PSNR", "dB", "higher"),
    ]
    assert ">11.88<" in figure
    assert ">9.00<" in figure
    assert "known psnr" not in figure


def test_results_describe_the_numbers_of_a_users_metric():
    column = {"title": "brightness", "unit": "share", "higher_is_better": False, "digits": 1}
    table = scores_table([("ours", result(mine={"value": 0.25}) | {"columns": {"mine": column}}), ("theirs", result())])
    assert table.columns[1] == Column("brightness", "share", "lower", 1)
    assert "brightness (ours): net." in table.note


def test_what_is_missing_is_said_with_its_reason():
    ours = result(fid={"missing": "no weights."}, sharpness_gradient_energy={"value": 0.001})
    table = scores_table([("ours", ours), ("theirs", result(fid={"missing": "no weights."}))])
    assert [column if isinstance(column, str) else column.name for column in table.columns] == [
        "method",
        "sharpness, gradient energy",
    ]
    assert table.rows == [["ours", 0.001], ["theirs", None]]
    assert "FID: missing: no weights." in table.note
    assert "sharpness, gradient energy (theirs): missing: not requested." in table.note


def test_without_metrics_there_is_no_table():
    assert scores_table([("ours", {"metrics": {}})]) is None


def test_the_note_names_protocols_and_deviations():
    one = {"protocol": {"id": "mine", "hash": 12 * "ab" + 40 * "0"}, "deviations": ["images.width must be 64; got 32"]}
    ours, theirs = result(fid={"value": 1.0}) | one, result(fid={"value": 2.0})
    note = scores_table([("ours", ours)]).note
    assert note.startswith("Protocol mine (abababababab), 1 deviation; images.width must be 64; got 32. ")
    note = scores_table([("ours", ours), ("theirs", theirs)]).note
    assert "ours: Protocol mine (abababababab), 1 deviation; " in note
    assert "theirs: Protocol not recorded (file of an earlier version). " in note
