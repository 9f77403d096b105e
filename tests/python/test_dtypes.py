"""numpy dtypes and the format's codes."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from ostraca import FormatError, UnsupportedError, dtypes
from trees import ALL_DTYPES


@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=str)
def test_round_trip(dtype: np.dtype[Any]) -> None:
    coded = dtypes.encode(dtype)
    back = dtypes.decode(*coded)
    assert back == dtype and back.isnative == dtype.isnative
    assert dtypes.item_bytes(coded.code, coded.detail) == dtype.itemsize


def test_codes_are_those_of_the_format() -> None:
    assert dtypes.CODES["bool"] == 1 and dtypes.CODES["complex128"] == 14 and dtypes.CODES["bfloat16"] == 15
    assert dtypes.CODES["float8_e8m0fnu"] == 23 and dtypes.CODES["uint1"] == 32
    assert dtypes.encode(np.dtype(">U5")) == (36, "20", True)
    assert dtypes.encode(np.dtype("M8[25s]")) == (33, "25s", False)
    assert dtypes.encode(np.dtype("m8")) == (34, "", False)
    assert dtypes.encode(np.dtype("V0")) == (37, "0", False)


@pytest.mark.parametrize(
    ("dtype", "words"),
    [
        ("O", "nothing is pickled"),
        ("f4,i4", "structured"),
        ("g", "fixed size"),
        ("G", "fixed size"),
        ("S1048577", "limit"),
    ],
)
def test_refused(dtype: str, words: str) -> None:
    with pytest.raises(UnsupportedError, match=words):
        dtypes.encode(np.dtype(dtype))


def test_variable_strings_are_refused() -> None:
    with pytest.raises(UnsupportedError):
        dtypes.encode(np.dtypes.StringDType())


@pytest.mark.parametrize(
    ("code", "detail"),
    [(99, ""), (0, ""), (33, "fortnights"), (35, ""), (35, "-1"), (35, "1048577"), (36, "5"), (37, "x"), (37, "٣")],
)
def test_malformed_codes(code: int, detail: str) -> None:
    with pytest.raises(FormatError):
        dtypes.decode(code, detail)


def test_names() -> None:
    assert dtypes.named("bfloat16") == (15, "", False)
    assert dtypes.named(">f4") == (11, "", True)
    assert dtypes.describe(16, "") == "float8_e4m3fn" and dtypes.describe(35, "3") == "|S3"


def test_without_ml_dtypes() -> None:
    code = """
import sys; sys.modules["ml_dtypes"] = None
import ostraca.dtypes as d
assert d.named("bfloat16").code == 15 and d.item_bytes(15, "") == 2 and d.item_bytes(16, "") == 1
try: d.decode(15, "")
except d.UnsupportedError as error: print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "bfloat16" in done.stdout and "pip install ml_dtypes" in done.stdout
