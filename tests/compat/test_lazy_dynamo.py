"""A process with a lazy import of torch's compiler gives the same results as one that imports it first."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT

PROGRAM = """
import json, logging, sys, warnings
import torch
is_lazy = sys.argv[1] == "lazy"
if not is_lazy:
    import torch._dynamo.eval_frame
from src.compat.lean_imports import lean
with lean():
    import lightning as L
from torch.utils.data import DataLoader

logging.disable(logging.WARNING)
warnings.simplefilter("ignore")
results = {}
graphs = []
calls = []

def counting(graph, inputs):
    graphs.append(len(graph.graph.nodes))
    return graph.forward

def graphs_of(function, *inputs):
    graphs.clear()
    result = function(*inputs)
    return len(graphs), graphs[:], result

@torch.compiler.disable
def uncompiled(x):
    calls.append(torch.compiler.is_compiling())
    return x.tanh()

class Net(L.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.layers = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Dropout(0.5), torch.nn.Linear(4, 1))

    def training_step(self, x, index):
        return uncompiled(self.layers(x).square().mean())

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), 0.1)

def fitted(net):
    loader = DataLoader(torch.arange(24.0).view(8, 3) / 24, batch_size=4)
    torch.manual_seed(2)
    quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    trainer = L.Trainer(accelerator="cpu", max_epochs=2, **quiet)
    trainer.fit(net, loader)
    return [p.sum().item() for p in trainer.lightning_module.parameters()]

net = Net()
optimizer = net.configure_optimizers()
x = torch.linspace(0, 1, 6).view(2, 3)
for _ in range(3):
    optimizer.zero_grad()
    uncompiled(net.layers(x).sum()).backward()
    optimizer.step()
results["eager"] = [p.sum().item() for p in net.parameters()]
results["fitted"] = fitted(Net())
assert ("torch._dynamo.eval_frame" in sys.modules) == (not is_lazy)  # nothing has used it so far

from lightning.fabric.wrappers import _unwrap_compiled
results["not compiled"] = _unwrap_compiled(net)[1]
net.eval()
results["forward"] = graphs_of(torch.compile(net.layers, backend=counting), x)[:2]
calls.clear()
results["uncompiled"] = graphs_of(torch.compile(lambda x: uncompiled(x + 1) + 2, backend=counting), x)[:2]
results["calls"] = calls[:]

def step(x):
    optimizer.zero_grad()
    net.layers(x).sum().backward()
    optimizer.step()

results["step"] = graphs_of(torch.compile(step, backend=counting), x)[:2]
results["stepped"] = [p.sum().item() for p in net.parameters()]
compiled = torch.compile(Net(), backend=counting)
results["compiled"] = _unwrap_compiled(compiled)[1] is not None, isinstance(compiled, torch._dynamo.OptimizedModule)
results["fitted compiled"] = fitted(compiled)

import torch._dynamo.eval_frame as module
from torch._dynamo import config
assert torch._dynamo.eval_frame is module is sys.modules["torch._dynamo.eval_frame"] and torch._dynamo.config is config
assert module.__spec__.origin and not hasattr(torch._dynamo, "nothing")
print(json.dumps(results))
"""


@pytest.mark.slow
def test_lazy_import_compiles_as_an_eager_one() -> None:
    results = []
    for way in ("lazy", "eager"):
        done = subprocess.run([sys.executable, "-c", PROGRAM, way], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        results.append(done.stdout.splitlines()[-1])
    assert results[0] == results[1]
    assert '"forward": [1, ' in results[0]  # it did compile
