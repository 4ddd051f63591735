"""What is spared in SpeechBrain's encoders changes no bit."""

import copy
import os
import subprocess
import sys

import pytest
import torch
from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN
from speechbrain.lobes.models.ResNet import ResNet
from speechbrain.lobes.models.Xvector import Xvector
from speechbrain.nnet.CNN import Conv1d

from sb_margins.encoder import without_empty_padding

NETWORKS = {
    "ecapa": lambda: ECAPA_TDNN(
        20,
        channels=[16, 16, 16, 16, 48],
        kernel_sizes=[5, 3, 3, 3, 1],
        dilations=[1, 2, 3, 4, 1],
        attention_channels=8,
        lin_neurons=12,
    ),
    "xvector": lambda: Xvector(
        in_channels=20,
        tdnn_blocks=3,
        tdnn_channels=[16, 16, 24],
        tdnn_kernel_sizes=[5, 3, 1],
        tdnn_dilations=[1, 2, 1],
        lin_neurons=12,
    ),
    "resnet": lambda: ResNet(
        input_size=20, channels=[8, 8, 8, 8], block_sizes=[1, 1, 1, 1], lin_neurons=12
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_bit_identical_without_empty_padding(name):
    torch.manual_seed(0)
    stock = NETWORKS[name]()
    spared = without_empty_padding(copy.deepcopy(stock))
    changed = [
        (was.kernel_size, now.kernel_size)
        for was, now in zip(stock.modules(), spared.modules(), strict=True)
        if isinstance(was, Conv1d) and was.padding != now.padding
    ]
    assert all(pair == (1, 1) for pair in changed)
    assert changed or name == "resnet"
    feats = torch.randn(4, 60, 20)
    for network in (stock, spared):
        torch.manual_seed(1)  # SpeechBrain's statistics pooling adds noise
        network(feats).square().sum().backward()
    assert stock.state_dict().keys() == spared.state_dict().keys()
    for was, now in zip(stock.parameters(), spared.parameters(), strict=True):
        assert torch.equal(was.grad, now.grad)
    for was, now in zip(stock.buffers(), spared.buffers(), strict=True):
        assert torch.equal(was, now)
    for network in (stock, spared):
        network.eval()
    found = []
    for network in (stock, spared):
        torch.manual_seed(2)
        found.append(network(feats))
    assert torch.equal(*found)


FAULTS = """
import resource, sys, torch
from sb_margins.training.memory import keep_memory
if sys.argv[1] == "keep":
    sys.exit(3) if not keep_memory() else None
torch.set_num_threads(1)
for step in range(20):
    if step == 5:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    big = [torch.ones(16 << 20) for _ in range(3)]
    del big
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's settings")
def test_memory_of_a_step_stays_for_the_next():
    env = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    faults = {}
    for mode in ("plain", "keep"):
        command = [sys.executable, "-c", FAULTS, mode]
        done = subprocess.run(command, capture_output=True, text=True, env=env)
        if done.returncode == 3:
            pytest.skip("no glibc here")
        assert done.returncode == 0, done.stderr
        faults[mode] = int(done.stdout)
    assert faults["keep"] < faults["plain"] / 10
