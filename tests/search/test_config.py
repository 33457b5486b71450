"""study.toml: every error of a file at once, each with its line, its key and its fix."""

from __future__ import annotations

import math
import tomllib
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search import config, home
from search.errors import ConfigError
from search.parameters import Choice, FloatRange, IntRange
from search.studyfile import Places
from train.until import next_time

LINES = """\
[study]
name = "night"
trials = 8
budget_hours = 2.0

[machine]
device = "cpu"

[base]
model = "model"

[[data]]
name = "clean"
path = "clean.jsonl"

[[data]]
name = "noisy"
path = "noisy.jsonl"

[[data]]
name = "pairs"
path = "pairs.jsonl"
use = "preference"

[objective]
prompts = "prompts.jsonl"

[recipe]
examples = 1600
micro_batch_size = 4

[space]
learning_rate = { low = 1e-5, high = 1e-3, log = true }
rank = { choices = [8, 16, 32] }
batch_size = { choices = [8, 16] }
rows = { low = 200, high = 2000, step = 200 }
"weight.noisy" = { low = 0.0, high = 1.0 }
dpo_share = { choices = [0.0, 0.25] }
dpo_beta = { low = 0.05, high = 0.5, log = true }

[[prior]]
name = "usual"
learning_rate = 2e-4
rank = 16
rows = 600
""".splitlines()


def write(folder: Path, *edits: tuple[str, str], text: str | None = None) -> Path:
    """The study above with whole lines replaced; a line that is replaced by "" keeps its place."""
    lines = list(LINES)
    for old, new in edits:
        lines[lines.index(old)] = new
    path = folder / "study.toml"
    path.write_text("\n".join(lines) + "\n" if text is None else text, encoding="utf-8")
    return path


PROMPTS = 'prompts = "prompts.jsonl"'


def problems(path: Path) -> list[str]:
    """The lines of the ConfigError, without the folder."""
    with pytest.raises(ConfigError) as caught:
        config.load(path)
    return [line.replace(f"{path.parent}/", "") for line in str(caught.value).split("\n")]


def line_of(text: str) -> int:
    return LINES.index(text) + 1


def test_a_good_file_is_read_whole(tmp_path: Path) -> None:
    read = config.load(write(tmp_path))
    assert (read.study.name, read.study.trials, read.study.until, read.machine.threads) == ("night", 8, None, 1)
    assert read.space["learning_rate"] == FloatRange(low=1e-5, high=1e-3, log=True)
    assert read.space["rows"] == IntRange(low=200, high=2000, step=200)
    assert read.space["dpo_share"] == Choice(choices=(0.0, 0.25))
    assert read.prior[0].params == {"learning_rate": 2e-4, "rank": 16, "rows": 600}
    assert read.recipe == {"examples": 1600, "micro_batch_size": 4}


def test_paths_are_relative_to_the_file_and_hub_ids_are_left_alone(tmp_path: Path) -> None:
    read = config.load(write(tmp_path))
    assert [source.path for source in read.data] == [str(tmp_path / f"{n}.jsonl") for n in ("clean", "noisy", "pairs")]
    assert read.objective.prompts == tmp_path / "prompts.jsonl"
    assert read.base.model == "model"  # nothing of that name here: an id
    (tmp_path / "model").mkdir()
    assert config.load(tmp_path / "study.toml").base.model == str(tmp_path / "model")


def test_a_missing_folder_that_is_written_as_a_path_stays_a_path(tmp_path: Path) -> None:
    read = config.load(write(tmp_path, ('model = "model"', 'model = "./gone"')))
    assert read.base.model == str(tmp_path / "gone")


def test_a_copy_in_another_folder_means_the_same(tmp_path: Path) -> None:
    original = config.load(write(tmp_path))
    copy = tmp_path / "studies" / "night" / "study.toml"
    copy.parent.mkdir(parents=True)
    copy.write_text(original.portable_text, encoding="utf-8")
    again = config.load(copy)
    assert again.model_dump(exclude={"path", "text"}) == original.model_dump(exclude={"path", "text"})
    assert again.portable_text == again.text


@pytest.mark.parametrize(
    ("asked", "stages"),
    [("", (24, 48)), ("subset = 40", (24,)), ("subset = 8", ()), ("stages = [8]", (8,)), ("stages = []", ())],
)
def test_stages_that_nobody_gave_are_those_below_the_subset(
    tmp_path: Path, asked: str, stages: tuple[int, ...]
) -> None:
    read = config.load(write(tmp_path, (PROMPTS, f"{PROMPTS}\n{asked}")))
    assert read.objective.stages == stages


def test_every_error_is_told_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        ('name = "night"', 'name = "../night"'),
        ("trials = 8", 'trials = "8"'),
        ('device = "cpu"', 'devise = "cpu"'),
        ("rank = { choices = [8, 16, 32] }", "rank = { choices = [8, 16, 8] }"),
        ("rows = 600", "rows = 700"),
    )
    found = problems(path)
    places = [int(line.split(":")[1]) for line in found]
    assert places == sorted(places) == [2, 3, 7, line_of("rank = { choices = [8, 16, 32] }"), line_of("rows = 600")]


BAD = [
    # line to replace, what it becomes, what is said about it
    ('name = "night"', 'name = "../x"', '[study] name: it is "../x"; it must be lower-case letters'),
    ('name = "night"', 'name = ""', "[a-z0-9][a-z0-9_-]{0,63}"),
    ('name = "night"', f'name = "{"x" * 101}"', "at most 64"),
    ('name = "night"', 'name = "a\\u0000b"', "[study] name: it is"),
    ("trials = 8", 'trials = "8"', '[study] trials: it is "8", which is text; it must be a whole number; leave out'),
    ("trials = 8", "trials = true", "[study] trials: it is true, a truth value; it must be a whole number"),
    ("trials = 8", "trials = 8.5", "[study] trials: it is 8.5, a fraction; it must be a whole number"),
    ("trials = 8", "trials = 0", "[study] trials: it is 0; it must be at least 1"),
    ("trials = 8", "trails = 8", "[study] trails: unknown key; did you mean trials?"),
    ("budget_hours = 2.0", "budget_hours = 0", "[study] budget_hours: it is 0; it must be above 0"),
    ("budget_hours = 2.0", "budget_hours = -1.5", "[study] budget_hours: it is -1.5; it must be above 0"),
    ("budget_hours = 2.0", "budget_hours = nan", "[study] budget_hours: it is nan; it must be a finite number above 0"),
    ("budget_hours = 2.0", "budget_hours = inf", "[study] budget_hours: it is inf; it must be a finite number above 0"),
    ("budget_hours = 2.0", 'until = "3:00"', '[study] until: it is "3:00"; it must be a time of day like "03:00"'),
    ("budget_hours = 2.0", 'until = "24:00"', 'from "00:00" to "23:59"'),
    ("budget_hours = 2.0", "until = 03:00:00", "[study] until: it is 03:00:00; it must be text in quotes; put it in"),
    ("budget_hours = 2.0", "rungs = [0.5, 0.25, 1.0]", "[study]: rungs must rise from above 0 to exactly 1.0"),
    ("budget_hours = 2.0", "rungs = []", "[study] rungs: it is empty"),
    ('device = "cpu"', 'device = "gpu"', "[machine] device: it is \"gpu\"; it must be 'cuda' or 'cpu'"),
    ('device = "cpu"', "memory_gib = 0", "[machine] memory_gib: it is 0; it must be above 0"),
    ('model = "model"', "model = 5", '[base] model: it is 5; it must be text in quotes; put it in quotes: "5"'),
    ('model = "model"', "", "[base] model: it is missing"),
    ('model = "model"', 'model = "a/b"\nrevision = "main"', '[base] revision: it is "main"; it must be the 40 hex'),
    (
        'path = "clean.jsonl"',
        'path = "a"\nhub = "b/c"',
        "[[data]] clean: data source 'clean' needs exactly one of path",
    ),
    ('path = "clean.jsonl"', 'path = "a"\nweight = -1.0', "[[data]] clean weight: it is -1.0; it must be at least 0"),
    ('name = "clean"', 'name = "noisy"', "[[data]] noisy name: 2 entries have this name; give each its own"),
    ('use = "preference"', 'use = "dpo"', "[[data]] pairs use: it is \"dpo\"; it must be 'sft' or 'preference'"),
    ('prompts = "prompts.jsonl"', "", "[objective] prompts: it is missing"),
    ('prompts = "prompts.jsonl"', 'prompts = "p"\nsubset = 0', "[objective] subset: it is 0; it must be at least 1"),
    (PROMPTS, PROMPTS + "\nstages = [48, 24]", "[objective] stages: stages must rise from 1 or more on, like"),
    (PROMPTS, PROMPTS + "\nstages = [24, 64]", "stages: every stage must be below subset, which is 64; 64 is not"),
    (PROMPTS, PROMPTS + "\nstages = [0]", "[objective] stages: stages must rise from 1 or more on, like"),
    (PROMPTS, PROMPTS + "\nstages = 24", "[objective] stages: it is 24; it must be a list"),
    (PROMPTS, PROMPTS + "\nerror_rate = 1.0", "[objective] error_rate: it is 1.0; it must be above 0 and below 1"),
    (PROMPTS, PROMPTS + "\ndecided_rows = 1", "[objective] decided_rows: it is 1; it must be true or false"),
    ("examples = 1600", "", "[recipe]: examples is missing"),
    ("examples = 1600", "examples = 12", "[space] batch_size: a batch of 16 is more than all 12 examples of a trial"),
    ("micro_batch_size = 4", "micro_batch_size = 3", "[space] batch_size: 8 is no multiple of micro_batch_size, which"),
    ("micro_batch_size = 4", "lr = 0.1", "[recipe] lr: unknown key; did you mean learning_rate?"),
    ("micro_batch_size = 4", "seed = 1", "[recipe] seed: this is not set here: "),
    ("micro_batch_size = 4", "dropout = 1.0", "[recipe] dropout: it is 1.0; it must be at least 0 and below 1"),
    ("micro_batch_size = 4", "rank = 4", "[space] rank: this is also set in [recipe] on line 30; keep one of the two"),
]
SPACE = [
    ("{ low = 0.1, high = 0.01 }", "low 0.1 is above high 0.01; swap them"),
    (
        "{ low = 0.0, high = 0.01, log = true }",
        "log = true needs a low above 0, and low is 0; raise it or leave log out",
    ),
    ("{ low = 0.0, high = 1.0 }", "it is 0.0; it must be above 0 and at most 1"),
    ("{ low = 0.1, high = 7.0 }", "it is 7.0; it must be above 0 and at most 1"),
    ("{ low = 0.1, high = inf }", "high: it is inf; it must be a finite number"),
    ("{ low = 0.1, high = 0.2, step = 0.0 }", "step: it is 0.0; it must be above 0"),
    (
        "{ low = 0.1, high = 0.25, step = 0.1 }",
        "high 0.25 is not low plus a multiple of step 0.1; the nearest below is 0.2",
    ),
    ("{ low = 0.1, high = 0.2, step = 0.1, log = true }", "log and step exclude each other"),
    ('{ low = "1e-5", high = 0.2 }', 'low: it is "1e-5", which is text; it must be a number; leave out the quotes'),
    ("{ low = 0.1 }", "high: it is missing"),
    ("{ low = 0.1, high = 0.2, logg = true }", "logg: unknown key; did you mean log?"),
    ("{ choices = [] }", "choices: it is empty"),
    ("{ choices = [0.1, 0.2, 0.1] }", "choices holds 0.1 twice; keep one"),
    ("{ choices = [1, 1.0] }", "choices holds 1.0 twice; keep one"),
    ("{ choices = [0.1, true] }", "it is true, a truth value; it must be a number"),
    ("{ choices = [0.1, [0.2]] }", "choices: a list is no number, text or truth value"),
    ("[0.1, 0.2]", "it is a list; write { choices = [...] }"),
    ("0.1", "it is 0.1, one fixed value, which belongs in [recipe]"),
]


@pytest.mark.parametrize(("old", "new", "said"), BAD, ids=[new or f"no {old}" for old, new, _ in BAD])
def test_a_bad_line_is_named_with_its_fix(tmp_path: Path, old: str, new: str, said: str) -> None:
    found = problems(write(tmp_path, (old, new)))
    assert any(said in line for line in found), found
    assert len(found) == 1, found


@pytest.mark.parametrize(("new", "said"), SPACE, ids=[new for new, _ in SPACE])
def test_a_bad_range_is_named_with_its_fix(tmp_path: Path, new: str, said: str) -> None:
    old = "learning_rate = { low = 1e-5, high = 1e-3, log = true }"
    path = write(tmp_path, (old, f"learning_rate = {new}"), ("learning_rate = 2e-4", ""))
    found = problems(path)
    assert found[0].startswith(f"study.toml:{line_of(old)}: [space] learning_rate: {said}"), found
    assert len(found) == 1, found


@pytest.mark.parametrize(
    ("new", "said"),
    [
        ("learning_rat = { low = 0.1, high = 0.2 }", "learning_rat: unknown key; did you mean learning_rate?"),
        ("examples = { low = 100, high = 200 }", "examples: it cannot be searched: it is the length of a trial"),
        ("seed = { low = 1, high = 2 }", "seed: it cannot be searched: searching for luck"),
        ('"weight.noise" = { low = 0.0, high = 1.0 }', "weight.noise: no [[data]] has this name; did you mean noisy?"),
        (
            '"weight.pairs" = { low = 0.5, high = 1.0 }',
            "weight.pairs: it changes nothing: pairs is the only preference",
        ),
        ('targets = { choices = ["all"] }', "targets: it is \"all\"; it must be 'all-linear', 'attention'"),
        (
            "targets = { low = 1, high = 2 }",
            "targets: it is no number; write { choices = [...] } with some of all-linear",
        ),
        ("max_length = { low = 64.0, high = 128.0 }", "max_length: low: it is 64.0, a fraction; it must be a whole"),
    ],
)
def test_what_cannot_be_searched_says_why(tmp_path: Path, new: str, said: str) -> None:
    found = problems(write(tmp_path, ('"weight.noisy" = { low = 0.0, high = 1.0 }', new)))
    assert f"[space] {said}" in found[0], found


def test_weights_that_can_all_be_zero_are_refused(tmp_path: Path) -> None:
    found = problems(write(tmp_path, ('name = "clean"', 'name = "clean"\nweight = 0.0')))
    assert "the weights of all sft data can be 0 together; give one source a weight or a low above 0" in found[0]


def test_a_weight_set_in_data_and_searched_is_refused(tmp_path: Path) -> None:
    found = problems(write(tmp_path, ('name = "noisy"', 'name = "noisy"\nweight = 0.5')))
    assert "weight.noisy: this is also set in [[data]] on line 18; keep one of the two" in found[0]


def test_an_unquoted_weight_means_the_same(tmp_path: Path) -> None:
    read = config.load(
        write(tmp_path, ('"weight.noisy" = { low = 0.0, high = 1.0 }', "weight.noisy = { low = 0, high = 2 }"))
    )
    assert read.space["weight.noisy"] == FloatRange(low=0.0, high=2.0)


def test_an_empty_space_is_refused(tmp_path: Path) -> None:
    start = LINES.index("[space]")
    for text in ("\n".join(LINES[:start]), "\n".join(LINES[: start + 1])):
        found = problems(write(tmp_path, text=text))
        assert "[space]: the space is empty; add one parameter, like rank = " in found[0]


def test_dpo_needs_preference_data(tmp_path: Path) -> None:
    found = problems(write(tmp_path, ('use = "preference"', "")))
    assert '[space] dpo_share: it is above 0, but no [[data]] has use = "preference"' in found[0]


def test_what_only_dpo_reads_needs_dpo(tmp_path: Path) -> None:
    found = problems(write(tmp_path, ("dpo_share = { choices = [0.0, 0.25] }", "")))
    assert "[space] dpo_beta: it changes nothing, since dpo_share is 0; search that too, or leave this out" in found[0]


@pytest.mark.parametrize(
    ("new", "said"),
    [
        ("rank = 64", "[[prior]] usual rank: it is 64; [space] searches one of 8, 16, 32"),
        ("rank = 16.0", "[[prior]] usual rank: it is 16.0, a fraction; it must be a whole number"),
        ("learning_rate = 0.5", "[[prior]] usual learning_rate: it is 0.5; [space] searches 1e-05 to 0.001"),
        ("rows = 700", "[[prior]] usual rows: it is 700; [space] searches 200 to 2000 in steps of 200"),
        ("rang = 8", "[[prior]] usual rang: [space] does not search this; did you mean rank?"),
        ("dropout = 0.1", "[[prior]] usual dropout: [space] does not search this"),
        ("dpo_share = 0.0\ndpo_beta = 0.1", "[[prior]] usual dpo_beta: it changes nothing, since dpo_share is 0 here"),
    ],
)
def test_a_prior_has_to_be_in_the_space(tmp_path: Path, new: str, said: str) -> None:
    edits = [(line, "") for line in ("learning_rate = 2e-4", "rank = 16", "rows = 600")]
    found = problems(write(tmp_path, *edits[1:], (edits[0][0], new)))
    assert said in found[0], found
    assert len(found) == 1, found


@pytest.mark.parametrize(
    ("probe", "said"),
    [
        ('sources = ["claen"]', '[probe] sources: claen is no data set with use = "sft"; did you mean clean?'),
        ('sources = ["pairs"]', '[probe] sources: pairs is no data set with use = "sft"'),
        ("rows = 0", "[probe] rows: it is 0; it must be at least 1 and at most 4096"),
    ],
)
def test_the_probe_is_checked(tmp_path: Path, probe: str, said: str) -> None:
    assert said in problems(write(tmp_path, ("[recipe]", f"[probe]\n{probe}\n[recipe]")))[0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[study]\nname = "a', "study.toml:2:"),
        ("[study]\nname = 'a'\nname = 'b'", "study.toml:3: study.name is already there on line 2; keep one of the two"),
        ("[study]\nseed = 1\n[base]\n[study]", "study.toml:4: study is already there on line 1; keep one of the two"),
        ("[study]\nuntil = 03:00", 'a time goes in quotes: until = "03:00"'),
        ("[" * 5000, "study.toml"),
    ],
)
def test_what_is_not_toml_is_shown_by_line_and_column(tmp_path: Path, text: str, said: str) -> None:
    assert said in problems(write(tmp_path, text=text))[0]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("[study]".encode("utf-16"), "study.toml: this is UTF-16 or UTF-32; save it as UTF-8"),
        ('[study]\nname = "caf\xe9"'.encode("latin-1"), "study.toml:2:12: byte 0xe9 is not UTF-8; save it as UTF-8"),
    ],
)
def test_another_encoding_is_named(tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / "study.toml"
    path.write_bytes(data)
    assert problems(path) == [said]


def test_a_byte_order_mark_and_windows_line_ends_are_fine(tmp_path: Path) -> None:
    path = write(tmp_path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert config.load(path).study.name == "night"


def test_a_missing_file_names_the_command_that_writes_one(tmp_path: Path) -> None:
    assert problems(tmp_path / "gone.toml") == ["gone.toml: there is no such file; `nightshift init` writes one"]
    with pytest.raises(ConfigError, match=r"this is a folder; give the study\.toml in it"):
        config.load(tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("study = 5", "study: this must be one table; write [study] on a line of its own"),
        ('[data]\nname = "a"\npath = "b"', "[data]: there may be several of these; write [[data]] with two brackets"),
        ("[spaces]", "[spaces]: unknown section; did you mean space?"),
        ("", "[study]: the section is missing; it needs name"),
        ("", "[base]: the section is missing; it needs model"),
        ("", "[data]: no data set is given; add [[data]] with a name and a path"),
        ('relative_to = "here"', "relative_to: this must be the absolute path of a folder"),
    ],
)
def test_sections_of_the_wrong_shape_are_named(tmp_path: Path, text: str, said: str) -> None:
    assert any(said in line for line in problems(write(tmp_path, text=text)))


KEYS = st.text("abcxyz019_-", min_size=1, max_size=4)
VALUES = st.sampled_from(
    ['"a = 1"', "'[x]'", '"""\nb = 2\n[y]\n"""', "'''\n\"\n'''", "[\n 1, # c = 3\n 2\n]", "{ k = 5 }", "1.5"]
)


@given(
    st.lists(st.tuples(KEYS, VALUES, st.sampled_from(["", "# note = 1", "\n"])), max_size=8, unique_by=lambda e: e[0])
)
def test_every_key_is_found_on_its_line(entries: list[tuple[str, str, str]]) -> None:
    text, lines = "[[t]]\n", {}
    for key, value, trailer in entries:
        lines["t", 0, key] = text.count("\n") + 1
        text += f"{key} = {value} {trailer}\n"
    assert set(tomllib.loads(text)["t"][0]) == {loc[2] for loc in lines}
    places = Places(text)
    assert {loc: places.line(loc) for loc in lines} == lines
    assert places.twice == []


JUNK = st.sampled_from(['""', "nan", "-1", "true", "[]", "{}", "1e400", "1979-05-27", "[[1]]", '"\\u0000"', "9" * 400])


def _aside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder above no other test's: a study.toml is looked for in the folders above, too."""
    folder = tmp_path_factory.getbasetemp() / "junk"
    folder.mkdir(exist_ok=True)
    return folder


@settings(max_examples=150, deadline=None)
@given(number=st.integers(0, len(LINES) - 1), junk=JUNK)
def test_any_value_gives_a_study_or_one_clear_error(
    tmp_path_factory: pytest.TempPathFactory, number: int, junk: str
) -> None:
    key, equals, _ = LINES[number].partition(" = ")
    path = write(_aside(tmp_path_factory), (LINES[number], f"{key} = {junk}" if equals else LINES[number]))
    said = ""
    try:
        config.load(path)
    except ConfigError as error:
        said = str(error)
    assert all(line.startswith(f"{path}:") for line in said.split("\n") if said)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_give_one_clear_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = _aside(tmp_path_factory) / "junk.toml"
    path.write_bytes(data)
    with pytest.raises(ConfigError):
        config.load(path)


@pytest.mark.parametrize("name", home.preset_names())
def test_the_presets_are_valid_and_every_line_of_them_is_at_most_120_wide(tmp_path: Path, name: str) -> None:
    read = config.load(home.write_preset(name, tmp_path))
    assert len(read.space) >= 8
    assert 3 <= len(read.prior) <= 4
    assert max(map(len, read.text.splitlines())) <= 120


# Deadlines

BERLIN = ZoneInfo("Europe/Berlin")  # clocks go back on 2026-10-25 03:00 -> 02:00, forward on 2026-03-29 02:00 -> 03:00
TIMES = st.builds("{:02d}:{:02d}".format, st.integers(0, 23), st.integers(0, 59))


def reading(text: str, fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN, fold=fold).timestamp()


@pytest.mark.parametrize(
    ("now", "until", "expected"),
    [
        ("2026-06-01 22:00:00", "03:00", "2026-06-02 03:00:00"),
        ("2026-06-01 02:59:59", "03:00", "2026-06-01 03:00:00"),
        ("2026-06-01 03:00:00", "03:00", "2026-06-02 03:00:00"),
        ("2026-12-31 23:59:59", "00:00", "2027-01-01 00:00:00"),
        ("2028-02-28 12:00:00", "11:59", "2028-02-29 11:59:00"),
        ("2026-03-28 22:00:00", "03:30", "2026-03-29 03:30:00"),  # one hour fewer away than usual
        ("2026-10-24 22:00:00", "03:30", "2026-10-25 03:30:00"),
    ],
)
def test_until_is_the_next_time_that_the_clock_shows_it(now: str, until: str, expected: str) -> None:
    assert next_time(until, reading(now), BERLIN) == reading(expected)


def test_an_hour_that_comes_twice_is_met_the_first_time_and_then_the_second() -> None:
    first, second = reading("2026-10-25 02:30:00"), reading("2026-10-25 02:30:00", fold=1)
    assert next_time("02:30", first - 60, BERLIN) == first
    assert next_time("02:30", first, BERLIN) == second
    assert next_time("02:30", second - 60, BERLIN) == second


@given(now=st.floats(reading("2020-01-01"), reading("2035-01-01")), until=TIMES)
def test_a_deadline_lies_in_the_next_day_and_never_in_the_past(now: float, until: str) -> None:
    for zone in (BERLIN, None):
        deadline = next_time(until, now, zone)
        assert now < deadline <= now + 25 * 3600
    shown = datetime.fromtimestamp(next_time(until, now, BERLIN), BERLIN)
    if shown.strftime("%H:%M") != until:  # an hour that the clocks skipped
        assert (shown.month, until[:2]) == (3, "02")
    assert math.isfinite(deadline)
