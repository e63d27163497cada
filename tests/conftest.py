"""Fixtures shared by the suites: where real data is, and models small enough for tests."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("EVONB_PRODUCTS", "onednn")  # where there is AVX-512; not measured, so the same in every process
ROOT = Path(__file__).resolve().parents[1]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    "With several workers a file's tests stay together, and so do all that drive a browser, which come first."
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file = nodeid.partition("::")[0]
            return "browser" if "/browser/" in file else file

    return ByFile(config, log)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    "The folder of real data sets: EVONB_DATA, else shared/data beside the project; otherwise the test is skipped."
    folder = Path(os.environ.get("EVONB_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real data: set EVONB_DATA to its folder (looked in {folder})")
    return folder


@pytest.fixture(scope="module")
def one_thread():
    "Torch computes in one thread while this module's tests run."
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def brain():
    "Simulated brain scores, as an alignment stores them."
    from evonb.core import Seeds
    from evonb.plots import examples as plots_examples

    return plots_examples.example_brain(Seeds(3))


@pytest.fixture(scope="module")
def reading():
    "Simulated scores on reading times, as an alignment stores them."
    from evonb.core import Seeds
    from evonb.plots import examples as plots_examples

    return plots_examples.example_reading(Seeds(3))


@pytest.fixture(scope="session")
def tiny_reader():
    "Makes a tiny GPT, with its tokenizer, that prefers something: `tiny_reader(seed, name)`."
    def make(seed=0, name="newborn"):
        import torch

        from evonb.core import Seeds
        from evonb.text.tokens import train_tokenizer
        from evonb.training.base import new_base
        from evonb.training.gpt import GPTConfig, new_gpt

        tokenizer = train_tokenizer(["the cat sat on the mat.", "a dog ran on the mat and sat."] * 20, 270)
        model = new_gpt(GPTConfig(vocab_size=270, n_layer=2, n_head=2, n_embd=16, block_size=64), Seeds(seed))
        with torch.no_grad():
            model.lm_head.weight.normal_(0, 1, generator=torch.Generator().manual_seed(seed))
        return new_base(model, tokenizer, name)

    return make


def pytest_configure(config):
    "Marks in transformers' own tests, which tests/training/test_transformers.py takes over."
    for name in ("accelerate_tests", "flash_attn_test", "flash_attn_3_test", "flash_attn_4_test", "torch_compile_test"):
        config.addinivalue_line("markers", f"{name}: of transformers' own tests")
