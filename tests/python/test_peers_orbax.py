"""`make peers-orbax`, on a checkout of one file that stands for Orbax's tests: what it counts, and what it refuses."""

import subprocess
import sys
from pathlib import Path

import pytest

COMPARE = Path(__file__).parents[1] / "peers" / "compare_orbax.py"
FILE = "tiny_test.py"
TESTS = """
from absl.testing import absltest
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import tiny_test_utils


class TinyTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.path = self.create_tempdir().full_path + "/item"
    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
      checkpointer.save(self.path, args=ocp.args.StandardSave({"a": np.arange(8)}))

  def test_same(self):
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
      np.testing.assert_array_equal(checkpointer.restore(self.path)["a"], np.arange(8))

  def test_files(self):
    self.assertTrue(tiny_test_utils.has_files(self.path))

  def test_other_files(self):
    with self.subTest("one"):
      self.assertTrue(tiny_test_utils.has_files(self.path))

  def test_wrong(self):
    self.fail("on stock as well")

  def test_skipped(self):
    self.skipTest("no reason")
"""
UTILS = """
import os

def has_files(path):
  return os.path.exists(path + "/_sharding") or os.path.exists(path + "/ocdbt.process_0")
"""
BOOK = """
release = "a release"
files = ["tiny_test.py"]
[left_out]
"*_utils.py" = "a helper"
[[differences]]
kind = "format"
why = "Orbax's files"
says = "False is not true"
tests = ["tiny_test.py::TinyTest.test_files", {more}]
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("checkout")
    package = place / "checkpoint" / "orbax" / "checkpoint"
    package.mkdir(parents=True)
    (package / FILE).write_text(TESTS)
    (package / "tiny_test_utils.py").write_text(UTILS)
    return place


def compared(checkout: Path, place: Path, more: str = "", *arguments: str) -> subprocess.CompletedProcess[str]:
    (place / "book.toml").write_text(BOOK.format(more=more))
    command = [COMPARE, "--src", checkout, "--book", place / "book.toml", "--results", place / "results", *arguments]
    return subprocess.run([sys.executable, *command], text=True, capture_output=True)


def test_differences_are_listed_or_refused(checkout, tmp_path):
    done = compared(checkout, tmp_path, '"tiny_test.py::TinyTest.test_gone"')
    assert done.returncode == 1, done.stderr
    row = next(line for line in done.stdout.splitlines() if line.startswith(FILE))
    assert row.split()[1:] == ["3", "1", "1", "1", "3", "1", "5"]  # passes, failures, skips: stock, Ostraca; its saves
    assert "differences: 1 format, 1 not listed" in done.stdout
    assert "tiny_test.py::TinyTest.test_other_files: failed: AssertionError: False is not true" in done.stdout
    assert "tiny_test.py::TinyTest.test_gone: listed, and there is no such difference" in done.stdout


def test_listed_differences_are_no_failure(checkout, tmp_path):
    done = compared(checkout, tmp_path, '"tiny_test.py::TinyTest.test_other_*"')
    assert done.returncode == 0, done.stdout + done.stderr
    assert "differences: 2 format" in done.stdout


def test_files_that_nobody_chose_are_named(checkout, tmp_path):
    other = checkout / "checkpoint" / "orbax" / "checkpoint" / "new_test.py"
    other.write_text("")
    try:
        done = compared(checkout, tmp_path, "", "--only", "*.test_same")
    finally:
        other.unlink()
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "new_test.py: neither among the files to run nor left out"
