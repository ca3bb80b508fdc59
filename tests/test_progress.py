from grsd.support.progress import bar


def test_shown_only_where_somebody_sees_it(monkeypatch, capsys):
    assert list(bar(range(3))) == [0, 1, 2]
    assert capsys.readouterr().err == ""
    assert list(bar(range(3), show=True, desc="steps")) == [0, 1, 2]
    assert "steps" in capsys.readouterr().err
    monkeypatch.setenv("GRSD_PROGRESS", "0")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    list(bar(range(3)))
    assert capsys.readouterr().err == ""
    monkeypatch.delenv("GRSD_PROGRESS")
    list(bar(range(3)))
    assert capsys.readouterr().err != ""
