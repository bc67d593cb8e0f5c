"""The engine: both pools give the same; the killed are tried again, the wrong are not; nothing is left running."""

from __future__ import annotations

import importlib.util
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.processes import started
from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.jobs.engine import Pool, Result, open_pool, run_jobs
from yolov5_prune_plugin.jobs.local import LocalPool
from yolov5_prune_plugin.jobs.options import EngineOptions
from yolov5_prune_plugin.jobs.process import Child, Ended, Job, last_lines

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs ray")
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's promise of Linux")
ENGINES = ["local", pytest.param("ray", marks=needs_ray)]
# prints what a result could hang on, and leaves a file
LOOK = (
    "import os, sys; print('ok', sys.argv[2]);"
    " open(sys.argv[1], 'w').write(os.environ['OMP_NUM_THREADS'] + os.getcwd())"
)
# the first time only, marked by a file outside of the job's folder
ONCE = "import os, sys, pathlib; m = pathlib.Path(sys.argv[1]); first = not m.exists(); m.touch();"


def job(tmp_path: Path, name: str, code: str, *arguments: object) -> Job:
    """A job that runs some Python."""
    return Job(("-c", code, *map(str, arguments)), tmp_path / name, name, tmp_path)


def work(jobs: list[Job], pool: Pool, retries: int = 1) -> dict[str, Result]:
    """Run all and return the results by key."""
    results: dict[str, Result] = {}
    run_jobs(jobs, pool, retries, lambda job, number: None, lambda result: results.update({result.job.key: result}))
    return results


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(true: Callable[[], bool], seconds: float = 20) -> bool:
    """Wait for something."""
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.02)
    return true()


@pytest.mark.parametrize("engine", ENGINES)
def test_results_do_not_depend_on_the_engine(engine: str, tmp_path: Path) -> None:
    """Five jobs on two workers: each in its folder, with the same threads and directory, its output in its log."""
    pool = open_pool(EngineOptions(engine, workers=2, threads=3), None)
    assert (pool.workers, pool.threads) == (2, 3)
    jobs = [job(tmp_path, f"j{n}", LOOK, tmp_path / f"j{n}" / "out", n) for n in range(5)]
    results = work(jobs, pool)
    assert {key: (result.ended, result.tries) for key, result in results.items()} == {
        f"j{n}": (Ended(0), 1) for n in range(5)
    }
    for n in range(5):
        assert (tmp_path / f"j{n}" / "out").read_text() == f"3{tmp_path}"
        assert last_lines(jobs[n].log, 5) == [f"ok {n}"]


@pytest.mark.parametrize("engine", ENGINES)
def test_killed_is_tried_again_and_wrong_is_not(engine: str, tmp_path: Path) -> None:
    """kill -9 of the process once: the second try counts, in a clean folder. Exit codes 1 and 2 stand."""
    code = (
        f"{ONCE} (pathlib.Path(sys.argv[2]) / 'half').touch() if first else 0; os.kill(os.getpid(), 9) if first else 0"
    )
    jobs = [
        job(tmp_path, "once", code, tmp_path / "m1", tmp_path / "once"),
        job(tmp_path, "always", "import os; os.kill(os.getpid(), 9)"),
        job(tmp_path, "wrong", f"{ONCE} sys.exit(2 if first else 0)", tmp_path / "m2"),
        job(tmp_path, "crash", f"{ONCE} sys.exit(1 if first else 0)", tmp_path / "m3"),
    ]
    results = work(jobs, open_pool(EngineOptions(engine, workers=2, threads=1), None))
    assert {key: (result.ended.code, result.tries) for key, result in results.items()} == {
        "once": (0, 2), "always": (-9, 2), "wrong": (2, 1), "crash": (1, 1)
    }  # fmt: skip
    assert not (tmp_path / "once" / "half").exists()
    assert str(results["always"].ended) == "killed by SIGKILL"


@needs_ray
def test_lost_ray_worker_is_tried_again(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A job that kills the Ray worker it runs under, once, and one that does so each time."""
    jobs = [
        job(tmp_path, "once", f"{ONCE} os.kill(os.getppid(), 9) if first else 0", tmp_path / "marker"),
        job(tmp_path, "always", "import os, time; os.kill(os.getppid(), 9); time.sleep(60)"),
    ]
    results = work(jobs, open_pool(EngineOptions("ray", workers=2, threads=1), None))
    assert (results["once"].ended.code, results["once"].tries) == (0, 2)
    assert (results["always"].ended.code, results["always"].tries) == (None, 2)
    assert "its worker was lost: WorkerCrashedError" in str(results["always"].ended)
    assert "Started a local Ray instance" not in "".join(capfd.readouterr())


@needs_ray
def test_ray_cluster_at_an_address(tmp_path: Path) -> None:
    """A cluster that runs already is used and left running; two nodes of one core are two workers of one thread."""
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        pool = open_pool(EngineOptions("ray", cluster.address, workers=2), None)
        assert (pool.workers, pool.threads) == (2, 1)
        seen = "import os, sys; open(sys.argv[1], 'w').write(str(os.getppid())); import time; time.sleep(1)"
        jobs = [job(tmp_path, f"j{n}", seen, tmp_path / f"j{n}" / "out") for n in range(2)]
        assert {result.ended.code for result in work(jobs, pool).values()} == {0}
        assert len({(tmp_path / f"j{n}" / "out").read_text() for n in range(2)}) == 2  # two worker processes
        with pytest.raises(
            PruneError, match="--threads 9: no node of the Ray cluster has so many CPU cores; 1 at most"
        ):
            open_pool(EngineOptions("ray", cluster.address, workers=2, threads=9), None)
        assert not ray.is_initialized()
    finally:
        cluster.shutdown()


@needs_ray
def test_no_ray_cluster_there() -> None:
    """At once, and with what would do."""
    with pytest.raises(PruneError, match=r"--address 127.0.0.1:1: no Ray cluster answers there .* ray start --head"):
        open_pool(EngineOptions("ray", "127.0.0.1:1"), None)


def test_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message has the pip command."""
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(PruneError, match=r"pip install 'yolov5-prune-plugin\[ray\]'"):
        open_pool(EngineOptions("ray"), None)


def test_each_worker_has_a_gpu_of_its_own(tmp_path: Path) -> None:
    """By default one worker a GPU; three workers on two GPUs share them in turn."""
    look = "import os, sys, time; open(sys.argv[1], 'w').write(os.environ['CUDA_VISIBLE_DEVICES']); time.sleep(1)"
    pool = open_pool(EngineOptions(), ("2", "5"))
    assert pool.workers == 2
    jobs = [job(tmp_path, f"j{n}", look, tmp_path / f"j{n}" / "out") for n in range(3)]
    work(jobs[:2], pool)
    assert sorted((tmp_path / f"j{n}" / "out").read_text() for n in range(2)) == ["2", "5"]
    work(jobs, open_pool(EngineOptions(workers=3), ("2", "5")))
    assert sorted((tmp_path / f"j{n}" / "out").read_text() for n in range(3)) == ["2", "2", "5"]


@needs_linux
@pytest.mark.parametrize("engine", ENGINES)
def test_ctrl_c_leaves_nothing_running(engine: str, tmp_path: Path) -> None:
    """Neither the job nor a process that it started, even if they don't listen to a polite wish."""
    code = ("import os, signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
            "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)'],"
            " preexec_fn=lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN));"
            "t = sys.argv[1]; open(t + '.new', 'w').write(f'{os.getpid()} {child.pid}'); os.rename(t + '.new', t);"
            "time.sleep(300)")  # fmt: skip
    pids = tmp_path / "pids"

    pool = open_pool(EngineOptions(engine, workers=1, threads=1), None)
    wait = pool.wait

    def interrupted_wait(seconds: float) -> list[tuple[Job, Ended]]:
        ended = wait(seconds)
        if pids.exists():
            raise KeyboardInterrupt
        return ended

    pool.wait = interrupted_wait  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        work([job(tmp_path, "j", code, pids)], pool)
    for pid in map(int, pids.read_text().split()):
        assert until(lambda pid=pid: not alive(pid)), pid


@needs_linux
def test_kill_9_of_the_engine_ends_its_jobs(tmp_path: Path) -> None:
    """Else two of them would write into one folder when the study is started again."""
    write = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(300)"
    code = f"""
import sys, time
from pathlib import Path
from yolov5_prune_plugin.jobs.process import Child, Job
child = Child(Job(("-c", {write!r}, sys.argv[1]), Path(sys.argv[2]), "", Path()), {{}})
time.sleep(300)
"""
    file = tmp_path / "pid"
    with started([sys.executable, "-c", code, str(file), str(tmp_path / "job")]) as engine:
        assert until(lambda: file.exists() and bool(file.read_text()))
        pid = int(file.read_text())
        assert alive(pid)
        engine.send_signal(signal.SIGKILL)
        engine.wait()
    assert until(lambda: not alive(pid))


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    """Named, without a traceback."""
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(PruneError, match="cannot be run there"):
        work([Job(("-c", ""), tmp_path / "file" / "j", "j", tmp_path)], LocalPool(1, 1))


def test_last_lines_of_a_progress_bar(tmp_path: Path) -> None:
    """What a terminal would show in the end; empty lines and bytes that are no text do no harm."""
    log = tmp_path / "log.txt"
    log.write_bytes(b"one\n\n 10%\r 50%\r100%\r\n\xff\n")
    assert last_lines(log, 2) == ["100%", "\ufffd"]
    assert last_lines(tmp_path / "gone", 2) == []


def test_child_has_no_stdin(tmp_path: Path) -> None:
    """A script that asks something gets an end of file, not the user's keyboard."""
    child = Child(job(tmp_path, "j", "import sys; print(repr(sys.stdin.read()))"), {})
    assert until(lambda: child.poll() is not None)
    assert last_lines(tmp_path / "j" / "log.txt", 1) == ["''"]
