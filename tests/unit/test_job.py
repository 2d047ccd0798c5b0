"""A job in words and back, and what is no job."""

from __future__ import annotations

import tomllib
from copy import deepcopy
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpinewton.data.pack import pack
from mpinewton.errors import ConfigError, DataError, MpinewtonError
from mpinewton.methods import METHODS
from mpinewton.methods.settings import make_method, parse_settings, settings_of
from mpinewton.runs import stopping
from mpinewton.runs.job import Job, load_job, read_options

TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
POSITIVE = st.floats(1e-300, 1e300)
MAYBE = st.none() | POSITIVE

SEARCH = st.fixed_dictionaries(
    {},
    optional={
        "rho": st.floats(1e-9, 0.99),
        "largest": st.floats(1, 1e9),
        "choose": st.sampled_from(["largest", "least"]),
        "first": st.integers(1, 99),
    },
)
SETTINGS = {
    "newton": st.fixed_dictionaries({}, optional={"search": SEARCH.filter(lambda s: s.get("choose") != "least")}),
    "dino": st.fixed_dictionaries(
        {},
        optional={"theta": POSITIVE, "phi": POSITIVE, "solver": st.sampled_from(["lsmr", "lanczos"]), "search": SEARCH},
    ),
}


@st.composite
def jobs(draw: st.DrawFn) -> Job:
    method = draw(st.sampled_from(sorted(SETTINGS)))
    return Job(
        method=method, settings=draw(SETTINGS[method]), data=draw(TEXT), loss=draw(st.none() | TEXT), l2=draw(MAYBE),
        intercept=draw(st.booleans()), seed=draw(st.integers(0, 2**63 - 1)),
        dtype=draw(st.sampled_from(["float64", "float32"])), sums=draw(st.sampled_from(["fixed", "mpi"])),
        start=draw(TEXT), reference=draw(st.none() | TEXT),
        test=draw(st.none() | TEXT), tol=draw(MAYBE), rtol=draw(MAYBE), gap=draw(MAYBE),
        max_iterations=draw(st.none() | st.integers(0, 10**9)), max_bits=draw(MAYBE), max_hours=draw(MAYBE),
        checkpoint_seconds=draw(POSITIVE),
    )  # fmt: skip


@pytest.mark.slow
@settings(max_examples=60)
@given(jobs())
def test_a_job_survives_its_file(job: Job) -> None:
    again = Job.of(tomllib.loads(job.toml()), "config.toml")
    assert again == job
    assert again.toml() == job.toml()
    assert again.algorithm == job.algorithm


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("iris") / "shards"
    pack("sklearn:iris", folder, 3)
    return folder


def test_a_completed_job_says_everything(shards: Path) -> None:
    job, manifest = load_job(Job(method="dino", data=str(shards), settings={"search": {"first": 3}}))
    assert (job.loss, job.l2, manifest.rows) == ("softmax", 1 / 150, 150)
    assert job.settings["theta"] == 1e-4
    assert job.settings["search"] == {"rho": 1e-4, "largest": 1.0, "choose": "largest", "first": 3}
    again, _ = load_job(Job.of(tomllib.loads(job.toml()), "config.toml"))
    assert again == job
    assert again.identity(manifest) == job.identity(manifest)
    assert job.identity(manifest)["data_sha256"] == manifest.data_sha256


def test_hyphens_are_underscores(shards: Path) -> None:
    job, _ = load_job(Job(method="gradient_descent", data=str(shards)))
    assert job.method == "gradient-descent"


def kinds(**options: Any) -> list[tuple[str, float]]:
    job = Job(method="dino", data="d", **options)
    job = msgspec.structs.replace(job, **stopping.default_stops(msgspec.structs.asdict(job)))
    return [(stop.option, stop.limit) for stop in job.stops()]


def test_stops() -> None:
    assert kinds() == [("ftol", 1e-14), ("max-iterations", 1000)]
    assert kinds(max_rounds=7) == [("ftol", 1e-14), ("max-rounds", 7)]
    assert kinds(gap=1e-3, reference="auto") == [("gap", 1e-3), ("max-iterations", 1000)]
    everything = {
        "tol": 1.0,
        "rtol": 2.0,
        "ftol": 0.5,
        "gap": 3.0,
        "max_iterations": 4,
        "max_rounds": 5,
        "max_bits": 6.0,
    }
    assert kinds(**everything, max_seconds=7.0) == [
        ("tol", 1), ("rtol", 2), ("gap", 3), ("ftol", 0.5),
        ("max-iterations", 4), ("max-rounds", 5), ("max-bits", 6), ("max-seconds", 7),
    ]  # fmt: skip
    names = {kind.option for kind in stopping.Stop.__subclasses__()}
    assert names == {name for name, _ in kinds(**everything, max_seconds=7.0)}


# -- settings -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_settings_make_the_same_method_again(name: str) -> None:
    method = METHODS[name]()
    assert make_method(name, settings_of(method)) == method
    assert make_method(name.replace("-", "_"), {}) == method


def test_pairs_become_nested_settings() -> None:
    assert parse_settings(["theta=0.1", "search.first=3", "search.rho=0.2", "x-y=a=b", "k=none"]) == {
        "theta": "0.1", "search": {"first": "3", "rho": "0.2"}, "x_y": "a=b", "k": "none",
    }  # fmt: skip
    method = make_method("dino", parse_settings(["theta=0.1", "search.first=3"]))
    assert settings_of(method)["theta"] == 0.1
    assert settings_of(method)["search"]["first"] == 3
    pairs = ["sigma=.3", "rho=5.", "gamma=+.9", "ridge_driver=.1e-2", "second.beta=.5"]
    method = make_method("sisa", parse_settings(pairs))
    assert (method.sigma, method.rho, method.gamma, method.l2_driver, method.second.beta) == (0.3, 5, 0.9, 1e-3, 0.5)
    for wrong in (["theta"], ["=1"], ["a=1", "a.b=2"]):
        with pytest.raises(ConfigError, match="--set"):
            parse_settings(wrong)


# -- what is no job -----------------------------------------------------------------------------------------------

# None of these is right for any option or setting: where one is taken, that is the defect.
NEVER: list[Any] = [
    [],
    [1.0],
    {"a": 1},
    float("nan"),
    -1,
    -1e300,
    10**400,
    "",
    "\0",
    "nan",
    "-inf",
    "no such thing",
    b"x",
]
FREE_TEXT = {"data", "start", "reference", "test"}  # found wrong only where they are looked up


def mutated(rng: np.random.Generator, content: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The configuration with one thing wrong, and what it is."""
    places = [content, content["settings"], content["settings"]["search"]]
    place = places[rng.integers(3)]
    key = sorted(place)[rng.integers(len(place))]
    while key in FREE_TEXT:
        key = sorted(place)[rng.integers(len(place))]
    match rng.integers(3):
        case 0:
            place[key + "x"] = place.pop(key)
            return content, f"{key} is called {key}x"
        case 1:
            place["unheard_of"] = 1
            return content, "unheard_of = 1"
        case _:
            value = NEVER[rng.integers(len(NEVER))]
            place[key] = value
            return content, f"{key} = {value!r:.40}"


def test_mutated_configurations_are_refused_in_words(shards: Path) -> None:
    whole, _ = load_job(
        Job(method="dino", data=str(shards), tol=1e-3, max_rounds=9, max_bits=1e9, max_hours=1.0, max_seconds=9.0)
    )
    valid = tomllib.loads(whole.toml())
    load_job(Job.of(deepcopy(valid), "config.toml"))
    rng = np.random.default_rng(0)
    for _ in range(300):
        content, what = mutated(rng, deepcopy(valid))
        try:
            load_job(Job.of(content, "config.toml"))
        except ConfigError as error:
            assert "Traceback" not in str(error)
        else:
            pytest.fail(f"accepted: {what}")


def test_damaged_files_are_refused_in_words(shards: Path, tmp_path: Path) -> None:
    whole, _ = load_job(Job(method="dino", data=str(shards), tol=1e-3))
    text = whole.toml().encode()
    rng = np.random.default_rng(1)
    path, refused = tmp_path / "config.toml", 0
    for _ in range(200):
        damaged = bytearray(text)
        for place in rng.integers(len(text), size=3):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            load_job(Job.of(read_options(path), str(path)))
        except (ConfigError, DataError):  # DataError where the path to the shards was hit
            refused += 1
    assert refused > 150


def test_refusals_name_the_place() -> None:
    for content, words in (
        ({"method": "dino", "data": "d", "max_iteration": 3}, "did you mean 'max_iterations'"),
        ({"method": "dino", "data": "d", "intercept": "maybe"}, "intercept"),
        ({"data": "d"}, "METHOD is missing"),
    ):
        with pytest.raises(ConfigError, match=words):
            Job.of(content, "config.toml")
    with pytest.raises(MpinewtonError, match="cannot be read"):
        load_job(Job(method="dino", data="nowhere"))
    with pytest.raises(ConfigError, match="theta"):  # before the data are looked for
        load_job(Job(method="dino", data="nowhere", settings={"theta": -1}))


def test_a_completed_job_says_when_it_stops(shards: Path) -> None:
    job, _ = load_job(Job(method="dino", data=str(shards), max_iterations=5))
    assert (job.ftol, job.max_iterations) == (1e-14, 5)
    assert "ftol = 1e-14" in job.toml()
