"""Registration of anatomies whose true maps are known."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from diffatlas_pipeline.atlases.appearance import appearance
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.registration import register
from diffatlas_pipeline.registration.affine import RegistrationFailed, align, centre_matrix
from diffatlas_pipeline.registration.atlas import Atlas
from diffatlas_pipeline.registration.deformable import DeformableSettings, deform
from diffatlas_pipeline.registration.frame import by_way_of, in_common_frame
from diffatlas_pipeline.registration.fusion import labels_of
from diffatlas_pipeline.registration.register import AtlasSettings, fuse, register_atlases, segment_by_atlases
from diffatlas_pipeline.registration.selection import best
from diffatlas_pipeline.registration.warp import affine_coordinates, voxel_grid
from tests.registration.shapes import SHAPE, SPACING_MM, TAU_MM, bend, carried, distances, mean_dice, scan, tilt

SETTINGS = AtlasSettings()
QUICK = replace(SETTINGS, deformable=DeformableSettings(iterations=(15, 3)))
TILTED = np.array([[1.1, 0.12, 0.0, 1.5], [-0.1, 0.92, 0.05, -2.0], [0.0, 0.06, 1.05, 1.0]])
INVERTED = "inverted"
FOLDED = "folded"


def other_contrast(image: np.ndarray, kind: str) -> np.ndarray:
    """The same anatomy as another modality would show it."""
    if kind == INVERTED:
        return -image
    return np.clip(1.2 * np.abs(image) - 0.6, -1, 1)  # not monotone: bright and dark tissues change places


def atlas(name: str, coordinates: np.ndarray | None = None, shape: tuple[int, int, int] = SHAPE) -> Atlas:
    image, labels = scan(voxel_grid(shape) if coordinates is None else coordinates, shape)
    return Atlas(name, image, distances(labels))


def segment(target: np.ndarray, atlases: list[Atlas], settings: AtlasSettings = SETTINGS, **options: object) -> np.ndarray:
    return labels_of(segment_by_atlases(target, atlases, SPACING_MM, TAU_MM, settings, case="a", **options).distances)  # type: ignore[arg-type]


@pytest.mark.parametrize("contrast", ["same", INVERTED, FOLDED])
def test_a_known_affine_map_is_found(contrast: str) -> None:
    image, labels = scan(voxel_grid(SHAPE))
    moved, moved_labels = scan(tilt(TILTED))
    target = moved if contrast == "same" else other_contrast(moved, contrast)
    matrix = align(target[0], image[0], SPACING_MM)
    before = mean_dice(labels, moved_labels)
    after = mean_dice(carried(labels, affine_coordinates(matrix, voxel_grid(SHAPE))), moved_labels)
    assert before < 0.75 and after > 0.9
    error = affine_coordinates(matrix, voxel_grid(SHAPE)) - tilt(TILTED)
    assert np.sqrt((error**2).sum(axis=0))[moved_labels > 0].mean() < 0.5


def turned(degrees: float) -> np.ndarray:
    """A turn about z, (3, 4), as :func:`tilt` takes it."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0]])


def test_a_start_is_followed_where_centres_lead_astray() -> None:
    image, labels = scan(voxel_grid(SHAPE))
    sideways, truth = scan(tilt(turned(90)))
    found = [
        mean_dice(carried(labels, affine_coordinates(matrix, voxel_grid(SHAPE))), truth)
        for matrix in (align(sideways[0], image[0], SPACING_MM, starts=starts) for starts in ((), (about_the_centre(80),)))
    ]
    assert found[0] < 0.5 and found[1] > 0.95


def about_the_centre(degrees: float) -> np.ndarray:
    """(3, 4): :func:`turned` as a map of voxels."""
    linear = turned(degrees)[:, :3]
    centre = (np.array(SHAPE) - 1) / 2
    return np.concatenate([linear, (centre - linear @ centre)[:, None]], axis=1)


def test_atlases_know_where_the_others_lie() -> None:
    maps = [np.eye(3, 4), TILTED, turned(12)]
    atlases = in_common_frame([atlas(name, tilt(one)) for name, one in zip("abc", maps, strict=True)], SPACING_MM)
    assert atlases[0].frame is not None and np.array_equal(atlases[0].frame, np.eye(3, 4))
    target, truth = scan(tilt(turned(-8)))
    lead = align(target[0], atlases[1].image[0], SPACING_MM)
    led = by_way_of(atlases[1], lead, atlases[2])
    assert led is not None
    coordinates = affine_coordinates(led, voxel_grid(SHAPE))
    assert mean_dice(carried(labels_of(atlases[2].distances), coordinates), truth) > 0.85
    assert by_way_of(atlas("d"), lead, atlases[2]) is None


def test_a_lead_saves_the_others() -> None:
    """Atlases that lie sideways are found by way of one that does not; without frames they are not."""
    straight, sideways = np.eye(3, 4), turned(90)
    lone = [atlas("a", tilt(straight)), *(atlas(name, tilt(sideways)) for name in "bc")]
    frames = (np.eye(3, 4), about_the_centre(-82), about_the_centre(-98))
    framed = [replace(one, frame=frame) for one, frame in zip(lone, frames, strict=True)]
    target, truth = scan(tilt(turned(5)))
    worst = []
    for atlases in (lone, framed):
        registered = register_atlases(other_contrast(target, INVERTED), atlases, SPACING_MM, TAU_MM, QUICK)
        worst.append(min(mean_dice(labels_of(one), truth) for one in registered.distances))
    assert worst[0] < 0.6 and worst[1] > 0.9


@pytest.mark.parametrize("contrast", ["same", INVERTED, FOLDED])
def test_a_known_smooth_deformation_is_found(contrast: str) -> None:
    image, labels = scan(voxel_grid(SHAPE))
    moved, moved_labels = scan(bend(size=4.0, seed=2))
    target = moved if contrast == "same" else other_contrast(moved, contrast)
    matrix = centre_matrix(SHAPE, SHAPE)
    coordinates = deform(target, image, matrix, SPACING_MM, DeformableSettings())
    before, after = mean_dice(labels, moved_labels), mean_dice(carried(labels, coordinates), moved_labels)
    assert before < 0.7 and after > 0.92
    # invertible: no voxel changes its handedness
    jacobian = np.stack([np.stack(np.gradient(one)) for one in coordinates])
    assert np.linalg.det(np.moveaxis(jacobian, (0, 1), (-2, -1))).min() > 0


def test_an_atlas_identical_to_the_target_is_the_answer() -> None:
    one = atlas("same")
    assert mean_dice(segment(one.image, [one]), labels_of(one.distances)) > 0.98


def test_atlases_of_another_contrast_segment_an_anatomy_between_them() -> None:
    target, truth = scan(tilt(np.array([[1.0, 0.05, 0, 1.0], [0, 1.05, 0, 1.0], [0, 0, 1.0, 0]])))
    atlases = [replace_image(atlas(str(seed), bend(size=2.5, seed=seed)), INVERTED) for seed in (1, 2, 3)]
    steps: list[tuple[int, int]] = []
    found = segment(target, atlases, progress=lambda done, total: steps.append((done, total)))
    singles = [mean_dice(labels_of(one.distances), truth) for one in atlases]
    assert mean_dice(found, truth) > max(0.93, max(singles))
    assert sorted(steps) == [(n + 1, 6) for n in range(6)]


def test_only_what_atlases_reach_of_a_large_target_is_registered() -> None:
    """The anatomy lies in the corner of a body twice as long each way: as good as in a scan of it alone, and nothing
    beyond.
    """
    image, truth = scan(tilt(np.array([[1.0, 0.05, 0, 1.0], [0, 1.05, 0, 1.0], [0, 0, 1.0, 0]])))
    atlases = [atlas(str(seed), bend(size=2.5, seed=seed)) for seed in (1, 2)]
    body = np.pad(image, [(0, 0), *((n, 0) for n in SHAPE)], constant_values=-1)
    registered = register_atlases(body, atlases, SPACING_MM, TAU_MM, SETTINGS)
    assert registered.box is not None and registered.weights[0].size < 0.3 * body[0].size
    assert all(one.start <= n and one.stop == 2 * n for one, n in zip(registered.box, SHAPE, strict=True))
    fused = fuse(registered, SPACING_MM, TAU_MM, "votes")
    assert fused.distances.shape[1:] == body.shape[1:]
    inside = (slice(None), *(slice(n, None) for n in SHAPE))
    assert mean_dice(labels_of(fused.distances[inside]), truth) > mean_dice(segment(image, atlases), truth) - 0.02
    beyond = np.ones(body.shape[1:], bool)
    beyond[registered.box] = False
    assert (fused.distances[:, beyond] == 1).all()
    seen = appearance(registered)
    assert seen.shape == body.shape and (seen[:, beyond] == -1).all()
    errors = [np.abs(one - image)[:, truth > 0].mean() for one in (seen[inside], *(one.image for one in atlases))]
    assert errors[0] < 0.7 * min(errors[1:])


def test_a_target_like_its_atlases_is_registered_as_a_whole() -> None:
    target, _ = scan(bend(size=2, seed=9))
    registered = register_atlases(target, [atlas("a")], SPACING_MM, TAU_MM, QUICK)
    assert registered.box is None and registered.images.shape[2:] == SHAPE


def replace_image(one: Atlas, contrast: str) -> Atlas:
    return replace(one, image=other_contrast(one.image, contrast))


def test_threads_and_repeats_do_not_change_the_result() -> None:
    target, _ = scan(bend(size=2, seed=9))
    atlases = [atlas(str(seed), bend(size=2.5, seed=seed)) for seed in (1, 2)]
    one, two = (
        segment_by_atlases(target, atlases, SPACING_MM, TAU_MM, QUICK, seed=3, case="a", workers=workers) for workers in (1, 2)
    )
    assert np.array_equal(one.distances, two.distances)
    assert one.used == (("1", "deformable"), ("2", "deformable"))


def test_selection_takes_the_atlases_that_look_like_the_target() -> None:
    target, _ = scan(bend(size=1.0, seed=5))
    rng = np.random.default_rng(0)
    noise = [
        Atlas(f"noise{n}", rng.uniform(-1, 1, (1, *SHAPE)).astype(np.float32), distances(np.zeros(SHAPE))) for n in range(4)
    ]
    alike = [atlas(f"alike{n}", bend(size=1.5, seed=n)) for n in range(3)]
    mixed = [noise[0], alike[0], noise[1], noise[2], alike[1], noise[3], alike[2]]
    for settings in (replace(SETTINGS, atlases=3, aligned=7), replace(SETTINGS, atlases=3, aligned=3)):
        quick = replace(settings, registration="affine")
        fused = segment_by_atlases(target, mixed, SPACING_MM, TAU_MM, quick, case="a")
        assert {name for name, _ in fused.used} == {"alike0", "alike1", "alike2"}


def test_of_many_atlases_few_are_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    target, truth = scan(bend(size=2.5, seed=1))
    calls = {"align": 0, "deform": 0}

    def counted(name: str, function: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **options: object) -> object:
            calls[name] += 1
            return function(*arguments, **options)

        return call

    for name in calls:
        monkeypatch.setattr(register, name, counted(name, getattr(register, name)))
    atlases = [atlas(f"a{seed}", bend(size=2.5, seed=seed)) for seed in range(2, 62)]
    settings = replace(QUICK, atlases=2, aligned=5)
    fused = segment_by_atlases(target, atlases, SPACING_MM, TAU_MM, settings, case="a", workers=1)
    # Each of the five is aligned once, and those that may lead once more by way of the best.
    assert calls["align"] <= settings.aligned + register.LEADS and calls["deform"] == 2 == len(fused.used)
    assert mean_dice(labels_of(fused.distances), truth) > 0.85


def test_best_keeps_the_order_of_the_atlases() -> None:
    assert best([0.2, 0.9, 0.5, 0.9], 3) == [1, 2, 3]
    assert best([0.5, 0.5, 0.5], 2) == [0, 1]
    assert best([0.1], 4) == [0]


@pytest.mark.parametrize("shape", [(30, 34, 1), (34, 30, 6)])
def test_slices_and_anisotropic_volumes(shape: tuple[int, int, int]) -> None:
    spacing_mm = (1.0, 1.0, 1.0 if shape[2] == 1 else 5.0)
    _, truth = scan(bend(shape, 2.0, seed=2), shape)
    target, _ = scan(bend(shape, 2.0, seed=2), shape)
    image, labels = scan(voxel_grid(shape), shape)
    one = Atlas("a", image, distances(labels, spacing_mm))
    fused = segment_by_atlases(target, [one], spacing_mm, TAU_MM, SETTINGS, case="a")
    assert fused.distances.shape == (2, *shape)
    assert fused.used == (("a", "deformable"),)
    after = mean_dice(labels_of(fused.distances), truth)
    assert after > max(0.9, mean_dice(labels, truth))


def test_channels_help_each_other_and_atlases_may_have_another_shape() -> None:
    target, truth = scan(bend(size=2.5, seed=4))
    large = tuple(n + 4 for n in SHAPE)
    one = atlas("large", voxel_grid(large) - 2)  # the same anatomy with a wider margin
    two_channels = Atlas("large", np.concatenate([one.image, -one.image]), one.distances)
    fused = segment_by_atlases(np.concatenate([target, target**2]), [two_channels], SPACING_MM, TAU_MM, SETTINGS, case="a")
    assert fused.distances.shape == (2, *SHAPE)
    assert mean_dice(labels_of(fused.distances), truth) > 0.9


def test_an_atlas_that_cannot_be_aligned_does_not_stop_the_others() -> None:
    target, truth = scan(bend(size=1.5, seed=4))
    empty = Atlas("empty", np.full((1, *SHAPE), -1, np.float32), distances(np.zeros(SHAPE)))
    fused = segment_by_atlases(target, [empty, atlas("good")], SPACING_MM, TAU_MM, QUICK, case="a")
    assert fused.used == (("empty", "centre"), ("good", "deformable"))
    assert mean_dice(labels_of(fused.distances), truth) > 0.9
    with pytest.raises(UserError, match=r"^case7: none of 1 atlas"):
        segment_by_atlases(target, [empty], SPACING_MM, TAU_MM, SETTINGS, case="case7")


def test_a_failed_deformation_leaves_the_affine_map(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: object) -> np.ndarray:
        raise FloatingPointError

    monkeypatch.setattr(register, "deform", fails)
    one = atlas("a")
    fused = segment_by_atlases(one.image, [one], SPACING_MM, TAU_MM, SETTINGS, case="a")
    assert fused.used == (("a", "affine"),)
    assert mean_dice(labels_of(fused.distances), labels_of(one.distances)) > 0.95


def test_what_is_unknown_is_refused() -> None:
    one = atlas("a")
    with pytest.raises(UserError, match="fusion 'magic' is unknown; known: votes"):
        segment(one.image, [one], replace(SETTINGS, fusion="magic"))
    with pytest.raises(UserError, match="registration 'magic' is unknown; known: affine"):
        segment(one.image, [one], replace(SETTINGS, registration="magic"))
    with pytest.raises(RegistrationFailed, match="constant"):
        align(np.zeros((4, 4, 4)), np.ones((4, 4, 4)), SPACING_MM)


def test_two_slices_are_told_to_be_too_few() -> None:
    shape = (*SHAPE[:2], 2)
    target = scan(voxel_grid(shape), shape)[0]
    with pytest.raises(UserError, match=r"a: none of 2 .* too few voxels .*2 along z.*use a method that learns"):
        segment(target, [atlas("one", shape=shape), atlas("two", shape=shape)])
