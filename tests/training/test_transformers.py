"""The tests that transformers runs on each of its models, on the GPT.

They come with transformers' source package, of the version in requirements.lock; `make test` fetches them into .venv.
The package lacks the two mixins that test generation and export, so those are empty here.
"""

import importlib
import os
import re
import sys
import types
import unittest
from pathlib import Path

import pytest
import torch
import transformers

from evonb.training.gpt import GPT, GPTConfig, GPTModel

FOLDER = Path(os.environ.get("EVONB_TRANSFORMERS_TESTS") or Path(sys.prefix) / "models" / "transformers_tests")
if not (FOLDER / transformers.__version__).exists():
    pytest.skip("transformers' own tests aren't there: .ci/transformers-tests fetches them", allow_module_level=True)
pytestmark = [pytest.mark.numerics, pytest.mark.filterwarnings("ignore:What was set has no effect")]


def own_tests():
    "transformers' module of common tests, as part of a package of another name than our tests'."
    for name, missing in (("", ""), (".exporters", ""), (".generation", ""),
                          (".exporters.test_export", "ExportTesterMixin"),
                          (".generation.test_utils", "GenerationTesterMixin")):  # fmt: skip
        if not missing or not (FOLDER / "tests" / f"{name[1:].replace('.', '/')}.py").exists():
            made = sys.modules["transformers_tests" + name] = types.ModuleType("transformers_tests" + name)
            made.__path__ = [str(FOLDER / "tests" / name[1:])]
            setattr(made, missing or "__doc__", type(missing, (), {}) if missing else None)
    sys.path.append(str(FOLDER))  # for parameterized
    try:
        return importlib.import_module("transformers_tests.test_modeling_common")
    finally:
        sys.path.remove(str(FOLDER))


common = own_tests()
common.MODEL_MAPPING_NAMES = common.MODEL_MAPPING_NAMES | {"evonb-gpt": "GPTModel"}
common.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES = common.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES | {"evonb-gpt": "GPT"}


class Small:
    "What the tests ask for a model and its inputs."

    batch_size, seq_length, is_training = 5, 7, True
    vocab_size, hidden_size, num_hidden_layers, num_attention_heads = 99, 32, 2, 4

    def get_config(self):
        return GPTConfig(vocab_size=99, n_layer=2, n_head=4, n_embd=32, block_size=64, pad_token_id=0, bos_token_id=1,
                         eos_token_id=2)  # fmt: skip

    def prepare_config_and_inputs_for_common(self):
        mask = torch.ones(5, 7, dtype=torch.long).tril()
        return self.get_config(), dict(input_ids=common.ids_tensor([5, 7], 99), attention_mask=mask)


class TestCommon(common.ModelTesterMixin, unittest.TestCase):
    all_model_classes, all_generative_model_classes = (GPTModel, GPT), (GPT,)

    def setUp(self):
        self.model_tester = Small()


# of other kinds of models, of accelerators, and of mixins that the source package lacks
NOT_OURS = ("flash|flex|kernels|deepspeed|composite|subconfig|fp32_modules|tp_plan|mapping|grouped|sliding|moe_|router|"
            "vision|image_features|text_features|audio_features|video_features|position_vector|encoder_decoder|"
            "already_mapped|mixin_inheritance|can_init_all_missing|rope|attention_dynamically")  # fmt: skip
for name in [n for n in dir(TestCommon) if n.startswith("test_")]:
    if re.search(NOT_OURS, name) or getattr(getattr(TestCommon, name), "__unittest_skip__", False):
        setattr(TestCommon, name, None)
