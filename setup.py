"""The compiled kernels, which setup.cfg cannot declare. Without a compiler mpinewton installs, and runs numpy's."""

from pathlib import Path

from setuptools import Extension, setup

HEADERS = [str(path) for path in Path("mpinewton/kernels").glob("*.h")]


def kernel(name: str) -> Extension:
    return Extension(
        f"mpinewton.kernels.{name}",
        sources=[f"mpinewton/kernels/{name}.c"],
        depends=HEADERS,
        # The bits are those of IEEE 754, operation by operation: no contraction, no reordering.
        extra_compile_args=["-O3", "-std=c11", "-fno-fast-math", "-ffp-contract=off", "-fno-trapping-math"],
        py_limited_api=True,
        optional=True,
    )


setup(ext_modules=[kernel("rows"), kernel("text")], options={"bdist_wheel": {"py_limited_api": "cp311"}})
