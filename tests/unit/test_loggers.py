"""The metrics file of a run that goes on."""

from runs import metrics

from lightning_agg.loggers import ResumableCSVLogger


def logger(folder, resume_step=None):
    return ResumableCSVLogger(str(folder), name="", version="version_0", resume_step=resume_step)


def test_rows_before_the_checkpoint_stay_and_a_row_cut_short_goes(tmp_path):
    first = logger(tmp_path)
    for step in range(4):
        first.log_metrics({"a": step, "b": step}, step=step)
        first.save()
    path = tmp_path / "version_0" / "metrics.csv"
    path.write_text(path.read_text() + "4,")
    again = logger(tmp_path, resume_step=3)
    again.log_metrics({"a": 9, "b": 9}, step=3)
    again.save()
    header, *rows = path.read_text().split()
    assert header == "a,b,step"
    assert rows == ["0,0,0", "1,1,1", "2,2,2", "9,9,3"]
    logger(tmp_path).experiment  # noqa: B018  opening the file again, as test does, keeps it
    assert len(path.read_text().split()) == 5


def test_a_row_written_ahead_is_there_at_once_and_once(tmp_path):
    run = logger(tmp_path)
    run.log_ahead({"a": float("nan")}, step=0)
    path = tmp_path / "version_0" / "metrics.csv"
    assert path.read_text().split() == ["a,step", "nan,0"]
    run.log_metrics({"a": float("nan")}, step=0)
    run.log_metrics({"b": 1.0}, step=0)
    run.save()
    assert path.read_text().split() == ["a,b,step", "nan,,0", ",1.0,0"]


def test_a_test_of_a_running_training_widens_its_table(tmp_path):
    training = logger(tmp_path)
    training.log_metrics({"b": 0.0}, step=0)
    training.save()
    tested = logger(tmp_path)
    tested.log_metrics({"test/a": 5.0}, step=1)
    tested.save()
    training.log_metrics({"b": 1.0}, step=1)
    training.save()
    training.log_metrics({"a": 2.0, "b": 2.0}, step=2)
    training.save()
    found = [{name: float(value) for name, value in row.items()} for row in metrics(tmp_path)]
    assert found == [
        {"b": 0.0, "step": 0},
        {"test/a": 5.0, "step": 1},
        {"b": 1.0, "step": 1},
        {"a": 2.0, "b": 2.0, "step": 2},
    ]


def test_a_test_of_what_goes_on_stays(tmp_path):
    first = logger(tmp_path)
    for step, name in ((2, "a"), (3, "a"), (3, "test/a"), (4, "test/a")):
        first.log_metrics({name: 1.0}, step=step)
        first.save()
    again = logger(tmp_path, resume_step=3)
    again.log_metrics({"a": 2.0}, step=3)
    again.save()
    assert metrics(tmp_path) == [
        {"step": "2", "a": "1.0"},
        {"step": "3", "test/a": "1.0"},
        {"step": "3", "a": "2.0"},
    ]
