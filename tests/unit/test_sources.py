"""Sources: shipped data, files and the Hub are told apart, rows become records, limits draw the same rows each time."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import pytest

from lite_huatuo import hub_access
from lite_huatuo.data import sources
from lite_huatuo.errors import RecordError


def row(n: int, **changes: object) -> dict:
    return {"id": f"p{n}", "question": f"Question {n}?", "ground_truth": f"answer {n}", **changes}


@pytest.fixture
def make(tmp_path: Path):
    def write(*rows: object, name: str = "problems.jsonl") -> str:
        path = tmp_path / name
        lines = [text if isinstance(text, str) else json.dumps(text, ensure_ascii=False) for text in rows]
        path.write_text("[" + ",".join(lines) + "]" if name.endswith(".json") else "\n".join(lines), "utf-8")
        return str(path)

    return write


@pytest.mark.parametrize("name", ["problems.jsonl", "problems.json"])
def test_a_file_is_read_in_its_order(make, name: str) -> None:
    problems = sources.load_problems(make(row(2), row(1, question="a\u2028b?"), row(3), name=name))
    assert [problem.id for problem in problems] == ["p2", "p1", "p3"]
    assert problems[1].question == "a\u2028b?"


def test_published_rows_are_read_from_a_file(make) -> None:
    (problem,) = sources.load_problems(
        make(
            {
                "Open-ended Verifiable Question": "Open?",
                "Ground-True Answer": "copper",
                "question": "Which of these?",
                "options": {"A": "iron"},
            }
        )
    )
    (example,) = sources.load_sft(make({"Question": "Open?", "Complex_CoT": "Hmm.", "Response": "Copper."}))
    assert (problem.question, problem.ground_truth) == ("Open?", "copper")
    assert (example.question, example.complex_cot, example.response) == ("Open?", "Hmm.", "Copper.")


def test_a_home_folder_sign_is_expanded(make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(row(1))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(sources.load_problems("~/problems.jsonl")) == 1


@pytest.mark.parametrize(
    ("load", "name"),
    [
        (load, f"{kind}_{language}")
        for language in ("en", "zh")
        for load, kind in (
            (sources.load_problems, "problems"),
            (sources.load_problems, "heldout"),
            (sources.load_sft, "sft"),
        )
    ],
)
def test_shipped_data_is_read_whole_in_its_language(load, name: str) -> None:
    records = load(f"shipped:{name}")
    assert len(records) >= 8
    assert len({record.id for record in records}) == len(records)
    if load is sources.load_problems:
        assert {record.language for record in records} == {name[-2:]}


def test_an_unknown_shipped_name_lists_the_known_ones() -> None:
    told = r"shipped:problem_en: no such shipped data; there are .*shipped:problems_en.*shipped:sft_zh"
    with pytest.raises(RecordError, match=told):
        sources.load_problems("shipped:problem_en")


@pytest.mark.parametrize("source", ["shipped:", "shipped:../demo/problems_en", "shipped:problems_en.jsonl"])
def test_a_shipped_name_is_a_name_and_no_path(source: str) -> None:
    with pytest.raises(RecordError, match="no such shipped data"):
        sources.load_problems(source)


@pytest.mark.parametrize(
    "source", ["problems", "problems.tsv", "", "./org/name", "/data/problems.txt", "~/name", "a/b/c", "."]
)
def test_an_odd_source_tells_what_a_source_is(source: str) -> None:
    with pytest.raises(RecordError, match=r"not a data source; give a \.json, \.jsonl or \.csv file, org/name.*ship"):
        sources.load_problems(source)


def test_an_existing_path_with_one_slash_is_not_sought_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "data" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecordError, match="data/mine: not a data source"):
        sources.load_problems("data/mine")


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"none\.jsonl: no such file"):
        sources.load_problems(str(tmp_path / "none.jsonl"))


def test_a_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").mkdir()
    with pytest.raises(RecordError, match=r"x\.jsonl: is a folder"):
        sources.load_problems(str(tmp_path / "x.jsonl"))


@pytest.mark.parametrize(
    ("second", "told"),
    [
        ('{"question": ', "not valid JSON"),
        ([1], "expected a JSON object, found list"),
        ({"question": "Q?"}, "missing ground truth"),
        (row(2, question=" "), "empty question"),
        (row(2, ground_truth=["x"]), "must be text, not list"),
        (row(1, ground_truth="other"), 'id "p1" was used before for another record; ids must be unique'),
        (row(1, question="Other?"), 'id "p1" was used before'),
    ],
)
def test_a_bad_row_tells_file_and_line(make, second: object, told: str) -> None:
    source = make(row(1), "", second, row(3))
    with pytest.raises(RecordError) as caught:
        sources.load_problems(source)
    assert str(caught.value).startswith(f"{source}:3: ")
    assert told in str(caught.value)


def test_the_same_row_twice_counts_once(make) -> None:
    assert len(sources.load_problems(make(row(1), row(2), row(1)))) == 2


@pytest.mark.parametrize(("name", "rows"), [("e.jsonl", ()), ("e.jsonl", ("", "  ")), ("e.json", ())])
def test_an_empty_file_is_told(make, name: str, rows: tuple[str, ...]) -> None:
    source = make(*rows, name=name)
    with pytest.raises(RecordError) as caught:
        sources.load_sft(source)
    assert str(caught.value) == f"{source}: holds no rows"


def test_a_limit_draws_by_seed_and_keeps_the_files_order(make) -> None:
    source = make(*(row(n) for n in range(40)))
    whole = sources.load_problems(source)
    drawn = {seed: sources.load_problems(source, limit=10, seed=seed) for seed in (0, 1)}
    assert drawn[0] == sources.load_problems(source, limit=10, seed=0)
    assert drawn[0] != drawn[1]
    for records in drawn.values():
        assert len(records) == 10
        assert records == [record for record in whole if record in records]
        assert records != whole[:10]  # drawn from everywhere, not cut off the top
    for limit in (None, 40, 41):
        assert sources.load_problems(source, limit=limit, seed=1) == whole


def fake_library(load_dataset) -> types.SimpleNamespace:
    """Return a stand-in for `datasets` with a data set whose files are no text."""
    files = {"train": ["hf://datasets/org/name@main/train.parquet"]}
    builder = types.SimpleNamespace(config=types.SimpleNamespace(data_files=files))
    return types.SimpleNamespace(load_dataset=load_dataset, load_dataset_builder=lambda *_, **__: builder)


@pytest.mark.parametrize(
    ("source", "asked"),
    [
        ("org/name", ("org/name", None, "train")),
        ("org/name:en", ("org/name", "en", "train")),
        ("org/name#test", ("org/name", None, "test")),
        ("org/name:en_mix#train[:10%]", ("org/name", "en_mix", "train[:10%]")),
    ],
)
def test_a_hub_source_names_set_config_and_split(monkeypatch: pytest.MonkeyPatch, source: str, asked: tuple) -> None:
    calls = []

    def load_dataset(name: str, config: str | None, **options: object) -> list[dict]:
        calls.append((name, config, options.pop("split")))
        assert not options  # above all no trust_remote_code
        return [row(0), {"Open-ended Verifiable Question": "Open?", "Ground-True Answer": "copper"}]

    monkeypatch.setitem(sys.modules, "datasets", fake_library(load_dataset))
    assert [problem.ground_truth for problem in sources.load_problems(source)] == ["answer 0", "copper"]
    assert calls == [asked]


def test_a_hub_row_that_is_bad_and_a_hub_that_fails_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = fake_library(lambda *_, **__: [row(0), {"question": "Q?"}])
    monkeypatch.setitem(sys.modules, "datasets", fake)
    with pytest.raises(RecordError, match=r"^org/name\[1\]: missing ground truth"):
        sources.load_problems("org/name")

    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("no route to host\nlong trace")

    fake.load_dataset = fail
    with pytest.raises(RecordError, match="loaded from the Hub \\(HF_HUB_OFFLINE is set\\); check the name"):
        sources.load_problems("org/name")
    monkeypatch.setattr(hub_access, "failure", lambda: None)  # the network is there, and fails all the same
    with pytest.raises(RecordError, match=r"ConnectionError: no route to host\); check the name, your network and HF"):
        sources.load_problems("org/name")


def test_a_table_is_read_with_the_place_of_each_row(tmp_path: Path) -> None:
    path = tmp_path / "exam.csv"
    path.write_text('\ufeffQuestion,Options,Answer\n甲？,"A 一\nB 二",A\n"乙, ""丙""？","A 一\nB 二",B\n', "utf-8")
    assert list(sources.rows(str(path))) == [
        (f"{path}:3", {"Question": "甲？", "Options": "A 一\nB 二", "Answer": "A"}),
        (f"{path}:5", {"Question": '乙, "丙"？', "Options": "A 一\nB 二", "Answer": "B"}),
    ]
    assert [exam.answer for exam in sources.load_exams(str(path))] == ["一", "二"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"a,b\n1,2\n3\n", "exam.csv:3: the row has more or fewer cells"),
        (b"a,b\n1,2,3\n", "exam.csv:2: the row has more or fewer cells"),
        ("a\nSjögren\n".encode("latin-1"), "not UTF-8 text"),
        (b'a\n"x"y\n', "not a table of comma-separated values"),
    ],
)
def test_a_damaged_table_is_told(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "exam.csv"
    path.write_bytes(content)
    with pytest.raises(RecordError, match=told):
        list(sources.rows(str(path)))
    with pytest.raises(RecordError, match=r"none\.csv: cannot be read"):
        list(sources.rows(str(tmp_path / "none.csv")))


def test_exams_come_one_at_a_time_with_what_is_wrong_in_their_place(make) -> None:
    exam = {"question": "Q?", "options": {"A": "one", "B": "two"}, "answer_idx": "B"}
    source = make(exam, {**exam, "answer_idx": "C"})
    (_, first, good), (where, _, bad) = sources.iter_exams(source)
    assert (first, good.answer) == (exam, "two")
    assert isinstance(bad, RecordError)
    assert str(bad).startswith(f"{where}: answer is no option")
    with pytest.raises(RecordError, match="answer is no option"):
        sources.load_exams(source)


@pytest.mark.parametrize(("cops", "answers"), [([0, 1, 3], "one two four"), ([1, 2, 4], "one two four")])
@pytest.mark.parametrize("first", [None, {"cop": None}, {"cop": -1}, {"opa": "x", "opb": "y", "answer_idx": "A"}])
def test_medmcqa_rows_are_read_by_where_their_file_counts_from(
    make, cops: list[int], answers: str, first: dict | None
) -> None:
    """A gap before the first `cop` ended the look: files that count from 1 were read as if from 0."""
    options = {"opa": "one", "opb": "two", "opc": "three", "opd": "four"}
    rows = [{"id": f"m{cop}", "question": "Q?", **options, "cop": cop} for cop in cops]
    source = make(*([{"id": "m", "question": "Q?", **options, **first}] if first else []), *rows)
    found = [exam.answer for _, row, exam in sources.iter_exams(source) if (row["id"] != "m")]
    assert found == answers.split()
    if not first:
        assert [exam.answer for exam in sources.load_exams(source)] == found


def medmcqa(id: str, cop: int, **fields: object) -> dict:
    return {"id": id, "question": "Q?", "opa": "one", "opb": "two", "opc": "three", "opd": "four", "cop": cop, **fields}


def test_a_file_of_two_countings_is_refused_with_both_places_unless_its_rows_say_whose_they_are(make) -> None:
    with pytest.raises(RecordError, match=r"only count from 0 in .*jsonl:3, and only from 1 in .*jsonl:2; give"):
        list(sources.iter_exams(make(medmcqa("a", 2), medmcqa("b", 4), medmcqa("c", 0))))
    two = make(*(medmcqa(f"{of}{n}", n, source=of) for of, counts in (("x", (0, 3)), ("y", (1, 4))) for n in counts))
    assert [exam.answer for _, _, exam in sources.iter_exams(two)] == ["one", "four", "one", "four"]


def test_a_file_that_does_not_tell_where_it_counts_from_is_refused_unless_told(make) -> None:
    source = make(medmcqa("a", 1), medmcqa("b", 3))
    with pytest.raises(RecordError, match=r"may count from 0 .* or from 1 .* --cop-base"):
        list(sources.iter_exams(source))
    assert [exam.answer for _, _, exam in sources.iter_exams(source, base=1)] == ["one", "three"]
    beside = make(medmcqa("a", 1), medmcqa("b", 3, answer_idx="C"))  # one row says it in letters too
    assert [exam.answer for _, _, exam in sources.iter_exams(beside)] == ["one", "three"]
    assert not [exam for _, _, exam in sources.iter_exams(make(medmcqa("a", -1))) if not isinstance(exam, RecordError)]
