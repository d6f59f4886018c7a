import pytest
import torch

from dynamask.ops import MultiScaleRoIAlign, multiscale_roi_align, roi_align
from dynamask.reference.multiscale_roi_align import multiscale_roi_align as reference
from dynamask.reference.multiscale_roi_align import pyramid_level
from dynamask.testing import assert_as_accurate, assert_op_is_registered

from .on_cpu import on_cpu

SCALES = [1 / 4, 1 / 8, 1 / 16, 1 / 32]
LAYOUTS = [torch.contiguous_format, torch.channels_last]
RULES = ["torchvision", "detectron2"]


def pyramid(n, c, height, width, dtype=torch.float64, layout=torch.contiguous_format, levels=4):
    maps = [torch.randn(n, c, height >> k, width >> k) for k in range(2, 2 + levels)]
    return [x.to(dtype).contiguous(memory_format=layout) for x in maps]


def boxes_of_all_sizes(n, k, height, width):
    side = torch.exp2(torch.rand(k, 2) * 6 + 3).clamp(max=min(height, width) - 1)
    corner = torch.rand(k, 2) * (torch.tensor([width, height]) - side)
    return torch.cat([torch.randint(0, n, (k, 1)), corner, corner + side], 1)


def gradients(op, features, *args, **options):
    features = [x.detach().requires_grad_() for x in features]
    out = op(features, *args, **options)
    weights = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view_as(out).to(out)
    return torch.autograd.grad(out, features, weights)


def level_read(box, rule="torchvision", **options):
    """Pools from maps that hold the number of their level, and returns it."""
    features = [torch.full((1, 1, 2048 >> k, 2048 >> k), float(k)) for k in (2, 3, 4, 5)]
    box = torch.tensor([[0.0, *box]])
    options = {"sampling_ratio": 1, "level_rule": rule, **options}
    return multiscale_roi_align(features, box, 1, SCALES, **options).item()


@pytest.mark.parametrize("rule", RULES)
def test_levels_by_hand(rule):
    # side 224 is on level 4 = log2(stride 16), half of it one level finer
    for side, level in (
        (224, 4),
        (223, 3),
        (112, 3),
        (111, 2),
        (10, 2),
        (448, 5),
        (447, 4),
        (2e3, 5),
    ):
        assert level_read((0, 0, side, side), rule) == level
    assert level_read((0, 0, 112, 448), rule) == 4
    assert level_read((0, 0, 224, 224), rule, canonical_scale=448) == 3
    assert level_read((0, 0, 224, 224), rule, canonical_level=3) == 3


def test_where_the_level_rules_differ():
    # 6e-7 below 4 in the logarithm: torchvision's 1e-6 lifts it, detectron2's 1e-8 does not
    side = 224 * 2**-6e-7
    assert level_read((0, 0, side, side), "torchvision") == 4
    assert level_read((0, 0, side, side), "detectron2") == 3


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_matches_reference(dtype, layout, rule):
    features, boxes = pyramid(2, 33, 128, 256, dtype, layout), boxes_of_all_sizes(2, 12, 128, 256)
    assert len(set(pyramid_level(boxes, SCALES, rule, 56, 4).tolist())) == 4
    for sampling_ratio, aligned in ((-1, True), (2, False)):
        args = (boxes, (3, 5), SCALES, sampling_ratio, aligned)
        options = {"level_rule": rule, "canonical_scale": 56.0}
        in_fp64 = [x.double() for x in features]
        exact, plain = (reference(x, *args, **options) for x in (in_fp64, features))
        assert_as_accurate(multiscale_roi_align(features, *args, **options), exact, plain)
        got = gradients(multiscale_roi_align, features, *args, **options)
        exact = gradients(reference, in_fp64, *args, **options)
        plain = gradients(reference, features, *args, **options)
        for level, results in enumerate(zip(got, exact, plain)):
            assert_as_accurate(*results, f"grad of level {level}")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("sampling_ratio", [2, -1])
def test_the_module_agrees_with_torchvision(layout, sampling_ratio):
    ops = pytest.importorskip("torchvision").ops
    height, width = 480, 640
    features = pyramid(2, 19, height, width, torch.float32, layout, levels=5)
    maps = dict(zip(("0", "1", "2", "3", "pool"), features))
    boxes = boxes_of_all_sizes(2, 200, height, width)
    boxes[0, 3:] = boxes[0, 1:3]  # no area
    boxes[1, [1, 3]] = boxes[1, [3, 1]]  # negative area
    per_image = [boxes[boxes[:, 0] == n, 1:] for n in range(2)]
    per_image[1] = per_image[1][:0]
    args = (maps, per_image, [(470, 600), (480, 640)])
    names = ["0", "1", "2", "3"]
    ours = MultiScaleRoIAlign(names, 7, sampling_ratio)(*args)
    theirs = on_cpu(ops.MultiScaleRoIAlign(names, 7, sampling_ratio))(*args)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    one = (names[2:3], (3, 4), sampling_ratio)
    theirs = on_cpu(ops.MultiScaleRoIAlign(*one))(*args)
    torch.testing.assert_close(MultiScaleRoIAlign(*one)(*args), theirs, rtol=1e-5, atol=1e-5)


def test_levels_agree_with_torchvision():
    poolers = pytest.importorskip("torchvision.ops.poolers")
    boxes = boxes_of_all_sizes(1, 3000, 2000, 2000)
    near = 112 * torch.exp2(torch.randint(-2, 3, (3000, 1)) + torch.randn(3000, 1) * 1e-6)
    boxes = torch.cat([boxes, torch.cat([torch.zeros(3000, 3), near, near], 1)])
    features = [torch.full((1, 1, 1, 1), float(k)) for k in range(4)]
    # maps of one pixel: sampled at its center, if the box is moved there
    theirs = poolers.initLevelMapper(2, 5)([boxes[:, 1:]])
    assert torch.equal(pyramid_level(boxes, SCALES, "torchvision", 224, 4), theirs)
    at_origin = torch.cat([boxes[:, :1], boxes[:, 1:] - boxes[:, 1:3].repeat(1, 2)], 1)
    theirs = poolers.initLevelMapper(2, 5)([at_origin[:, 1:]])
    features = [torch.full((1, 1, 2048 >> k, 2048 >> k), float(k - 2)) for k in (2, 3, 4, 5)]
    ours = multiscale_roi_align(features, at_origin, 1, SCALES, 1).flatten()
    assert torch.equal(ours.long(), theirs)


def test_one_map_is_roi_align():
    (x,), boxes = pyramid(2, 5, 64, 64, levels=1), boxes_of_all_sizes(2, 9, 64, 64)
    boxes[0, [1, 3]] = boxes[0, [3, 1]]  # of no level, but there is only one
    out = multiscale_roi_align([x], boxes, 3, [0.25], 2)
    assert torch.equal(out, roi_align(x, boxes, 3, 0.25, 2))


def test_detectron2_is_a_matter_of_arguments():
    features, boxes = pyramid(2, 5, 64, 64), boxes_of_all_sizes(2, 9, 64, 64)
    names = ["p2", "p3", "p4", "p5"]
    pooler = MultiScaleRoIAlign(names, 7, 0, aligned=True, level_rule="detectron2")
    per_image = [boxes[boxes[:, 0] == n, 1:] for n in range(2)]
    out = pooler(dict(zip(names, features)), per_image, [(64, 64)] * 2)
    expected = multiscale_roi_align(
        features, per_image, 7, SCALES, 0, aligned=True, level_rule="detectron2"
    )
    assert torch.equal(out, expected)


def test_mixed_layouts_and_strides():
    features, boxes = pyramid(1, 6, 128, 128), boxes_of_all_sizes(1, 20, 128, 128)
    expected = multiscale_roi_align(features, boxes, 3, SCALES)
    mixed = [features[0].contiguous(memory_format=torch.channels_last), features[1]]
    mixed += [torch.cat([x, x], 3)[..., : x.shape[3]] for x in features[2:]]
    out = multiscale_roi_align(mixed, boxes, 3, SCALES)
    assert out.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_boxes_that_are_not_finite_give_zeros(layout):
    features, boxes = (
        pyramid(1, 6, 128, 128, torch.float32, layout),
        boxes_of_all_sizes(1, 5, 128, 128),
    )
    bad = boxes.repeat(4, 1)
    bad[5:, 1:].fill_diagonal_(float("nan"))
    bad[10:15, 3] = float("inf")
    bad[15:, 1:3] = float("inf")
    bad[5:10, 1] = float("nan")
    out = multiscale_roi_align(features, bad, 4, SCALES)
    assert not out[5:].any()
    assert torch.equal(out[:5], multiscale_roi_align(features, boxes, 4, SCALES))
    for grad in gradients(multiscale_roi_align, features, bad, 4, SCALES):
        assert grad.isfinite().all()


def test_no_boxes_and_empty_maps():
    features = pyramid(2, 3, 64, 64)
    out = multiscale_roi_align(features, torch.zeros(0, 5), (2, 3), SCALES)
    assert out.shape == (0, 3, 2, 3)
    for x, grad in zip(
        features, gradients(multiscale_roi_align, features, torch.zeros(0, 5), 2, SCALES)
    ):
        assert torch.equal(grad, torch.zeros_like(x))
    empty = [x[:, :, :0] for x in features]
    assert not multiscale_roi_align(empty, torch.rand(4, 5), 2, SCALES).any()


@pytest.mark.cpu_only
def test_same_bits_for_any_number_of_threads():
    threads = torch.get_num_threads()
    for layout in LAYOUTS:
        features = pyramid(2, 96, 128, 128, torch.float32, layout)
        boxes = boxes_of_all_sizes(2, 60, 128, 128)
        results = []
        for n in (1, 2, 1):
            torch.set_num_threads(n)
            out = multiscale_roi_align(features, boxes, 7, SCALES)
            results.append((out, *gradients(multiscale_roi_align, features, boxes, 7, SCALES)))
        torch.set_num_threads(threads)
        for again in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(again, results[0]))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradcheck(layout):
    features, boxes = (
        pyramid(2, 3, 32, 16, layout=layout, levels=2),
        boxes_of_all_sizes(2, 6, 16, 16),
    )
    features = [x.requires_grad_() for x in features]

    def pool(*features):
        return multiscale_roi_align(features, boxes, (2, 3), SCALES[:2], canonical_scale=32.0)

    assert torch.autograd.gradcheck(pool, features)
    assert torch.autograd.gradgradcheck(pool, features)


def test_only_some_maps_need_a_gradient():
    features, boxes = pyramid(1, 3, 64, 64), boxes_of_all_sizes(1, 9, 64, 64)
    features[1].requires_grad_()
    multiscale_roi_align(features, boxes, 3, SCALES, canonical_scale=56.0).sum().backward()
    assert features[1].grad.any()
    assert features[0].grad is None


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_several_sizes_are_the_same_bits_as_each_alone(dtype, layout):
    features = [x.requires_grad_() for x in pyramid(2, 16, 64, 128, dtype, layout)]
    args = (SCALES, 2, True)
    boxes, sizes = boxes_of_all_sizes(2, 9, 64, 128), [(2, 3), (7, 7), (1, 5)]
    together = multiscale_roi_align(features, boxes, sizes, *args)
    alone = [multiscale_roi_align(features, boxes, size, *args) for size in sizes]
    for pooled, one in zip(together, alone, strict=True):
        assert torch.equal(pooled, one)
        assert pooled.stride() == one.stride()
    assert multiscale_roi_align(features, boxes, [], *args) == []
    assert [x.shape[2] for x in multiscale_roi_align(features, boxes, [1, 4], *args)] == [1, 4]
    if dtype != torch.float64:  # where sums of sums are rounded twice
        return
    grads = [torch.randn_like(x) for x in alone]
    expected = torch.autograd.grad(alone, features, grads)
    for got, wanted in zip(torch.autograd.grad(together, features, grads), expected):
        torch.testing.assert_close(got, wanted)
    only = torch.autograd.grad(
        multiscale_roi_align(features, boxes, sizes, *args)[1].sum(), features
    )
    wanted = torch.autograd.grad(multiscale_roi_align(features, boxes, 7, *args).sum(), features)
    for got, one in zip(only, wanted):
        torch.testing.assert_close(got, one)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_registration(layout):
    features = [x.requires_grad_() for x in pyramid(2, 3, 32, 64, layout=layout)]
    boxes = boxes_of_all_sizes(2, 6, 32, 64)
    options = (SCALES, 2, True, "torchvision", 32.0, 4)
    assert_op_is_registered(
        torch.ops.dynamask.multiscale_roi_align.default, (features, boxes, [2, 3], *options)
    )
    assert_op_is_registered(
        torch.ops.dynamask.multiscale_roi_align_sizes.default,
        (features, boxes, [2, 3, 1, 4], *options),
    )
    sizes = [size for x in features for size in x.shape[2:]]
    last = layout == torch.channels_last
    grad = torch.randn(6, 3, 2, 3, dtype=torch.float64, requires_grad=True)
    assert_op_is_registered(
        torch.ops.dynamask.multiscale_roi_align_backward.default,
        (grad, boxes, 2, sizes, *options, last, False),
    )


def test_compiles_without_a_graph_break():
    pooler = MultiScaleRoIAlign(["a", "b", "c", "d"], 3, 2)
    compiled = torch.compile(pooler, fullgraph=True, dynamic=True, backend="aot_eager")
    for height, k in ((128, 5), (192, 9)):
        features = dict(zip("abcd", pyramid(1, 4, height, 128, layout=torch.channels_last)))
        args = (features, [boxes_of_all_sizes(1, k, 128, 128)[:, 1:]], [(height, 128)])
        torch.testing.assert_close(compiled(*args), pooler(*args))


F, B = [torch.rand(2, 3, 16 >> k, 16) for k in range(2)], torch.tensor([[0.0, 0, 0, 4, 4]])
S = [0.5, 0.25]


@pytest.mark.cpu_only
@pytest.mark.parametrize(
    ("args", "options", "error", "message"),
    [
        (([], B, 2, []), {}, ValueError, "expected at least one feature map, got none"),
        (([F[0], F[1][0]], B, 2, S), {}, ValueError, r"features\[1\] \[N, C, H, W\], got \[3, 8"),
        (([F[0], F[1][:1]], B, 2, S), {}, ValueError, r"images in features\[1\] 2, got 1"),
        (([F[0], F[1][:, :1]], B, 2, S), {}, ValueError, r"channels in features\[1\] 3, got 1"),
        (([F[0], F[1].half()], B, 2, S), {}, TypeError, r"features\[1\] of torch.float32, got"),
        ((F, B, 2, S[:1]), {}, ValueError, "expected scales 2, got 1"),
        ((F, B, 2, [0.5, 0.5]), {}, ValueError, r"scales each half of the one before, got \[0.5"),
        ((F, B, 2, [0.0, 0.0]), {}, ValueError, "scales each half of the one before"),
        ((F, B, 2, S), {"level_rule": "mmdet"}, ValueError, "level_rule one of .* got 'mmdet'"),
        ((F, B, 2, S), {"canonical_scale": 0.0}, ValueError, "canonical_scale > 0, got 0.0"),
        ((F, B + 2, 2, S), {}, ValueError, r"batch index of boxes in \[0, 2\), got 2.0 in row 0"),
        ((F, B, -1, S), {}, ValueError, "output_size of one or two numbers >= 1"),
    ],
)
def test_says_what_is_wrong(args, options, error, message):
    with pytest.raises(error, match=f"multiscale_roi_align: .*{message}"):
        multiscale_roi_align(*args, **options)
