"""The documentation agrees with the code: links, commands, options, the plan's fields and values.

``python -m tests.test_documentation`` rewrites the tables of values in documentation/reference/ from the code.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import re
import shlex
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffatlas_pipeline.commands._converters import CONVERTERS
from diffatlas_pipeline.diffusion.levels import cosine_alpha_bar
from diffatlas_pipeline.methods.base import DiffusionRecipe, Recipe
from diffatlas_pipeline.methods.rba import RegistrationRecipe
from diffatlas_pipeline.methods.registry import METHODS
from diffatlas_pipeline.planning.diffusion_steps import sampled_variance
from diffatlas_pipeline.planning.plan import Plan
from diffatlas_pipeline.planning.topology import PRESETS

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "documentation").rglob("*.md")])
PLAN_PAGE = ROOT / "documentation" / "reference" / "plan.md"
RECIPES_PAGE = ROOT / "documentation" / "reference" / "recipes.md"
COMMANDS_PAGE = ROOT / "documentation" / "reference" / "commands.md"
CONVERT_PAGE = ROOT / "documentation" / "reference" / "convert.md"
PREDICT_PAGE = ROOT / "documentation" / "reference" / "predict.md"
SHARING_PAGE = ROOT / "documentation" / "reference" / "sharing.md"
COMMANDS = dict(re.findall(r'"(DiffAtlas_\w+)": "(\w+)"', (ROOT / "setup.py").read_text(encoding="utf-8")))
VARIABLES = {"DiffAtlas_raw", "DiffAtlas_preprocessed", "DiffAtlas_results"}
OTHERS_OPTIONS = {"--time", "--gres", "--array"}  # of other programs that pages mention by name


def page_id(path: Path) -> str:
    return str(path.relative_to(ROOT))


def prose_of(text: str) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^( *)```.*?^\1```", "", text, flags=re.MULTILINE | re.DOTALL)


# ------------------------------------------------------------------------------------------------------------- sizes
def too_wide(text: str) -> list[str]:
    """The lines of prose of a page over 120 characters. Fenced blocks, tables, pictures and equations may be wider."""
    prose = re.sub(r"^\$\$$.*?^\$\$$", "", prose_of(text), flags=re.MULTILINE | re.DOTALL)
    return [line for line in prose.splitlines() if len(line) > 120 and not line.startswith(("|", "!["))]


def test_too_wide_lines_are_found() -> None:
    long = "word " * 25
    assert too_wide(f"{long}\n```text\n{long}\n```\n| {long} |\n$$\n{long}\n$$\nshort\n") == [long]


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_lines_of_prose_have_at_most_120_characters(page: Path) -> None:
    assert not too_wide(page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_pages_are_short(page: Path) -> None:
    allowed = {"README.md": 110, "CONTRIBUTING.md": 140}.get(page_id(page), 250)
    assert len(page.read_text(encoding="utf-8").splitlines()) <= allowed


# ------------------------------------------------------------------------------------------------------------- links
def anchors_of(path: Path) -> set[str]:
    """The anchors that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.+)$", prose_of(path.read_text(encoding="utf-8")), flags=re.MULTILINE)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading).strip().replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_relative_links_lead_somewhere(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose_of(page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        if not path.exists() or (anchor and anchor not in anchors_of(path)):
            broken.append(target)
    assert not broken


def test_every_page_is_reachable_from_the_readme() -> None:
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        reached.add(page)
        for target in re.findall(r"\]\(([^)\s#]+\.md)", page.read_text(encoding="utf-8")):
            path = (page.parent / target).resolve()
            if path in PAGES and path not in reached:
                waiting.append(path)
    assert reached == {*PAGES}


# ---------------------------------------------------------------------------------------------------------- commands
class Parsed(Exception):
    """Raised in place of running a command, once its arguments are parsed."""


def parser_of(command: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> argparse.ArgumentParser:
    """Parse ``words`` as ``command`` would, without running it; SystemExit if it would refuse them."""
    seen: list[argparse.ArgumentParser] = []
    original = argparse.ArgumentParser.parse_args

    def parse_only(self: argparse.ArgumentParser, *arguments: Any, **options: Any) -> None:
        seen.append(self)
        original(self, *arguments, **options)
        raise Parsed

    with monkeypatch.context() as patched, pytest.raises(Parsed):
        patched.setattr(argparse.ArgumentParser, "parse_args", parse_only)
        importlib.import_module(f"diffatlas_pipeline.commands.{COMMANDS[command]}").main(words)
    return seen[0]


def command_lines(page: Path) -> Iterator[list[str]]:
    """The words of every DiffAtlas command that a fenced block shows to be typed."""
    for block in re.findall(r"^( *)```(?:bash|sh)\n(.*?)^\1```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        text = re.sub(r"\$\w+", "1", block[1].replace("\\\n", " "))  # any value of a shell variable
        for line in text.splitlines():
            for part in re.split(r"[&|;]+", line):
                words = shlex.split(part, comments=True)
                start = next((i for i, word in enumerate(words) if word.startswith("DiffAtlas_") and "=" not in word), None)
                if start is not None:
                    yield words[start:]


LINES = [(page, words) for page in PAGES for words in command_lines(page)]


def test_pages_show_commands() -> None:
    assert {words[0] for _, words in LINES} == set(COMMANDS)


@pytest.mark.parametrize(("page", "words"), LINES, ids=[f"{page_id(page)}: {' '.join(words)}" for page, words in LINES])
def test_shown_commands_parse(page: Path, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert words[0] in COMMANDS
    parser_of(words[0], words[1:], monkeypatch)


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_named_commands_exist(page: Path) -> None:
    named = set(re.findall(r"DiffAtlas_\w+", page.read_text(encoding="utf-8")))
    assert named <= {*COMMANDS, *VARIABLES}


MINIMAL: dict[str, list[list[str]]] = {
    "DiffAtlas_check": [["-d", "1"]],
    "DiffAtlas_plan_and_preprocess": [["-d", "1"]],
    "DiffAtlas_train": [["1", "fold0"]],
    "DiffAtlas_predict": [["-i", "in", "-o", "out"]],
    "DiffAtlas_evaluate": [["-p", "a", "-r", "b"]],
    "DiffAtlas_generate": [["-o", "out"]],
    "DiffAtlas_convert": [
        ["folder", "-i", "images", "-l", "labels", "-d", "1", "--name", "A"],
        ["bids", "-i", "study", "-d", "1"],
        ["msd", "-i", "Task04_A"],
        ["mmwhs", "-i", "MM-WHS", "-d", "1", "--modality", "CT"],
        ["totalsegmentator", "-i", "TS", "-d", "1"],
        ["phantom", "-d", "1"],
    ],
    "DiffAtlas_benchmark": [["-d", "1"]],
    "DiffAtlas_report": [["-p", "a"]],
    "DiffAtlas_quickstart": [[]],
    "DiffAtlas_info": [[]],
    "DiffAtlas_export_model": [["-o", "model.zip"]],
    "DiffAtlas_install_model": [["model.zip"]],
}
SHARING = ("DiffAtlas_info", "DiffAtlas_export_model", "DiffAtlas_install_model")


def options_of(parser: argparse.ArgumentParser, words: list[str]) -> set[str]:
    """Option strings of a parser, or of its sub-command that ``words`` chooses."""
    found = set()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found |= options_of(action.choices[words[0]], words[1:])
        else:
            found |= set(action.option_strings)
    return found - {"-h", "--help", "--version"}


def documented_options(command: str, converter: str | None) -> set[str]:
    """The options in the tables of the reference's section of a command or converter."""
    page = CONVERT_PAGE if converter else SHARING_PAGE if command in SHARING else COMMANDS_PAGE
    command, page = ("Options", PREDICT_PAGE) if command == "DiffAtlas_predict" else (command, page)
    section = page.read_text(encoding="utf-8").split(f"\n## {converter or command}\n")[1].split("\n## ")[0]
    cells = re.findall(r"^\| (`-[^|]*) \|", section, flags=re.MULTILINE)
    return {option for cell in cells for option in re.findall(r"`(-[^`]+)`", cell)}


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_reference_lists_exactly_the_options_of_each_command(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for words in MINIMAL[command]:
        options = options_of(parser_of(command, words, monkeypatch), words)
        assert documented_options(command, words[0] if command == "DiffAtlas_convert" else None) == options


def test_every_converter_has_its_section() -> None:
    assert {words[0] for words in MINIMAL["DiffAtlas_convert"]} == set(CONVERTERS)


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_options_named_in_the_text_exist(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripts = [path.read_text(encoding="utf-8") for path in (ROOT / "benchmarks").glob("*.py")]
    known = OTHERS_OPTIONS | {"--version"} | {option for script in scripts for option in re.findall(r'"(--[a-z-]+)"', script)}
    of_command = {
        command: {"--version"}.union(*(options_of(parser_of(command, words, monkeypatch), words) for words in variants))
        for command, variants in MINIMAL.items()
    }
    known = known.union(*of_command.values())
    for span in re.findall(r"`([^`\n]+)`", prose_of(page.read_text(encoding="utf-8"))):
        if span.startswith("nnUNetv2_"):
            continue  # another program's options
        named = set(re.findall(r"(?<!\S)--[a-z][a-z-]*", span))
        assert named <= of_command.get(span.split()[0], known), span


# -------------------------------------------------------------------------------------------------------------- plan
def fields_of(kind: type) -> set[str]:
    """Names of all fields of a dataclass and of the dataclasses that it holds."""
    names = set()
    for name, hint in typing.get_type_hints(kind).items():
        names.add(name)
        for inner in (hint, *typing.get_args(hint)):
            if dataclasses.is_dataclass(inner):
                names |= fields_of(inner)  # type: ignore[arg-type]
    return names


def test_every_field_of_the_plan_is_described() -> None:
    text = PLAN_PAGE.read_text(encoding="utf-8") + RECIPES_PAGE.read_text(encoding="utf-8")
    described = {name for cell in re.findall(r"^\| (`[^|]*) \|", text, re.MULTILINE) for name in re.findall(r"`(\w+)`", cell)}
    described |= set(re.findall(r"^##+ (\w+)$", text, re.MULTILINE))
    wanted = fields_of(Plan).union(*(fields_of(method.recipe_type) for method in METHODS.values()))
    assert {"training_steps", "image_weight", "fusion", "file_ending"} <= wanted  # the search goes into nested dataclasses
    missing = wanted - described
    assert not missing


@pytest.mark.parametrize("variance", [0.01, 1.0, 50.0])
@pytest.mark.parametrize("steps", [50, 300])
def test_the_sum_that_the_method_page_derives_is_the_variance_lost(variance: float, steps: int) -> None:
    """The last equation of "How many steps" before the spectrum comes in."""
    now = cosine_alpha_bar(steps)
    before = np.concatenate([[1.0], now[:-1]])
    beta, v_now, v_before = 1 - now / before, now * variance + 1 - now, before * variance + 1 - before
    lost = np.sum(beta**2 * before**2 * variance**3 / ((1 - now) * v_now * v_before**2))
    lost += now[-1] ** 2 * variance**2 * (variance - 1) / v_now[-1] ** 2
    np.testing.assert_allclose(lost, variance - sampled_variance(np.array([variance]), now)[0], rtol=1e-9)


def value_text(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(value_text(item) for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace(",", " ")
    return f"{value:g}" if isinstance(value, float) else str(value)


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def options_of_recipe(recipe: Recipe) -> dict[str, Any]:
    """Values by the options' paths."""
    found = {}
    for field in dataclasses.fields(recipe):
        value = getattr(recipe, field.name)
        if dataclasses.is_dataclass(value):
            found |= {f"{field.name}.{one.name}": getattr(value, one.name) for one in dataclasses.fields(value)}
        else:
            found[field.name] = value
    return found


def recipe_table(diffusing: bool) -> str:
    """The values of all recipes of the methods that diffuse, or of those that register."""
    recipes = {
        f"{method.name} `{name}`": options_of_recipe(recipe)
        for method in METHODS.values()
        for name, recipe in method.recipes.items()
        if isinstance(recipe, DiffusionRecipe if diffusing else RegistrationRecipe)
    }
    paths = dict.fromkeys(path for options in recipes.values() for path in options)
    rows = [
        [f"`{path}`", *(value_text(options[path]) if path in options else "" for options in recipes.values())] for path in paths
    ]
    return table(["option", *recipes], rows)


PRESET_ROWS = {
    "widths": "widths of the stages, at most",
    "blocks": "residual blocks per stage",
    "stem_stride": "stride of the stem",
    "attention": "attention at the coarsest stage",
    "embedding": "size of the noise embedding",
    "share": "share of the memory for one step",
    "most_patch_voxels": "voxels of a patch, at most",
    "most_batch_voxels": "voxels of a batch, at most",
    "largest_batch": "patches of a batch, at most",
    "learning_rate": "learning rate",
    "iterations": "iterations: fewest, for 160 patches, most",
    "fewest_in_radius": "voxels in the thinnest label's radius where voxels are made coarser; 0: never",
}


def preset_table() -> str:
    kind = type(next(iter(PRESETS.values())))
    assert set(PRESET_ROWS) == {field.name for field in dataclasses.fields(kind)}
    rows = [
        [meaning, *(value_text(getattr(preset, name)) for preset in PRESETS.values())] for name, meaning in PRESET_ROWS.items()
    ]
    return table(["", *(f"`{name}`" for name in PRESETS)], rows)


TABLES = {
    RECIPES_PAGE: {
        "recipes": lambda: recipe_table(diffusing=True),
        "registrations": lambda: recipe_table(diffusing=False),
    },
    PLAN_PAGE: {"presets": preset_table},
}


def with_tables(page: Path) -> str:
    """The text of ``page`` with its tables of values as the code has them."""
    text = page.read_text(encoding="utf-8")
    for name, make in TABLES[page].items():
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        head, rest = text.split(begin)
        text = f"{head}{begin}\n{make()}\n{end}{rest.split(end)[1]}"
    return text


@pytest.mark.parametrize("page", TABLES, ids=page_id)
def test_tables_of_values_are_those_of_the_code(page: Path) -> None:
    assert page.read_text(encoding="utf-8") == with_tables(page), "run: python -m tests.test_documentation"


if __name__ == "__main__":
    for one in TABLES:
        one.write_text(with_tables(one), encoding="utf-8")
        sys.stdout.write(f"Tables of values written to {one}\n")
