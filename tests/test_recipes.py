"""The shipped recipes are whole and say where their numbers come from; what is wrong with a recipe is told in full."""

import re
from pathlib import Path

import pytest
import yaml

from lite_huatuo import recipe as recipes
from lite_huatuo.data import sources
from lite_huatuo.errors import RecipeError
from lite_huatuo.planning import cards, launch
from lite_huatuo.planning import plan as plans
from lite_huatuo.processes import ALONE, Processes

VARIANTS = {"llama70b-48gb": "llama70b", "llama8b-12gb": "llama8b", "qwen72b-48gb": "qwen72b", "qwen7b-12gb": "qwen7b"}
NAMES = sorted(["demo", "llama70b", "llama8b", "qwen72b", "qwen7b", "qwen7b-zh", *VARIANTS])
GPU_NAMES = [name for name in NAMES if name != "demo"]


def tree(name: str = "demo") -> dict:
    return yaml.safe_load(recipes.text(name)[1])


def flat(tree: dict, prefix: str = "") -> dict:
    inner = {f"{prefix}{key}.": value for key, value in tree.items() if isinstance(value, dict)}
    alone = {f"{prefix}{key}": value for key, value in tree.items() if not isinstance(value, dict)}
    return alone | {key: leaf for path, value in inner.items() for key, leaf in flat(value, path).items()}


def header(name: str) -> str:
    lines = recipes.text(name)[1].split("\n")
    return "\n".join(lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))])


def problems(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        recipes.load(str(path), overrides)
    return str(caught.value).split("\n")


@pytest.fixture
def mine(tmp_path):
    """Write a changed demo recipe; return its path."""

    def write(change) -> Path:
        changed = tree()
        change(changed)
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump(changed), encoding="utf-8")
        return path

    return write


def test_these_recipes_are_shipped():
    assert recipes.names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_recipe_loads_and_is_named_as_its_file(name):
    assert recipes.load(name).name == name


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_recipe_is_40_to_90_lines(name):
    assert 40 <= len(recipes.text(name)[1].splitlines()) <= 90


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("line", ["# Trains: ", "# Needs: ", "# Launch: ", "# Measured: "])
def test_the_header_tells(name, line):
    assert line in header(name)


@pytest.mark.parametrize("name", NAMES)
def test_the_header_begins_with_a_purpose_and_launches_this_recipe(name):
    assert header(name).startswith(f"# {name}: ")
    assert f"lite-huatuo train --recipe {name}\n" in header(name)


@pytest.mark.parametrize("name", GPU_NAMES)
def test_what_no_gpu_has_run_is_not_called_measured(name):
    assert "not measured." in header(name).partition("# Measured: ")[2]
    needs = " ".join(header(name).partition("# Needs:")[2].replace("#", " ").split())
    assert "predicted by `lite-huatuo plan`, not measured on a GPU" in needs


@pytest.mark.parametrize("name", GPU_NAMES)
def test_every_section_is_written_out(name):
    assert {"base", "adapter", "data", "verifier", "sft", "ppo", "eval", "export", "launch"} <= set(tree(name))


@pytest.mark.parametrize("name", GPU_NAMES)
@pytest.mark.parametrize(
    "key",
    [
        "kl_coef",
        "gamma",
        "gae_lambda",
        "clip_range",
        "value_coef",
        "learning_rate",
        "total_episodes",
        "episodes",
        "epochs",
        "temperature",
        "max_reply_length",
        "critic_gae_lambda",
        "critic_warmup_updates",
    ],
)
def test_a_number_of_the_paper_or_a_departure_carries_its_source(name, key):
    ppo = recipes.text(name)[1].partition("\nppo:\n")[2].partition("\neval:\n")[0]
    line = next(line for line in ppo.split("\n") if line.strip().startswith(f"{key}:"))
    assert any(source in line.partition("#")[2] for source in ("paper", "published code", "departure: "))


@pytest.mark.parametrize(
    "recipe",
    [
        recipes.load("llama8b"),
        recipes.check({"name": "n", "base": {"model": "a/b"}, "data": {"sft": "a/b", "problems": "a/b"}}, "defaults"),
    ],
    ids=["llama8b", "schema defaults"],
)
def test_the_papers_values(recipe):
    ppo, sft = recipe.ppo, recipe.sft
    assert (ppo.kl_coef, ppo.gamma, ppo.clip_range, ppo.value_coef) == (0.03, 1.0, 0.2, 1.0)
    assert (sft.epochs, ppo.epochs) == (3.0, 3)
    assert (sft.batch_size, ppo.rollout.episodes) == (128, 128)
    assert (ppo.gae_lambda, ppo.rollout.temperature) == (0.95, 0.5)
    assert (ppo.rollout.max_reply_length, ppo.total_episodes) == (1300, 20_000)
    assert (ppo.critic_warmup_updates, ppo.critic_gae_lambda) == (0, None)


@pytest.mark.parametrize(("name", "parent"), VARIANTS.items())
def test_a_variant_differs_in_memory_only(name, parent):
    memory = {
        *("name", "base.backend", "sft.microbatch_size", "sft.optimizer", "ppo.optimizer", "ppo.microbatch_tokens"),
        *("ppo.rollout.batch_size", "eval.batch_size", "launch.processes", "launch.strategy"),
    }
    one, other = (flat(recipes.load(each).model_dump()) for each in (name, parent))
    assert {key for key in one if one[key] != other[key]} <= memory


@pytest.mark.parametrize(
    ("name", "card"),
    [
        ("qwen7b", "24gb"), ("qwen7b-zh", "24gb"), ("llama8b", "24gb"), ("qwen7b-12gb", "12gb"),
        ("llama8b-12gb", "12gb"), ("qwen72b", "80gb"), ("llama70b", "80gb"), ("qwen72b-48gb", "l40s"),
        ("llama70b-48gb", "l40s"),
    ],
)  # fmt: skip
def test_a_recipe_fits_the_cards_it_is_for_and_its_processes_can_be_started(name, card):
    recipe = recipes.load(name)
    shape, _ = plans.shape_of(recipe)
    made = plans.make(recipe, shape, cards.find(card), cards=recipe.launch.processes)
    assert made.peak.total <= 0.87 * made.card.bytes  # a prediction: an eighth is left for what it does not know
    launch.check(recipe, recipe.launch.processes)
    count = recipe.launch.processes * recipe.sft.microbatch_size
    assert recipe.sft.batch_size % count == 0  # no filler rows
    assert launch.accelerate_config(recipe.launch.processes)["num_processes"] == recipe.launch.processes


def test_llama8b_is_the_schemas_defaults_in_both_stages():
    recipe = recipes.load("llama8b")
    assert recipe.sft == recipes.SFT()
    assert recipe.ppo == recipes.PPO()


@pytest.mark.parametrize("name", GPU_NAMES)
def test_the_other_students_keep_the_papers_method(name):
    ppo, paper = recipes.load(name).ppo, recipes.PPO()
    kept = (
        "kl_coef",
        "gamma",
        "gae_lambda",
        "clip_range",
        "value_clip_range",
        "value_coef",
        "epochs",
        "minibatches",
        "total_episodes",
    )
    assert {key: getattr(ppo, key) for key in kept} == {key: getattr(paper, key) for key in kept}
    assert ppo.rollout.model_dump(exclude={"batch_size"}) == paper.rollout.model_dump(exclude={"batch_size"})


@pytest.mark.parametrize("name", ["qwen72b", "llama70b"])
def test_the_large_students_use_eight_cards_or_share_a_base_over_four(name):
    large, small = recipes.load(name), recipes.load(f"{name}-48gb")
    assert (large.launch.processes, large.launch.strategy) == (8, "ddp")
    assert large.placement(Processes(1, 8)) == {}
    assert (small.launch.processes, small.launch.strategy) == (4, "fsdp2")
    assert small.placement(Processes(1, 4)) == {"sharded": Processes(1, 4)}
    assert small.placement(ALONE) == {}  # eval, chat: one process, one card


@pytest.mark.parametrize("name", ["qwen72b-48gb", "llama70b-48gb"])
def test_the_header_says_what_a_rollout_gathers_on_its_cards(name):
    recipe = recipes.load(name)
    shape, _ = plans.shape_of(recipe)
    made = plans.make(recipe, shape, cards.find("l40s"), cards=4)  # of 48 GB cards the one with the least room
    (note,) = (note for note in made.notes if "rollout" in note)
    gib, hours = re.search(r"each step gathers ([\d.]+) GiB .* at most (\d+) hours", note).groups()
    text = " ".join(recipes.text(name)[1].replace("#", " ").split())
    assert f"every step of one gathers {gib} GiB: in stage 2 at most {hours} hours at an assumed 25 GB/s" in text
    assert "gathers the base's layers once" in plans.make(recipe, shape, cards.find("a100"), cards=4).notes[-1]


@pytest.mark.parametrize("name", ["demo", "qwen7b-zh"])
def test_shipped_problems_suffice_for_the_recipe_that_names_them(name):
    recipe = recipes.load(name)
    found = sources.load_problems(recipe.data.problems)
    assert len(found) > recipe.ppo.selection_problems
    assert sources.load_problems(recipe.data.heldout)


def test_a_recipe_loads_from_any_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert recipes.load("demo").name == "demo"


def test_a_recipe_loads_from_a_path(mine):
    assert recipes.load(str(mine(lambda t: t.update(name="my own")))).name == "my own"


def test_an_unknown_key_is_told_with_file_path_and_the_nearest_key(mine):
    path = mine(lambda t: t["ppo"].update(kl_coeff=0.1))
    assert problems(path) == [f"{path}: ppo.kl_coeff: unknown key; did you mean kl_coef?"]


def test_an_unknown_key_of_a_section_in_a_section(mine):
    path = mine(lambda t: t["ppo"]["rollout"].update(temprature=0.1))
    assert problems(path) == [f"{path}: ppo.rollout.temprature: unknown key; did you mean temperature?"]


def test_an_unknown_section_far_from_any_names_those_there_are(mine):
    (line,) = problems(mine(lambda t: t.update(xyzzy={})))
    assert "xyzzy: unknown key; known keys: name, base, adapter, data" in line


def test_a_wrong_type_tells_what_it_was(mine):
    (line,) = problems(mine(lambda t: t["sft"].update(batch_size="eight")))
    assert "sft.batch_size" in line
    assert "'eight'" in line


def test_a_number_in_quotes_is_not_quietly_converted(mine):
    (line,) = problems(mine(lambda t: t["sft"].update(batch_size="8")))
    assert "sft.batch_size" in line


@pytest.mark.parametrize("value", ["eight", "32", 0, 2.5])
def test_replies_at_once_are_a_count_or_auto(mine, value):
    lines = problems(mine(lambda t: t["ppo"]["rollout"].update(batch_size=value)))
    assert [line.partition(": ")[2].partition(": ")[0] for line in lines] == ["ppo.rollout.batch_size"] * 2
    assert any("input should be 'auto'" in line for line in lines)


def test_all_problems_are_told_at_once_each_with_file_and_path(mine):
    def spoil(t):
        t["ppo"].update(kl_coeff=0.1, gamma=2.0)
        t["sft"].update(batch_size="eight")
        del t["data"]["problems"]

    path = mine(spoil)
    told = problems(path)
    assert all(line.startswith(f"{path}: ") for line in told)
    paths = {line.removeprefix(f"{path}: ").partition(":")[0] for line in told}
    assert paths == {"ppo.kl_coeff", "ppo.gamma", "sft.batch_size", "data.problems"}


def test_lengths_that_cannot_fit_tell_the_length_that_does(mine):
    (line,) = problems(mine(lambda t: t["base"].update(max_length=100)))
    assert "base.max_length: 100 is less than" in line
    assert "raise it to 304" in line


def test_a_set_value_is_typed():
    recipe = recipes.load(
        "demo",
        (
            "ppo.kl_coef=0.05",
            "sft.batch_size=4",
            "ppo.rollout.episodes=32",
            "adapter.targets=[q_proj, v_proj]",
            "report_to=[wandb]",
            "ppo.select_best=false",
        ),
    )
    assert (recipe.ppo.kl_coef, recipe.sft.batch_size, recipe.ppo.rollout.episodes) == (0.05, 4, 32)
    assert (recipe.adapter.targets, recipe.report_to) == (["q_proj", "v_proj"], ["wandb"])
    assert recipe.ppo.select_best is False


def test_set_reaches_a_section_the_file_leaves_out():
    assert recipes.load("demo", ("launch.strategy=fsdp2",)).launch.strategy == "fsdp2"


def test_a_strategy_that_was_removed_says_what_to_use():
    with pytest.raises(RecipeError, match=r"launch\.strategy: pipeline was removed; use fsdp2"):
        recipes.load("qwen7b", ("launch.strategy=pipeline",))


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("ppo.kl_coef", "expected key.path=value"),
        ("=3", "expected key.path=value"),
        ("ppo..kl_coef=3", "expected key.path=value"),
        ("name.first=x", "name is not a section"),
        ("ppo.kl_coef=[", "not valid YAML"),
        ("ppo.kl_coef=much", "ppo.kl_coef"),
        ("ppo.kl_cof=1", "did you mean kl_coef?"),
    ],
)
def test_a_bad_set_is_told(override, told):
    with pytest.raises(RecipeError) as caught:
        recipes.load("demo", (override,))
    assert told in str(caught.value)


def test_5e_7_without_a_dot_is_a_number(tmp_path):
    text, replaced = re.subn(r"\blearning_rate: \S+", "learning_rate: 5e-7", recipes.text("demo")[1])
    assert replaced == 2  # of SFT and of PPO
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    assert recipes.load(str(path)).ppo.learning_rate == 5e-7
    assert recipes.load("demo", ("ppo.learning_rate=5e-7",)).ppo.learning_rate == 5e-7


def test_an_unknown_name_suggests_the_nearest_or_lists_all():
    for name, said in (("lama8b", r"did you mean llama8b\?"), ("gigantic", "there are demo, llama70b")):
        with pytest.raises(RecipeError, match=f"{name}: no such recipe or file; {said}"):
            recipes.load(name)


@pytest.mark.parametrize(
    ("text", "told"),
    [("a: [1", "not valid YAML"), ("- a\n- b\n", "a mapping of sections"), ("", "a mapping of sections")],
)
def test_a_file_that_is_no_recipe(tmp_path, text, told):
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    (line,) = problems(path)
    assert line.startswith(f"{path}: ")
    assert told in line
