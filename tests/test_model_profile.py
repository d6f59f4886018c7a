import pytest
import torch

from dynamask.models.presets import dynamask_tiny, maskrcnn_r50

pytest.importorskip("pycocotools")
from dynamask.benchmarks.model_profile import profile


@pytest.mark.parametrize(
    ("build", "stages"),
    [
        (lambda: dynamask_tiny(3, score_threshold=0.0), {"mask switch", "masks at 14"}),
        (lambda: maskrcnn_r50(3, backbone="resnet18", score_threshold=0.0), {"mask dispatch"}),
    ],
)
def test_stages_explain_the_whole(build, stages):
    model = build().eval()
    image = torch.rand(3, 96, 128)
    rows = profile(model.fused(), image, rounds=1)
    names = {"stem", "layer1", "feature pyramid", "RPN head", "box layers", "encode masks"} | stages
    assert names <= {name for name, _, _ in rows}
    assert rows[-1][0] == "rest"
    assert all(ms >= 0 for _, ms, _ in rows)
    assert sum(share for _, _, share in rows) == pytest.approx(1)


def test_leaves_the_model_as_it_was():
    model = dynamask_tiny(3, score_threshold=0.0).eval().fused()
    image = torch.rand(3, 64, 64)
    attributes = {name: set(vars(module)) for name, module in model.named_modules()}
    profile(model, image, rounds=1)
    assert {name: set(vars(module)) for name, module in model.named_modules()} == attributes
