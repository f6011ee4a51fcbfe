"""What a setting trains on and is tested on; every check that can be made before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from diffatlas_pipeline.benchmark.choices import Setting
from diffatlas_pipeline.datasets.compatibility import check_fits, labelled_test_cases, modality_of, some
from diffatlas_pipeline.datasets.description import CaseFiles, RawDataset
from diffatlas_pipeline.datasets.splits import SHOTS, Split, few_shot_name, load_splits
from diffatlas_pipeline.errors import UserError

HELD_OUT = "fold0"  # its validation cases are tested on where a data set has no test cases with labels


@dataclass(frozen=True)
class Pool:
    """What a setting trains on with one seed; ``splits_file`` None means the planned splits."""

    split: str
    cases: tuple[str, ...]
    splits_file: Path | None = None


@dataclass(frozen=True)
class TestSet:
    """Cases with labels to test on; ``modality`` says what they are if that differs from the training cases."""

    __test__ = False  # no class of tests

    dataset: str
    description: Path
    cases: tuple[CaseFiles, ...]
    place: str
    modality: str | None = None
    adapted: bool = True

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(files.case for files in self.cases)


@dataclass(frozen=True)
class PreparedSetting:
    """A setting ready to run: its pool for every seed, its test set, and what a reader of the table must know of it."""

    text: str
    pools: dict[int, Pool]
    test: TestSet
    notes: tuple[str, ...]


Splits = dict[str, tuple[Split, Path | None]]


def known_splits(planned: Path, own: Path | None, cases: Sequence[str]) -> Splits:
    """All splits by name, with the file that DiffAtlas_train is given; those of one's own file come first."""
    found: Splits = {name: (split, None) for name, split in load_splits(planned, cases).items()}
    if own is not None:
        found |= {name: (split, own.resolve()) for name, split in load_splits(own, cases).items()}
    return found


def check_settings(texts: Sequence[str], dataset: RawDataset, find: Callable[[str], RawDataset]) -> dict[Setting, RawDataset]:
    """The settings, each with the data set that tests it. ``find`` gives a raw data set by what the user called it.

    UserError for an unknown setting, more shots than cases, a zero-shot data set that does not fit, test cases without
    labels.
    """
    found: dict[Setting, RawDataset] = {}
    for text in texts:
        setting = Setting.parse(text)
        if setting.shots is not None and setting.shots > len(dataset.training):
            raise UserError(
                f"`settings` {text}: {setting.shots} training cases are asked for, but {dataset.folder.name} has "
                f"{len(dataset.training)}. Ask for fewer shots."
            )
        if setting.dataset is None:
            found[setting] = dataset
        else:
            other = find(setting.dataset)
            check_fits(dataset, other)
            found[replace(setting, dataset=other.folder.name)] = other
    for each in (dataset, *found.values()):
        labelled_test_cases(each)
    return found


def prepare_settings(
    settings: Mapping[Setting, RawDataset],
    dataset: RawDataset,
    splits: Splits,
    seeds: Sequence[int],
    most_cases: int | None = None,
) -> list[PreparedSetting]:
    """Pools and test sets. UserError for a missing split, test cases without labels, and cases on both sides."""
    own_test = _own_test_set(dataset, splits)
    prepared = []
    for setting, other in settings.items():
        pools = {seed: _pool(setting, seed, dataset, splits, own_test) for seed in seeds}
        if setting.dataset is None:
            test = own_test
        else:
            test = replace(_other_test_set(other), modality=modality_of(dataset, other), adapted=setting.adapted)
        test = replace(test, cases=test.cases[:most_cases])
        for pool in pools.values():
            _check_apart(setting, pool, test, dataset)
        prepared.append(PreparedSetting(setting.text, pools, test, tuple(_notes(setting, pools, test))))
    return prepared


def _own_test_set(dataset: RawDataset, splits: Splits) -> TestSet:
    """imagesTs with labels, else the validation cases of the first fold. UserError if there are none."""
    found = labelled_test_cases(dataset)
    held_out = splits[HELD_OUT][0].validation if HELD_OUT in splits else ()
    if not found and not held_out:
        raise UserError(
            f"{dataset.folder}: there is nothing to test on: no imagesTs with labelsTs, and no split {HELD_OUT} with "
            "validation cases. Add test cases with labels."
        )
    cases = found or tuple(files for files in dataset.training if files.case in held_out)
    place = "imagesTs" if found else f"validation cases of {HELD_OUT}"
    return TestSet(dataset.folder.name, dataset.folder / "dataset.json", cases, place)


def _other_test_set(other: RawDataset) -> TestSet:
    """imagesTs with labels, else all that could be trained on."""
    found = labelled_test_cases(other)
    place = "imagesTs" if found else "imagesTr"
    return TestSet(other.folder.name, other.folder / "dataset.json", found or other.training, place)


def _pool(setting: Setting, seed: int, dataset: RawDataset, splits: Splits, own_test: TestSet) -> Pool:
    """The split that ``setting`` trains on with ``seed``."""
    if setting.shots is None:
        name = "all" if own_test.place == "imagesTs" else HELD_OUT
    else:
        name = few_shot_name(setting.shots, seed)
        name = name if name in splits else setting.training
    if name not in splits:
        raise UserError(
            f"`settings` {setting.text}: {dataset.folder.name} has no split '{name}' (it has {', '.join(splits)}). "
            + (_few_shots(splits) if setting.shots is not None else "Run `plan_and_preprocess` to make it, or name")
            + " your own as `splits_file`."
        )
    split, file = splits[name]
    return Pool(name, split.train, file)


def _few_shots(splits: Splits) -> str:
    """Which few-shot splits planning makes, for a message that goes on with one's own."""
    pool = len(splits[HELD_OUT][0].train) if HELD_OUT in splits else 0
    planned = ", ".join(str(shots) for shots in SHOTS if shots <= pool) or "none"
    return (
        f"Planned ones are drawn from the {pool} training cases of {HELD_OUT}: {planned} of them. Ask for one of these, or name"
    )


def _check_apart(setting: Setting, pool: Pool, test: TestSet, dataset: RawDataset) -> None:
    """UserError if a case that trains is tested on."""
    both = sorted(set(pool.cases) & set(test.names)) if test.dataset == dataset.folder.name else []
    if both:
        raise UserError(
            f"`settings` {setting.text}: split '{pool.split}' trains on cases that are tested on ({test.place}): "
            f"{some(both)}. "
            f"Take them out of the split, or give {dataset.folder.name} test cases of other names in imagesTs and labelsTs."
        )


def _notes(setting: Setting, pools: Mapping[int, Pool], test: TestSet) -> list[str]:
    first = next(iter(pools.values()))
    names = list(dict.fromkeys(pool.split for pool in pools.values()))
    counts = sorted({len(pool.cases) for pool in pools.values()})
    count = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    text = f"{setting.text}: trained on {count} case(s), split {', '.join(names)}"
    if len(pools) > 1 and len(names) < len(pools) and setting.shots is not None:
        text += " (seeds without a split of their own share its cases, and only their training differs)"
    text += f"; tested on {len(test.cases)} case(s), {test.place} of {test.dataset}"
    if test.modality:
        text += f", as {test.modality}" + (
            ", shown to networks in the contrast of the training scans" if test.adapted else ", their contrast as it is"
        )
    notes = [f"{text}."]
    same = sorted(set(first.cases) & set(test.names)) if setting.dataset else []
    if same:
        notes.append(
            f"{setting.text}: {len(same)} test case(s) are named like training cases ({some(same)}). If they are the same "
            "patients, the test is easier than it looks."
        )
    return notes
