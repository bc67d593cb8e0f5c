"""Shims on tiny made-up YOLOv5 trees; what changes imports or the environment runs in a process of its own."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.yolov5 import pkg_resources_stub as pkg
from yolov5_prune_plugin.yolov5.compat import apply as compat

OURS = Path(compat.__file__).parents[3]
GENERAL = """\
from pathlib import Path
prefix = "requirements: "
AUTOINSTALL = True
said = []
class LOGGER:
    info = warning = said.append
def check_git_status():
    msg = ', for updates see https://github.com/ultralytics/yolov5'
    raise OSError("git fetch")
def check_requirements(s="onnx ", install=True):
    if s and install and AUTOINSTALL:  # check environment variable
        raise OSError("pip install")
def check_font(font="Arial.ttf"):
    if True:
        url = "https://ultralytics.com/assets/" + Path(font).name if not font else font.name
        raise OSError("download")
"""
METRICS = """\
import numpy as np
def area(y, x):
    return np.trapz(y, x)
def fail():
    raise RuntimeError("line 5")
"""


def written(root, files):
    """Write texts by path below a folder, with the folders that are missing."""
    for file, text in files.items():
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(text)


@pytest.fixture
def tree(tmp_path):
    """A checkout with the lines that the shims look for, and a module of the same name outside of it."""
    root = tmp_path / "yolov5"
    written(root, {
        "utils/__init__.py": "",
        "utils/general.py": GENERAL,
        "utils/metrics.py": METRICS,
        "models/__init__.py": "",
        "models/yolo.py": "",
        "models/experimental.py": "import torch\nload = lambda f: torch.load(f, map_location='cpu')\n",
        "segment/val.py": "",
        "val.py": "",
    })  # fmt: skip
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "metrics.py").write_text("text = 'np.trapz('\n")
    return root


def run(tree, code, shims="", **environment):
    """Run code in a process of its own, with the tree on its path as for ``python val.py``."""
    start = "import sys; from pathlib import Path; root = Path(sys.argv[1])\n"
    start += "from yolov5_prune_plugin.yolov5.compat import apply as compat\n"
    paths = os.pathsep.join([str(tree), str(OURS), str(tree.parent / "other")])
    return subprocess.run(
        [sys.executable, "-c", start + textwrap.dedent(code), str(tree)],
        env={**os.environ, "PYTHONPATH": paths, "YOLOV5_PRUNE_SHIMS": shims, **environment},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def output(*args, **kwargs):
    result = run(*args, **kwargs)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def test_early_needed_looks_at_the_sources_only(tree):
    assert compat.early_needed(tree / "val.py") == ["font", "autoupdate", "git-status", "numpy-trapz"]
    (tree / "utils" / "metrics.py").write_text("")
    assert compat.early_needed(tree) == ["font", "autoupdate", "git-status"]


def test_the_second_call_applies_nothing(tree):
    first, second = output(tree, "print(compat.apply(root / 'val.py')); print(compat.apply(root))")
    assert "weights-only" in first
    assert second == "[]"


def test_nothing_is_installed_fetched_or_downloaded(tree):
    lines = output(
        tree,
        """
        compat.apply(root)
        from utils.general import *
        print(check_requirements(), check_font(Path("Arial.ttf")))
        print(said[0])
        check_git_status()
        """,
    )
    assert lines[0] == "None None"
    assert lines[1] == "requirements:  onnx not found. Please install and rerun your command."
    assert "left out" in lines[2]


DOWNLOADS = """\
from pathlib import Path
def ask(repo_id):
    from huggingface_hub import hf_hub_download, list_repo_files
    from huggingface_hub.utils._errors import RepositoryNotFoundError
    try:
        return list_repo_files(repo_id)
    except RepositoryNotFoundError:
        return None
"""
HUB = "def list_repo_files(name):\n    return 'asked for ' + name\nhf_hub_download = None\n"


def test_a_file_that_is_here_is_not_looked_for_elsewhere(tree):
    written(tree, {
        "utils/downloads.py": DOWNLOADS,
        "huggingface_hub/__init__.py": HUB,
        "huggingface_hub/utils/__init__.py": "",
        "huggingface_hub/utils/_errors.py": "class RepositoryNotFoundError(Exception): pass\n",
        "best.pt": "",
    })  # fmt: skip
    code = """
        import os
        os.chdir(root)
        sys.path.insert(0, str(root))
        {}
        from utils.downloads import ask
        print(ask("best.pt"), ask("owner/model"))
        """
    assert output(tree, code.format("")) == ["asked for best.pt asked for owner/model"]
    assert output(tree, code.format("compat.apply(root)")) == ["None asked for owner/model"]


def test_lines_are_changed_below_the_root_only(tree):
    lines = output(
        tree,
        """
        compat.apply(root)
        import metrics, utils.metrics
        print(metrics.text)
        print(float(utils.metrics.area([1, 1], [0, 2])))
        """,
    )
    assert lines == ["np.trapz(", "2.0"]


def test_the_same_file_under_another_name_is_changed_too(tree):
    (tree / "__init__.py").write_text("")
    code = """
        sys.path.insert(0, str(root.parent))
        compat.apply(root)
        import yolov5.utils.metrics, utils.metrics
        print(float(yolov5.utils.metrics.area([1, 1], [0, 2])), float(utils.metrics.area([1, 1], [0, 2])))
        """
    assert output(tree, code) == ["2.0 2.0"]


def test_line_numbers_stay_and_nothing_is_written(tree):
    before = {file: file.read_bytes() for file in tree.rglob("*.py")}
    result = run(tree, "compat.apply(root); import utils.metrics; utils.metrics.fail()", PYTHONDONTWRITEBYTECODE="")
    assert 'metrics.py", line 5, in fail' in result.stderr
    assert not list(tree.rglob("metrics*.pyc"))
    assert {file: file.read_bytes() for file in tree.rglob("*.py")} == before


def test_an_old_pyc_is_not_used(tree):
    code = "import utils.metrics; print(utils.metrics.area.__code__.co_names)"
    assert "trapz" in output(tree, code, PYTHONDONTWRITEBYTECODE="")[0]
    assert list(tree.rglob("metrics*.pyc"))
    assert "trapezoid" in output(tree, "compat._missing = lambda name: True; compat.apply(root);" + code)[0]


def test_off_switches_all_off(tree):
    code = "print(compat.apply(root)); import os; print('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD' in os.environ)"
    assert output(tree, code, shims="off") == ["[]", "False"]


def test_one_can_be_switched_off(tree):
    (names,) = output(tree, "print(compat.apply(root))", shims="-font, -autoupdate")
    assert "font'" not in names.replace("font-size", "")
    assert "autoupdate" not in names
    assert "git-status" in names


@pytest.mark.parametrize("setting", ["-fonts", "font"])
def test_an_unknown_name_is_an_error(tree, monkeypatch, setting):
    monkeypatch.setenv("YOLOV5_PRUNE_SHIMS", setting)
    with pytest.raises(PruneError, match=f"has {setting}; give off, or a comma list of -font, -autoupdate"):
        compat.apply(tree)


def test_torchs_strict_switch_is_respected(tree):
    code = "compat.apply(root); import os; print('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD' in os.environ)"
    assert output(tree, code, TORCH_FORCE_WEIGHTS_ONLY_LOAD="1") == ["False"]
    assert output(tree, code) == ["True"]


def test_revert_takes_everything_back(tree):
    code = """
        import os
        before = dict(os.environ), list(sys.meta_path)
        compat.apply(root); compat.revert()
        print(before == (dict(os.environ), list(sys.meta_path)))
        """
    assert output(tree, code) == ["True"]


def test_old_export_traces_unless_told_otherwise(tree):
    (tree / "export.py").write_text("torch.onnx.export(model)\n")
    code = """
        import torch.onnx
        def export(model, dynamo=True): print(dynamo)
        torch.onnx.export = export
        compat.apply(root)
        torch.onnx.export(0); torch.onnx.export(0, dynamo=True)
        """
    assert output(tree, code) == ["False", "True"]


def test_what_is_here_is_not_missing():
    assert compat._missing(None)
    assert not compat._missing("packaging")
    assert not compat._missing("PIL.ImageFont.FreeTypeFont")
    assert compat._missing("no_such_module")
    assert compat._missing("packaging.version.no_such_name")


def test_our_shims_have_a_reason_in_one_sentence():
    for shim in compat.load_shims():
        assert shim.reason.endswith(".")
        assert shim.releases


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "cannot be read"),
        ("a: 1", "must hold a list"),
        ("- {name: x}", "entry 1 lacks places, reason, releases"),
        ("- {name: x, reason: r, releases: all, places: [], colour: red}", "unknown keys .'colour'."),
        ("- {name: x, reason: r, releases: all, places: []}", "places must be a list"),
        ("- {name: x, reason: r, releases: all, places: [{file: f, find: '('}]}", "no regular expression"),
        ("- {name: x, reason: r, releases: all, places: [{file: f, find: a}]}", "it does nothing"),
        ("- {name: x, reason: r, releases: all, places: [{file: f, find: a, replace: b}]}", "add early: true"),
        ('- {name: x, reason: r, releases: all, places: [{file: f, find: a, replace: "b\\n"}]}', "stay one line"),
    ],
)
def test_a_malformed_file_says_what_is_wrong(tmp_path, text, message):
    (tmp_path / "shims.yaml").write_text(text)
    with pytest.raises(PruneError, match=message):
        compat.load_shims(tmp_path)


def test_forks_have_the_lines_in_files_of_their_own(tree):
    """Whatever the file in utils/ and models/ is called, and however the module is imported."""
    (tree / "utils" / "rboxes.py").write_text(
        "import numpy as np\nimport pkg_resources  # of a fork\nfrom pkg_resources import parse_version as p\n"
        "def area(y, x):\n    return np.trapz(np.asarray(y).astype(np.float), x), np.array([1.5]).astype(np.int)[0]\n"
    )
    (tree / "models" / "heads").mkdir()
    (tree / "models" / "heads" / "own.py").write_text(
        "import numpy as np\nmask = np.array([1, 0], dtype=np.bool), np.array([None], dtype=np.object), np.float32\n"
        "def size(font, text):\n    return font.getsize(text)\n"
    )
    assert output(tree, """
        sys.modules["pkg_resources"] = None  # as with setuptools 81
        print({"numpy-types", "numpy-trapz", "pkg-resources"} <= set(compat.apply(root)))
        from utils import rboxes
        from models.heads import own
        print(*rboxes.area([1, 1], [0, 2]), rboxes.p("1.10") > rboxes.p("1.9"), own.mask[0].tolist())
    """) == ["True", "2.0 1 True [True, False]"]  # fmt: skip


def test_pkg_resources_stub_reads_and_checks_requirements():
    lines = ["# base", "numpy>=1.0  # arrays", "", "--extra-index-url x", "no-such-package-at-all"]
    assert [f"{r.name}{r.specifier}" for r in pkg.parse_requirements(lines)] == ["numpy>=1.0", "no-such-package-at-all"]
    assert pkg.require("numpy>=1.0")[0].metadata["Name"] == "numpy"
    with pytest.raises(pkg.VersionConflict, match="numpy>=999 is required"):
        pkg.require("numpy>=999")
    with pytest.raises(pkg.DistributionNotFound):
        pkg.require(("no-such-package-at-all",))
    assert pkg.require("no-such-package-at-all; python_version < '3'") == []
    assert pkg.parse_version("1.10") > pkg.parse_version("1.9")
