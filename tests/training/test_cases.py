"""Cases that a training can use."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.planning.plan import ChannelPlan
from diffatlas_pipeline.training.cases import check_any_contrast
from tests.factories import make_plan, store_cases

CT, MRI = ChannelPlan("CT", "ct", -10.0, 494.0), ChannelPlan("MRI", "percentile", 0.5, 99.5)


@pytest.mark.parametrize("channel", [CT, MRI])
def test_cases_of_an_earlier_release_lack_what_synthetic_contrasts_need_of_a_ct(tmp_path: Path, channel: ChannelPlan) -> None:
    plan = make_plan(channels=(channel,))
    names = store_cases(tmp_path, plan, [(12, 10, 8), (12, 10, 8)])
    check_any_contrast(tmp_path, names, plan)
    path = tmp_path / "cases" / f"{names[1]}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"beyond": False}))
    if channel is MRI:
        check_any_contrast(tmp_path, names, plan)
        return
    with pytest.raises(
        UserError, match=r"(?s)1 of 2 cases \(such as 'case_001'\) were stored by an earlier release.*overwrite"
    ):
        check_any_contrast(tmp_path, names, plan)
