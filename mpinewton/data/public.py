"""Public data sets by name: found in a folder, or downloaded, which continues where it was interrupted."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpinewton.data.lines import open_bytes, read_bytes
from mpinewton.errors import ConfigError, DataError, did_you_mean

VARIABLE = "MPINEWTON_DATA"
BLOCK = 1 << 16
PIECE = 1 << 14  # of a download; of a transfer that breaks off, at most this much is lost
TRIES = 5
LIBSVM = "https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/"
ADULT = "https://archive.ics.uci.edu/ml/machine-learning-databases/adult/"
MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist/"


@dataclass(frozen=True)
class PublicData:
    """A public data set.

    Attributes
    ----------
    url : str
        Where it is published, compressed or not.
    sha256 : str
        Digest of its content, decompressed.
    rows, features : int
    file : str
        Name of the file that is written.
    """

    url: str
    sha256: str
    rows: int
    features: int
    file: str


def _libsvm(path: str, rows: int, features: int, sha256: str) -> tuple[str, PublicData]:
    name = path.partition("/")[2].removesuffix(".bz2")
    return name, PublicData(LIBSVM + path, sha256, rows, features, f"{name}.xz")


def _mnist(name: str, rows: int, features: int, sha256: str) -> tuple[str, PublicData]:
    return name, PublicData(f"{MNIST}{name}.gz", sha256, rows, features, f"{name}.gz")


# The digests are those of copies whose origin is not the address; docs/public-data.md says what was compared.
PUBLIC = dict([
    _libsvm("binary/a1a", 1605, 123, "eb54c45f1bdb51286f803dd092eb8202b44637a858fc6c4e533a2d64a0d94b4e"),
    _libsvm("binary/a2a", 2265, 123, "535782f1be62e60938d8accb1573043542b3ac11265522927574dcbb28360a2f"),
    _libsvm("binary/a3a", 3185, 123, "2d513572f103d25e84bebe4b9f2f52ee9445764b5a393caff7db9c482cfc1ee4"),
    _libsvm("binary/a5a", 6414, 123, "5cb3a6603de0a0eb43afcdd45b1820c71ee7f20da1c09f054696bb71cbc45ad8"),
    _libsvm("binary/a7a", 16100, 123, "9de45bddc25b4133a6c41e4abbc06079daa0ddb4e3935228d072f7c486ba0d8f"),
    _libsvm("binary/a8a", 22696, 123, "d08a37b3fadd4bd3c8b3fc30bdc93b54d7c0f371265c90cbfb931a7efe97cd28"),
    _libsvm("binary/a9a", 32561, 123, "f5d5ffd8d865ff41328e7ee043e4b020816914ff6843ff15b98905ddbedce906"),
    _libsvm("binary/a9a.t", 16281, 123, "1f448a153f0320399a7e40836eb207655b0bde0f21fc941cc472193daa9f5de9"),
    _libsvm("binary/australian", 690, 14, "e11b85d6265a6cc8d07e3200fc04557009e6e2407331ea8d7910eddf199c2d1a"),
    _libsvm("binary/german.numer", 1000, 24, "69ffe0c4ba0bd91f936986d7c070dfca7e22064bbd5ab8e1fb925d6c86024ec8"),
    _libsvm("binary/ijcnn1.bz2", 49990, 22, "16506cad788cf7c9607454150ed1994788204bac2ff4c9cb3b320036b6950d3f"),
    _libsvm("binary/ijcnn1.t.bz2", 91701, 22, "e7b0bbd518641980dc322746c6bc59d019d3153934e6258e48f9d8cfae2c4bb8"),
    _libsvm("binary/madelon.t", 600, 500, "ae60251b63a46c6ace348b77749e79e25d4098d629d1dead2852c3d4daf1f8ea"),
    _libsvm("binary/splice", 1000, 60, "eee33566cfe8988ec26122460cc712d66c5c5b79b966b259408e803addaa584d"),
    _libsvm("binary/w7a", 24692, 300, "bd02f445a1a2f4aaefd27d7dcc31f1f6a8521f904157f2ee7c96d1294cd26e36"),
    _libsvm("binary/w8a", 49749, 300, "6a9fa8fd5f524303240a5db07d4b3d4a51e8b7b4b20a914105d8e3e8c81640f2"),
    _libsvm("binary/w8a.t", 14951, 300, "618929ecb01bebb841daec4cae4aa07b97832d29b08652452775598929547fde"),
    _libsvm("multiclass/news20.bz2", 15935, 62061, "1d6eb77c42e1c78e86f36af834268de933da3607f38e3703aef15f7a9f11e506"),
    _libsvm("multiclass/pendigits", 7494, 16, "6e8a2f318a24d97d26a9c381642621dc955fed73ec44c4d417bd7afbb47ed67c"),
    _libsvm("multiclass/pendigits.t", 3498, 16, "5ddb2f034e1c5ca8a47b8a7e78510f8a9d68015cf40a5031534c693fba9773d3"),
    _mnist("train-images-idx3-ubyte", 60000, 784, "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"),
    _mnist("train-labels-idx1-ubyte", 60000, 0, "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
    _mnist("t10k-images-idx3-ubyte", 10000, 784, "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"),
    _mnist("t10k-labels-idx1-ubyte", 10000, 0, "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
]) | {
    f"adult.{part}": PublicData(f"{ADULT}adult.{part}", sha256, rows, 14, f"adult.{part}.xz")
    for part, rows, sha256 in (
        ("data", 32561, "5b00264637dbfec36bdeaab5676b0b309ff9eb788d63554ca0a249491c86603d"),
        ("test", 16281, "a2a9044bc167a35b2361efbabec64e89d69ce82d9790d2980119aac5fd7e9c05"),
    )
}  # fmt: skip


def public_folder() -> Path:
    """The folder that MPINEWTON_DATA names, or else the user's cache."""
    if folder := os.environ.get(VARIABLE):
        return Path(folder)
    return Path(str(_pooch().os_cache("mpinewton")))


def find(name: str, folder: Path) -> Path | None:
    """The file of a public data set in a folder, compressed or not; None if there is none. Raises ConfigError."""
    file = _known(name).file
    places = (folder / file, *(folder / f"{name}{end}" for end in ("", ".bz2", ".gz", ".xz")))
    return next((place for place in places if place.is_file()), None)


def fetch(name: str, folder: Path) -> Path:
    """The file of a public data set; it is downloaded unless it is in the folder. The content is verified.

    An interrupted download goes on where it stopped.

    Raises
    ------
    ConfigError
        If the name is unknown, or pooch is not installed.
    DataError
        If the data cannot be downloaded, or the content is not what the digest says.
    """
    data = _known(name)
    if (there := find(name, folder)) is not None:
        _verify(there, data)
        return there
    folder.mkdir(parents=True, exist_ok=True)
    raw, target = _download(data, folder), folder / data.file
    try:
        _verify(raw, data)
        _compress(raw, target)
    finally:
        raw.unlink()
    return target


def fetch_whole(name: str, folder: Path) -> Path:
    """`fetch`, for images with the file of their labels."""
    labels = name.replace("images-idx3", "labels-idx1")
    return [fetch(part, folder) for part in (labels, name)][-1]


def _known(name: str) -> PublicData:
    if name not in PUBLIC:
        raise ConfigError(f"unknown public data set {name!r}{did_you_mean(name, PUBLIC)}; see `mpinewton datasets`")
    return PUBLIC[name]


def _pooch() -> Any:
    try:
        import pooch
    except ImportError:
        raise ConfigError(
            f"downloads need pooch: pip install mpinewton[download]; or set {VARIABLE} to a folder with the files"
        ) from None
    return pooch


def _download(data: PublicData, folder: Path) -> Path:
    """The file as published, in the folder under a temporary name."""
    pooch = _pooch()
    raw = f".{data.file}.download"
    source = pooch.create(folder, base_url="", registry={raw: None}, urls={raw: data.url}, retry_if_failed=TRIES)
    pooch.get_logger().setLevel("ERROR")
    try:
        return Path(source.fetch(raw, downloader=_resume))
    except (OSError, ValueError) as error:  # those of requests are OSError
        raise DataError(
            f"{data.url} cannot be downloaded ({error}); the same command continues, or put the file into {folder}"
        ) from None


def _resume(url: str, output: str, source: Any) -> None:
    """Download to `output`; what an interrupted download left is kept and not downloaded again."""
    import requests

    part = Path(source.path) / f"{next(iter(source.registry))}.part"
    have = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(url, headers=headers, stream=True, timeout=60) as answer:
        if answer.status_code == requests.codes.requested_range_not_satisfiable:
            part.unlink()  # it is longer than the file: begin again
        answer.raise_for_status()
        with part.open("ab" if answer.status_code == requests.codes.partial_content else "wb") as file:
            for block in answer.iter_content(PIECE):
                file.write(block)
    part.replace(output)


def _verify(path: Path, data: PublicData) -> None:
    """Raise DataError if the content of a file, decompressed, is not that of the data set."""
    digest = hashlib.sha256()
    with open_bytes(path) as stream:
        while block := read_bytes(stream, BLOCK, path):
            digest.update(block)
    if digest.hexdigest() != data.sha256:
        raise DataError(
            f"{path}: the content has sha256 {digest.hexdigest()[:12]}, expected {data.sha256[:12]}; remove the file"
            f" to download it again, or use it under another name"
        )


def _compress(raw: Path, target: Path) -> None:
    temporary = raw.with_suffix(".compressing")
    opener = lzma.open if target.suffix == ".xz" else gzip.open
    with open_bytes(raw) as stream, opener(temporary, "wb") as file:
        while block := stream.read(BLOCK):
            file.write(block)
    temporary.replace(target)
