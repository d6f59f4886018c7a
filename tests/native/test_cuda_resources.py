"""Kernels for GPUs that are not here: compiled, and what they take compared with the table."""

import pytest

from . import cuda_resources as resources

MORE_REGISTERS = 8  # than the table has, for a compiler that decides otherwise now and then


@pytest.fixture(scope="module")
def table():
    if resources.nvcc() is None:
        pytest.skip("needs nvcc and c++filt")
    unknown = [x for x in resources.ARCHITECTURES if not resources.is_known(x)]
    if unknown:
        pytest.skip(f"nvcc {resources.release()} does not know compute capability {unknown}")
    return resources.read_table()


@pytest.mark.parametrize("stem", resources.stems())
def test_a_kernel_takes_no_more_than_it_did(table, stem):
    release, of_stems = table
    wanted, got = of_stems.get(stem, {}), resources.measured(stem)
    assert got.keys() == wanted.keys(), "python tests/native/cuda_resources.py writes the table"
    for name, now in got.items():
        assert now.spilled == 0, name
        if release != resources.release():
            continue
        before = wanted[name]
        assert (now.shared, now.stack) == (before.shared, before.stack), name
        for here, there in zip(now.registers, before.registers):
            assert here <= there + MORE_REGISTERS, f"{name}: {now.registers}"


def test_the_table_knows_no_file_that_is_gone():
    assert resources.read_table()[1].keys() <= set(resources.stems())


def test_reads_what_ptxas_says():
    said = (
        "ptxas info : Compiling entry function '_ZN8dynamask4cuda3addIfLi4EEEvPKfl' for 'sm_90'\n"
        "ptxas info : Function properties for _ZN8dynamask4cuda3addIfLi4EEEvPKfl\n"
        "    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads\n"
        "ptxas info    : Used 31 registers, used 1 barriers, 264 bytes smem\n"
        "ptxas info    : Compiling entry function 'plain' for 'sm_90'\n"
        "    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n"
        "ptxas info    : Used 9 registers\n"
    )
    if resources.nvcc() is None:
        pytest.skip("needs c++filt")
    assert resources.parse(said) == {
        "add<float, 4>": resources.Resources((31,), 264, 8, 16),
        "plain": resources.Resources((9,), 0, 0, 0),
    }
