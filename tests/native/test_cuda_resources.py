"""Kernels for GPUs that are not here: built, and what they take compared with the table."""

import pytest

from . import cuda_resources as resources

MORE_REGISTERS = 8  # than the table has, for a compiler that decides otherwise now and then
# The only one with a stack: 48 bytes, none of them a spilled register, as `nvcc -Xptxas=-v` says.
ON_STACK = {"mask_targets_polygons_kernel": 48}


@pytest.fixture(scope="module")
def built():
    """What is in the library that is built here."""
    library = resources.library()
    if library is None:
        pytest.skip("dynamask is built without CUDA kernels here")
    if resources.toolkit("cuobjdump") is None or resources.toolkit("c++filt") is None:
        pytest.skip("needs cuobjdump, which Triton and the CUDA toolkit bring, and c++filt")
    table = resources.parse(resources.what_is_in(library))
    made_for = {len(x.registers) for kernels in table.values() for x in kernels.values()}
    if made_for != {len(resources.ARCHITECTURES)}:
        pytest.skip(f"the library is not built for all of {resources.ARCHITECTURES}")
    return table


def test_the_table_has_every_kernel_that_is_built(built):
    _, table = resources.read_table()
    wanted = {stem: kernels.keys() for stem, kernels in table.items()}
    got = {stem: kernels.keys() for stem, kernels in built.items() if kernels}
    assert got == wanted, "python tests/native/cuda_resources.py writes the table"


def test_no_kernel_spills_registers(built):
    """They would lie on the stack."""
    found = {name: x.stack for kernels in built.values() for name, x in kernels.items() if x.stack}
    assert found.items() <= ON_STACK.items()


@pytest.mark.parametrize("stem", sorted(resources.read_table()[1]))
def test_a_kernel_takes_no_more_than_it_did(built, stem):
    release, table = resources.read_table()
    if release != resources.release():
        pytest.skip(f"the table is of nvcc {release}, this one is {resources.release()}")
    for name, before in table[stem].items():
        now = built[stem][name]
        assert (now.shared, now.stack) == (before.shared, before.stack), name
        for here, there in zip(now.registers, before.registers):
            assert here <= there + MORE_REGISTERS, f"{name}: {now.registers}"


def test_reads_what_cuobjdump_says():
    said = (
        "Fatbin elf code:\n================\narch = sm_80\ncode version = [1,8]\n"
        "identifier = /somewhere/csrc/cuda/add.cu\n\nResource usage:\n Common:\n  GLOBAL:0\n"
        " Function _ZN8dynamask4cuda3addIfLi4EEEvPKfl:\n"
        "  REG:31 STACK:8 SHARED:264 LOCAL:0 CONSTANT[0]:680 TEXTURE:0 SURFACE:0 SAMPLER:0\n"
        " Function plain:\n  REG:9 STACK:0 SHARED:0 LOCAL:0 CONSTANT[0]:8\n"
        "\nFatbin elf code:\n================\narch = sm_90\n"
        "identifier = /somewhere/csrc/cuda/add.cu\n\nResource usage:\n"
        " Function plain:\n  REG:11 STACK:0 SHARED:16 LOCAL:0 CONSTANT[0]:8\n"
        " Function _ZN8dynamask4cuda3addIfLi4EEEvPKfl:\n  REG:30 STACK:0 SHARED:264 LOCAL:0\n"
    )
    if resources.toolkit("c++filt") is None:
        pytest.skip("needs c++filt")
    assert resources.parse(said) == {
        "add": {
            "add<float, 4>": resources.Resources((31, 30), 264, 8),
            "plain": resources.Resources((9, 11), 16, 0),
        }
    }
