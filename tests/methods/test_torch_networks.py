"""PyTorch networks by the methods: Muon matrix by matrix, a GPT and an LSTM on text, second-order methods on them."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from fleets import states

from mpinewton.cli import run_command_line
from mpinewton.data.loading import load_rows
from mpinewton.data.pack import pack
from mpinewton.data.shard import Shard
from mpinewton.fleet.local import local_fleet
from mpinewton.fleet.transport.session import LocalSession
from mpinewton.linalg.orthogonal import newton_schulz
from mpinewton.losses import make_loss
from mpinewton.methods.optimisers import Muon
from mpinewton.methods.settings import make_method
from mpinewton.runs.loop import run
from mpinewton.runs.stopping import Iterations

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'mpinewton[torch]'")

CLASSES = (0.0, 1.0, 2.0)
CNN = "torch:module=modules:smooth_cnn,input=1x6x4"
NETWORKS = "torch:module=mpinewton.losses.torch.networks:"
GPT = f"{NETWORKS}TinyGpt,input=tokens,labels=next,arguments=vocabulary=5;context=4;width=4;heads=2;layers=1"
LSTM = f"{NETWORKS}CharLstm,input=tokens,labels=next,arguments=vocabulary=5;width=3"
TEXT = "python:topics?context=16&to=1601"


def images(n=30):
    rng = np.random.default_rng(8)
    return Shard(rng.standard_normal((n, 24)), rng.choice(CLASSES, n))


def tokens(n=6):
    rng = np.random.default_rng(5)
    return Shard(rng.integers(0, 5, (n, 4)).astype(np.uint8), rng.integers(0, 5, n).astype(float))


# -- Muon -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_muon_orthogonalises_every_kernel_as_outputs_by_the_rest_and_moves_the_others_by_adam():
    """Against its formulae on torch's own gradient of the module on all rows: the kernel is (4, 1, 3, 3)."""
    modules, rows, loss = pytest.importorskip("modules"), images(), make_loss(CNN)
    shards = [Shard(rows.X[:18], rows.y[:18]), Shard(rows.X[18:], rows.y[18:])]
    fleet = local_fleet(shards, loss, CLASSES, 0.0)
    found = [state.w for state in states(Muon(), fleet, fleet.problem.initial_weights(), 4)]
    module = modules.smooth_cnn().double()
    x, t = torch.tensor(rows.X).reshape(-1, 1, 6, 4), torch.tensor(rows.y.astype(int))
    w, b, m, v = fleet.problem.initial_weights(), np.zeros((4, 9)), 0, 0
    for step in range(1, 5):
        torch.nn.utils.vector_to_parameters(torch.tensor(w), module.parameters())
        module.zero_grad()
        torch.nn.functional.cross_entropy(module(x), t).backward()
        g = np.concatenate([p.grad.numpy().ravel() for p in module.parameters()])
        G = g[:36].reshape(4, 9)
        b = 0.95 * b + G
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        after = w - 0.003 * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
        after[:36] = w[:36] - 0.02 * newton_schulz(G + 0.95 * b).ravel()  # rows/columns = 4/9: no factor
        w = after
        np.testing.assert_allclose(found[step], w, rtol=0, atol=1e-9)


def test_muon_takes_every_matrix_of_a_gpt_by_itself():
    """All singular values of each first step are those of one Newton-Schulz; embeddings and head go by Adam."""
    loss, shard = make_loss(GPT), tokens()
    fleet = local_fleet([shard], loss, tuple(map(float, range(5))), 0.0)
    begin = fleet.problem.initial_weights()
    w, first, seen = list(states(Muon(), fleet, begin, 1))[1].w, 0, []
    g = loss.on_shard(shard, None).at(begin).gradient()
    for shape in fleet.problem.shapes:
        part = slice(first, first + shape.size)
        move, slope, first = (w - begin)[part], g[part], first + shape.size
        if shape.hidden:
            seen.append(shape.name)
            O = newton_schulz(slope.reshape(shape.sizes) * 1.95) * max(1, shape.sizes[0] / shape.sizes[1]) ** 0.5  # noqa: E741
            np.testing.assert_allclose(move, -0.02 * O.ravel(), atol=1e-12)
        else:  # Adam's first step is lr g / (|g| + eps)
            np.testing.assert_allclose(move, -0.003 * slope / (np.abs(slope) + 1e-8), atol=1e-10)
    assert seen == [f"layers.0.{name}.weight" for name in ("query", "key", "value", "mix", "up", "down")]


# -- derivatives of the networks for text -----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("text", [GPT, LSTM])
def test_hessian_products_are_those_of_the_whole_hessian(text):
    """Autograd's Hessian of the module's own mean loss over all tokens, formed whole, and differences of it."""
    shard, loss = tokens(), make_loss(text)
    model, rng = loss.on_shard(shard, None), np.random.default_rng(1)
    w = loss.initial_weights(4, None, 2) + 0.3 * rng.standard_normal(model.dim)
    after = torch.tensor(np.hstack([shard.X[:, 1:], shard.y[:, None]]).astype(int)).ravel()
    network = loss.network()

    def mean(flat):
        z = network.outputs(flat, torch.tensor(shard.X.astype(int)))
        return torch.nn.functional.cross_entropy(z.reshape(-1, 5), after)

    there, flat = model.at(w), torch.tensor(w)
    H = torch.autograd.functional.hessian(mean, flat).numpy()
    np.testing.assert_allclose(there.value(), mean(flat).item(), rtol=1e-13)
    np.testing.assert_allclose(there.gradient(), torch.func.grad(mean)(flat).numpy(), atol=1e-14)
    for v in rng.standard_normal((3, model.dim)):
        np.testing.assert_allclose(there.hvp(v), H @ v, atol=1e-12)
    step = 1e-6 * np.eye(model.dim)
    for k in range(0, model.dim, 17):
        slope = (model.at(w + step[k]).value() - model.at(w - step[k]).value()) / 2e-6
        assert there.gradient()[k] == pytest.approx(slope, abs=1e-8)


def test_the_gpt_begins_with_all_tokens_alike():
    loss = make_loss(GPT.replace("vocabulary=5", "vocabulary=60"))
    assert loss.on_shard(tokens(), None).at(loss.initial_weights(4, None, 0)).value() == pytest.approx(
        np.log(60), abs=0.03
    )


def test_the_gpt_sees_nothing_of_what_comes():
    loss, shard = make_loss(GPT), tokens()
    network, w = loss.network(), torch.tensor(loss.initial_weights(4, None, 0))
    other = shard.X.copy()
    other[:, 3] = (other[:, 3] + 1) % 5
    one, two = (network.outputs(w, network.rows(X)).detach().numpy() for X in (shard.X, other))
    np.testing.assert_array_equal(one[:, :3], two[:, :3])
    assert not np.array_equal(one[:, 3], two[:, 3])


# -- training on text -------------------------------------------------------------------------------------------------

WORDS = "input=tokens,labels=next,dtype=float32"
SMALL = {
    "gpt": f"{NETWORKS}TinyGpt,arguments=vocabulary=96;context=16;width=8;layers=1,{WORDS}",
    "lstm": f"{NETWORKS}CharLstm,arguments=vocabulary=96;width=8,{WORDS}",
}
BATCHES = {"batch": 8, "sampling": "epochs"}
METHODS = {
    "nsisa": ({"sigma": 20.0, "gamma": 1.0, "schulz": {"other_sigma": 1.0}, **BATCHES}, 20, 0.8),
    "muon": ({"other_lr": 0.01, **BATCHES}, 20, 0.8),
    "dino": ({"limit": 10}, 1, None),
    "lbfgs": ({}, 8, 0.85),
}


@pytest.mark.slow
@pytest.mark.parametrize(("network", "method"), [*(("gpt", method) for method in METHODS), ("lstm", "nsisa")])
def test_it_learns(network, method):
    rows, classes = load_rows(TEXT if method != "dino" else "python:topics?context=16&to=401")
    shards = [Shard(rows.X[i::4].astype(np.uint8), rows.y[i::4]) for i in range(4)]
    settings, rounds, part = METHODS[method]
    fleet, made, seen = local_fleet(shards, make_loss(SMALL[network]), classes, 0.0), make_method(method, settings), []
    fleet.adopt(made)
    ended = run(
        made, fleet, fleet.problem.initial_weights(), [Iterations(rounds)], watchers=[lambda row, _: seen.append(row)]
    )
    assert ended.kind == "budget", ended.reason
    if part is None:  # DINO goes where the gradient vanishes, downhill all the way
        assert all(after.loss < before.loss for before, after in pairwise(seen))
    else:
        assert seen[-1].loss < part * seen[0].loss


@pytest.fixture(scope="module")
def topics(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shards") / "topics"
    pack(TEXT, folder, 4)
    return folder


def options_of(topics: Path, out: Path, iterations: int, loss: str) -> list[str]:
    options = ["run", "nsisa", str(topics), "-o", str(out), "--loss", loss, "--l2", "0", "--tol", "0", "--seed", "5"]
    options += ["--test", "python:topics?context=16&from=1601&to=2800", "--measure-every", "2"]
    for pair in ("sigma=20", "schulz.other_sigma=1", "batch=8"):
        options += ["--set", pair]
    return [*options, "--max-iterations", str(iterations)]


@pytest.mark.slow
def test_a_gpt_has_the_same_bits_after_a_stop(topics, tmp_path):
    """On several ranks: see test_torch_ranks."""

    def bits(out: str, iterations: int) -> tuple[str, str, float]:
        assert run_command_line(LocalSession(), options_of(topics, tmp_path / out, iterations, SMALL["gpt"])) == 0
        result = json.loads((tmp_path / out / "result.json").read_text())
        return result["history_sha256"], result["w_sha256"], result["test_loss"]

    one = bits("one", 6)
    assert bits("halves", 4) != one
    assert bits("halves", 6) == one


@pytest.mark.slow
def test_evaluate_gives_the_loss_that_was_recorded_and_predict_the_characters(topics, tmp_path, capsys):
    assert run_command_line(LocalSession(), options_of(topics, tmp_path / "r", 4, SMALL["lstm"])) == 0
    recorded = json.loads((tmp_path / "r" / "result.json").read_text())["test_loss"]
    capsys.readouterr()
    model, rest = str(tmp_path / "r" / "model.h5"), "python:topics?context=16&from=1601&to=2800"
    assert run_command_line(LocalSession(), ["evaluate", model, rest, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["loss"] == pytest.approx(recorded, rel=1e-14)
    assert run_command_line(LocalSession(), ["predict", model, rest]) == 0
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 74
    assert all(len(line) == 1 or line in (r"'\n'", "' '") for line in said)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_refused_before_anything_starts(topics, tmp_path, capsys):
    options = options_of(topics, tmp_path / "r", 2, f"{SMALL['gpt']},device=cuda")
    assert run_command_line(LocalSession(), options) == 2
    assert "finds no GPU here; use device=cpu" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()
