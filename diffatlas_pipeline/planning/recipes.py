"""The named ways to train and sample the diffusion models, joint (diffatlas) and of the mask alone (icmd)."""

from __future__ import annotations

from dataclasses import replace

from diffatlas_pipeline.planning.plan import Recipe

# The method as published: noise prediction at equal levels, all T ancestral steps, the image given as noisy as the mask.
PAPER = Recipe(
    name="paper",
    prediction="epsilon",
    mask_levels="schedule",
    image_levels="equal",
    clean_image_fraction=0.0,
    equal_level_fraction=1.0,
    segmentation_loss=0.0,
    image_loss=1.0,
    solver="ddpm",
    steps=0,
    eta=1.0,
    guidance_level=1.0,
    guidance_noise="fresh",
    guidance_interval=(0.0, 1.0),
    resampling=1,
    draws=1,
)

# What measures better (what-was-tried.md): separate noise levels, clean predictions, few deterministic steps, and
# most samples where these steps begin.
DEFAULT = Recipe(
    name="default",
    prediction="x0",
    mask_levels="high",
    image_levels="mixed",
    clean_image_fraction=0.5,
    equal_level_fraction=0.25,
    start_fraction=0.75,
    input_scaling="signal",
    segmentation_loss=1.0,
    image_loss=0.5,
    solver="ddim",
    steps=1,  # more lose accuracy: the network trusts its own earlier errors (what-was-tried.md)
    eta=0.0,
    guidance_level=0.0,
    guidance_noise="fixed",
    guidance_interval=(0.0, 1.0),
    resampling=1,
    draws=1,
)


# Mask diffusion given the clean image, as published (Eq. 1 and 2) and with the same improvements; the mean of several draws.
MASK_PAPER = replace(PAPER, method="icmd", guidance_level=0.0, draws=5)
MASK_DEFAULT = replace(
    DEFAULT,
    method="icmd",
    image_levels="equal",
    clean_image_fraction=0.0,
    equal_level_fraction=0.0,
    image_loss=1.0,
    steps=2,  # with a single one, all draws would be the same
    draws=5,
)


# Registration does not diffuse: its recipes are names of ways to register atlases and fuse their labels.
REGISTRATION = tuple(Recipe(name, method="rba") for name in ("default", "affine", "majority", "staple"))


def default_recipes() -> tuple[Recipe, ...]:
    """The recipes every plan holds, by method; each method's "default" is used when none is named."""
    return DEFAULT, PAPER, MASK_DEFAULT, MASK_PAPER, *REGISTRATION


def diffuses(recipe: Recipe) -> bool:
    """Whether the options of ``recipe`` mean anything to its method."""
    return recipe.method in (DEFAULT.method, MASK_DEFAULT.method)
